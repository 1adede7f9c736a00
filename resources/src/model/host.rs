//! Hosts: what a machine says, what ops say of it, and what follows for claims.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yiqiu_base::{
    Id, NodeType, Problem, Size,
    clock::Ms,
    id::{Host, Pool, Rack},
    size::{Dimension, MOST},
    words,
};

words! {
    /// What ops wish of a host.
    HostWish, "wish for a host" {
        /// It takes claims.
        InService = "in_service",
        /// It takes no new claims, and is to become empty.
        Draining = "draining",
        /// It is empty and somebody works on it: it may be switched off.
        Maintenance = "maintenance",
        /// It is empty and does not come back.
        Retired = "retired",
    }
}

words! {
    /// What is seen of a host's agent.
    HostSeen, "sight of a host" {
        /// It has not connected yet.
        Never = "never",
        /// It is connected.
        Connected = "connected",
        /// It was connected and is not.
        Lost = "lost",
    }
}

words! {
    /// A host as people read it: what is wished and what is seen in one word.
    HostState, "state of a host" {
        /// Its agent has not joined yet.
        Joining = "joining",
        /// Its agent is connected, and it takes claims.
        Online = "online",
        /// Its agent is connected, and it takes no new claims: it is to become empty.
        Draining = "draining",
        /// It is empty and somebody works on it; its agent may come and go.
        Maintenance = "maintenance",
        /// Its agent was connected and is not; its nodes may well run.
        Unreachable = "unreachable",
        /// It is empty and does not come back.
        Retired = "retired",
    }
}

impl HostState {
    /// From what is wished and what is seen. The database keeps the same beside each row.
    pub fn of(wish: HostWish, seen: HostSeen) -> Self {
        match (wish, seen) {
            (HostWish::Retired, HostSeen::Never | HostSeen::Connected | HostSeen::Lost) => Self::Retired,
            (HostWish::Maintenance, HostSeen::Never | HostSeen::Connected | HostSeen::Lost) => Self::Maintenance,
            (HostWish::InService | HostWish::Draining, HostSeen::Never) => Self::Joining,
            (HostWish::InService | HostWish::Draining, HostSeen::Lost) => Self::Unreachable,
            (HostWish::InService, HostSeen::Connected) => Self::Online,
            (HostWish::Draining, HostSeen::Connected) => Self::Draining,
        }
    }
}

/// Since when ops wish what they wish of a host, who, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wished {
    /// Who said so.
    pub by: String,
    /// Why; what holders are told.
    pub why: String,
    /// Since when.
    pub since_ms: Ms,
}

/// What ops lowered the capacity of a machine to. A dimension that is left out is the machine's own word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Thousandths of a processor.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millicores: Option<i64>,
    /// Bytes of memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<i64>,
    /// Bytes of disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_bytes: Option<i64>,
    /// Disk operations a second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_iops: Option<i64>,
}

impl Limit {
    /// One dimension of it.
    pub fn get(&self, dimension: Dimension) -> Option<i64> {
        match dimension {
            Dimension::CpuMillicores => self.cpu_millicores,
            Dimension::MemoryBytes => self.memory_bytes,
            Dimension::DiskBytes => self.disk_bytes,
            Dimension::DiskIops => self.disk_iops,
        }
    }

    /// The same with another value of one dimension.
    #[must_use]
    pub fn with(mut self, dimension: Dimension, amount: Option<i64>) -> Self {
        match dimension {
            Dimension::CpuMillicores => self.cpu_millicores = amount,
            Dimension::MemoryBytes => self.memory_bytes = amount,
            Dimension::DiskBytes => self.disk_bytes = amount,
            Dimension::DiskIops => self.disk_iops = amount,
        }
        self
    }

    /// What is left of what a machine says: never more than that.
    pub fn of(&self, machine: Size) -> Size {
        let most = |limit: Option<i64>| limit.unwrap_or(i64::MAX);
        let limit = Size {
            cpu_millicores: most(self.cpu_millicores),
            memory_bytes: most(self.memory_bytes),
            disk_bytes: most(self.disk_bytes),
            disk_iops: most(self.disk_iops),
        };
        machine.zip(limit, i64::min)
    }

