//! Control groups of nodes, in both layouts of the kernel: one folder tree a controller (v1) or one for all (v2).
//!
//! Each node has a group of its own, `/yiqiu/<node id>`, that outlives what runs in it, so that its counters are exact
//! after the last process has gone. Formats: the kernel's `Documentation/admin-guide/cgroup-v1` and `cgroup-v2.rst`.

mod bound;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use yiqiu_base::Size;
use yiqiu_proto::common::NodeSpec;

use crate::driver::{NodeId, Reading};
pub(crate) use bound::Bound;

/// The folder of all our groups.
pub(crate) const PARENT: &str = "yiqiu";
/// The most processes and threads of a node that does not say: against fork bombs, far above what most services need.
const PIDS_DEFAULT: i64 = 1024;
/// The period of the processor quota in microseconds: the kernel's default.
const CPU_PERIOD_US: i64 = 100_000;

/// The control groups of this machine.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    /// Where each v1 controller is mounted.
    controllers: BTreeMap<String, PathBuf>,
    /// Where v2 is mounted: with v1 beside it, it has no controllers.
    unified: Option<PathBuf>,
    /// Every mount, also those that only name processes.
    roots: Vec<PathBuf>,
}

/// What a node may use at most.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) cpu_millicores: i64,
    pub(crate) memory_bytes: i64,
    pub(crate) pids: i64,
}

impl Limits {
    /// What a spec says, or the default where it says nothing.
    pub(crate) fn of(spec: &NodeSpec) -> Self {
        let Size { cpu_millicores, memory_bytes, disk_bytes: _, disk_iops: _ } =
            spec.size.map(Size::from).unwrap_or_default();
        let pids = spec.runtime.as_ref().map(|r| r.pids).filter(|pids| *pids > 0).unwrap_or(PIDS_DEFAULT);
        Self { cpu_millicores, memory_bytes, pids }
    }
}

impl Cgroups {
    /// Finds them; `None` where there are none that count processor time.
    pub(crate) fn find() -> Option<Self> {
        Self::of_mounts(&fs::read_to_string("/proc/self/mounts").ok()?)
    }

    fn of_mounts(mounts: &str) -> Option<Self> {
        let mut found = Self { controllers: BTreeMap::new(), unified: None, roots: Vec::new() };
        for line in mounts.lines() {
            let mut fields = line.split(' ').skip(1);
            let (Some(at), Some(kind), Some(options)) = (fields.next(), fields.next(), fields.next()) else { continue };
            let at = PathBuf::from(at);
            match kind {
                "cgroup" => {
                    for option in options.split(',') {
                        if ["cpu", "cpuacct", "memory", "blkio", "pids"].contains(&option) {
                            found.controllers.entry(option.to_owned()).or_insert_with(|| at.clone());
                        }
                    }
                    found.roots.push(at);
                }
                "cgroup2" => {
                    found.unified.get_or_insert_with(|| at.clone());
                    found.roots.push(at);
                }
                _ => {}
            }
        }
        (found.controllers.contains_key("cpuacct") || found.unified.is_some()).then_some(found)
    }

    fn is_v1(&self) -> bool {
        self.controllers.contains_key("cpuacct")
    }

    /// The folder of a node's group under one v1 controller, or the v2 one.
    fn folder(&self, controller: &str, node: NodeId) -> Option<PathBuf> {
        let root = if self.is_v1() { self.controllers.get(controller)? } else { self.unified.as_ref()? };
        Some(root.join(PARENT).join(node.to_string()))
    }

    /// The folders in which a node's processes are counted and bound.
    pub(crate) fn folders(&self, node: NodeId) -> Vec<PathBuf> {
        let mut folders: Vec<PathBuf> =
            ["cpu", "cpuacct", "memory", "pids", "blkio"].into_iter().filter_map(|c| self.folder(c, node)).collect();
        folders.dedup();
        folders
    }

