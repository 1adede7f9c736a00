//! What time does to contracts, from their rows alone: a pass that a crash cut off is simply made again.

use sea_orm::{ConnectionTrait, FromQueryResult};
use yiqiu_base::{
    Id, Problem,
    clock::Ms,
    database::{Transaction, sql},
    id::RContract,
    idempotency::{self, Key},
    telemetry::request_id,
};

use super::{
    Store,
    contract::{contract_locked, contract_write, nodes_locked, nodes_removed},
    node::emit_changed,
    rows::{NODE, NodeRow, models},
    stale,
};
use crate::{
    lifecycle::term::{Turn, renew, turn},
    model::{By, Change, ContractModel, ContractState, NodeModel, Term},
};

/// A wish to move the end of a contract.
#[derive(Debug)]
pub struct Renewal<'a> {
    /// Which.
    pub id: Id<RContract>,
    /// The new end; `None`: none.
    pub ends_ms: Option<Ms>,
    /// The generation that the caller has seen.
    pub if_generation: Option<i64>,
    /// Once and no more under this key.
    pub key: Option<&'a Key>,
    /// Who asks, and why.
    pub by: By<'a>,
}

impl Store {
    /// Contracts for which something is due, the longest due first, at most `most`.
    pub async fn contract_due(&self, now: Ms, most: i64) -> Result<Vec<Id<RContract>>, Problem> {
        let text = "SELECT id FROM rcontract WHERE due_ms IS NOT NULL AND due_ms <= ? ORDER BY due_ms, id LIMIT ?";
        let statement = sql(self.database.backend(), text, [now.into(), most.into()]);
        let rows = self.database.read().query_all_raw(statement).await?;
        Ok(rows.iter().map(|row| row.try_get::<uuid::Uuid>("", "id").map(Id::from)).collect::<Result<_, _>>()?)
    }

    /// When something is due next.
    pub async fn contract_due_next(&self) -> Result<Option<Ms>, Problem> {
        let text = "SELECT due_ms FROM rcontract WHERE due_ms IS NOT NULL ORDER BY due_ms LIMIT 1";
        let row = self.database.read().query_one_raw(sql(self.database.backend(), text, [])).await?;
        Ok(row.map(|row| row.try_get("", "due_ms")).transpose()?)
    }

    /// Does what is due for a contract by `due_by`, in one transaction; returns the nodes whose wish changed. Nothing if nothing is
    /// due any more.
    pub async fn contract_turn(&self, id: Id<RContract>, due_by: Ms, now: Ms) -> Result<Vec<NodeModel>, Problem> {
        let mut transaction = self.database.begin().await?;
        let nodes = nodes_locked(&transaction, id).await?;
        let Some(before) = contract_locked(&transaction, id).await? else { return Ok(Vec::new()) };
        let (state, due_ms, change) = match turn(before.state, before.term, before.due_ms, due_by) {
            Turn::Nothing => return Ok(Vec::new()),
            Turn::Start { due_ms } => {
                (ContractState::Active, due_ms, Change::Started { nodes: count(&nodes, |n| n.resumes) })
            }
            Turn::End { due_ms } => {
                let nodes = count(&nodes, |n| n.power == yiqiu_base::Power::On);
                (ContractState::Ending, Some(due_ms), Change::Ending { nodes, release_ms: due_ms })
            }
            Turn::Expire => (ContractState::Releasing, None, Change::Expired),
        };
        let after = ContractModel { state, due_ms, ..before.clone() };
        contract_write(&mut transaction, &before, &after, By::TIER, &change, now).await?;
        let nodes = match state {
            ContractState::Active => nodes_resumed(&mut transaction, id, now).await?,
            ContractState::Ending => nodes_suspended(&mut transaction, id, now).await?,
            ContractState::Scheduled | ContractState::Releasing | ContractState::Released => {
                nodes_removed(&mut transaction, id, now).await?
            }
        };
        transaction.commit().await?;
        Ok(nodes)
    }

    /// Moves the end of a contract; one whose end came is active again, and its nodes are powered on again. Returns the
    /// nodes whose wish changed.
    pub async fn contract_renew(&self, renewal: &Renewal<'_>, now: Ms) -> Result<Vec<NodeModel>, Problem> {
        let Renewal { id, ends_ms, if_generation, key, by } = renewal;
        let mut transaction = self.database.begin().await?;
        if let Some(key) = key
            && !idempotency::keep_new(&*transaction, &[(key, id.to_string())], now).await?.contains(&true)
        {
            let kept = idempotency::kept(&*transaction, &[key]).await?;
            kept.first().map_or(Ok(""), |kept| kept.replay(key))?;
            return Ok(Vec::new());
        }
        let nodes = nodes_locked(&transaction, *id).await?;
        let before = contract_locked(&transaction, *id).await?.ok_or_else(|| Problem::not_found("rcontract", id))?;
        if let Some(seen) = if_generation.filter(|seen| *seen != before.generation) {
            return Err(stale("rcontract", &before.name, seen, before.generation));
        }
        let term = Term { ends_ms: *ends_ms, ..before.term };
        let (state, due_ms) = renew(before.state, term, now)?;
        let resumed = before.state == ContractState::Ending;
        let change = Change::Renewed {
            from_ms: before.term.ends_ms,
            to_ms: *ends_ms,
            nodes: if resumed { count(&nodes, |n| n.resumes) } else { 0 },
        };
        let after = ContractModel { state, term, due_ms, ..before.clone() };
        contract_write(&mut transaction, &before, &after, *by, &change, now).await?;
        let nodes = if resumed { nodes_resumed(&mut transaction, *id, now).await? } else { Vec::new() };
        transaction.commit().await?;
        Ok(nodes)
    }
}

fn count(nodes: &[NodeModel], of: impl Fn(&NodeModel) -> bool) -> i64 {
    i64::try_from(nodes.iter().filter(|n| !n.removed && of(n)).count()).unwrap_or(i64::MAX)
}

/// Wishes `on` for the nodes that are to resume.
async fn nodes_resumed(transaction: &mut Transaction, id: Id<RContract>, now: Ms) -> Result<Vec<NodeModel>, Problem> {
    nodes_powered(transaction, id, "power = 'on', resumes = FALSE", "resumes", now).await
}

/// Wishes `off` for the nodes that are on, and notes that they are to resume.
async fn nodes_suspended(transaction: &mut Transaction, id: Id<RContract>, now: Ms) -> Result<Vec<NodeModel>, Problem> {
    nodes_powered(transaction, id, "power = 'off', resumes = TRUE", "power = 'on'", now).await
}

async fn nodes_powered(
    transaction: &mut Transaction,
    id: Id<RContract>,
    set: &str,
    which: &str,
    now: Ms,
) -> Result<Vec<NodeModel>, Problem> {
    let text = format!(
        "UPDATE node SET {set}, reboot = FALSE, grace_ms = NULL, revision = revision + 1, request_id = ?, \
         generation = (CASE WHEN carried > generation THEN carried ELSE generation END) + 1, changed_ms = ? \
         WHERE rcontract_id = ? AND NOT removed AND {which} RETURNING {}",
        NODE.replace("node.", "")
    );
    let values = [request_id().into(), now.into(), id.uuid().into()];
    let statement = sql(transaction.get_database_backend(), &text, values);
    let nodes: Vec<NodeModel> = models(NodeRow::find_by_statement(statement).all(&**transaction).await?)?;
    for node in &nodes {
        emit_changed(transaction, node, now);
    }
    Ok(nodes)
}