    /// Checks the range of what ops say.
    pub fn check(&self) -> Result<(), Problem> {
        for d in Dimension::ALL {
            if let Some(amount) = self.get(d)
                && !(0..=MOST).contains(&amount)
            {
                return Err(Problem::invalid(format!("the limit of {d} is {amount}: expected 0 to {MOST}")));
            }
        }
        Ok(())
    }
}

/// The most that a host may be overcommitted: a hundred times what it has.
pub const OVERCOMMIT_MOST: i64 = 100_000;

/// How much of what a host has may be promised, in thousandths for each dimension: 1000 is all of it and no more, 2000
/// twice as much, 900 leaves a tenth aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Overcommit {
    /// Of processors.
    pub cpu_millicores: i64,
    /// Of memory.
    pub memory_bytes: i64,
    /// Of disk.
    pub disk_bytes: i64,
    /// Of disk operations a second.
    pub disk_iops: i64,
}

impl Default for Overcommit {
    fn default() -> Self {
        Self { cpu_millicores: 1000, memory_bytes: 1000, disk_bytes: 1000, disk_iops: 1000 }
    }
}

impl Overcommit {
    /// One dimension of it.
    pub fn get(&self, dimension: Dimension) -> i64 {
        match dimension {
            Dimension::CpuMillicores => self.cpu_millicores,
            Dimension::MemoryBytes => self.memory_bytes,
            Dimension::DiskBytes => self.disk_bytes,
            Dimension::DiskIops => self.disk_iops,
        }
    }

    /// The same with another value of one dimension.
    #[must_use]
    pub fn with(mut self, dimension: Dimension, thousandths: i64) -> Self {
        match dimension {
            Dimension::CpuMillicores => self.cpu_millicores = thousandths,
            Dimension::MemoryBytes => self.memory_bytes = thousandths,
            Dimension::DiskBytes => self.disk_bytes = thousandths,
            Dimension::DiskIops => self.disk_iops = thousandths,
        }
        self
    }

    /// What may be promised of a capacity, rounded down.
    pub fn of(&self, capacity: Size) -> Size {
        let Self { cpu_millicores, memory_bytes, disk_bytes, disk_iops } = *self;
        let ratio = Size { cpu_millicores, memory_bytes, disk_bytes, disk_iops };
        capacity.zip(ratio, |amount, ratio| {
            i64::try_from(i128::from(amount) * i128::from(ratio) / 1000).unwrap_or(i64::MAX)
        })
    }

    /// Checks the range of what ops say.
    pub fn check(&self) -> Result<(), Problem> {
        for d in Dimension::ALL {
            let ratio = self.get(d);
            if !(1..=OVERCOMMIT_MOST).contains(&ratio) {
                return Err(Problem::invalid(format!(
                    "the overcommit of {d} is {ratio} thousandths: expected 1 to {OVERCOMMIT_MOST}"
                )));
            }
        }
        Ok(())
    }

    /// Whether more is promised of something than there is.
    pub fn is_over(&self) -> bool {
        Dimension::ALL.into_iter().any(|d| self.get(d) > 1000)
    }
}

/// What ops change of a host: what is left out stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostChange {
    /// Lowered capacities; `None` lifts one, so that the machine's word counts again.
    pub limit: BTreeMap<Dimension, Option<i64>>,
    /// Overcommit in thousandths.
    pub overcommit: BTreeMap<Dimension, i64>,
    /// Free labels; `None` takes one away.
    pub labels: BTreeMap<String, Option<String>>,
    /// The pool it is to be in; `Some(None)`: none.
    pub pool: Option<Option<Id<Pool>>>,
}

