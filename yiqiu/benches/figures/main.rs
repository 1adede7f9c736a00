//! The benchmarks: `make bench`, or `scripts/bench.sh SUITE… [--hosts 200,2000] [--seconds 8]`.
//!
//! Each suite starts the release build of the platform as processes of its own, measures it from outside, prints a
//! table with the machine's own limits beside each figure, and appends one JSON line a figure to
//! `target/bench/<suite>.jsonl`. Needs `YIQIU_TEST_DOCKER` and `YIQIU_TEST_POSTGRES`, as `scripts/bench.sh` sets them.

mod claims;
mod cnode_start;
mod limits;
mod load;
mod memory;
mod platform;
mod process;
mod report;
mod scale;
mod wire;

use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::report::Report;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Suite {
    /// What the machine itself can do.
    Limits,
    /// From a request to a running container.
    CnodeStart,
    /// Durable claims a second.
    Claims,
    /// Resident memory.
    Memory,
    /// Restart, audit and memory of a whole data centre.
    Scale,
}

#[derive(Debug, Parser)]
struct Arguments {
    /// Which suites; all of them if none is named.
    suites: Vec<Suite>,
    /// On how many simulated hosts claims are measured.
    #[arg(long, env = "YIQIU_BENCH_HOSTS", value_delimiter = ',', default_values_t = [200, 2_000, 20_000])]
    hosts: Vec<usize>,
    /// How many simulated hosts the data centre has, with 20 nodes each.
    #[arg(long, env = "YIQIU_BENCH_SCALE_HOSTS", default_value_t = 10_000)]
    scale_hosts: usize,
    /// How long each load runs, after a warm-up.
    #[arg(long, env = "YIQIU_BENCH_SECONDS", default_value_t = 8)]
    seconds: u64,
    /// On which databases claims are measured.
    #[arg(long, env = "YIQIU_BENCH_DATABASES", value_delimiter = ',', default_values = ["sqlite", "postgres"])]
    databases: Vec<claims::Kind>,
    /// Cargo says so to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

// One thread: the load shares the machine with what is measured, and must be light.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Arguments { suites, hosts, scale_hosts, seconds, databases, bench: _ } = Arguments::parse();
    let suites = if suites.is_empty() { Suite::value_variants().to_vec() } else { suites };
    let limits = limits::measure()?;
    for suite in suites {
        let name = suite.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default();
        let mut report = Report::open(&name)?;
        match suite {
            Suite::Limits => limits::report(&limits, &mut report)?,
            Suite::CnodeStart => cnode_start::run(&mut report).await?,
            Suite::Claims => {
                let span = Duration::from_secs(seconds);
                for kind in &databases {
                    for hosts in &hosts {
                        claims::run(*kind, *hosts, span, &mut report).await?;
                    }
                }
            }
            Suite::Memory => memory::run(&mut report).await?,
            Suite::Scale => scale::run(scale_hosts, &mut report).await?,
        }
    }
    Ok(())
}
