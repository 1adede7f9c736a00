//! Rows as they are read, and how they become models. Conversions name every column.

use sea_orm::{DbErr, FromQueryResult};
use uuid::Uuid;
use yiqiu_base::{Size, database::stored};

use crate::model::{Area, ContractModel, HostModel, Limit, NodeModel, Overcommit, Term};

/// The columns of [`HostRow`].
pub(super) const HOST: &str = "host.id, host.name, host.rack_id, host.unit, host.pool_id, host.node_type, host.wish, host.seen, \
    host.clock_mhz, host.machine_cpu, host.machine_memory, host.machine_disk, host.machine_iops, host.limit_cpu, \
    host.limit_memory, host.limit_disk, host.limit_iops, host.overcommit_cpu, host.overcommit_memory, \
    host.overcommit_disk, host.overcommit_iops, host.overhead_cpu, host.overhead_memory, host.overhead_disk, host.overhead_iops, \
    host.node_overhead_cpu, host.node_overhead_memory, host.node_overhead_disk, host.node_overhead_iops, \
    host.used_cpu, host.used_memory, host.used_disk, host.used_iops, host.nodes, host.drivers, host.last_seen_ms, \
    host.generation, host.created_ms";

#[derive(FromQueryResult)]
pub(super) struct HostRow {
    id: Uuid,
    name: String,
    rack_id: Option<Uuid>,
    unit: Option<i64>,
    pool_id: Option<Uuid>,
    node_type: Option<String>,
    wish: String,
    seen: String,
    clock_mhz: i64,
    machine_cpu: i64,
    machine_memory: i64,
    machine_disk: i64,
    machine_iops: i64,
    limit_cpu: Option<i64>,
    limit_memory: Option<i64>,
    limit_disk: Option<i64>,
    limit_iops: Option<i64>,
    overcommit_cpu: i64,
    overcommit_memory: i64,
    overcommit_disk: i64,
    overcommit_iops: i64,
    overhead_cpu: i64,
    overhead_memory: i64,
    overhead_disk: i64,
    overhead_iops: i64,
    node_overhead_cpu: i64,
    node_overhead_memory: i64,
    node_overhead_disk: i64,
    node_overhead_iops: i64,
    used_cpu: i64,
    used_memory: i64,
    used_disk: i64,
    used_iops: i64,
    nodes: i64,
    drivers: String,
    last_seen_ms: i64,
    generation: i64,
    created_ms: i64,
}

pub(super) fn size(cpu_millicores: i64, memory_bytes: i64, disk_bytes: i64, disk_iops: i64) -> Size {
    Size { cpu_millicores, memory_bytes, disk_bytes, disk_iops }
}

fn json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, DbErr> {
    serde_json::from_str(text).map_err(|error| DbErr::Json(error.to_string()))
}

impl TryFrom<HostRow> for HostModel {
    type Error = DbErr;
    fn try_from(row: HostRow) -> Result<Self, DbErr> {
        let HostRow {
            id,
            name,
            rack_id,
            unit,
            pool_id,
            node_type,
            wish,
            seen,
            clock_mhz,
            machine_cpu,
            machine_memory,
            machine_disk,
            machine_iops,
            limit_cpu,
            limit_memory,
            limit_disk,
            limit_iops,
            overcommit_cpu,
            overcommit_memory,
            overcommit_disk,
            overcommit_iops,
            overhead_cpu,
            overhead_memory,
            overhead_disk,
            overhead_iops,
            node_overhead_cpu,
            node_overhead_memory,
            node_overhead_disk,
            node_overhead_iops,
            used_cpu,
            used_memory,
            used_disk,
            used_iops,
            nodes,
            drivers,
            last_seen_ms,
            generation,
            created_ms,
        } = row;
        Ok(Self {
            id: id.into(),
            name,
            area: rack_id.zip(unit).map(|(rack_id, unit)| Area { rack_id: rack_id.into(), unit }),
            pool_id: pool_id.map(Into::into),
            node_type: node_type.as_deref().map(stored).transpose()?,
            wish: stored(&wish)?,
            seen: stored(&seen)?,
            clock_mhz,
            machine: size(machine_cpu, machine_memory, machine_disk, machine_iops),
            limit: Limit {
                cpu_millicores: limit_cpu,
                memory_bytes: limit_memory,
                disk_bytes: limit_disk,
                disk_iops: limit_iops,
            },
            overcommit: Overcommit {
                cpu_millicores: overcommit_cpu,
                memory_bytes: overcommit_memory,
                disk_bytes: overcommit_disk,
                disk_iops: overcommit_iops,
            },
            overhead: size(overhead_cpu, overhead_memory, overhead_disk, overhead_iops),
            node_overhead: size(node_overhead_cpu, node_overhead_memory, node_overhead_disk, node_overhead_iops),
            used: size(used_cpu, used_memory, used_disk, used_iops),
            nodes,
            drivers: json(&drivers)?,
            last_seen_ms,
            generation,
            created_ms,
        })
    }
}

