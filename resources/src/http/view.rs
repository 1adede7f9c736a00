//! What people see of hosts, contracts and nodes. Conversions name every field, so that a new one breaks here.

use serde::Serialize;
use utoipa::ToSchema;
use yiqiu_base::{
    Health, Id, NodeState, NodeType, Power, Size,
    id::{Host, Line, Node, RContract},
};

use crate::{
    model::{
        Area, ContractModel, DriverStatus, Hold, HostModel, HostSeen, HostState, HostWish, Labels, Limit, LineUsage,
        NodeModel, NodeSpec, Overcommit, PoolModel, Port, Wished,
    },
    service::host::Surroundings,
    store::{HostLabels, PoolSum},
};

/// A host with what is free on it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Host)]
pub(super) struct HostView {
    id: Id<Host>,
    name: String,
    /// Its rack by name; nothing until it is placed.
    rack: Option<String>,
    /// Its unit in the rack.
    unit: Option<i64>,
    zone: Option<String>,
    region: Option<String>,
    /// The pool it is in.
    pool: Option<String>,
    /// What ops said of it.
    labels: Labels,
    /// What its agent found: never written by anyone.
    features: Labels,
    node_type: Option<NodeType>,
    /// What is wished and what is seen, in one word.
    state: HostState,
    /// What ops wish of it.
    wish: HostWish,
    /// Who wished that.
    #[serde(skip_serializing_if = "String::is_empty")]
    wish_by: String,
    /// Why.
    #[serde(skip_serializing_if = "String::is_empty")]
    wish_why: String,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    wish_since_ms: Option<i64>,
    /// Whether its agent is connected.
    connected: bool,
    clock_mhz: i64,
    /// What the machine says it has.
    machine: Size,
    /// What ops lowered that to; a dimension that is left out is the machine's own word.
    limit: Limit,
    /// How much of its capacity may be promised, in thousandths.
    overcommit: Overcommit,
    /// What it is taken to have: the machine's word, or less where ops say so.
    capacity: Size,
    /// What its cut costs with no node on it.
    overhead: Size,
    /// What each node costs beside its own size.
    overhead_per_node: Size,
    /// What claims and the overhead of their nodes hold.
    used: Size,
    /// What claims could hold in all: capacity times overcommit, less the overhead of the cut.
    rentable: Size,
    /// What is left of that; negative where the host is short.
    free: Size,
    nodes: i64,
    drivers: Vec<DriverStatus>,
    /// Why nothing can be claimed here now.
    #[serde(skip_serializing_if = "Option::is_none")]
    refuses: Option<String>,
    last_seen_ms: i64,
    generation: i64,
    created_ms: i64,
}

impl HostView {
    pub(super) fn of(host: HostModel, around: &Surroundings) -> Self {
        let (capacity, rentable, free) = (host.capacity(), host.rentable(), host.free());
        let (state, refuses) = (host.state(), host.refuses());
        let HostModel {
            id,
            name,
            area,
            pool_id,
            node_type,
            wish,
            seen,
            clock_mhz,
            machine,
            limit,
            overcommit,
            overhead,
            node_overhead,
            used,
            nodes,
            drivers,
            last_seen_ms,
            generation,
            created_ms,
        } = host;
        let place = area.and_then(|Area { rack_id, unit: _ }| around.places.get(&rack_id)).cloned().unwrap_or_default();
        let HostLabels { labels, features } = around.labels.get(&id).cloned().unwrap_or_default();
        let wished = around.wished.get(&id).cloned();
        let wish_since_ms = wished.as_ref().map(|wished| wished.since_ms);
        let Wished { by, why, since_ms: _ } = wished.unwrap_or_default();
        let named = |(name, _): (String, String)| Some(name).filter(|n| !n.is_empty());
        Self {
            id,
            name,
            rack: named(place.rack),
            unit: area.map(|a| a.unit),
            zone: named(place.zone),
            region: named(place.region),
            pool: pool_id.and_then(|id| around.pools.get(&id)).cloned(),
            labels,
            features,
            node_type,
            state,
            wish,
            wish_by: by,
            wish_why: why,
            wish_since_ms,
            connected: seen == HostSeen::Connected,
            clock_mhz,
            machine,
            limit,
            overcommit,
            capacity,
            overhead,
            overhead_per_node: node_overhead,
            used,
            rentable,
            free,
            nodes,
            drivers,
            refuses,
            last_seen_ms,
            generation,
            created_ms,
        }
    }
}

