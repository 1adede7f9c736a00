//! Nodes: what is wished of them, what is seen of them, and the meter segments that follow.

use std::collections::HashMap;

use sea_orm::{ConnectionTrait, FromQueryResult, Value};
use yiqiu_base::{
    Code, Health, Id, NodeState, Power, Problem, Size,
    clock::Ms,
    database::{Transaction, places, sql, stored},
    http::Paging,
    id::{Host, Image, Line, Node, RContract},
    outbox::NewEvent,
    telemetry::request_id,
};
use yiqiu_proto::resources::{NodeChanged, SegmentClosed, SegmentOpened};

use super::{
    Store,
    amend::resize_confirmed,
    contract::contract_closed_if_empty,
    park::{park, parks_now, unpark},
    rows::{NODE, NodeRow, models, size},
    stale,
};
use crate::{
    lifecycle::{Observed, observe, term::may_run},
    model::{Hold, NodeModel, PowerRequest, Report, Wish},
};

/// Which nodes to list.
#[derive(Debug, Clone, Default)]
pub struct NodeFilter {
    /// Only this owner's.
    pub owner: Option<String>,
    /// Only on this host.
    pub host: Option<Id<Host>>,
    /// Only of this contract.
    pub rcontract: Option<Id<RContract>>,
}

/// A report with who sent it.
#[derive(Debug, Clone)]
pub struct Reported {
    /// Whose agent says so: it may speak of its own nodes only.
    pub host_id: Id<Host>,
    /// What it says.
    pub report: Report,
}

impl Store {
    /// By id; `not_found` otherwise.
    pub async fn node_get(&self, id: Id<Node>) -> Result<NodeModel, Problem> {
        let text = format!("SELECT {NODE} FROM node WHERE id = ?");
        let statement = sql(self.database.backend(), &text, [id.uuid().into()]);
        let row = NodeRow::find_by_statement(statement).one(self.database.read()).await?;
        Ok(row.ok_or_else(|| Problem::not_found("node", id))?.try_into()?)
    }

    /// In the order of ids.
    pub async fn node_list(&self, filter: &NodeFilter, paging: &Paging) -> Result<Vec<NodeModel>, Problem> {
        let after = match &paging.cursor {
            Some(cursor) => Id::<Node>::parse(cursor)?.uuid(),
            None => uuid::Uuid::nil(),
        };
        let mut conditions = vec!["id > ?"];
        let mut values: Vec<Value> = vec![after.into()];
        let NodeFilter { owner, host, rcontract } = filter;
        if let Some(owner) = owner {
            conditions.push("owner = ?");
            values.push(owner.as_str().into());
        }
        if let Some(host) = host {
            conditions.push("host_id = ?");
            values.push(host.uuid().into());
        }
        if let Some(rcontract) = rcontract {
            conditions.push("rcontract_id = ?");
            values.push(rcontract.uuid().into());
        }
        values.push(i64::try_from(paging.limit()).unwrap_or(i64::MAX).into());
        let text = format!("SELECT {NODE} FROM node WHERE {} ORDER BY id LIMIT ?", conditions.join(" AND "));
        let statement = sql(self.database.backend(), &text, values);
        Ok(models(NodeRow::find_by_statement(statement).all(self.database.read()).await?)?)
    }

    /// All nodes of one host: the full set of its agent.
    pub async fn node_of_host(&self, host: Id<Host>) -> Result<Vec<NodeModel>, Problem> {
        let text = format!("SELECT {NODE} FROM node WHERE host_id = ?");
        let statement = sql(self.database.backend(), &text, [host.uuid().into()]);
        Ok(models(NodeRow::find_by_statement(statement).all(self.database.read()).await?)?)
    }

