//! What is really on hosts, and how it compares with what is claimed.

use serde::Serialize;
use utoipa::ToSchema;
use yiqiu_base::{
    Id, NodeType, Size,
    clock::Ms,
    id::{self, Host, Line, Node, RContract},
    words,
};

words! {
    /// How far an audit is.
    AuditState, "state of an audit" {
        /// Hosts are being asked.
        Running = "running",
        /// Every host was asked.
        Done = "done",
        /// The server ended in the middle of it: what is there is true, and not all.
        Interrupted = "interrupted",
    }
}

words! {
    /// What an audit says of a claim, or of what was found.
    FindingKind, "kind of a finding" {
        /// Claimed, there, and within its claim. Counted, not kept.
        Matched = "matched",
        /// Claimed, and not there.
        Ghost = "ghost",
        /// There, and not claimed.
        Orphan = "orphan",
        /// There, and it uses or may use more than its claim.
        Over = "over",
        /// Its host does not answer: nobody can say.
        Unknown = "unknown",
        /// Two books of the platform differ.
        Ledger = "ledger",
    }
}

/// One thing on a host with the mark of that host, as the host itself says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The node that it is; `None`: it only carries the mark.
    pub node_id: Option<Id<Node>>,
    /// By which driver it was found.
    pub node_type: NodeType,
    /// What its driver calls it.
    pub handle: String,
    /// The node that it says it is; empty for none.
    pub labelled: String,
    /// Whether it runs.
    pub running: bool,
    /// The limit that is set in the kernel; `None` for none.
    pub cpu_limit_millicores: Option<i64>,
    /// The limit that is set in the kernel; `None` for none.
    pub memory_limit_bytes: Option<i64>,
    /// Used, over a moment.
    pub cpu_millicores: i64,
    /// Used.
    pub memory_bytes: i64,
}

/// All of a host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Inventory {
    /// Everything that was found.
    pub found: Vec<Found>,
    /// Drivers that cannot be asked, and why.
    pub missing: Vec<(NodeType, String)>,
    /// What each driver costs, measured, and all nodes of it beside their own sizes.
    pub overhead: Vec<(NodeType, Size)>,
}

/// How many of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
pub struct Tally {
    /// Claims that are there, within their size.
    pub matched: i64,
    /// Claimed, and not there.
    pub ghosts: i64,
    /// There, and not claimed.
    pub orphans: i64,
    /// Using, or able to use, more than their claim.
    pub over: i64,
    /// Hosts that could not be asked: nothing is known of what is there.
    pub unknown: i64,
    /// Where the books of Resources themselves do not hold.
    pub ledger: i64,
}

impl Tally {
    /// Whether nothing was found amiss, and everyone was asked.
    pub fn is_clean(self) -> bool {
        let Tally { matched: _, ghosts, orphans, over, unknown, ledger } = self;
        ghosts + orphans + over + unknown + ledger == 0
    }

    /// Counts one more.
    pub fn count(&mut self, kind: FindingKind) {
        *match kind {
            FindingKind::Matched => &mut self.matched,
            FindingKind::Ghost => &mut self.ghosts,
            FindingKind::Orphan => &mut self.orphans,
            FindingKind::Over => &mut self.over,
            FindingKind::Unknown => &mut self.unknown,
            FindingKind::Ledger => &mut self.ledger,
        } += 1;
    }
}

/// One comparison of what is claimed with what is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = Audit)]
pub struct Audit {
    /// Its id.
    pub id: Id<id::Audit>,
    /// How far it is.
    pub state: AuditState,
    /// Who asked for it; empty: it came by itself.
    pub asked_by: String,
    /// The one host that was asked for; empty: every host.
    pub host: String,
    /// When it began.
    pub started_ms: Ms,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<Ms>,
    /// How many hosts there are to ask.
    pub hosts: i64,
    /// How many were asked so far.
    pub done: i64,
    /// What was found so far.
    #[serde(flatten)]
    pub tally: Tally,
}

/// What an audit says of one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct AuditHost {
    /// The host.
    pub host_id: Id<Host>,
    /// Its name.
    pub host_name: String,
    /// When it answered, or was given up.
    pub at_ms: Ms,
    /// Why nothing is known of it; empty if it answered.
    pub unknown: String,
    /// Claims that are there, within their size.
    pub matched: i64,
    /// How many findings there are of it.
    pub findings: i64,
    /// What its cut is estimated to cost: the fixed part and that of each node.
    pub overhead_model: Size,
    /// What its cut costs, measured: memory now, cpu on average since the processes began.
    pub overhead_measured: Size,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Finding {
    /// Its id: what to adopt or to remove.
    pub id: Id<id::Finding>,
    /// What is wrong.
    pub kind: FindingKind,
    /// When it was seen.
    pub at_ms: Ms,
    /// Where.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host_id: Option<Id<Host>>,
    /// The name of that host.
    pub host_name: String,
    /// The driver that found it; absent where it is not about a thing on a host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_type: Option<NodeType>,
    /// The node that is claimed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_id: Option<Id<Node>>,
    /// The line that claims it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line_id: Option<Id<Line>>,
    /// The contract of that line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rcontract_id: Option<Id<RContract>>,
    /// Whose contract; empty for nobody's.
    pub owner: String,
    /// The node's name.
    pub name: String,
    /// What the driver calls what was found.
    pub handle: String,
    /// The node that it says it is.
    pub labelled: String,
    /// What is wrong, in a sentence.
    pub detail: String,
    /// What ops did about it: `removed` or `adopted`, by whom; empty for nothing yet.
    pub settled: String,
}
