//! The history of a contract: a row for each change after its making.
//!
//! What a contract was made with is its own rows, until something changes them. So the making costs no row: its entry is
//! written with the first change, and read from the rows themselves before that.

use sea_orm::{ConnectionTrait, FromQueryResult, Value};
use yiqiu_base::{
    Id, Problem, Size,
    clock::Ms,
    database::{Transaction, inserts, sql},
    http::Paging,
    id::RContract,
    telemetry::request_id,
};

use super::Store;
use crate::model::{By, Change, ContractModel, Entry, LineThen};

const COLUMNS: [&str; 7] = ["rcontract_id", "generation", "at_ms", "who", "reason", "request_id", "change"];

#[derive(FromQueryResult)]
struct LineRow {
    name: String,
    host: String,
    cpu: i64,
    memory: i64,
    disk: i64,
    iops: i64,
}

#[derive(FromQueryResult)]
struct EntryRow {
    generation: i64,
    at_ms: i64,
    who: String,
    reason: String,
    request_id: String,
    change: String,
}

impl Store {
    /// A page of the changes of a contract, oldest first; the cursor is the generation of the last one read.
    pub async fn history_list(&self, contract: &ContractModel, paging: &Paging) -> Result<Vec<Entry>, Problem> {
        let after: i64 = match &paging.cursor {
            Some(cursor) => {
                cursor.parse().map_err(|_| Problem::invalid("the cursor is not `next` of a page before"))?
            }
            None => 0,
        };
        let text = "SELECT generation, at_ms, who, reason, request_id, change FROM contract_history \
                    WHERE rcontract_id = ? AND generation > ? ORDER BY generation LIMIT ?";
        let limit = i64::try_from(paging.limit()).unwrap_or(i64::MAX);
        let values = [contract.id.uuid().into(), after.into(), limit.into()];
        let rows = EntryRow::find_by_statement(sql(self.database.backend(), text, values));
        let mut entries = Vec::new();
        for row in rows.all(self.database.read()).await? {
            let EntryRow { generation, at_ms, who, reason, request_id, change } = row;
            let change = serde_json::from_str(&change).map_err(Problem::internal)?;
            entries.push(Entry { generation, at_ms, who, reason, request_id, change });
        }
        if after == 0 && entries.is_empty() {
            entries.push(making(self.database.read(), contract).await?);
        }
        Ok(entries)
    }
}

/// Adds a change that leads from `before` to the next generation. Called before the change writes to lines: with the
/// first change, the making is kept as it was.
pub(super) async fn history_add(
    transaction: &mut Transaction,
    before: &ContractModel,
    by: By<'_>,
    change: &Change,
    now: Ms,
) -> Result<(), Problem> {
    let mut rows = Vec::with_capacity(2);
    if before.generation == 1 {
        rows.push(row(before.id, &making(&**transaction, before).await?)?);
    }
    let entry = Entry {
        generation: before.generation + 1,
        at_ms: now,
        who: by.who.to_owned(),
        reason: by.reason.to_owned(),
        request_id: request_id(),
        change: change.clone(),
    };
    rows.push(row(before.id, &entry)?);
    transaction.later(inserts("contract_history", &COLUMNS, rows));
    Ok(())
}

fn row(contract: Id<RContract>, entry: &Entry) -> Result<Vec<Value>, Problem> {
    let Entry { generation, at_ms, who, reason, request_id, change } = entry;
    let change = serde_json::to_string(change).map_err(Problem::internal)?;
    Ok(vec![
        contract.uuid().into(),
        (*generation).into(),
        (*at_ms).into(),
        who.as_str().into(),
        reason.as_str().into(),
        request_id.as_str().into(),
        change.into(),
    ])
}

/// The making of a contract that nothing has changed since.
async fn making(connection: &impl ConnectionTrait, contract: &ContractModel) -> Result<Entry, Problem> {
    let text = "SELECT line.name, host.name AS host, line.cpu, line.memory, line.disk, line.iops FROM line \
                JOIN host ON host.id = line.host_id WHERE line.rcontract_id = ? ORDER BY line.name";
    let statement = sql(connection.get_database_backend(), text, [contract.id.uuid().into()]);
    let lines = LineRow::find_by_statement(statement).all(connection).await?;
    let lines = lines.into_iter().map(|LineRow { name, host, cpu, memory, disk, iops }| LineThen {
        name,
        host,
        size: Size { cpu_millicores: cpu, memory_bytes: memory, disk_bytes: disk, disk_iops: iops },
    });
    Ok(Entry {
        generation: 1,
        at_ms: contract.created_ms,
        who: contract.created_by.clone(),
        reason: contract.reason.clone(),
        request_id: String::new(),
        change: Change::Created { lines: lines.collect() },
    })
}