    /// Nodes on connected hosts whose wish may not be carried out yet although it has been known for a while: a page of
    /// them in the order of ids, empty at the end.
    pub async fn node_unsettled(&self, changed_before: Ms, after: Option<Id<Node>>) -> Result<Vec<NodeModel>, Problem> {
        let text = format!(
            "SELECT {NODE} FROM node JOIN host ON host.id = node.host_id AND host.seen = 'connected' \
             WHERE node.id > ? AND node.changed_ms < ? AND (node.removed OR node.resizing IS NOT NULL \
             OR (node.power = 'on' AND node.carried < node.generation) OR (node.power = 'off' \
             AND node.state IN ('running', 'starting', 'stopping', 'preparing'))) ORDER BY node.id LIMIT 1000"
        );
        let after = after.map_or(uuid::Uuid::nil(), Id::uuid);
        let statement = sql(self.database.backend(), &text, [after.into(), changed_before.into()]);
        Ok(models(NodeRow::find_by_statement(statement).all(self.database.read()).await?)?)
    }

    /// Writes a wish for a power state, and returns the node. A command that was carried out before changes nothing.
    pub async fn node_power(&self, request: &PowerRequest, now: Ms) -> Result<NodeModel, Problem> {
        let mut transaction = self.database.begin().await?;
        let backend = self.database.backend();
        if let Some(command) = request.command {
            let statement = "INSERT INTO command (id, node_id, power, generation, at_ms) VALUES (?, ?, ?, 0, ?) \
                             ON CONFLICT DO NOTHING";
            let values =
                [command.to_string().into(), request.node_id.uuid().into(), request.wish.word().into(), now.into()];
            if transaction.execute_raw(sql(backend, statement, values)).await?.rows_affected() == 0 {
                drop(transaction); // its connection may be the last one
                return self.node_commanded(request, command.to_string()).await;
            }
        }
        let Wish { power, reboot, grace_ms } = request.wish;
        let on = if reboot { " AND power = 'on'" } else { "" };
        let also = request.if_generation.map_or("", |_| " AND generation = ?");
        let text = format!(
            "UPDATE node SET power = ?, reboot = ?, grace_ms = ?, resumes = FALSE, revision = revision + 1, request_id = ?, \
             generation = (CASE WHEN carried > generation THEN carried ELSE generation END) + 1, \
             changed_ms = ? WHERE id = ? AND NOT removed{on}{also} RETURNING {}",
            NODE.replace("node.", "")
        );
        let mut values: Vec<Value> = vec![
            power.as_str().into(),
            reboot.into(),
            grace_ms.into(),
            request_id().into(),
            now.into(),
            request.node_id.uuid().into(),
        ];
        values.extend(request.if_generation.map(Value::from));
        let row = NodeRow::find_by_statement(sql(backend, &text, values)).one(&*transaction).await?;
        let Some(row) = row else {
            drop(transaction);
            let node = self.node_get(request.node_id).await?;
            return Err(match request.if_generation {
                Some(seen) if seen != node.generation => stale("node", &node.name, seen, node.generation),
                _ if reboot && !node.removed && node.power != Power::On => Problem::new(
                    Code::WrongState,
                    format!("node {} is {}, so it cannot be started again: power it on", node.name, node.power),
                ),
                _ => Problem::new(
                    Code::WrongState,
                    format!("node {} is being released: its power cannot change any more", node.name),
                ),
            });
        };
        let mut node: NodeModel = row.try_into()?;
        // The row of the node is locked: what its contract is now, it stays until this is committed.
        if node.power == Power::On {
            let text = "SELECT rcontract.state, node.drain_stopped FROM node \
                        JOIN rcontract ON rcontract.id = node.rcontract_id WHERE node.id = ?";
            let row = transaction.query_one_raw(sql(backend, text, [node.id.uuid().into()])).await?;
            let row = row.ok_or_else(|| Problem::internal("a locked node is gone"))?;
            may_run(&node.name, stored(&row.try_get::<String>("", "state")?)?)?;
            if row.try_get("", "drain_stopped")? {
                return Err(drain_stopped(&node));
            }
            if node.hold == Hold::Parked {
                unpark(&mut transaction, &mut node, now).await?;
            }
        }
        emit_changed(&mut transaction, &node, now);
        transaction.commit().await?;
        Ok(node)
    }

