//! RContracts after their admission: found, listed and released.

use sea_orm::{ConnectionTrait, FromQueryResult, Value};
use yiqiu_base::{
    Id, Problem,
    clock::Ms,
    database::{Transaction, sql},
    http::Paging,
    id::RContract,
    outbox::NewEvent,
    telemetry::request_id,
};
use yiqiu_proto::resources::RContractChanged;

use super::{
    Store, ambiguous,
    rows::{CONTRACT, ContractRow, NODE, NodeRow, models},
};
use crate::{
    lifecycle::contract_after_release,
    model::{ContractModel, ContractState, NodeModel},
};

impl Store {
    /// By id; `not_found` otherwise.
    pub async fn contract_get(&self, id: Id<RContract>) -> Result<ContractModel, Problem> {
        let text = format!("SELECT {CONTRACT} FROM rcontract WHERE id = ?");
        let statement = sql(self.database.backend(), &text, [id.uuid().into()]);
        let row = ContractRow::find_by_statement(statement).one(self.database.read()).await?;
        Ok(row.ok_or_else(|| Problem::not_found("rcontract", id))?.try_into()?)
    }

    /// By name among an owner's that are not released; `None`: any owner's, if only one has that name. `not_found`
    /// otherwise.
    pub async fn contract_by_name(&self, name: &str, owner: Option<&str>) -> Result<ContractModel, Problem> {
        let (also, values): (_, Vec<Value>) = match owner {
            Some(owner) => ("AND owner = ? ", vec![name.into(), owner.into()]),
            None => ("", vec![name.into()]),
        };
        let text = format!("SELECT {CONTRACT} FROM rcontract WHERE name = ? {also}AND state <> 'released' LIMIT 2");
        let rows = ContractRow::find_by_statement(sql(self.database.backend(), &text, values));
        let mut found: Vec<ContractModel> = models(rows.all(self.database.read()).await?)?;
        match found.len() {
            0 | 1 => found.pop().ok_or_else(|| Problem::not_found("rcontract", name)),
            _ => Err(ambiguous("rcontract", name)),
        }
    }

    /// In the order of ids, which is that of making; `owner` `None`: everyone's. Released ones only on request.
    pub async fn contract_list(
        &self,
        paging: &Paging,
        owner: Option<&str>,
        created_before_ms: Option<Ms>,
        released: bool,
    ) -> Result<Vec<ContractModel>, Problem> {
        let mut conditions = vec!["id > ?"];
        let after: uuid::Uuid = match &paging.cursor {
            Some(cursor) => Id::<RContract>::parse(cursor)?.uuid(),
            None => uuid::Uuid::nil(),
        };
        let mut values: Vec<Value> = vec![after.into()];
        if let Some(owner) = owner {
            conditions.push("owner = ?");
            values.push(owner.into());
        }
        if let Some(before) = created_before_ms {
            conditions.push("created_ms < ?");
            values.push(before.into());
        }
        if !released {
            conditions.push("state <> 'released'");
        }
        values.push(i64::try_from(paging.limit()).unwrap_or(i64::MAX).into());
        let text = format!("SELECT {CONTRACT} FROM rcontract WHERE {} ORDER BY id LIMIT ?", conditions.join(" AND "));
        let statement = sql(self.database.backend(), &text, values);
        Ok(models(ContractRow::find_by_statement(statement).all(self.database.read()).await?)?)
    }

    /// Asks for the end of a contract: its nodes get tombstones, which are returned. Asking again changes nothing.
    pub async fn contract_release(&self, contract: &ContractModel, now: Ms) -> Result<Vec<NodeModel>, Problem> {
        let mut transaction = self.database.begin().await?;
        let backend = self.database.backend();
        let updated = transaction
            .execute_raw(sql(
                backend,
                "UPDATE rcontract SET state = 'releasing', generation = generation + 1 WHERE id = ? AND state = 'active'",
                [contract.id.uuid().into()],
            ))
            .await?;
        if updated.rows_affected() == 0 {
            return Ok(Vec::new());
        }
        if backend == sea_orm::DbBackend::Postgres {
            // Rows are locked in the order of ids everywhere, so that two changes never wait for each other.
            let lock = "SELECT id FROM node WHERE rcontract_id = ? ORDER BY id FOR UPDATE";
            transaction.query_all_raw(sql(backend, lock, [contract.id.uuid().into()])).await?;
        }
        let text = format!(
            "UPDATE node SET removed = TRUE, power = 'off', revision = revision + 1, request_id = ?, changed_ms = ? \
             WHERE rcontract_id = ? AND NOT removed RETURNING {}",
            NODE.replace("node.", "")
        );
        let statement = sql(backend, &text, [request_id().into(), now.into(), contract.id.uuid().into()]);
        let nodes: Vec<NodeModel> = models(NodeRow::find_by_statement(statement).all(&*transaction).await?)?;
        changed(&mut transaction, contract, ContractState::Releasing, now);
        contract_closed_if_empty(&mut transaction, contract.id, now).await?;
        transaction.commit().await?;
        Ok(nodes)
    }
}

/// Ends a contract that was asked to end and holds no node any more.
pub(super) async fn contract_closed_if_empty(
    transaction: &mut Transaction,
    id: Id<RContract>,
    now: Ms,
) -> Result<(), Problem> {
    let backend = transaction.get_database_backend();
    if backend == sea_orm::DbBackend::Postgres {
        // The last two nodes of a contract may go at the same time: the second to get here sees that the first went.
        let lock = "SELECT 1 AS one FROM rcontract WHERE id = ? FOR UPDATE";
        transaction.query_all_raw(sql(backend, lock, [id.uuid().into()])).await?;
    }
    let left = transaction
        .query_all_raw(sql(backend, "SELECT 1 AS one FROM node WHERE rcontract_id = ? LIMIT 1", [id.uuid().into()]))
        .await?
        .len();
    if contract_after_release(ContractState::Releasing, left) != ContractState::Released {
        return Ok(());
    }
    let text = format!(
        "UPDATE rcontract SET state = 'released', released_ms = ?, generation = generation + 1 \
         WHERE id = ? AND state = 'releasing' RETURNING {CONTRACT}"
    );
    let statement = sql(backend, &text, [now.into(), id.uuid().into()]);
    if let Some(row) = ContractRow::find_by_statement(statement).one(&**transaction).await? {
        let contract: ContractModel = row.try_into()?;
        changed(transaction, &contract, ContractState::Released, now);
    }
    Ok(())
}

fn changed(transaction: &mut Transaction, contract: &ContractModel, state: ContractState, now: Ms) {
    let kind = match state {
        ContractState::Active => "rcontract.created",
        ContractState::Releasing => "rcontract.releasing",
        ContractState::Released => "rcontract.released",
    };
    let payload = RContractChanged {
        rcontract_id: contract.id.to_string(),
        name: contract.name.clone(),
        state: state.as_str().to_owned(),
        lines: contract.lines,
    };
    transaction.emit(NewEvent::new(now, kind, &contract.owner, contract.id, &payload));
}
