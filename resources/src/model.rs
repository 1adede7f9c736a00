//! The nouns of Resources, as the service and the edges see them.

mod amend;
mod audit;
mod contract;
mod host;
mod label;
mod line;
mod runtime;
mod stream;
mod usage;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yiqiu_base::{
    Health, Id, NodeState, NodeType, Power, Size,
    clock::Ms,
    id::{Command, Host, Image, Line, Node, Pool, RContract, Rack, Region, Zone},
    words,
};

pub use amend::{Amendment, Forecast, Held, HostForecast, LineChange, SizeChange};
pub use audit::{Audit as AuditModel, AuditHost, AuditState, Finding, FindingKind, Found, Inventory, Tally};
pub use contract::{By, Change, Entry, LineThen, Renamed, Resized, Term};
pub use host::{
    Area, DriverStatus, HostChange, HostModel, HostSeen, HostState, HostWish, Limit, OVERCOMMIT_MOST, Overcommit,
    Wished,
};
pub use label::{LABELS_MOST, Labels, Selector, features_check, labels_changed};
pub use line::{HeldLine, Metered};
pub use runtime::{HealthCheck, Mount, Runtime, StopSignal, check_grace};
pub use stream::{ExecWanted, FromNode, LogsWanted, Open, ToNode, Wanted};
pub use usage::{Actual, Holder, LineUsage, Preset, Stretch};

/// A place of many data centres.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Region)]
pub struct RegionModel {
    /// Its id.
    pub id: Id<Region>,
    /// Unique among regions.
    pub name: String,
    /// Grows with every change.
    pub generation: i64,
    /// When it was made.
    pub created_ms: Ms,
}

/// An independent engineering area of a region.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Zone)]
pub struct ZoneModel {
    /// Its id.
    pub id: Id<Zone>,
    /// Unique among zones.
    pub name: String,
    /// The region it is in.
    pub region_id: Id<Region>,
    /// Grows with every change.
    pub generation: i64,
    /// When it was made.
    pub created_ms: Ms,
}

/// A rack with numbered units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Rack)]
pub struct RackModel {
    /// Its id.
    pub id: Id<Rack>,
    /// Unique among racks.
    pub name: String,
    /// The zone it stands in.
    pub zone_id: Id<Zone>,
    /// How many units it has; the lowest is 1.
    pub units: i64,
    /// Grows with every change.
    pub generation: i64,
    /// When it was made.
    pub created_ms: Ms,
}

/// A group of hosts that ops named. A host is in one pool at most, so that what pools have adds up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Pool)]
pub struct PoolModel {
    /// Its id.
    pub id: Id<Pool>,
    /// Unique among pools.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Grows with every change.
    pub generation: i64,
    /// When it was made.
    pub created_ms: Ms,
}

words! {
    /// How far the bytes of an image are.
    ImageState, "state of an image" {
        /// Named, but its bytes are not here yet.
        Pending = "pending",
        /// Its bytes are here and match its checksum.
        Ready = "ready",
    }
}

words! {
    /// The life of a contract.
    ContractState, "state of a contract" {
        /// It holds its lines already; its nodes start when its start comes.
        Scheduled = "scheduled",
        /// It holds its lines.
        Active = "active",
        /// Its end came: its nodes are off, and it is released when its grace is over.
        Ending = "ending",
        /// Its end was asked for; its nodes are being taken away.
        Releasing = "releasing",
        /// It holds nothing any more.
        Released = "released",
    }
}

words! {
    /// How the line of a node holds its host.
    Hold, "hold of a line" {
        /// All of its size in every power state.
        Always = "always",
        /// All of its size now; cpu and memory are given back when it is seen off.
        Whole = "whole",
        /// Disk only: its node is off, and claims cpu and memory again when it is powered on.
        Parked = "parked",
    }
}

impl Hold {
    /// What a line of a size claims.
    pub fn claims(self, size: Size) -> Size {
        match self {
            Hold::Always | Hold::Whole => size,
            Hold::Parked => Size { cpu_millicores: 0, memory_bytes: 0, ..size },
        }
    }
}

