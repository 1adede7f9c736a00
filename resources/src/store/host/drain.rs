//! What is left on a host that is drained, who is told, and what ops stop there. All of it is in rows: the wish in
//! that of the host, each stop in that of the node.

use sea_orm::{ConnectionTrait, FromQueryResult, Value};
use yiqiu_base::{
    Id, NodeState, Power, Problem, Size,
    database::{Transaction, places, sql, stored},
    http::Paging,
    id::{Host, Line, Node, RContract},
    outbox::NewEvent,
    telemetry::request_id,
};
use yiqiu_proto::resources::LineDrain;

use super::host_locked;
use crate::{
    model::{HostModel, HostWish, NodeModel, Wished},
    store::{
        Store,
        node::emit_changed,
        rows::{NODE, NodeRow, models},
    },
};

/// A node that is left on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainLeft {
    /// The node.
    pub node_id: Id<Node>,
    /// Its name.
    pub name: String,
    /// Its line.
    pub line_id: Id<Line>,
    /// Its contract.
    pub rcontract_id: Id<RContract>,
    /// The name of that.
    pub rcontract: String,
    /// Whose it is.
    pub owner: String,
    /// What its line holds.
    pub size: Size,
    /// What is wished for it.
    pub power: Power,
    /// What is seen of it.
    pub state: NodeState,
    /// Its contract is being released: it goes.
    pub removed: bool,
    /// Ops stopped it for the drain.
    pub stopped: bool,
}

/// How many nodes of one owner are left.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Holder {
    /// Whose.
    pub owner: String,
    /// How many.
    pub nodes: i64,
}

/// What holders of lines are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// The host of the line is to become empty.
    Draining,
    /// It may stay after all.
    Undrained,
    /// Ops stopped its node.
    Stopped,
}

impl Told {
    fn kind(self) -> &'static str {
        match self {
            Told::Draining => "line.draining",
            Told::Undrained => "line.undrained",
            Told::Stopped => "line.stopped",
        }
    }
}

#[derive(FromQueryResult)]
struct LeftRow {
    id: uuid::Uuid,
    name: String,
    line_id: uuid::Uuid,
    rcontract_id: uuid::Uuid,
    rcontract: String,
    owner: String,
    cpu: i64,
    memory: i64,
    disk: i64,
    iops: i64,
    power: String,
    state: String,
    removed: bool,
    drain_stopped: bool,
}

const LEFT: &str = "SELECT node.id, node.name, node.line_id, node.rcontract_id, rcontract.name AS rcontract, node.owner, \
    line.cpu, line.memory, line.disk, line.iops, node.power, node.state, node.removed, node.drain_stopped FROM node \
    JOIN line ON line.id = node.line_id JOIN rcontract ON rcontract.id = node.rcontract_id";

impl TryFrom<LeftRow> for DrainLeft {
    type Error = sea_orm::DbErr;
    fn try_from(row: LeftRow) -> Result<Self, sea_orm::DbErr> {
        let LeftRow {
            id,
            name,
            line_id,
            rcontract_id,
            rcontract,
            owner,
            cpu,
            memory,
            disk,
            iops,
            power,
            state,
            removed,
            drain_stopped,
        } = row;
        Ok(Self {
            node_id: id.into(),
            name,
            line_id: line_id.into(),
            rcontract_id: rcontract_id.into(),
            rcontract,
            owner,
            size: Size { cpu_millicores: cpu, memory_bytes: memory, disk_bytes: disk, disk_iops: iops },
            power: stored(&power)?,
            state: stored(&state)?,
            removed,
            stopped: drain_stopped,
        })
    }
}

impl Store {
    /// A page of the nodes that are left on a host, in the order of their ids.
    pub async fn drain_left(&self, host: Id<Host>, paging: &Paging) -> Result<Vec<DrainLeft>, Problem> {
        let after = match &paging.cursor {
            Some(cursor) => Id::<Node>::parse(cursor)?.uuid(),
            None => uuid::Uuid::nil(),
        };
        let limit = i64::try_from(paging.limit()).unwrap_or(i64::MAX);
        let text = format!("{LEFT} WHERE node.host_id = ? AND node.id > ? ORDER BY node.id LIMIT ?");
        let statement = sql(self.database.backend(), &text, [host.uuid().into(), after.into(), limit.into()]);
        Ok(models(LeftRow::find_by_statement(statement).all(self.database.read()).await?)?)
    }

    /// Whose nodes are left on a host, and how many; whoever has most first.
    pub async fn drain_holders(&self, host: Id<Host>) -> Result<Vec<Holder>, Problem> {
        let text =
            "SELECT owner, COUNT(*) AS nodes FROM node WHERE host_id = ? GROUP BY owner ORDER BY nodes DESC, owner";
        let statement = sql(self.database.backend(), text, [host.uuid().into()]);
        Ok(Holder::find_by_statement(statement).all(self.database.read()).await?)
    }

