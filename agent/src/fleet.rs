//! Thousands of simulated hosts in one process: the real agent above hardware that is not there.

use std::sync::Arc;

use anyhow::Context;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;
use yiqiu_base::{Clock, Size};
use yiqiu_proto::{agent::Facts, link::Link};

use crate::{
    driver::Driver,
    drivers::sim::{Behaviour, SimDriver, SimHost},
    host::Host,
    journal::Journal,
    serve,
    session::{BackOff, Identity},
    watch::driver_status,
};

/// Joins that may be under way at once: more would only queue in the server.
const JOINS_AT_ONCE: usize = 32;

/// A fleet.
pub struct FleetConfig {
    /// Over which its hosts talk, evenly; a connection carries about a hundred hosts well.
    pub links: Vec<Link>,
    /// One join token a host.
    pub tokens: Vec<String>,
    /// Decides timings and faults; host `i` has the seed `seed + i`.
    pub seed: u64,
    /// What each host has.
    pub capacity: Size,
    /// Its processors' clock in MHz.
    pub clock_mhz: i64,
    /// How each host behaves.
    pub behaviour: Behaviour,
}

/// Runs a fleet until `stop`. An error only if a host cannot join.
pub async fn run(config: FleetConfig, stop: CancellationToken) -> anyhow::Result<()> {
    let FleetConfig { links, tokens, seed, capacity, clock_mhz, behaviour } = config;
    anyhow::ensure!(!links.is_empty(), "a fleet needs a link to the server");
    let behaviour = Arc::new(behaviour);
    let (joins, clock) = (Arc::new(Semaphore::new(JOINS_AT_ONCE)), Clock::system());
    let mut hosts = JoinSet::new();
    for (i, token) in tokens.into_iter().enumerate() {
        let hardware = SimHost::new(seed.wrapping_add(i as u64), Arc::clone(&behaviour));
        let link = links[i % links.len()].clone();
        let (joins, clock, stop) = (Arc::clone(&joins), clock.clone(), stop.clone());
        hosts.spawn(async move {
            let facts = facts(&hardware, capacity, clock_mhz).await;
            let identity = {
                let _one = joins.acquire().await?;
                join(&link, &token, &facts, &stop)
                    .await
                    .with_context(|| format!("host {i} of the fleet cannot join"))?
            };
            match identity {
                Some(identity) => {
                    let journal = Journal::volatile(&identity.host_id);
                    run_host(identity, journal, hardware, facts, link, clock, stop).await
                }
                None => Ok(()),
            }
        });
    }
    while let Some(ended) = hosts.join_next().await {
        if let Err(error) = ended.context("a host of the fleet broke down").and_then(|r| r) {
            stop.cancel();
            return Err(error);
        }
    }
    Ok(())
}

/// Runs the agent of one simulated host until `stop`. The hardware stays: another call is the agent restarted. With a
/// volatile journal, that is lost.
pub async fn run_host(
    identity: Identity,
    journal: Journal,
    hardware: Arc<SimHost>,
    facts: Facts,
    link: Link,
    clock: Clock,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let drivers: Vec<Arc<dyn Driver>> = vec![Arc::new(SimDriver(hardware))];
    let images = (std::env::temp_dir(), link.clone()); // never written: a simulation has every image
    let host = Host::new(identity, clock, drivers, journal, images, facts, stop.child_token())?;
    serve(&host, &link, false).await;
    Ok(())
}

/// What a simulated host says of itself.
pub async fn facts(hardware: &Arc<SimHost>, capacity: Size, clock_mhz: i64) -> Facts {
    let driver = SimDriver(Arc::clone(hardware));
    let status = driver_status(&driver, driver.status().await);
    Facts {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: "simulated".to_owned(),
        capacity: Some(capacity.into()),
        clock_mhz,
        drivers: vec![status],
        features: [("arch".to_owned(), "simulated".to_owned())].into(),
    }
}

async fn join(link: &Link, token: &str, facts: &Facts, stop: &CancellationToken) -> anyhow::Result<Option<Identity>> {
    let mut back_off = BackOff::new();
    loop {
        match Identity::join(link.clone(), token, facts.clone()).await {
            Ok(identity) => return Ok(Some(identity)),
            Err(problem) if problem.code == yiqiu_base::Code::Unavailable => {}
            Err(problem) => return Err(problem.into()),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(back_off.next()) => {}
        }
    }
}
