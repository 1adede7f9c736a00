//! RContracts after their admission: found, listed and released.

use sea_orm::{ConnectionTrait, DbBackend, FromQueryResult, Value};
use yiqiu_base::{
    Code, Id, Problem,
    clock::Ms,
    database::{Transaction, is_duplicate, sql},
    http::Paging,
    id::RContract,
    outbox::NewEvent,
    telemetry::request_id,
};
use yiqiu_proto::resources::RContractChanged;

use super::{
    Store, ambiguous,
    history::history_add,
    rows::{CONTRACT, ContractRow, NODE, NodeRow, models},
};
use crate::{
    lifecycle::contract_after_release,
    model::{By, Change, ContractModel, ContractState, NodeModel, Term},
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

    /// Asks for the release of a contract: its nodes get tombstones, which are returned. Asking again changes nothing.
    pub async fn contract_release(&self, id: Id<RContract>, by: By<'_>, now: Ms) -> Result<Vec<NodeModel>, Problem> {
        let mut transaction = self.database.begin().await?;
        nodes_locked(&transaction, id).await?;
        let before = contract_locked(&transaction, id).await?.ok_or_else(|| Problem::not_found("rcontract", id))?;
        if matches!(before.state, ContractState::Releasing | ContractState::Released) {
            return Ok(Vec::new());
        }
        let after = ContractModel { state: ContractState::Releasing, due_ms: None, ..before.clone() };
        contract_write(&mut transaction, &before, &after, by, &Change::Releasing, now).await?;
        let nodes = nodes_removed(&mut transaction, id, now).await?;
        transaction.commit().await?;
        Ok(nodes)
    }
}

/// The nodes of a contract, locked until the transaction ends. Rows are locked in the same order everywhere, so that two
/// changes never wait for each other: nodes by id, hosts by id, then the contract.
pub(super) async fn nodes_locked(transaction: &Transaction, id: Id<RContract>) -> Result<Vec<NodeModel>, Problem> {
    let backend = transaction.get_database_backend();
    let text = format!("SELECT {NODE} FROM node WHERE rcontract_id = ? ORDER BY id{}", lock(backend));
    let statement = sql(backend, &text, [id.uuid().into()]);
    Ok(models(NodeRow::find_by_statement(statement).all(&**transaction).await?)?)
}

/// A contract, locked until the transaction ends.
pub(super) async fn contract_locked(
    transaction: &Transaction,
    id: Id<RContract>,
) -> Result<Option<ContractModel>, Problem> {
    let backend = transaction.get_database_backend();
    let text = format!("SELECT {CONTRACT} FROM rcontract WHERE id = ?{}", lock(backend));
    let row = ContractRow::find_by_statement(sql(backend, &text, [id.uuid().into()])).one(&**transaction).await?;
    Ok(row.map(TryInto::try_into).transpose()?)
}

fn lock(backend: DbBackend) -> &'static str {
    if backend == DbBackend::Postgres { " FOR UPDATE" } else { "" }
}

/// Writes what became of a contract under its next generation, with its entry in the history and its event. Comes before
/// the change writes to lines.
pub(super) async fn contract_write(
    transaction: &mut Transaction,
    before: &ContractModel,
    after: &ContractModel,
    by: By<'_>,
    change: &Change,
    now: Ms,
) -> Result<(), Problem> {
    history_add(transaction, before, by, change, now).await?;
    let ContractModel { id, name, owner: _, state, lines, term, due_ms, released_ms, .. } = after;
    let text = "UPDATE rcontract SET name = ?, state = ?, lines = ?, ends_ms = ?, due_ms = ?, released_ms = ?, \
                generation = generation + 1 WHERE id = ? AND generation = ?";
    let values = [
        name.as_str().into(),
        state.as_str().into(),
        (*lines).into(),
        term.ends_ms.into(),
        (*due_ms).into(),
        (*released_ms).into(),
        id.uuid().into(),
        before.generation.into(),
    ];
    let written = transaction.execute_raw(sql(transaction.get_database_backend(), text, values)).await;
    let written = match written {
        Err(error) if is_duplicate(&error) => {
            return Err(Problem::new(Code::AlreadyExists, format!("there is already an rcontract `{name}`")));
        }
        written => written?,
    };
    if written.rows_affected() != 1 {
        return Err(Problem::internal("a contract changed though it was locked"));
    }
    let payload = contract_payload(&ContractModel { generation: before.generation + 1, ..after.clone() }, by);
    transaction.emit(NewEvent::new(now, kind(change), &after.owner, after.id, &payload));
    Ok(())
}

fn kind(change: &Change) -> &'static str {
    match change {
        Change::Created { .. } => "rcontract.created",
        Change::Started { .. } => "rcontract.started",
        Change::Renewed { .. } => "rcontract.renewed",
        Change::Amended { .. } => "rcontract.amended",
        Change::Ending { .. } => "rcontract.ending",
        Change::Expired => "rcontract.expired",
        Change::Releasing => "rcontract.releasing",
        Change::Released => "rcontract.released",
    }
}

/// What the events of a contract say of it.
pub(super) fn contract_payload(contract: &ContractModel, by: By<'_>) -> RContractChanged {
    let ContractModel { id, name, owner: _, state, lines, term, due_ms, generation, .. } = contract;
    let Term { starts_ms, ends_ms, grace_ms: _ } = term;
    RContractChanged {
        rcontract_id: id.to_string(),
        name: name.clone(),
        state: state.as_str().to_owned(),
        lines: *lines,
        generation: *generation,
        starts_ms: starts_ms.unwrap_or_default(),
        ends_ms: ends_ms.unwrap_or_default(),
        due_ms: due_ms.unwrap_or_default(),
        who: by.who.to_owned(),
        reason: by.reason.to_owned(),
    }
}

/// Gives all nodes of a contract their tombstones; returns those that had none.
pub(super) async fn nodes_removed(
    transaction: &mut Transaction,
    id: Id<RContract>,
    now: Ms,
) -> Result<Vec<NodeModel>, Problem> {
    let text = format!(
        "UPDATE node SET removed = TRUE, power = 'off', reboot = FALSE, grace_ms = NULL, revision = revision + 1, \
         request_id = ?, changed_ms = ? \
         WHERE rcontract_id = ? AND NOT removed RETURNING {}",
        NODE.replace("node.", "")
    );
    let values = [request_id().into(), now.into(), id.uuid().into()];
    let statement = sql(transaction.get_database_backend(), &text, values);
    let nodes = models(NodeRow::find_by_statement(statement).all(&**transaction).await?)?;
    contract_closed_if_empty(transaction, id, now).await?;
    Ok(nodes)
}

/// Ends a contract that was asked to end and holds no node any more.
pub(super) async fn contract_closed_if_empty(
    transaction: &mut Transaction,
    id: Id<RContract>,
    now: Ms,
) -> Result<(), Problem> {
    let backend = transaction.get_database_backend();
    // The last two nodes of a contract may go at the same time: under the lock, the second sees that the first went.
    let Some(before) = contract_locked(transaction, id).await? else { return Ok(()) };
    if before.state != ContractState::Releasing {
        return Ok(());
    }
    let left = transaction
        .query_all_raw(sql(backend, "SELECT 1 AS one FROM node WHERE rcontract_id = ? LIMIT 1", [id.uuid().into()]))
        .await?
        .len();
    let state = contract_after_release(before.state, left);
    if state != ContractState::Released {
        return Ok(());
    }
    let after = ContractModel { state, released_ms: Some(now), ..before.clone() };
    contract_write(transaction, &before, &after, By::TIER, &Change::Released, now).await
}
