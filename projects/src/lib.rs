//! Tier 3, Projects: who may ask, and what it came to.
//!
//! *Purpose*: users, projects, membership and API tokens; principals for whoever holds a token; the meter, which
//! follows the outboxes of Resources and Components; the report of what each project claimed and used.
//!
//! *Invariants*: a secret is kept as a hash and shown once; every call is authorised here, whatever edge it came by,
//! and what is another project's answers 404; each event of another tier takes effect exactly once, because the
//! cursor moves in the transaction of the effect; every millisecond of every claim is counted exactly once, however a
//! period is split; a history that was replaced stops the meter loudly rather than count twice.
//!
//! *Does not*: place anything, know hosts, or price anything. What an owner label means is known here and nowhere
//! else: `project:<id>` is a project; `tier:components` is looked up in the bindings that Components publishes.

mod effect;
pub mod http;
pub mod instant;
mod ledger;
pub mod lifecycle;
mod metering;
pub mod model;
pub mod report;
pub mod rpc;
pub mod service;
mod store;
mod sweeper;

pub use metering::follow_restored;
pub use service::{Service, Settings, start};
