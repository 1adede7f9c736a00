//! Tier 2: a need plus an attribute of availability becomes placed resources.
//!
//! A CContract asks for a number of components of a type, each of one need, kept apart as wished. The [`scheduler`]
//! chooses hosts from a snapshot of Resources, or explains why it cannot; what was chosen is recorded, and only then
//! asked of Resources as one RContract with a line for each component.
//!
//! *Invariants*: the ids of an RContract and its lines are minted and recorded here before Resources hears of them, so
//! that asking twice is the same as once, and a crash at any point is carried on from where it was; one line is one
//! component, and `component.bound` tells whose it is in the transaction that records it, before there is anything to
//! meter; a contract is changed only by a guarded write of what was loaded; what is observed is what Resources says.
//!
//! *Does not*: touch a host, or get anything but through contracts of Resources; start again or move what died (yet);
//! know what an owner label means; keep what is free on hosts: a plan is a hint, Resources decides.

pub mod http;
mod ledger;
pub mod lifecycle;
pub mod model;
mod pool;
mod reconcile;
pub mod rpc;
pub mod scheduler;
mod service;
mod store;
mod whole;

use yiqiu_base::{Environment, Problem, database::Database, outbox};
use yiqiu_migrations::{MigratorTrait, components::Migrator};
use yiqiu_proto::{call::Caller, link::Link};

pub use self::{
    service::{Service, Settings},
    whole::Chosen,
};

/// Starts the tier on its database: brings the tables up to date, and runs its loops until the environment stops.
/// `resources` is the way to tier 1, asked in the name of `caller`.
pub async fn start(
    database: Database,
    environment: Environment,
    settings: Settings,
    resources: Link,
    caller: Caller,
) -> Result<Service, Problem> {
    Migrator::up(database.schema(), None).await.map_err(yiqiu_base::database::problem)?;
    environment.clock.not_before(outbox::newest_ms(&database).await?);
    let pool = pool::Pool::new(resources, caller);
    let service = Service::new(database, pool, environment.clone(), settings);
    reconcile::spawn(&service, &environment);
    Ok(service)
}