/// The columns of [`ContractRow`].
pub(super) const CONTRACT: &str = "id, name, owner, state, lines, starts_ms, ends_ms, grace_ms, due_ms, \
    generation, created_ms, created_by, reason, released_ms";

#[derive(FromQueryResult)]
pub(super) struct ContractRow {
    id: Uuid,
    name: String,
    owner: String,
    state: String,
    lines: i64,
    starts_ms: Option<i64>,
    ends_ms: Option<i64>,
    grace_ms: i64,
    due_ms: Option<i64>,
    generation: i64,
    created_ms: i64,
    created_by: String,
    reason: String,
    released_ms: Option<i64>,
}

impl TryFrom<ContractRow> for ContractModel {
    type Error = DbErr;
    fn try_from(row: ContractRow) -> Result<Self, DbErr> {
        let ContractRow {
            id,
            name,
            owner,
            state,
            lines,
            starts_ms,
            ends_ms,
            grace_ms,
            due_ms,
            generation,
            created_ms,
            created_by,
            reason,
            released_ms,
        } = row;
        Ok(Self {
            id: id.into(),
            name,
            owner,
            state: stored(&state)?,
            lines,
            term: Term { starts_ms, ends_ms, grace_ms },
            due_ms,
            generation,
            created_ms,
            created_by,
            reason,
            released_ms,
        })
    }
}

/// The columns of [`NodeRow`].
pub(super) const NODE: &str = "node.id, node.line_id, node.rcontract_id, node.host_id, node.owner, node.name, \
    node.spec, node.power, node.generation, node.reboot, node.grace_ms, node.state, node.carried, \
    node.boot, node.detail, node.ports, node.health, node.removed, node.resumes, node.hold, node.resizing, node.revision, node.request_id, node.changed_ms, \
    (SELECT host.name FROM host WHERE host.id = host_id) AS host_name, \
    (SELECT host.state FROM host WHERE host.id = host_id) AS host_state, \
    (SELECT host.node_type FROM host WHERE host.id = host_id) AS node_type";

#[derive(FromQueryResult)]
pub(super) struct NodeRow {
    id: Uuid,
    line_id: Uuid,
    rcontract_id: Uuid,
    host_id: Uuid,
    owner: String,
    name: String,
    spec: String,
    power: String,
    generation: i64,
    reboot: bool,
    grace_ms: Option<i64>,
    state: String,
    carried: i64,
    boot: i64,
    detail: String,
    ports: String,
    health: String,
    removed: bool,
    resumes: bool,
    hold: String,
    resizing: Option<i64>,
    revision: i64,
    request_id: String,
    changed_ms: i64,
    host_name: String,
    host_state: String,
    node_type: String,
}

impl TryFrom<NodeRow> for NodeModel {
    type Error = DbErr;
    fn try_from(row: NodeRow) -> Result<Self, DbErr> {
        let NodeRow {
            id,
            line_id,
            rcontract_id,
            host_id,
            owner,
            name,
            spec,
            power,
            generation,
            reboot,
            grace_ms,
            state,
            carried,
            boot,
            detail,
            ports,
            health,
            removed,
            resumes,
            hold,
            resizing,
            revision,
            request_id,
            changed_ms,
            host_name,
            host_state,
            node_type,
        } = row;
        Ok(Self {
            id: id.into(),
            line_id: line_id.into(),
            rcontract_id: rcontract_id.into(),
            host_id: host_id.into(),
            owner,
            name,
            spec: json(&spec)?,
            power: stored(&power)?,
            generation,
            reboot,
            grace_ms,
            state: stored(&state)?,
            carried,
            boot,
            detail,
            ports: json(&ports)?,
            health: stored(&health)?,
            removed,
            resumes,
            hold: stored(&hold)?,
            resizing,
            revision,
            request_id,
            changed_ms,
            host_name,
            host_state: stored(&host_state)?,
            node_type: stored(&node_type)?,
        })
    }
}

/// Every row as its model.
pub(super) fn models<R, M: TryFrom<R, Error = DbErr>>(rows: Vec<R>) -> Result<Vec<M>, DbErr> {
    rows.into_iter().map(M::try_from).collect()
}
