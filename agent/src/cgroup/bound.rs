//! What is really set and used in a control group, wherever its path came from.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Cgroups, field};
use crate::driver::NodeId;

/// What a group may use, and uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Bound {
    /// The tightest quota of the group and those above it; `None` for none.
    pub(crate) cpu_limit_millicores: Option<i64>,
    /// The tightest limit of the group and those above it; `None` for none.
    pub(crate) memory_limit_bytes: Option<i64>,
    /// Processor time since the group was made, in nanoseconds.
    pub(crate) cpu_ns: Option<i64>,
    /// Memory in use, in bytes, without what the kernel keeps of files and can drop.
    pub(crate) memory_bytes: Option<i64>,
}

/// What v1 says where there is no limit is a number near 2^63.
const NO_LIMIT: i64 = 1 << 60;

impl Cgroups {
    /// Of the group that a process is in now, from its `/proc/<pid>/cgroup`.
    pub(crate) fn bound_of_process(&self, pid: i64) -> Option<Bound> {
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        Some(self.bound(|controller| self.folder_in(&own, controller)))
    }

    /// Of a node's own group.
    pub(crate) fn bound_of_node(&self, node: NodeId) -> Bound {
        self.bound(|controller| self.folder(controller, node))
    }

    fn folder_in(&self, own: &str, controller: &str) -> Option<PathBuf> {
        let path = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (names, path) = (parts.next()?, parts.next()?);
            let is = if self.is_v1() { names.split(',').any(|name| name == controller) } else { names.is_empty() };
            is.then_some(path)
        })?;
        let root = if self.is_v1() { self.controllers.get(controller)? } else { self.unified.as_ref()? };
        Some(root.join(path.trim_start_matches('/')))
    }

    fn bound(&self, folder: impl Fn(&str) -> Option<PathBuf>) -> Bound {
        let tightest = |controller: &str, read: fn(&Path) -> Option<i64>| -> Option<i64> {
            let root = if self.is_v1() { self.controllers.get(controller)? } else { self.unified.as_ref()? };
            let folder = folder(controller)?;
            folder.ancestors().take_while(|at| at.starts_with(root)).filter_map(read).min()
        };
        let text = |controller: &str, file: &str| fs::read_to_string(folder(controller)?.join(file)).ok();
        let number = |controller: &str, file: &str| text(controller, file)?.trim().parse::<i64>().ok();
        let (cpu_ns, used, cache) = if self.is_v1() {
            let cache = text("memory", "memory.stat").and_then(|t| field(&t, "total_inactive_file"));
            (number("cpuacct", "cpuacct.usage"), number("memory", "memory.usage_in_bytes"), cache)
        } else {
            let cpu = text("cpu", "cpu.stat").and_then(|t| field(&t, "usage_usec")).map(|us| us * 1000);
            let cache = text("memory", "memory.stat").and_then(|t| field(&t, "inactive_file"));
            (cpu, number("memory", "memory.current"), cache)
        };
        Bound {
            cpu_limit_millicores: tightest("cpu", if self.is_v1() { v1_quota } else { v2_quota }),
            memory_limit_bytes: tightest("memory", if self.is_v1() { v1_memory } else { v2_memory }),
            cpu_ns,
            memory_bytes: used.map(|used| (used - cache.unwrap_or(0)).max(0)),
        }
    }
}

fn number(folder: &Path, file: &str) -> Option<i64> {
    fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
}

fn millicores(quota_us: i64, period_us: i64) -> Option<i64> {
    (quota_us > 0 && period_us > 0).then(|| quota_us.saturating_mul(1000) / period_us)
}

fn v1_quota(folder: &Path) -> Option<i64> {
    millicores(number(folder, "cpu.cfs_quota_us")?, number(folder, "cpu.cfs_period_us")?)
}

/// `50000 100000`, or `max 100000`.
fn v2_quota(folder: &Path) -> Option<i64> {
    let text = fs::read_to_string(folder.join("cpu.max")).ok()?;
    let mut words = text.split_whitespace().map(str::parse);
    millicores(words.next()?.ok()?, words.next()?.ok()?)
}

fn v1_memory(folder: &Path) -> Option<i64> {
    number(folder, "memory.limit_in_bytes").filter(|limit| *limit < NO_LIMIT)
}

/// A number, or `max`.
fn v2_memory(folder: &Path) -> Option<i64> {
    number(folder, "memory.max")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_of_a_group_and_those_above_it_binds() {
        let root = tempfile::tempdir().unwrap();
        let (outer, inner) = (root.path().join("yiqiu/n"), root.path().join("yiqiu/n/c"));
        fs::create_dir_all(&inner).unwrap();
        for (folder, cpu, memory) in [(&outer, "max 100000", "1000"), (&inner, "50000 100000", "max")] {
            fs::write(folder.join("cpu.max"), cpu).unwrap();
            fs::write(folder.join("memory.max"), memory).unwrap();
        }
        fs::write(inner.join("memory.current"), "700\n").unwrap();
        fs::write(inner.join("memory.stat"), "anon 1\ninactive_file 300\n").unwrap();
        fs::write(inner.join("cpu.stat"), "usage_usec 5\n").unwrap();
        let groups = Cgroups::of_mounts(&format!("cgroup2 {} cgroup2 rw 0 0\n", root.path().display())).unwrap();
        let bound = groups.bound(|controller| groups.folder_in("0::/yiqiu/n/c\n", controller));
        let expected = Bound {
            cpu_limit_millicores: Some(500),
            memory_limit_bytes: Some(1000),
            cpu_ns: Some(5000),
            memory_bytes: Some(400),
        };
        assert_eq!(bound, expected);
        fs::write(outer.join("memory.max"), "max").unwrap();
        assert_eq!(groups.bound(|controller| groups.folder_in("0::/yiqiu/n/c\n", controller)).memory_limit_bytes, None);
    }
}