    async fn node_commanded(&self, request: &PowerRequest, command: String) -> Result<NodeModel, Problem> {
        let text = "SELECT node_id, power FROM command WHERE id = ?";
        let row = self.database.read().query_one_raw(sql(self.database.backend(), text, [command.into()])).await?;
        let Some(row) = row else { return Err(Problem::internal("a command was kept and is gone")) };
        let (node, power): (uuid::Uuid, String) = (row.try_get("", "node_id")?, row.try_get("", "power")?);
        if node != request.node_id.uuid() || power != request.wish.word() {
            return Err(Problem::new(
                Code::IdempotencyKeyReused,
                "this command id was used for another request: mint a new one",
            ));
        }
        self.node_get(request.node_id).await
    }

    /// Takes what agents say, all of it in one transaction. What is from before, or of a node that is not the
    /// reporter's, changes nothing. Returns the nodes that changed.
    pub async fn node_observed(&self, group: &[Reported], now: Ms) -> Result<Vec<NodeModel>, Problem> {
        let mut transaction = self.database.begin().await?;
        let backend = self.database.backend();
        let lock = if backend == sea_orm::DbBackend::Postgres { " FOR UPDATE" } else { "" };
        let mut ids: Vec<Id<Node>> = group.iter().map(|r| r.report.node_id).collect();
        ids.sort_unstable();
        ids.dedup();
        let text = format!("SELECT {NODE} FROM node WHERE id IN ({}) ORDER BY id{lock}", places(ids.len()));
        let statement = sql(backend, &text, ids.iter().map(|id| id.uuid().into()));
        let nodes: Vec<NodeModel> = models(NodeRow::find_by_statement(statement).all(&*transaction).await?)?;
        let mut nodes: HashMap<Id<Node>, NodeModel> = nodes.into_iter().map(|n| (n.id, n)).collect();
        let mut changed = Vec::new();
        // Hosts are changed in the order of ids, as everywhere; what is said of one node keeps its order.
        let mut in_order: Vec<&Reported> = group.iter().collect();
        in_order.sort_by_key(|reported| reported.host_id);
        for Reported { host_id, report } in in_order {
            let Some(node) = nodes.get_mut(&report.node_id).filter(|n| n.host_id == *host_id) else { continue };
            let resized = node.resizing.is_some_and(|wanted| report.sized >= wanted);
            let parks = parks_now(&transaction, node, report).await?;
            match observe(node, report) {
                Observed::Nothing if resized || parks => {}
                Observed::Nothing => continue,
                Observed::Gone => {
                    gone(&mut transaction, node, now).await?;
                    node.state = NodeState::Gone;
                    emit_changed(&mut transaction, node, now);
                    contract_closed_if_empty(&mut transaction, node.rcontract_id, now).await?;
                    if let Some(node) = nodes.remove(&report.node_id) {
                        changed.push(node);
                    }
                    continue;
                }
                Observed::Lost => {
                    if node.state.metered_as() != Power::Off {
                        segment_switch(&mut transaction, node, Power::Off, now).await?;
                    }
                    node.state = NodeState::Failed;
                    "its host has no trace of it".clone_into(&mut node.detail);
                    node.ports.clear();
                    node.health = Health::None;
                }
                Observed::Seen { metered_as } => {
                    if let Some(power) = metered_as.filter(|_| !parks) {
                        segment_switch(&mut transaction, node, power, now).await?;
                    }
                    let Report { node_id: _, state, generation, boot, detail, ports, health, revision: _, sized: _ } =
                        report.clone();
                    (node.state, node.carried, node.boot) = (state, generation, boot);
                    (node.detail, node.ports, node.health) = (detail, ports, health);
                }
            }
            if parks {
                park(&mut transaction, node, now).await?;
            }
            if resized {
                resize_confirmed(&mut transaction, node, now).await?;
                node.resizing = None;
            }
            node.changed_ms = now;
            seen(&mut transaction, node)?;
            emit_changed(&mut transaction, node, now);
            changed.push(node.clone());
        }
        transaction.commit().await?;
        Ok(changed)
    }
}

fn drain_stopped(node: &NodeModel) -> Problem {
    let NodeModel { name, host_name, .. } = node;
    Problem::new(
        Code::WrongState,
        format!(
            "node {name} was stopped by ops, as host {host_name} is draining: claim a place elsewhere, and release this"
        ),
    )
}

