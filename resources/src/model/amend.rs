//! A change of a contract in place, and what a claim would do to hosts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yiqiu_base::{Id, Size, id::Host};

use super::{NewLine, NodeModel};

/// A line as it stands: what it holds, and its node.
#[derive(Debug, Clone)]
pub struct Held {
    /// What the line says, and unless it is parked claim and meter too. While a shrink is not confirmed by the host,
    /// more than the node's spec.
    pub size: Size,
    /// Memory in use as its agent last said; 0 if it does not run, or nothing was said.
    pub memory_used: i64,
    /// Its node.
    pub node: NodeModel,
}

/// Another size: what is left out stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SizeChange {
    /// Thousandths of a processor.
    pub cpu_millicores: Option<i64>,
    /// Bytes of memory.
    pub memory_bytes: Option<i64>,
    /// Bytes of disk.
    pub disk_bytes: Option<i64>,
    /// Disk operations a second.
    pub disk_iops: Option<i64>,
}

impl SizeChange {
    /// The size after it.
    pub fn of(self, size: Size) -> Size {
        let Self { cpu_millicores, memory_bytes, disk_bytes, disk_iops } = self;
        Size {
            cpu_millicores: cpu_millicores.unwrap_or(size.cpu_millicores),
            memory_bytes: memory_bytes.unwrap_or(size.memory_bytes),
            disk_bytes: disk_bytes.unwrap_or(size.disk_bytes),
            disk_iops: disk_iops.unwrap_or(size.disk_iops),
        }
    }
}

/// What becomes of a line; what is left out stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LineChange {
    /// Which, by name or id.
    pub line: String,
    /// Another name.
    pub name: Option<String>,
    /// Another size.
    pub size: Option<SizeChange>,
}

/// What is to change of a contract: all of it, or nothing.
#[derive(Debug, Clone)]
pub struct Amendment {
    /// Another name.
    pub name: Option<String>,
    /// New lines.
    pub add: Vec<NewLine>,
    /// Lines that go, by name or id.
    pub remove: Vec<String>,
    /// Lines that stay, and how they change.
    pub change: Vec<LineChange>,
    /// Whether whoever asks may have whole hosts.
    pub whole_hosts: bool,
}

/// What a claim would do to one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct HostForecast {
    /// Which host.
    pub host_id: Id<Host>,
    /// Its name.
    pub host: String,
    /// New nodes on it.
    pub nodes: i64,
    /// What is claimed of it in addition.
    pub asked: Size,
    /// What the new nodes cost beside that.
    pub overhead: Size,
    /// What is free on it now.
    pub free_before: Size,
    /// What would be free on it then. What shrinks or goes is not in it: that is free once the host confirms it.
    pub free_after: Size,
    /// What the host gives back later, when it confirms what shrank or went.
    pub returns: Size,
}

/// What would be claimed where. Nothing was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Forecast {
    /// Each host that is touched.
    pub hosts: Vec<HostForecast>,
}
