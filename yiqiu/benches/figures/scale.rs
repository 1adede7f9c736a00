//! A data centre: many hosts, each with nodes that run. How much memory the server takes, how long it takes from its
//! start until every host is back, and how long one audit of every host takes.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::{Value, json};

use crate::{
    platform::{Platform, text},
    report::{Figure, Report},
    wire::{Api, Connection},
};

/// Nodes on each host.
const NODES: usize = 20;
/// Hosts that one contract takes a line of each on: the most lines of a contract.
const LINES: usize = 500;
const PATIENCE: Duration = Duration::from_secs(900);

#[allow(clippy::cast_precision_loss)] // counts far below 2^52
pub(crate) async fn run(hosts: usize, report: &mut Report) -> anyhow::Result<()> {
    // Usage of every node every ten seconds, as is usual, would be most of the work at this size.
    let mut platform = Platform::up(&["--no-agent", "--usage-interval", "5m"]).await?;
    let made = platform.sim_hosts(hosts).await?;
    let from = Instant::now();
    let mut agents = platform.sim_agents(&made).await?;
    report.note(&format!("{hosts} agents joined and connected in {:.1} s", from.elapsed().as_secs_f64()));

    let image = platform.image("empty", &[0; 1024]).await?;
    let from = Instant::now();
    claim(&platform.tenant("load").await?, &made, &image).await?;
    let nodes = hosts * NODES;
    running(&platform, nodes).await?;
    report.note(&format!("{nodes} nodes claimed and started in {:.1} s", from.elapsed().as_secs_f64()));
    let rss = platform.process.rss_kib()? as f64 / 1024.0;
    let figure =
        |bench, value, unit, beside, beside_value| Figure { bench, n: nodes, value, unit, beside, beside_value };
    report.add(figure("server_rss_mib", rss, "MiB", "KiB a node", rss * 1024.0 / nodes as f64))?;

    let (took, clean, asked) = audit(&platform).await?;
    ensure!(clean, "an audit of nodes that nobody touched is not clean");
    ensure!(asked == hosts, "{asked} of {hosts} hosts were audited");
    report.add(figure("audit_seconds", took, "s", "hosts a second", hosts as f64 / took))?;

    let ready = platform.restart().await?;
    let from = Instant::now();
    platform.all_online(hosts, &mut agents).await?;
    let took = ready + from.elapsed();
    drop(agents);
    report.add(figure("restart_seconds", took.as_secs_f64(), "s", "until it answers, in s", ready.as_secs_f64()))
}

/// A contract for every `LINES` hosts and every node of each.
async fn claim(tenant: &Api, hosts: &[(String, String)], image: &str) -> anyhow::Result<()> {
    let mut connection = Connection::open(&tenant.address).await?;
    for node in 0..NODES {
        for (part, hosts) in hosts.chunks(LINES).enumerate() {
            let line = |(at, (host, _)): (usize, &(String, String))| {
                json!({ "name": format!("l{at}"), "host": host, "image": image, "command": ["serve"],
                    "size": { "cpu_millicores": 100, "memory_bytes": 1 << 20 } })
            };
            let lines: Vec<Value> = hosts.iter().enumerate().map(line).collect();
            let new = json!({ "name": format!("c{node}-{part}"), "lines": lines });
            tenant.call_over(&mut connection, "POST", "/v1/rcontracts", Some(&new)).await?;
        }
    }
    Ok(())
}

/// Waits until that many nodes have come to run, by the server's own count.
async fn running(platform: &Platform, nodes: usize) -> anyhow::Result<()> {
    let from = Instant::now();
    loop {
        let metrics = platform.ops.text("/metrics").await?;
        let line = metrics.lines().find(|l| l.starts_with("yiqiu_node_changes_total{state=\"running\"}"));
        let count: usize = line.and_then(|l| l.rsplit_once(' ')?.1.parse().ok()).unwrap_or(0);
        if count >= nodes {
            return Ok(());
        }
        ensure!(from.elapsed() < PATIENCE, "{count} of {nodes} nodes run");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// One audit of every host: how long it took in seconds, whether it is clean, how many hosts answered.
async fn audit(platform: &Platform) -> anyhow::Result<(f64, bool, usize)> {
    let from = Instant::now();
    let begun = platform.ops.post("/v1/audits", json!({})).await?;
    let path = format!("/v1/audits/{}", text(&begun, "id")?);
    loop {
        let audit = platform.ops.get(&path).await?;
        if audit["state"] == "done" {
            let asked = audit["done"].as_u64().unwrap_or_default();
            return Ok((from.elapsed().as_secs_f64(), audit["clean"] == true, usize::try_from(asked)?));
        }
        ensure!(from.elapsed() < PATIENCE, "the audit does not end: {audit}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
