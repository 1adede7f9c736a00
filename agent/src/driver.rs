//! The one seam of the agent: what a driver does for the worker above it.

use std::{fmt, path::Path, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use yiqiu_base::{Health, Id, NodeType, Size, id};
use yiqiu_proto::common::{NodeSpec, PortMapping};

/// The id of a node.
pub type NodeId = Id<id::Node>;

/// Why a driver could not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DriverError {
    /// What it drives does not answer now; the same call may be tried again.
    Unavailable(String),
    /// It did not work this time; the same call may be tried again.
    Failed(String),
    /// It cannot work as asked: trying again changes nothing.
    Refused(String),
}

impl DriverError {
    /// What was wrong and what to do.
    pub fn detail(&self) -> &str {
        match self {
            Self::Unavailable(detail) | Self::Failed(detail) | Self::Refused(detail) => detail,
        }
    }
}

impl fmt::Display for DriverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail())
    }
}

impl std::error::Error for DriverError {}

/// Whether a driver can work on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Empty when it can; else one line: what is missing and what to install.
    pub missing: String,
    /// What the cutting itself costs, whatever the number of nodes: an estimate.
    pub overhead_fixed: Size,
    /// What each node costs beyond its own size: an estimate.
    pub overhead_per_node: Size,
    /// One line: which parts of a size it books and does not enforce here; empty when it enforces all.
    pub unbound: String,
}

impl Status {
    /// Ready, with its overhead.
    pub fn ready(overhead_fixed: Size, overhead_per_node: Size) -> Self {
        Self { missing: String::new(), overhead_fixed, overhead_per_node, unbound: String::new() }
    }

    /// Not ready, with the line that says why.
    pub fn missing(line: impl Into<String>) -> Self {
        Self { missing: line.into(), ..Self::ready(Size::ZERO, Size::ZERO) }
    }

    /// The same, with the line that says what is not enforced.
    pub fn but(self, unbound: impl Into<String>) -> Self {
        Self { unbound: unbound.into(), ..self }
    }

    /// Whether it can work.
    pub fn is_ready(&self) -> bool {
        self.missing.is_empty()
    }
}

/// How much of a node is on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Presence {
    /// Nothing.
    #[default]
    Absent,
    /// It was made and does not run.
    Idle,
    /// It runs.
    Running,
}

/// What a driver sees of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Seen {
    /// How much of it there is.
    pub presence: Presence,
    /// A mark that changes with each start; empty before the first. Two equal marks mean the same run.
    pub run: String,
    /// How the run ended, such as `exited with code 3`; empty while it runs and before it ran.
    pub detail: String,
    /// Where its ports answer on this host, while it runs.
    pub ports: Vec<PortMapping>,
    /// What its health command says, while it runs.
    pub health: Health,
}

/// What the worker asks a driver to make.
#[derive(Debug, Clone)]
pub struct Make {
    /// The node.
    pub node: NodeId,
    /// Its name, for people.
    pub name: String,
    /// What runs in it, and how large it is.
    pub spec: NodeSpec,
}

/// Counters as the kernel (or a simulation) has them.
///
/// Each is cumulative since an origin of the driver's own; a value below the one before means a new origin. `None`:
/// cannot be read now, what was read before still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reading {
    /// Processor time in nanoseconds.
    pub cpu_ns: Option<i64>,
    /// Memory in use now, in bytes: not cumulative.
    pub memory_bytes: Option<i64>,
    /// Bytes received over the network.
    pub net_rx_bytes: Option<i64>,
    /// Bytes sent over the network.
    pub net_tx_bytes: Option<i64>,
    /// Bytes read from block devices.
    pub block_read_bytes: Option<i64>,
    /// Bytes written to block devices.
    pub block_write_bytes: Option<i64>,
}

/// Which output of a node is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogsWanted {
    /// Go on with what it writes, until it ends.
    pub follow: bool,
    /// Only what was written from then on; 0: all.
    pub since_ms: i64,
    /// Only so many of the last lines.
    pub tail: Option<u32>,
}

/// Which command is to be run in a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecWanted {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input is open.
    pub input: bool,
    /// Columns and rows of its terminal.
    pub window: (u16, u16),
}

/// What was written in one go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// To standard error.
    pub error: bool,
    /// When; 0 where that is not kept.
    pub at_ms: i64,
    /// What.
    pub data: Bytes,
}

/// Pieces as they come: nothing is read before it is asked for.
pub type Pieces = BoxStream<'static, Result<Piece, DriverError>>;

/// A command that runs.
pub struct Exec {
    /// What it writes; ends when it ended.
    pub output: Pieces,
    /// The way to it.
    pub control: Box<dyn ExecControl>,
}

/// The way to a command that runs.
#[async_trait]
pub trait ExecControl: Send {
    /// Writes to its standard input.
    async fn input(&mut self, data: &[u8]) -> Result<(), DriverError>;

    /// Ends its standard input.
    async fn end_input(&mut self);

    /// Its terminal has so many columns and rows from now on.
    async fn window(&mut self, columns: u16, rows: u16);