/// How many nodes start from an image.
pub(super) async fn count_of_image(transaction: &Transaction, image: Id<Image>) -> Result<i64, Problem> {
    let text = "SELECT COUNT(*) AS n FROM node WHERE image_id = ?";
    let row = transaction.query_one_raw(sql(transaction.get_database_backend(), text, [image.uuid().into()])).await?;
    Ok(row.map_or(Ok(0), |row| row.try_get("", "n"))?)
}

fn seen(transaction: &mut Transaction, node: &NodeModel) -> Result<(), Problem> {
    let values = vec![
        node.state.as_str().into(),
        node.carried.into(),
        node.boot.into(),
        node.detail.as_str().into(),
        serde_json::to_string(&node.ports).map_err(Problem::internal)?.into(),
        node.health.as_str().into(),
        node.changed_ms.into(),
        node.id.uuid().into(),
    ];
    let text = "UPDATE node SET state = ?, carried = ?, boot = ?, detail = ?, ports = ?, health = ?, changed_ms = ? \
                WHERE id = ?";
    transaction.later([(text.to_owned(), values)]);
    Ok(())
}

/// Ends a claim whose node was taken away and verified gone: the host gets back what it held.
async fn gone(transaction: &mut Transaction, node: &NodeModel, now: Ms) -> Result<(), Problem> {
    let backend = transaction.get_database_backend();
    segment_close(transaction, node, now).await?;
    let line: Value = node.line_id.uuid().into();
    let row = transaction
        .query_one_raw(sql(
            backend,
            "DELETE FROM claim WHERE line_id = ? RETURNING cpu, memory, disk, iops",
            [line.clone()],
        ))
        .await?
        .ok_or_else(|| Problem::internal("a node had no claim"))?;
    let column = |name| row.try_get::<i64>("", name);
    let (cpu, memory, disk, iops) = (column("cpu")?, column("memory")?, column("disk")?, column("iops")?);
    transaction
        .execute_raw(sql(
            backend,
            "UPDATE host SET nodes = nodes - 1, used_cpu = used_cpu - node_overhead_cpu - ?, \
             used_memory = used_memory - node_overhead_memory - ?, used_disk = used_disk - node_overhead_disk - ?, \
             used_iops = used_iops - node_overhead_iops - ? WHERE id = ?",
            [cpu.into(), memory.into(), disk.into(), iops.into(), node.host_id.uuid().into()],
        ))
        .await?;
    transaction.execute_raw(sql(backend, "DELETE FROM node WHERE id = ?", [node.id.uuid().into()])).await?;
    transaction.execute_raw(sql(backend, "DELETE FROM line WHERE id = ?", [line.clone()])).await?;
    transaction.execute_raw(sql(backend, "DELETE FROM usage_counter WHERE line_id = ?", [line])).await?;
    Ok(())
}

/// A segment that was closed just now.
pub(super) struct Closed {
    pub(super) ordinal: i64,
    pub(super) to_ms: Ms,
    pub(super) power: Power,
    pub(super) size: Size,
}

/// Closes the open segment of a line. Its end is never before its start.
pub(super) async fn segment_close(transaction: &mut Transaction, node: &NodeModel, now: Ms) -> Result<Closed, Problem> {
    let row = transaction
        .query_one_raw(sql(
            transaction.get_database_backend(),
            "UPDATE segment SET to_ms = CASE WHEN from_ms > ? THEN from_ms ELSE ? END \
             WHERE line_id = ? AND to_ms IS NULL RETURNING ordinal, from_ms, to_ms, power, cpu, memory, disk, iops",
            [now.into(), now.into(), node.line_id.uuid().into()],
        ))
        .await?
        .ok_or_else(|| Problem::internal("a line had no open segment"))?;
    let column = |name| row.try_get::<i64>("", name);
    let (from_ms, to_ms) = (column("from_ms")?, column("to_ms")?);
    let payload = SegmentClosed { line_id: node.line_id.to_string(), from_ms, to_ms };
    transaction.emit(NewEvent::new(now, "segment.closed", &node.owner, node.line_id, &payload));
    let power: String = row.try_get("", "power")?;
    let size = size(column("cpu")?, column("memory")?, column("disk")?, column("iops")?);
    Ok(Closed { ordinal: column("ordinal")?, to_ms, power: stored(&power)?, size })
}

