//! Amendments: lines, claims, meters and nodes change together, in one transaction, on however many hosts.

use std::collections::HashMap;

use sea_orm::{ConnectionTrait, Value};
use yiqiu_base::{
    Id, Problem, Size,
    clock::Ms,
    database::{Transaction, places, sql},
    id::{Host, Line, RContract},
    idempotency::{self, Key},
    telemetry::request_id,
};

use super::{
    Admission, Store,
    admission::{hosts_charged, line_refused, lines_inserted, lines_told, node_of},
    contract::{contract_locked, contract_write, nodes_locked},
    host::host_locked,
    node::{emit_changed, segment_change},
    rows::size,
    stale,
};
use crate::{
    lifecycle::amend::{Changed, Plan, amend, forecast},
    model::{
        Amendment, By, Change, ContractModel, Forecast, Held, HostModel, LineThen, NewContract, NodeModel, Renamed,
        Resized,
    },
};

/// A contract that is to be amended.
#[derive(Debug)]
pub struct Amending<'a> {
    /// Which.
    pub id: Id<RContract>,
    /// What is to change.
    pub amendment: &'a Amendment,
    /// The generation that the caller has seen.
    pub if_generation: Option<i64>,
    /// Once and no more under this key.
    pub key: Option<&'a Key>,
    /// Who asks, and why.
    pub by: By<'a>,
}

impl Store {
    /// Amends a contract; returns the nodes whose wish changed: none if the same request did so before.
    pub async fn contract_amend(&self, amending: &Amending<'_>, now: Ms) -> Result<Vec<NodeModel>, Problem> {
        loop {
            if let Some(nodes) = self.contract_amend_once(amending, now).await? {
                return Ok(nodes);
            }
        }
    }

    /// `None`: someone else amended it just now, and it has to be decided anew.
    async fn contract_amend_once(&self, amending: &Amending<'_>, now: Ms) -> Result<Option<Vec<NodeModel>>, Problem> {
        let Amending { id, amendment, if_generation: _, key, by } = amending;
        let mut transaction = self.database.begin().await?;
        if let Some(key) = key
            && !idempotency::keep_new(&*transaction, &[(key, id.to_string())], now).await?.contains(&true)
        {
            let kept = idempotency::kept(&*transaction, &[key]).await?;
            kept.first().map_or(Ok(""), |kept| kept.replay(key))?;
            return Ok(Some(Vec::new()));
        }
        let Some(Decided { before, plan, hosts, then }) = decided(&transaction, amending).await? else {
            return Ok(None);
        };
        let name = amendment.name.clone().unwrap_or_else(|| before.name.clone());
        if name == before.name && plan.added.is_empty() && plan.removed.is_empty() && plan.changed.is_empty() {
            transaction.commit().await?; // of the key: the same request changes nothing later either
            return Ok(Some(Vec::new()));
        }
        let change = told(&before, &name, &plan, &hosts);
        let after = ContractModel { name, lines: plan.lines, ..before.clone() };
        contract_write(&mut transaction, &before, &after, *by, &change, now).await?;
        let was = hosts.iter().map(|(id, h)| (*id, (h.used, h.nodes))).collect();
        hosts_charged(&transaction, &then, &was).await?;
        let mut nodes = Vec::new();
        for changed in plan.changed {
            nodes.push(line_changed(&mut transaction, changed, now).await?);
        }
        for held in plan.removed {
            nodes.push(line_removed(&mut transaction, held.node, now).await?);
        }
        let admission = Admission {
            contract: NewContract {
                id: before.id,
                name: before.name,
                owner: before.owner,
                created_by: before.created_by,
                reason: String::new(),
                term: before.term,
                whole_hosts: amendment.whole_hosts,
                lines: plan.added,
            },
            key: None,
            request_id: request_id(),
        };
        let lines = admission.contract.lines.iter();
        let made: Vec<NodeModel> =
            lines.filter_map(|line| Some(node_of(&admission, line, then.get(&line.host_id)?, now))).collect();
        lines_inserted(&mut transaction, &[&admission], &[0], std::slice::from_ref(&made), now)?;
        lines_told(&mut transaction, &admission, now);
        nodes.extend(made);
        transaction.commit().await.map_err(line_refused)?;
        Ok(Some(nodes))
    }

    /// What [`Store::contract_amend`] would do to hosts, without doing it.
    pub async fn contract_amend_dry_run(&self, amending: &Amending<'_>) -> Result<Forecast, Problem> {
        loop {
            let transaction = self.database.begin().await?;
            if let Some(Decided { before: _, plan, hosts, then }) = decided(&transaction, amending).await? {
                return Ok(forecast(&hosts, &then, Some(&plan)));
            }
        }
    }
}

/// What an amendment comes to, with everything it touches locked.
struct Decided {
    before: ContractModel,
    plan: Plan,
    hosts: HashMap<Id<Host>, HostModel>,
    then: HashMap<Id<Host>, HostModel>,
}

