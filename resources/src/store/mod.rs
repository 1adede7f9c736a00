//! The tables of Resources: the only place that knows them. Functions are named noun first.

mod admission;
mod amend;
mod area;
mod audit;
mod books;
mod contract;
mod exec;
mod held;
mod history;
mod host;
mod image;
mod line;
mod node;
mod park;
mod pool;
mod rows;
mod term;
mod usage;

pub use admission::{Admission, Admitted, contract_of};
pub use amend::Amending;
pub use books::Books;
pub use host::{DrainLeft, Holder, HostFacts, HostFilter, HostLabels, HostOrder, HostSort, NewHost, Place};
pub use node::{NodeFilter, Reported};
pub use pool::PoolSum;
pub use term::Renewal;

use yiqiu_base::{Problem, database::Database, outbox};
use yiqiu_migrations::{MigratorTrait, resources::Migrator};

/// The database of this tier. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    database: Database,
}

impl Store {
    /// Brings the tables up to date.
    pub async fn open(database: Database) -> Result<Self, Problem> {
        Migrator::up(database.schema(), None).await?;
        Ok(Self { database })
    }

    /// The database itself, for events and health.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The newest time in the books: the clock must not start before it.
    pub async fn newest_ms(&self) -> Result<i64, Problem> {
        outbox::newest_ms(&self.database).await
    }
}

/// A row that a guarded update did not find: someone was first, or it is gone.
fn stale(noun: &str, name: &str, seen: i64, is: i64) -> Problem {
    Problem::new(
        yiqiu_base::Code::StaleGeneration,
        format!("{noun} {name} is at generation {is}, and the request goes by {seen}: read it again and decide again"),
    )
}

/// Several owners have one of that name, and the asker may see all of them.
fn ambiguous(noun: &str, name: &str) -> Problem {
    Problem::invalid(format!("several owners have {noun}s named `{}`: give the id", yiqiu_base::name::shown(name)))
}