    /// Its exit code, once its output has ended.
    async fn exit_code(&mut self) -> Result<i64, DriverError>;

    /// Ends it: who asked for it has gone.
    async fn end(&mut self);
}

/// Something on this machine with the mark of this host, as the machine says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// The node that it is; `None`: it only carries the mark.
    pub node: Option<NodeId>,
    /// What the driver calls it, such as the name of a container.
    pub handle: String,
    /// The node that it says it is; empty for none.
    pub labelled: String,
    /// Whether it runs.
    pub running: bool,
    /// The limit that is set; `None` for none.
    pub cpu_limit_millicores: Option<i64>,
    /// The limit that is set; `None` for none.
    pub memory_limit_bytes: Option<i64>,
    /// Processor use over a moment.
    pub cpu_millicores: i64,
    /// Memory in use.
    pub memory_bytes: i64,
}

/// All there is with the mark of this host, and what the driver itself costs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Each thing.
    pub found: Vec<Found>,
    /// Measured: what the driver costs, whatever the number of nodes.
    pub overhead_fixed: Size,
    /// Measured: what all nodes together cost beside their own sizes.
    pub overhead_nodes: Size,
}

/// Something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// To this node.
    Node(NodeId),
    /// To any of them, or to the driver itself.
    All,
}

/// What cuts this host into nodes of one type.
///
/// It acts on what carries the mark of this host only, and each call may be repeated: making what is there, stopping
/// what is off and removing what is gone are no errors. The worker never runs two calls for one node at a time.
#[async_trait]
pub trait Driver: Send + Sync + 'static {
    /// The type of the nodes it makes.
    fn node_type(&self) -> NodeType;

    /// Its name in logs, such as `container`.
    fn name(&self) -> &'static str;

    /// Whether it can work now.
    async fn status(&self) -> Status;

    /// Everything on this machine that carries the mark of this host.
    async fn list(&self) -> Result<Vec<(NodeId, Seen)>, DriverError>;

    /// One node.
    async fn inspect(&self, node: NodeId) -> Result<Seen, DriverError>;

    /// Whether nodes can be made from this image without fetching it. A driver without images says yes.
    async fn image_present(&self, sha256: &str) -> Result<bool, DriverError>;

    /// Takes a verified root file system tar in.
    async fn image_import(&self, sha256: &str, tar: &Path) -> Result<(), DriverError>;

    /// Lets go of an image that no node needs any more. One that is still in use, or gone, is no error.
    async fn image_remove(&self, sha256: &str) -> Result<(), DriverError>;

    /// Makes a node, without starting it. One that is there is bound by the size that this asks for.
    async fn create(&self, make: &Make) -> Result<(), DriverError>;

    /// Binds a node that was made by the size of this spec, running or not. Refused by what the node uses now: it may be tried
    /// again.
    async fn resize(&self, node: NodeId, spec: &NodeSpec) -> Result<(), DriverError>;

    /// Starts a node and says what is seen then.
    async fn start(&self, node: NodeId) -> Result<Seen, DriverError>;

    /// Asks it to end, and ends it after `grace`. It does not run when this returns.
    async fn stop(&self, node: NodeId, grace: Duration) -> Result<(), DriverError>;

    /// Takes away all there is of it, running or not. Verified gone when this returns.
    async fn remove(&self, node: NodeId) -> Result<(), DriverError>;

    /// Its counters, also of a run that has just ended.
    async fn usage(&self, node: NodeId) -> Result<Reading, DriverError>;

    /// What a node wrote.
    async fn logs(&self, _node: NodeId, _wanted: LogsWanted) -> Result<Pieces, DriverError> {
        Err(DriverError::Refused(format!("the {} driver keeps no output of its nodes", self.name())))
    }

    /// Runs a command beside what runs in a node.
    async fn exec(&self, _node: NodeId, _wanted: &ExecWanted) -> Result<Exec, DriverError> {
        Err(DriverError::Refused(format!("the {} driver runs no commands in its nodes", self.name())))
    }

    /// What is really there, asked anew of the machine: nothing that this agent remembers.
    async fn inventory(&self) -> Result<Inventory, DriverError>;

    /// Takes away something that carries the mark and is no node of ours, as [`Found::handle`] names it. Verified gone
    /// when this returns; one that is gone already is no error.
    async fn orphan_remove(&self, handle: &str) -> Result<(), DriverError>;

    /// Makes something that says it is this node the node. Refused where the driver cannot.
    async fn orphan_adopt(&self, handle: &str, node: NodeId) -> Result<(), DriverError>;

    /// Changes as they happen. A driver may lose some: [`Driver::poll_every`] covers for them. Taken once.
    fn changes(&self) -> mpsc::UnboundedReceiver<Change>;

    /// How often to list besides; `None` where no change is ever lost.
    fn poll_every(&self) -> Option<Duration>;

    /// How often to read counters between usage blocks; `None` where their integral needs none.
    fn sample_every(&self) -> Option<Duration>;
}
