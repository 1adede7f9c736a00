//! Resident memory of the server, when it has nothing to do, and how it grows with agents.

use std::time::Duration;

use anyhow::Context;

use crate::{
    platform::{Kind, Platform},
    report::{Figure, Report},
};

/// How long it is left alone before it is looked at.
const SETTLE: Duration = Duration::from_secs(15);
const AGENTS: usize = 1_000;

#[allow(clippy::cast_precision_loss)] // KiB of a process
pub(crate) async fn run(report: &mut Report) -> anyhow::Result<()> {
    let docker = std::env::var("YIQIU_TEST_DOCKER")
        .context("YIQIU_TEST_DOCKER names no Docker socket: run this by `make bench`")?;
    let idle = Platform::up(&["--docker", &docker]).await?;
    tokio::time::sleep(SETTLE).await;
    let rss = idle.process.rss_kib()? as f64;
    drop(idle);
    report.add(Figure {
        bench: "idle_rss_mib",
        n: 1,
        value: rss / 1024.0,
        unit: "MiB",
        beside: "MiB of the machine",
        beside_value: machine_kib()? as f64 / 1024.0,
    })?;

    // The hosts are there and have a place before: what grows is what a session takes.
    let mut platform = Platform::without_agent(Kind::Sqlite).await?;
    let hosts = platform.sim_hosts(AGENTS).await?;
    tokio::time::sleep(SETTLE).await;
    let before = platform.process.rss_kib()? as f64;
    let agents = platform.sim_agents(&hosts).await?;
    tokio::time::sleep(SETTLE).await;
    let after = platform.process.rss_kib()? as f64;
    drop(agents);
    report.add(Figure {
        bench: "agent_rss_kib",
        n: AGENTS,
        value: (after - before) / AGENTS as f64,
        unit: "KiB",
        beside: "MiB of the server before",
        beside_value: before / 1024.0,
    })
}

fn machine_kib() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:")).context("MemTotal")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}