/// A root file system that nodes start from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Image)]
pub struct ImageModel {
    /// Its id.
    pub id: Id<Image>,
    /// Unique among its owner's.
    pub name: String,
    /// Who may use it beside ops; empty: everyone.
    pub owner: String,
    /// SHA-256 of the tar, in hexadecimal.
    pub sha256: String,
    /// Bytes of the tar.
    pub bytes: i64,
    /// Whether the bytes are here.
    pub state: ImageState,
    /// Grows with every change.
    pub generation: i64,
    /// When it was made.
    pub created_ms: Ms,
}

/// A port of a node that is reachable on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The port inside the node.
    pub node_port: u16,
    /// The port on the host; 0 in a request: the host picks one.
    #[serde(default)]
    pub host_port: u16,
    /// The address on the host; always the loopback address for now.
    #[serde(default = "loopback")]
    pub host_address: String,
}

fn loopback() -> String {
    "127.0.0.1".to_owned()
}

/// An environment variable of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// What runs in a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeSpec {
    /// The image, where the node type needs one.
    pub image_id: Option<Id<Image>>,
    /// Its checksum.
    pub image_sha256: String,
    /// What to run; empty: what the image says.
    pub command: Vec<String>,
    /// Its environment.
    pub environment: Vec<Variable>,
    /// Ports to publish.
    pub ports: Vec<Port>,
    /// How much of the host it gets.
    pub size: Size,
    /// How it runs.
    #[serde(default, skip_serializing_if = "Runtime::is_default")]
    pub runtime: Runtime,
}

/// One thing that a contract asks for: a node of a given size on a given host.
#[derive(Debug, Clone)]
pub struct NewLine {
    /// Minted by the caller.
    pub id: Id<Line>,
    /// Unique in its contract.
    pub name: String,
    /// The host.
    pub host_id: Id<Host>,
    /// What the host has to be cut as; `None`: whatever it is.
    pub node_type: Option<NodeType>,
    /// What runs.
    pub spec: NodeSpec,
    /// Whether it starts at once.
    pub power: Power,
    /// Give back cpu and memory while it is off.
    pub release_while_off: bool,
}

/// A contract that is asked for.
#[derive(Debug, Clone)]
pub struct NewContract {
    /// Minted by the caller: asking twice is the same as once.
    pub id: Id<RContract>,
    /// Unique among its owner's until released.
    pub name: String,
    /// Whose it is.
    pub owner: String,
    /// Who asked.
    pub created_by: String,
    /// Why, in the words of whoever asked.
    pub reason: String,
    /// From when until when.
    pub term: Term,
    /// Whether whoever asked may have whole hosts.
    pub whole_hosts: bool,
    /// What it holds: all of it, or nothing.
    pub lines: Vec<NewLine>,
}

/// The lease of exact resources.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = RContract)]
pub struct ContractModel {
    /// Its id.
    pub id: Id<RContract>,
    /// Unique among its owner's until released.
    pub name: String,
    /// Whose it is.
    pub owner: String,
    /// Where it is in its life.
    pub state: ContractState,
    /// How many lines it holds.
    pub lines: i64,
    /// From when until when.
    #[serde(flatten)]
    pub term: Term,
    /// When time alone changes it next: its start, its end, or its release.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub due_ms: Option<Ms>,
    /// Grows with every change.
    pub generation: i64,
    /// When it was made.
    pub created_ms: Ms,
    /// By whom.
    pub created_by: String,
    /// Why, in their words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When it held nothing any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released_ms: Option<Ms>,
}

