//! What this machine is: read from it, never configured.

use std::path::Path;

use anyhow::Context;
use yiqiu_base::{NodeType, Size};
use yiqiu_proto::{
    agent::{DriverStatus, Facts},
    common,
};

use crate::{driver::Driver, host::log_driver, watch::driver_status};

/// Disk operations a second that a machine is taken to have: nothing in the system tells, and a measurement would
/// disturb what runs. Ops correct it on the host.
const DISK_IOPS: i64 = 10_000;

/// The capacity of this machine, with the disk that holds `data_dir`.
pub(crate) fn capacity(data_dir: &Path) -> anyhow::Result<Size> {
    let cores = std::thread::available_parallelism().context("the number of processors cannot be read")?.get();
    let meminfo = std::fs::read_to_string("/proc/meminfo").context("/proc/meminfo cannot be read")?;
    let disk = nix::sys::statvfs::statvfs(data_dir)
        .with_context(|| format!("the disk of {} cannot be read", data_dir.display()))?;
    Ok(Size {
        cpu_millicores: i64::try_from(cores)?.saturating_mul(1000),
        memory_bytes: memory_bytes(&meminfo).context("/proc/meminfo does not say MemTotal")?,
        disk_bytes: i64::try_from(disk.blocks().saturating_mul(disk.fragment_size()))?,
        disk_iops: DISK_IOPS,
    })
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn memory_bytes(meminfo: &str) -> Option<i64> {
    let line = meminfo.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok()?.checked_mul(1024)
}

/// The greatest `cpu MHz` of `/proc/cpuinfo`; 0 where the kernel does not say.
fn clock_mhz(cpuinfo: &str) -> i64 {
    let clocks = cpuinfo.lines().filter(|l| l.starts_with("cpu MHz")).filter_map(|l| l.split_once(':'));
    clocks.filter_map(|(_, mhz)| mhz.trim().split('.').next()?.parse().ok()).max().unwrap_or(0)
}

/// Everything a machine says of itself, with what each driver needs. Logs a line for each driver.
pub(crate) async fn facts(
    data_dir: &Path,
    drivers: &[std::sync::Arc<dyn Driver>],
    offered: &[NodeType],
) -> anyhow::Result<Facts> {
    let mut statuses = Vec::new();
    for &node_type in offered {
        statuses.push(match drivers.iter().find(|d| d.node_type() == node_type) {
            Some(driver) => driver_status(&**driver, driver.status().await),
            None => no_driver(node_type),
        });
    }
    statuses.iter().for_each(log_driver);
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Ok(Facts {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: boot_id.trim().to_owned(),
        capacity: Some(capacity(data_dir)?.into()),
        clock_mhz: clock_mhz(&cpuinfo),
        drivers: statuses,
        features: crate::features::found().into_iter().collect(),
    })
}

fn no_driver(node_type: NodeType) -> DriverStatus {
    let (name, missing) = match node_type {
        NodeType::Vm => ("libvirt", "this build has no libvirt driver"),
        NodeType::Cm => ("container", "this build has no container driver"),
        NodeType::Bm => ("process", "this build has no process driver"),
    };
    DriverStatus {
        node_type: common::NodeType::from(node_type).into(),
        name: name.to_owned(),
        ready: false,
        missing: missing.to_owned(),
        overhead_fixed: None,
        overhead_per_node: None,
        unbound: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something() -> anyhow::Result<()> {
        let capacity = capacity(Path::new("/"))?;
        assert!(capacity.cpu_millicores >= 1000 && capacity.memory_bytes > 1 << 20 && capacity.disk_bytes > 1 << 20);
        assert_eq!(capacity.cpu_millicores % 1000, 0);
        Ok(())
    }

    #[test]
    fn texts_of_the_kernel() {
        assert_eq!(memory_bytes("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(memory_bytes("MemFree: 1 kB\n"), None);
        assert_eq!(clock_mhz("processor : 0\ncpu MHz\t\t: 2299.998\ncpu MHz : 2400.1\n"), 2400);
        assert_eq!(clock_mhz(""), 0);
    }
}
