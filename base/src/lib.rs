//! What every tier and the agent share: typed ids, error codes, the clock, principals, databases, the outbox,
//! idempotency, group commits, reconcile loops, telemetry and the HTTP edge.
//!
//! *Invariants*: an [`outbox`] position is given in commit order, without a gap; a [`Clock`] never runs backwards;
//! every refusal has a stable [`Code`]; a secret is kept as a hash only.
//!
//! *Does not*: know any tier, hold any table of one, or import another crate of this workspace.

pub mod clock;
pub mod code;
pub mod database;
pub mod environment;
pub mod group_commit;
pub mod http;
pub mod id;
pub mod idempotency;
pub mod ledger;
pub mod name;
pub mod node;
pub mod outbox;
pub mod principal;
pub mod problem;
pub mod reconcile;
pub mod secret;
pub mod size;
pub mod telemetry;
#[cfg(feature = "testing")]
#[allow(clippy::expect_used)] // a test that lacks its database fails loudly
pub mod testing;
pub mod watch;
mod words;

pub use clock::Clock;
pub use code::Code;
pub use environment::Environment;
pub use id::Id;
pub use node::{Health, NodeState, NodeType, Power};
pub use principal::Principal;
pub use problem::Problem;
pub use size::Size;