/// One driver of a machine: ready, or what it lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DriverStatus {
    /// What its nodes are.
    pub node_type: NodeType,
    /// Its name, such as `container`.
    pub name: String,
    /// Whether it works now.
    pub ready: bool,
    /// What is missing and what to install; empty when ready.
    pub missing: String,
    /// What this cut costs the host, with no node on it.
    pub overhead_fixed: Size,
    /// What each node costs beside its own size.
    pub overhead_per_node: Size,
    /// Which parts of a size are booked here and not enforced; empty when all are.
    #[serde(default)]
    pub unbound: String,
}

/// A physical machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostModel {
    /// Its id.
    pub id: Id<Host>,
    /// Unique among hosts.
    pub name: String,
    /// Where it stands; `None` until ops place it.
    pub area: Option<Area>,
    /// Which pool it is in, if in any.
    pub pool_id: Option<Id<Pool>>,
    /// How it is cut; `None` until ops say so.
    pub node_type: Option<NodeType>,
    /// What ops wish of it.
    pub wish: HostWish,
    /// What is seen of its agent.
    pub seen: HostSeen,
    /// The clock of its processors in MHz.
    pub clock_mhz: i64,
    /// What the machine says it has; nothing until its agent joined.
    pub machine: Size,
    /// What ops lowered that to.
    pub limit: Limit,
    /// How much of it may be promised.
    pub overcommit: Overcommit,
    /// What its cut costs with no node on it.
    pub overhead: Size,
    /// What each node costs beside its own size.
    pub node_overhead: Size,
    /// What claims and the overhead of their nodes hold.
    pub used: Size,
    /// How many nodes it carries.
    pub nodes: i64,
    /// Drivers, as its agent last said.
    pub drivers: Vec<DriverStatus>,
    /// When its agent was last heard.
    pub last_seen_ms: Ms,
    /// Grows with every change by ops.
    pub generation: i64,
    /// When it was made.
    pub created_ms: Ms,
}

/// Where a host stands: a rack and a unit in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Area {
    /// The rack.
    pub rack_id: Id<Rack>,
    /// The unit, from 1.
    pub unit: i64,
}

impl HostModel {
    /// What it is, in one word.
    pub fn state(&self) -> HostState {
        HostState::of(self.wish, self.seen)
    }

    /// What it is taken to have: the machine's word, or less where ops say so.
    pub fn capacity(&self) -> Size {
        self.limit.of(self.machine)
    }

    /// What contracts could hold in all. The database keeps the same sum beside each row.
    pub fn rentable(&self) -> Size {
        self.overcommit.of(self.capacity()).minus(self.overhead)
    }

    /// What they could hold beside what they hold now; negative where the host is short.
    pub fn free(&self) -> Size {
        self.rentable().minus(self.used)
    }

    /// Why nothing can be claimed here now; `None` when something can.
    pub fn refuses(&self) -> Option<String> {
        let name = &self.name;
        match self.wish {
            HostWish::InService => {}
            HostWish::Draining => return Some(format!("host {name} is draining: it takes no new claims")),
            HostWish::Maintenance => return Some(format!("host {name} is in maintenance: it takes no claims")),
            HostWish::Retired => return Some(format!("host {name} is retired: it takes no claims any more")),
        }
        let Some(node_type) = self.node_type.filter(|_| self.area.is_some()) else {
            return Some(format!("host {name} is not placed: give it a rack, a unit and a node type"));
        };
        match self.seen {
            HostSeen::Never => return Some(format!("host {name} has not joined yet: its agent never connected")),
            HostSeen::Lost => return Some(format!("host {name} is unreachable: its agent is not connected")),
            HostSeen::Connected => {}
        }
        self.driver_missing(node_type)
    }

    /// Why this machine cannot be cut so; `None` when it can.
    pub fn driver_missing(&self, node_type: NodeType) -> Option<String> {
        let name = &self.name;
        match self.drivers.iter().find(|d| d.node_type == node_type) {
            Some(driver) if driver.ready => None,
            Some(driver) => {
                Some(format!("host {name} cannot be cut as {node_type}: {}: {}", driver.name, driver.missing))
            }
            None if self.seen == HostSeen::Never => None, // its agent will tell when it joins
            None => Some(format!("host {name} cannot be cut as {node_type}: its agent has no driver for it")),
        }
    }
}