/// Meters a claim as another power state from now on: the next segment begins where the last one ends.
async fn segment_switch(transaction: &mut Transaction, node: &NodeModel, power: Power, now: Ms) -> Result<(), Problem> {
    let closed = segment_close(transaction, node, now).await?;
    segment_open(transaction, node, Closed { power, ..closed }, now).await
}

/// Meters a claim under another size, and the node's name as it is now, from now on.
pub(super) async fn segment_change(
    transaction: &mut Transaction,
    node: &NodeModel,
    size: Size,
    now: Ms,
) -> Result<(), Problem> {
    let closed = segment_close(transaction, node, now).await?;
    segment_open(transaction, node, Closed { size, ..closed }, now).await
}

/// Opens the segment that follows one that was closed.
pub(super) async fn segment_open(
    transaction: &mut Transaction,
    node: &NodeModel,
    after: Closed,
    now: Ms,
) -> Result<(), Problem> {
    let Closed { ordinal, to_ms: from_ms, power, size } = after;
    let Size { cpu_millicores, memory_bytes, disk_bytes, disk_iops } = size;
    transaction
        .execute_raw(sql(
            transaction.get_database_backend(),
            "INSERT INTO segment (line_id, ordinal, from_ms, power, cpu, memory, disk, iops) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                node.line_id.uuid().into(),
                (ordinal + 1).into(),
                from_ms.into(),
                power.as_str().into(),
                cpu_millicores.into(),
                memory_bytes.into(),
                disk_bytes.into(),
                disk_iops.into(),
            ],
        ))
        .await?;
    let payload = SegmentOpened {
        line_id: node.line_id.to_string(),
        rcontract_id: node.rcontract_id.to_string(),
        owner: node.owner.clone(),
        node_name: node.name.clone(),
        power: power.as_str().to_owned(),
        size: Some(size.into()),
        from_ms,
    };
    transaction.emit(NewEvent::new(now, "segment.opened", &node.owner, node.line_id, &payload));
    Ok(())
}

pub(super) fn emit_changed(transaction: &mut Transaction, node: &NodeModel, now: Ms) {
    let payload = NodeChanged {
        node_id: node.id.to_string(),
        line_id: node.line_id.to_string(),
        rcontract_id: node.rcontract_id.to_string(),
        name: node.name.clone(),
        host_name: node.host_name.clone(),
        power: node.power.as_str().to_owned(),
        generation: node.generation,
        state: node.state.as_str().to_owned(),
        detail: node.detail.clone(),
        health: node.health.as_str().to_owned(),
        hold: node.hold.as_str().to_owned(),
    };
    let mut event = NewEvent::new(now, "node.changed", &node.owner, node.id, &payload);
    if event.request_id.is_empty() {
        // What an agent reports is the outcome of the request that the node's wish came from.
        event.request_id.clone_from(&node.request_id);
    }
    transaction.emit(event);
}

/// The line of a node, as usage refers to it.
#[derive(Debug, Clone)]
pub(super) struct Metered {
    pub(super) line_id: Id<Line>,
    pub(super) owner: String,
}

/// Lines and owners of nodes on one host.
pub(super) async fn metered(
    transaction: &Transaction,
    host: Id<Host>,
    nodes: &[Id<Node>],
) -> Result<HashMap<Id<Node>, Metered>, Problem> {
    // Locked: two sessions of an agent may bring the same readings at once.
    let lock =
        if transaction.get_database_backend() == sea_orm::DbBackend::Postgres { " ORDER BY id FOR UPDATE" } else { "" };
    let text =
        format!("SELECT id, line_id, owner FROM node WHERE host_id = ? AND id IN ({}){lock}", places(nodes.len()));
    let values = std::iter::once(Value::from(host.uuid())).chain(nodes.iter().map(|id| id.uuid().into()));
    let rows = transaction.query_all_raw(sql(transaction.get_database_backend(), &text, values)).await?;
    rows.iter()
        .map(|row| {
            let (id, line): (uuid::Uuid, uuid::Uuid) = (row.try_get("", "id")?, row.try_get("", "line_id")?);
            Ok((id.into(), Metered { line_id: line.into(), owner: row.try_get("", "owner")? }))
        })
        .collect()
}