    /// Where a process is at home, from its `/proc/<pid>/cgroup`, in the hierarchies of a node's group.
    pub(crate) fn homes(&self, node: NodeId, own: &str) -> Vec<PathBuf> {
        let mut homes = Vec::new();
        for line in own.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(names), Some(path)) = (parts.next(), parts.next()) else { continue };
            let root = if self.is_v1() {
                names.split(',').find_map(|n| self.controllers.get(n))
            } else {
                self.unified.as_ref().filter(|_| names.is_empty())
            };
            if let Some(root) = root
                && self.folders(node).iter().any(|f| f.starts_with(root))
            {
                homes.push(root.join(path.trim_start_matches('/')));
            }
        }
        homes
    }

    /// What was used in a node's group, as far as it can be read.
    pub(crate) fn usage(&self, node: NodeId) -> Reading {
        let read = |controller: &str, file: &str| fs::read_to_string(self.folder(controller, node)?.join(file)).ok();
        let mut usage = Reading::default();
        let blocks;
        if self.is_v1() {
            usage.cpu_ns = read("cpuacct", "cpuacct.usage").and_then(|t| t.trim().parse().ok());
            let used: Option<i64> = read("memory", "memory.usage_in_bytes").and_then(|t| t.trim().parse().ok());
            let cache = read("memory", "memory.stat").and_then(|t| field(&t, "total_inactive_file"));
            usage.memory_bytes = used.map(|u| (u - cache.unwrap_or(0)).max(0));
            blocks = read("blkio", "blkio.throttle.io_service_bytes_recursive").map(|t| v1_blocks(&t));
        } else {
            usage.cpu_ns = read("cpu", "cpu.stat").and_then(|t| field(&t, "usage_usec")).map(|us| us * 1000);
            let used: Option<i64> = read("memory", "memory.current").and_then(|t| t.trim().parse().ok());
            let cache = read("memory", "memory.stat").and_then(|t| field(&t, "inactive_file"));
            usage.memory_bytes = used.map(|u| (u - cache.unwrap_or(0)).max(0));
            blocks = read("io", "io.stat").map(|t| v2_blocks(&t));
        }
        if let Some((read, written)) = blocks {
            usage.block_read_bytes = Some(read);
            usage.block_write_bytes = Some(written);
        }
        usage
    }

    /// How often the kernel killed a process of a node's group for want of memory; 0 where it does not count.
    pub(crate) fn oom_kills(&self, node: NodeId) -> i64 {
        let file = if self.is_v1() { "memory.oom_control" } else { "memory.events" };
        let text = self.folder("memory", node).and_then(|f| fs::read_to_string(f.join(file)).ok());
        text.and_then(|t| field(&t, "oom_kill")).unwrap_or(0)
    }

    /// Whether a node's group can be read at all.
    pub(crate) fn exists(&self, node: NodeId) -> bool {
        self.folder("cpuacct", node).is_some_and(|f| f.is_dir())
    }

    /// Makes a node's group with its limits, or sets the limits of the one there is.
    pub(crate) fn make(&self, node: NodeId, limits: Limits) -> io::Result<()> {
        let Limits { cpu_millicores, memory_bytes, pids } = limits;
        let quota = (cpu_millicores.saturating_mul(CPU_PERIOD_US) / 1000).max(1000);
        if !self.is_v1()
            && let Some(root) = &self.unified
        {
            fs::create_dir_all(root.join(PARENT))?;
            for at in [root.clone(), root.join(PARENT)] {
                // One by one: a controller that this kernel lacks must not keep the others out.
                for controller in ["+cpu", "+memory", "+pids", "+io"] {
                    if let Err(error) = fs::write(at.join("cgroup.subtree_control"), controller) {
                        tracing::debug!(at = %at.display(), controller, %error, "a controller cannot be switched on");
                    }
                }
            }
        }
        for folder in self.folders(node) {
            fs::create_dir_all(&folder)?;
        }
        let set = |controller: &str, file: &str, value: String| -> io::Result<()> {
            let Some(folder) = self.folder(controller, node) else { return Ok(()) };
            fs::write(folder.join(file), &value).map_err(|e| io::Error::new(e.kind(), format!("{file} = {value}: {e}")))
        };
        if self.is_v1() {
            set("cpu", "cpu.cfs_period_us", CPU_PERIOD_US.to_string())?;
            set("cpu", "cpu.cfs_quota_us", quota.to_string())?;
            // Memory with swap is never below memory alone: what grows is set there first.
            let _ = set("memory", "memory.memsw.limit_in_bytes", memory_bytes.to_string());
            set("memory", "memory.limit_in_bytes", memory_bytes.to_string())?;
            // Only where the kernel accounts swap.
            let _ = set("memory", "memory.memsw.limit_in_bytes", memory_bytes.to_string());
        } else {
            set("cpu", "cpu.max", format!("{quota} {CPU_PERIOD_US}"))?;
            set("memory", "memory.max", memory_bytes.to_string())?;
            let _ = set("memory", "memory.swap.max", "0".to_owned());
        }
        set("pids", "pids.max", pids.to_string())
    }

    /// Whether groups can be made: an error says where not.
    pub(crate) fn writable(&self) -> io::Result<()> {
        let root = if self.is_v1() { self.controllers.get("cpuacct") } else { self.unified.as_ref() };
        let Some(root) = root else { return Ok(()) };
        nix::unistd::access(root, nix::unistd::AccessFlags::W_OK)
            .map_err(|errno| io::Error::other(format!("{}: {}", root.display(), errno.desc())))
    }

    /// The processes in a node's group, with its subgroups.
    pub(crate) fn pids(&self, node: NodeId) -> Vec<i32> {
        let mut pids: Vec<i32> = self.folders(node).iter().flat_map(|f| pids_under(f)).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Removes a node's group from every controller; an error names what is still there. Ours and empty only: the
    /// kernel refuses to remove a group with processes in it.
    pub(crate) fn remove(&self, node: NodeId) -> io::Result<()> {
        let deadline = Instant::now() + Duration::from_secs(2);
        for root in &self.roots {
            let folder = root.join(PARENT).join(node.to_string());
            while let Err(error) = remove_tree(&folder) {
                // A process that has just ended stays in its group for a moment.
                if Instant::now() > deadline {
                    return Err(io::Error::new(error.kind(), format!("{}: {error}", folder.display())));
                }
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = fs::remove_dir(root.join(PARENT)); // works for the last node only
        }
        Ok(())
    }
}

/// Removes a group and those in it. A group has files that cannot be removed and go with it.
fn remove_tree(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn pids_under(folder: &Path) -> Vec<i32> {
    let own = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let mut pids: Vec<i32> = own.lines().filter_map(|l| l.trim().parse().ok()).collect();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            pids.extend(pids_under(&entry.path()));
        }
    }
    pids
}