    /// Stops nodes of a host that is draining: all that are named, or none. They stay off, with their claims, until
    /// their contracts are released or the drain is taken back. Returns those that were not stopped before.
    pub async fn drain_stop(
        &self,
        id: Id<Host>,
        nodes: &[Id<Node>],
        wished: &Wished,
    ) -> Result<Vec<NodeModel>, Problem> {
        let (backend, now) = (self.database.backend(), wished.since_ms);
        let mut transaction = self.database.begin().await?;
        let host = host_locked(&transaction, &[id]).await?.pop().ok_or_else(|| Problem::not_found("host", id))?;
        if host.wish != HostWish::Draining {
            return Err(Problem::new(
                yiqiu_base::Code::WrongState,
                format!("host {} is not draining: nodes are stopped here for a drain only", host.name),
            ));
        }
        let mut ids = nodes.to_vec();
        ids.sort_unstable();
        ids.dedup();
        let lock = if backend == sea_orm::DbBackend::Postgres { " ORDER BY id FOR UPDATE" } else { "" };
        let text = format!("SELECT id FROM node WHERE host_id = ? AND id IN ({}){lock}", places(ids.len()));
        let values = || std::iter::once(Value::from(id.uuid())).chain(ids.iter().map(|node| node.uuid().into()));
        let there = transaction.query_all_raw(sql(backend, &text, values())).await?;
        if there.len() != ids.len() {
            let there = there.iter().map(|row| row.try_get("", "id")).collect::<Result<Vec<uuid::Uuid>, _>>()?;
            let missing = ids.iter().find(|node| !there.contains(&node.uuid()));
            let missing = missing.map(ToString::to_string).unwrap_or_default();
            return Err(Problem::new(
                yiqiu_base::Code::NotFound,
                format!("there is no node `{missing}` on host {}: nothing was stopped", host.name),
            ));
        }
        let text = format!(
            "UPDATE node SET power = 'off', reboot = FALSE, grace_ms = NULL, resumes = FALSE, drain_stopped = TRUE, \
             revision = revision + 1, request_id = ?, generation = (CASE WHEN carried > generation THEN carried ELSE generation END) + 1, \
             changed_ms = ? WHERE host_id = ? AND NOT removed AND NOT drain_stopped AND id IN ({}) RETURNING {}",
            places(ids.len()),
            NODE.replace("node.", "")
        );
        let values = [Value::from(request_id()), now.into()].into_iter().chain(values());
        let stopped: Vec<NodeModel> =
            models(NodeRow::find_by_statement(sql(backend, &text, values)).all(&*transaction).await?)?;
        for node in &stopped {
            emit_changed(&mut transaction, node, now);
            line_told(&mut transaction, &host, node, Told::Stopped, wished);
        }
        transaction.commit().await?;
        Ok(stopped)
    }
}

/// Tells the holder of every line on a host. Lines that are being released need not be told.
pub(super) async fn lines_told(
    transaction: &mut Transaction,
    host: &HostModel,
    told: Told,
    wished: &Wished,
) -> Result<(), Problem> {
    let text = format!("SELECT {NODE} FROM node WHERE host_id = ? AND NOT removed ORDER BY id");
    let statement = sql(transaction.get_database_backend(), &text, [host.id.uuid().into()]);
    let nodes: Vec<NodeModel> = models(NodeRow::find_by_statement(statement).all(&**transaction).await?)?;
    for node in &nodes {
        line_told(transaction, host, node, told, wished);
    }
    Ok(())
}

/// Who said so is not for tenants.
fn line_told(transaction: &mut Transaction, host: &HostModel, node: &NodeModel, told: Told, wished: &Wished) {
    let Wished { by: _, why, since_ms } = wished;
    let payload = LineDrain {
        line_id: node.line_id.to_string(),
        rcontract_id: node.rcontract_id.to_string(),
        node_id: node.id.to_string(),
        name: node.name.clone(),
        host_id: host.id.to_string(),
        host_name: host.name.clone(),
        detail: why.clone(),
    };
    transaction.emit(NewEvent::new(*since_ms, told.kind(), &node.owner, node.line_id, &payload));
}

/// A drain that is taken back leaves nothing that keeps nodes off.
pub(super) async fn stops_forgotten(transaction: &Transaction, host: Id<Host>) -> Result<(), Problem> {
    let text = "UPDATE node SET drain_stopped = FALSE WHERE host_id = ? AND drain_stopped";
    transaction.execute_raw(sql(transaction.get_database_backend(), text, [host.uuid().into()])).await?;
    Ok(())
}