/// A pool with what its hosts have together.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PoolWithHosts)]
pub(super) struct PoolView {
    #[serde(flatten)]
    pool: PoolModel,
    /// How many hosts are in it.
    hosts: i64,
    /// How many nodes they carry.
    nodes: i64,
    /// What claims could hold in all.
    rentable: Size,
    /// What claims and the overhead of their nodes hold.
    used: Size,
}

impl PoolView {
    pub(super) fn of(pool: PoolModel, sum: PoolSum) -> Self {
        let PoolSum { hosts, nodes, rentable, used } = sum;
        Self { pool, hosts, nodes, rentable, used }
    }
}

/// A node with what is wished of it (preset) and what is seen of it (actual).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Node)]
pub(super) struct NodeView {
    id: Id<Node>,
    line_id: Id<Line>,
    rcontract_id: Id<RContract>,
    host_id: Id<Host>,
    host: String,
    /// What is known of the host: while it is unreachable, what is seen of the node is old.
    host_state: HostState,
    node_type: NodeType,
    owner: String,
    name: String,
    spec: NodeSpec,
    /// Wished.
    power: Power,
    /// Grows with each power request.
    generation: i64,
    /// Seen.
    state: NodeState,
    /// The newest generation that the host carried out.
    carried: i64,
    /// How often it was started.
    boot: i64,
    /// Why it failed, or how far it is.
    detail: String,
    /// Ports as published.
    ports: Vec<Port>,
    /// What its health command says; `none` without one, and while it does not run.
    health: Health,
    /// Its contract is being released.
    removed: bool,
    /// It is powered on when its contract starts, or is renewed after its end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    resumes: bool,
    /// How its line holds its host: `always` in full; `whole`, and less once it is seen off; `parked`, which is its disk only.
    hold: Hold,
    /// Its host has not confirmed its new size yet: until then its line holds what it held before, or more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    resizing: bool,
    changed_ms: i64,
}

impl From<NodeModel> for NodeView {
    fn from(node: NodeModel) -> Self {
        let NodeModel {
            id,
            line_id,
            rcontract_id,
            host_id,
            host_name,
            host_state,
            node_type,
            owner,
            name,
            spec,
            power,
            generation,
            reboot: _,
            grace_ms: _,
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
            revision: _,
            request_id: _,
            changed_ms,
        } = node;
        Self {
            id,
            line_id,
            rcontract_id,
            host_id,
            host: host_name,
            host_state,
            node_type,
            owner,
            name,
            spec,
            power,
            generation,
            state,
            carried,
            boot,
            detail,
            ports,
            health,
            removed,
            resumes,
            hold,
            resizing: resizing.is_some(),
            changed_ms,
        }
    }
}

/// A contract with its nodes.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RContractWithNodes)]
pub(super) struct ContractView {
    #[serde(flatten)]
    contract: ContractModel,
    nodes: Vec<NodeView>,
    /// What each line reserved (preset) and really used (actual) since its making; where one contract is shown.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    usage: Vec<LineUsage>,
}

impl ContractView {
    pub(super) fn of((contract, nodes): (ContractModel, Vec<NodeModel>)) -> (i64, Self) {
        Self::used((contract, nodes, Vec::new()))
    }

    pub(super) fn used((contract, nodes, usage): (ContractModel, Vec<NodeModel>, Vec<LineUsage>)) -> (i64, Self) {
        (contract.generation, Self { contract, nodes: nodes.into_iter().map(NodeView::from).collect(), usage })
    }
}