/// The number behind a name in a file of `name number` lines.
fn field(text: &str, name: &str) -> Option<i64> {
    text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Lines `8:0 Read 4096`; bytes read and written over all devices.
fn v1_blocks(text: &str) -> (i64, i64) {
    let sum = |what: &str| {
        let numbers = text.lines().filter_map(|l| {
            let mut words = l.split(' ').skip(1);
            (words.next() == Some(what)).then(|| words.next()?.parse::<i64>().ok()).flatten()
        });
        numbers.sum()
    };
    (sum("Read"), sum("Write"))
}

/// Lines `8:0 rbytes=4096 wbytes=0 …`; bytes read and written over all devices.
fn v2_blocks(text: &str) -> (i64, i64) {
    let sum = |key: &str| {
        text.split_whitespace().filter_map(|w| w.strip_prefix(key)?.strip_prefix('=')?.parse::<i64>().ok()).sum()
    };
    (sum("rbytes"), sum("wbytes"))
}

/// Bytes received and sent by a process's network, without the loopback; `None` if it is gone.
/// Format: `/proc/<pid>/net/dev`, proc(5).
pub(crate) fn network(pid: i64) -> Option<(i64, i64)> {
    Some(net_dev(&fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?))
}

fn net_dev(text: &str) -> (i64, i64) {
    let devices = text.lines().filter_map(|l| l.split_once(':')).filter(|(name, _)| name.trim() != "lo");
    devices.fold((0, 0), |(rx, tx), (_, numbers)| {
        let numbers: Vec<i64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        (rx + numbers.first().unwrap_or(&0), tx + numbers.get(8).unwrap_or(&0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_are_found() {
        let v1 = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
                  cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n\
                  cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                  cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let found = Cgroups::of_mounts(v1).unwrap();
        assert!(found.is_v1() && found.roots.len() == 3);
        let node = NodeId::new();
        assert_eq!(found.folders(node).len(), 2, "{:?}", found.folders(node));
        let v2 = Cgroups::of_mounts("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n").unwrap();
        assert_eq!(v2.folders(node), [PathBuf::from(format!("/sys/fs/cgroup/yiqiu/{node}"))]);
        assert!(Cgroups::of_mounts("tmpfs / tmpfs rw 0 0\n").is_none());
    }

    #[test]
    fn the_kernels_formats() {
        assert_eq!(v1_blocks("8:0 Read 4096\n8:0 Write 100\n8:16 Read 4\nTotal 4200\n"), (4100, 100));
        assert_eq!(v2_blocks("8:0 rbytes=4096 wbytes=7 rios=1\n8:16 rbytes=4 wbytes=0\n"), (4100, 7));
        assert_eq!(field("cache 5\ninactive_file 7\ntotal_inactive_file 9\n", "inactive_file"), Some(7));
        let dev =
            "Inter-|  Receive\n face |bytes\n    lo: 9 0 0 0 0 0 0 0 9 0\n  eth0: 200 2 0 0 0 0 0 0 31 0 0 0 0 0 0 0\n";
        assert_eq!(net_dev(dev), (200, 31));
    }
}