/// `None`: someone else changed the contract while its rows were locked one after the other.
async fn decided(transaction: &Transaction, amending: &Amending<'_>) -> Result<Option<Decided>, Problem> {
    let Amending { id, amendment, if_generation, key: _, by: _ } = amending;
    // The contract is locked last, as everywhere. So what its nodes are is read before, and has to be so still.
    let text = "SELECT generation FROM rcontract WHERE id = ?";
    let row = transaction.query_one_raw(sql(transaction.get_database_backend(), text, [id.uuid().into()])).await?;
    let read: i64 = row.ok_or_else(|| Problem::not_found("rcontract", id))?.try_get("", "generation")?;
    let nodes = nodes_locked(transaction, *id).await?;
    let lines = lines_held(transaction, *id, nodes).await?;
    let mut ids: Vec<Id<Host>> =
        lines.iter().map(|l| l.node.host_id).chain(amendment.add.iter().map(|l| l.host_id)).collect();
    ids.sort_unstable();
    ids.dedup();
    let hosts: HashMap<Id<Host>, HostModel> =
        host_locked(transaction, &ids).await?.into_iter().map(|h| (h.id, h)).collect();
    let before = contract_locked(transaction, *id).await?.ok_or_else(|| Problem::not_found("rcontract", id))?;
    if let Some(seen) = if_generation.filter(|seen| *seen != before.generation) {
        return Err(stale("rcontract", &before.name, seen, before.generation));
    }
    if read != before.generation {
        return Ok(None);
    }
    let mut then = hosts.clone();
    let plan = amend(&before, &lines, amendment, &mut then)?;
    let touched: std::collections::HashSet<Id<Host>> = plan
        .changed
        .iter()
        .map(|c| c.node.host_id)
        .chain(plan.removed.iter().map(|h| h.node.host_id))
        .chain(plan.added.iter().map(|l| l.host_id))
        .collect();
    let hosts = hosts.into_iter().filter(|(id, _)| touched.contains(id)).collect();
    Ok(Some(Decided { before, plan, hosts, then }))
}

/// The lines of a contract with what they hold and use.
async fn lines_held(transaction: &Transaction, id: Id<RContract>, nodes: Vec<NodeModel>) -> Result<Vec<Held>, Problem> {
    let backend = transaction.get_database_backend();
    let text = "SELECT id, cpu, memory, disk, iops FROM line WHERE rcontract_id = ?";
    let mut sizes: HashMap<Id<Line>, Size> = HashMap::new();
    for row in transaction.query_all_raw(sql(backend, text, [id.uuid().into()])).await? {
        let column = |name| row.try_get::<i64>("", name);
        let line: uuid::Uuid = row.try_get("", "id")?;
        sizes.insert(line.into(), size(column("cpu")?, column("memory")?, column("disk")?, column("iops")?));
    }
    let mut used: HashMap<(Id<Line>, i64), i64> = HashMap::new();
    for chunk in nodes.chunks(1_000) {
        let text =
            format!("SELECT line_id, boot, memory_bytes FROM usage_counter WHERE line_id IN ({})", places(chunk.len()));
        let values = chunk.iter().map(|n| Value::from(n.line_id.uuid()));
        for row in transaction.query_all_raw(sql(backend, &text, values)).await? {
            let line: uuid::Uuid = row.try_get("", "line_id")?;
            used.insert((line.into(), row.try_get("", "boot")?), row.try_get("", "memory_bytes")?);
        }
    }
    nodes
        .into_iter()
        .map(|node| {
            let size = *sizes.get(&node.line_id).ok_or_else(|| Problem::internal("a node has no line"))?;
            let memory_used = used.get(&(node.line_id, node.boot)).copied().unwrap_or(0);
            Ok(Held { size, memory_used, node })
        })
        .collect()
}

/// Writes what becomes of a line that stays: its line, its claim, its meter and the wish for its node.
async fn line_changed(transaction: &mut Transaction, changed: Changed, now: Ms) -> Result<NodeModel, Problem> {
    let (_, claims) = changed.claims();
    if changed.held != changed.held_before {
        line_set(transaction, changed.node.line_id, changed.held).await?;
        claim_set(transaction, changed.node.line_id, claims).await?;
    }
    if changed.remetered() {
        segment_change(transaction, &changed.node, claims, now).await?;
    }
    let resized = changed.resized();
    let mut node = changed.node;
    node.revision += 1;
    if resized {
        node.resizing = Some(node.revision);
    }
    (node.request_id, node.changed_ms) = (request_id(), now);
    transaction.later([
        (
            "UPDATE line SET name = ? WHERE id = ?".to_owned(),
            vec![node.name.as_str().into(), node.line_id.uuid().into()],
        ),
        (
            "UPDATE node SET name = ?, spec = ?, revision = ?, resizing = ?, request_id = ?, changed_ms = ? WHERE id = ?"
                .to_owned(),
            vec![
                node.name.as_str().into(),
                serde_json::to_string(&node.spec).map_err(Problem::internal)?.into(),
                node.revision.into(),
                node.resizing.into(),
                node.request_id.as_str().into(),
                now.into(),
                node.id.uuid().into(),
            ],
        ),
    ]);
    emit_changed(transaction, &node, now);
    Ok(node)
}

