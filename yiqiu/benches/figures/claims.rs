//! Durable claims a second, over HTTP.
//!
//! One claim is one `POST /v1/rcontracts` of a tenant: a contract with one line on a named host, its claim, its open
//! meter segment, its events and its idempotency key, authorised, and on disk when the answer comes. The line asks for
//! power `off`, so that what is measured is the claim and not the start of a node. It is pushed to the host's agent all
//! the same, which makes the node and reports it twice (`preparing`, `off`): two more durable changes in the same
//! database, not counted as claims but on their time. Hosts are simulated, connected and online, each so large that nothing is refused. Clients are in a closed
//! loop, and share the machine with the server, its database and the agents.
//!
//! The server is one process with every tier in it: Projects meters each claim at the same time, on the same processors
//! and the same disk, and that is part of what a claim costs. PostgreSQL's own processor time is not in `claim_cpu_us`.

use std::time::{Duration, Instant};

use anyhow::ensure;

pub(crate) use crate::platform::Kind;
use crate::{
    limits,
    load::{Load, Measured},
    platform::Platform,
    report::{Figure, Report},
};

const CLIENTS: usize = 8;
const WARM_UP: Duration = Duration::from_secs(2);
/// How long the one client alone runs.
const ALONE: Duration = Duration::from_secs(2);

struct Names {
    rate: &'static str,
    p99: &'static str,
    cpu: &'static str,
    alone: &'static str,
}

/// The names of the figures. Those without a database in their name are of SQLite.
fn names(kind: Kind) -> Names {
    match kind {
        Kind::Sqlite => {
            Names { rate: "claims_http_c8_sqlite", p99: "claims_p99_ms", cpu: "claim_cpu_us", alone: "claim_c1_ms" }
        }
        Kind::Postgres => Names {
            rate: "claims_http_c8_postgres",
            p99: "claims_p99_ms_postgres",
            cpu: "claim_cpu_us_postgres",
            alone: "claim_c1_ms_postgres",
        },
    }
}

/// Measures one database at one number of hosts.
#[allow(clippy::cast_precision_loss)] // counts far below 2^52
pub(crate) async fn run(kind: Kind, n: usize, span: Duration, report: &mut Report) -> anyhow::Result<()> {
    let mut platform = Platform::without_agent(kind).await?;
    let hosts = platform.sim_hosts(n).await?;
    let agents = platform.sim_agents(&hosts).await?;
    let tenant = platform.tenant("load").await?;
    let image = platform.image("empty", &[0; 1024]).await?;
    let ids: Vec<String> = hosts.into_iter().map(|(id, _)| id).collect();
    let load = |run| Load { tenant: tenant.clone(), hosts: ids.clone(), image: image.clone(), run };

    let sync_ms = limits::fdatasync_ms()?;
    let many = load("many").run(CLIENTS, WARM_UP, span, &platform.process).await?;
    let behind = metered(&platform).await?;
    let one = load("alone").run(1, Duration::from_millis(200), ALONE, &platform.process).await?;
    drop(agents);

    let from = Instant::now();
    let books = platform.ops.get("/v1/resources/books").await?;
    let acknowledged = many.acknowledged + one.acknowledged;
    ensure!(books["hold"] == true, "the books do not hold: {books}");
    ensure!(books["claims"] == acknowledged, "{acknowledged} claims were acknowledged, there are {}", books["claims"]);
    report.note(&format!(
        "the books hold: {acknowledged} claims acknowledged, as many there (checked in {:.0} ms); Projects had metered \
         {behind} s after the load ended",
        limits::ms(from)
    ));

    let Measured { claims, elapsed, latency, cpu, .. } = &many;
    let names = names(kind);
    let figure = |bench, value, unit, beside, beside_value| Figure { bench, n, value, unit, beside, beside_value };
    let rate = *claims as f64 / elapsed.as_secs_f64();
    let ms = |us: u64| us as f64 / 1e3;
    report.add(figure(names.rate, rate, "claims/s", "fdatasyncs a second", 1e3 / sync_ms))?;
    report.add(figure(
        names.p99,
        ms(latency.value_at_quantile(0.99)),
        "ms",
        "p50 in ms",
        ms(latency.value_at_quantile(0.5)),
    ))?;
    report.add(figure(
        names.cpu,
        cpu.as_secs_f64() * 1e6 / *claims as f64,
        "us",
        "cores busy in the server",
        cpu.as_secs_f64() / elapsed.as_secs_f64(),
    ))?;
    report.add(figure(names.alone, ms(one.latency.value_at_quantile(0.5)), "ms", "one fdatasync in ms", sync_ms))
}

/// Waits until Projects has metered everything; how many seconds that took.
async fn metered(platform: &Platform) -> anyhow::Result<f64> {
    let from = Instant::now();
    let mut counted = counter(platform).await?;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let now = counter(platform).await?;
        if now == counted {
            return Ok((from.elapsed().as_secs_f64() - 0.5).round());
        }
        ensure!(from.elapsed() < Duration::from_secs(120), "Projects does not come to an end of metering");
        counted = now;
    }
}

async fn counter(platform: &Platform) -> anyhow::Result<String> {
    let metrics = platform.ops.text("/metrics").await?;
    let line = metrics.lines().find(|l| l.starts_with("yiqiu_metering_events_total{source=\"resources\""));
    Ok(line.unwrap_or_default().to_owned())
}