/// A node with what is wished of it and what is seen of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeModel {
    /// Its id.
    pub id: Id<Node>,
    /// The line that holds it.
    pub line_id: Id<Line>,
    /// The contract of that line.
    pub rcontract_id: Id<RContract>,
    /// Where it is.
    pub host_id: Id<Host>,
    /// The name of that host.
    pub host_name: String,
    /// What is known of that host.
    pub host_state: HostState,
    /// How that host is cut.
    pub node_type: NodeType,
    /// Whose it is.
    pub owner: String,
    /// Unique in its contract.
    pub name: String,
    /// What runs.
    pub spec: NodeSpec,
    /// Wished.
    pub power: Power,
    /// Grows with each power request: a power-on is carried out once per generation.
    pub generation: i64,
    /// The newest power-on is a reboot: what runs is stopped first.
    pub reboot: bool,
    /// How long the newest wish lets it take to stop, in milliseconds; `None`: as its spec says.
    pub grace_ms: Option<i64>,
    /// Seen.
    pub state: NodeState,
    /// The newest generation that the host carried out.
    pub carried: i64,
    /// How often it was started.
    pub boot: i64,
    /// Why it failed, or how far it is.
    pub detail: String,
    /// Ports as published.
    pub ports: Vec<Port>,
    /// What its health command says.
    pub health: Health,
    /// Its contract is being released.
    pub removed: bool,
    /// It is powered on when its contract starts, or is renewed after its end.
    pub resumes: bool,
    /// How its line holds its host.
    pub hold: Hold,
    /// The revision whose size its host has not confirmed yet: until then its line holds what it held before, or more.
    pub resizing: Option<i64>,
    /// Grows with every change of what is wished.
    pub revision: i64,
    /// The request behind the newest wish.
    pub request_id: String,
    /// When it changed last.
    pub changed_ms: Ms,
}

/// What an agent says of a node.
#[derive(Debug, Clone)]
pub struct Report {
    /// Which node.
    pub node_id: Id<Node>,
    /// What it is now.
    pub state: NodeState,
    /// The newest generation it carried out.
    pub generation: i64,
    /// Starts so far.
    pub boot: i64,
    /// Why it failed, or how far it is.
    pub detail: String,
    /// Ports as published.
    pub ports: Vec<Port>,
    /// What its health command says.
    pub health: Health,
    /// The revision of the wish that it follows.
    pub revision: i64,
    /// The revision whose size binds it now; 0 while that is not so.
    pub sized: i64,
}

/// Cumulative counters of one boot of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Processor time in nanoseconds.
    pub cpu_ns: i64,
    /// Memory in use, integrated over time.
    pub memory_byte_ms: i64,
    /// Bytes received.
    pub net_rx_bytes: i64,
    /// Bytes sent.
    pub net_tx_bytes: i64,
    /// Bytes read from disks.
    pub block_read_bytes: i64,
    /// Bytes written to disks.
    pub block_write_bytes: i64,
}

impl Counters {
    /// Each counter of two through `f`.
    pub fn zip(self, other: Counters, f: impl Fn(i64, i64) -> i64) -> Counters {
        Counters {
            cpu_ns: f(self.cpu_ns, other.cpu_ns),
            memory_byte_ms: f(self.memory_byte_ms, other.memory_byte_ms),
            net_rx_bytes: f(self.net_rx_bytes, other.net_rx_bytes),
            net_tx_bytes: f(self.net_tx_bytes, other.net_tx_bytes),
            block_read_bytes: f(self.block_read_bytes, other.block_read_bytes),
            block_write_bytes: f(self.block_write_bytes, other.block_write_bytes),
        }
    }
}

/// One reading of a node's counters.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Which node.
    pub node_id: Id<Node>,
    /// Which of its starts.
    pub boot: i64,
    /// Grows within a boot.
    pub seq: i64,
    /// When it was taken, by the agent's clock.
    pub at_ms: Ms,
    /// The counters since the boot.
    pub counters: Counters,
    /// Memory in use then, in bytes.
    pub memory_bytes: i64,
}

/// What may be wished of a node's power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// On or off.
    pub power: Power,
    /// With power on: stop it first if it runs.
    pub reboot: bool,
    /// How long it may take to stop, in milliseconds; `None`: as its spec says.
    pub grace_ms: Option<i64>,
}

impl From<Power> for Wish {
    fn from(power: Power) -> Self {
        Self { power, reboot: false, grace_ms: None }
    }
}

impl Wish {
    /// Stop what runs, then start: once.
    pub fn reboot(grace_ms: Option<i64>) -> Self {
        Self { power: Power::On, reboot: true, grace_ms }
    }

    /// As it is kept under its command id.
    pub fn word(self) -> &'static str {
        if self.reboot { "reboot" } else { self.power.as_str() }
    }
}

/// A request for a power state.
#[derive(Debug, Clone)]
pub struct PowerRequest {
    /// Which node.
    pub node_id: Id<Node>,
    /// What is wished.
    pub wish: Wish,
    /// Once and no more under this id.
    pub command: Option<Id<Command>>,
    /// The generation that the caller has seen.
    pub if_generation: Option<i64>,
}