/// Gives the node of a line that goes its tombstone.
async fn line_removed(transaction: &mut Transaction, mut node: NodeModel, now: Ms) -> Result<NodeModel, Problem> {
    node.revision += 1;
    (node.removed, node.power, node.request_id, node.changed_ms) = (true, yiqiu_base::Power::Off, request_id(), now);
    let text =
        "UPDATE node SET removed = TRUE, power = 'off', revision = ?, request_id = ?, changed_ms = ? WHERE id = ?";
    let values = [node.revision.into(), node.request_id.as_str().into(), now.into(), node.id.uuid().into()];
    transaction.execute_raw(sql(transaction.get_database_backend(), text, values)).await?;
    emit_changed(transaction, &node, now);
    Ok(node)
}

/// Sets what a line holds.
async fn line_set(transaction: &Transaction, line: Id<Line>, size: Size) -> Result<(), Problem> {
    size_set(transaction, "UPDATE line SET cpu = ?, memory = ?, disk = ?, iops = ? WHERE id = ?", line, size).await
}

/// Sets what a line claims of its host.
pub(super) async fn claim_set(transaction: &Transaction, line: Id<Line>, size: Size) -> Result<(), Problem> {
    size_set(transaction, "UPDATE claim SET cpu = ?, memory = ?, disk = ?, iops = ? WHERE line_id = ?", line, size)
        .await
}

async fn size_set(transaction: &Transaction, text: &str, line: Id<Line>, size: Size) -> Result<(), Problem> {
    let Size { cpu_millicores, memory_bytes, disk_bytes, disk_iops } = size;
    let values =
        [Value::from(cpu_millicores), memory_bytes.into(), disk_bytes.into(), disk_iops.into(), line.uuid().into()];
    transaction.execute_raw(sql(transaction.get_database_backend(), text, values)).await?;
    Ok(())
}

/// What the line of a node holds.
pub(super) async fn line_size(transaction: &Transaction, line: Id<Line>) -> Result<Size, Problem> {
    let text = "SELECT cpu, memory, disk, iops FROM line WHERE id = ?";
    let row = transaction.query_one_raw(sql(transaction.get_database_backend(), text, [line.uuid().into()])).await?;
    let row = row.ok_or_else(|| Problem::internal("a node has no line"))?;
    let column = |name| row.try_get::<i64>("", name);
    Ok(size(column("cpu")?, column("memory")?, column("disk")?, column("iops")?))
}

/// Gives a host back what a claim on it does not hold any more.
pub(super) async fn host_returned(transaction: &Transaction, host: Id<Host>, size: Size) -> Result<(), Problem> {
    let Size { cpu_millicores, memory_bytes, disk_bytes, disk_iops } = size;
    let text = "UPDATE host SET used_cpu = used_cpu - ?, used_memory = used_memory - ?, used_disk = used_disk - ?, \
                used_iops = used_iops - ? WHERE id = ?";
    let values = [cpu_millicores.into(), memory_bytes.into(), disk_bytes.into(), disk_iops.into(), host.uuid().into()];
    transaction.execute_raw(sql(transaction.get_database_backend(), text, values)).await?;
    Ok(())
}

/// The host bound a node by its new size: from now on its line holds that and no more.
pub(super) async fn resize_confirmed(transaction: &mut Transaction, node: &NodeModel, now: Ms) -> Result<(), Problem> {
    let held = line_size(transaction, node.line_id).await?;
    let text = "UPDATE node SET resizing = NULL WHERE id = ?";
    transaction.execute_raw(sql(transaction.get_database_backend(), text, [node.id.uuid().into()])).await?;
    if held == node.spec.size {
        return Ok(());
    }
    line_set(transaction, node.line_id, node.spec.size).await?;
    let (from, to) = (node.hold.claims(held), node.hold.claims(node.spec.size));
    if from == to {
        return Ok(());
    }
    claim_set(transaction, node.line_id, to).await?;
    segment_change(transaction, node, to, now).await?;
    host_returned(transaction, node.host_id, from.minus(to)).await
}

/// The entry of an amendment.
fn told(before: &ContractModel, name: &str, plan: &Plan, hosts: &HashMap<Id<Host>, HostModel>) -> Change {
    let then = |name: &str, host: Id<Host>, size: Size| LineThen {
        name: name.to_owned(),
        host: hosts.get(&host).map(|h| h.name.clone()).unwrap_or_default(),
        size,
    };
    let renamed = plan.changed.iter().filter(|c| c.was != c.node.name);
    let resized = plan.changed.iter().filter(|c| c.resized());
    Change::Amended {
        name: (name != before.name).then(|| Renamed { from: before.name.clone(), to: name.to_owned() }),
        added: plan.added.iter().map(|l| then(&l.name, l.host_id, l.spec.size)).collect(),
        removed: plan.removed.iter().map(|h| then(&h.node.name, h.node.host_id, h.node.spec.size)).collect(),
        resized: resized.map(|c| Resized { line: c.node.name.clone(), from: c.from, to: c.node.spec.size }).collect(),
        renamed: renamed.map(|c| Renamed { from: c.was.clone(), to: c.node.name.clone() }).collect(),
    }
}
