//! The load of claims: clients in a closed loop, each on a connection that it keeps, all in this process.

use std::{
    cell::Cell,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::ensure;
use hdrhistogram::Histogram;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    process::Process,
    wire::{Api, Connection},
};

/// A run ends early rather than make more claims than this.
const CLAIMS_MOST: u64 = 400_000;

/// What clients ask for.
pub(crate) struct Load {
    pub(crate) tenant: Api,
    /// By id, so that a claim needs nothing but itself.
    pub(crate) hosts: Vec<String>,
    pub(crate) image: String,
    /// Tells the names of one run from those of another.
    pub(crate) run: &'static str,
}

/// What came of it.
pub(crate) struct Measured {
    /// Acknowledged in the measured time, and how long that was.
    pub(crate) claims: u64,
    pub(crate) elapsed: Duration,
    /// Of those, in microseconds.
    pub(crate) latency: Histogram<u64>,
    /// Processor time of the server in the measured time.
    pub(crate) cpu: Duration,
    /// Acknowledged in all, the warm-up with it.
    pub(crate) acknowledged: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    WarmUp,
    Measured,
    Over,
}

struct Shared {
    phase: Cell<Phase>,
    acknowledged: Cell<u64>,
}

impl Load {
    /// Runs so many clients for a warm-up and then for the measured time.
    pub(crate) async fn run(
        self,
        clients: usize,
        warm_up: Duration,
        span: Duration,
        server: &Process,
    ) -> anyhow::Result<Measured> {
        let shared = Rc::new(Shared { phase: Cell::new(Phase::WarmUp), acknowledged: Cell::new(0) });
        let load = Rc::new(self);
        let set = tokio::task::LocalSet::new();
        set.run_until(async {
            let running: Vec<_> = (0..clients)
                .map(|client| tokio::task::spawn_local(one_client(Rc::clone(&load), Rc::clone(&shared), client)))
                .collect();
            tokio::time::sleep(warm_up).await;
            let (cpu, from) = (server.cpu()?, Instant::now());
            shared.phase.set(Phase::Measured);
            while from.elapsed() < span && shared.phase.get() == Phase::Measured {
                tokio::time::sleep(Duration::from_millis(10).min(span)).await;
            }
            shared.phase.set(Phase::Over);
            let (cpu, elapsed) = (server.cpu()?.saturating_sub(cpu), from.elapsed());
            let mut latency = Histogram::new(3)?;
            for client in running {
                latency.add(client.await??)?;
            }
            let (claims, acknowledged) = (latency.len(), shared.acknowledged.get());
            Ok(Measured { claims, elapsed, latency, cpu, acknowledged })
        })
        .await
    }

    fn request(&self, client: usize, number: u64, host: &str) -> Vec<u8> {
        let Self { tenant, hosts: _, image, run } = self;
        let name = format!("{run}-{client}-{number}");
        let body = format!(
            "{{\"name\":\"{name}\",\"lines\":[{{\"name\":\"a\",\"host\":\"{host}\",\"image\":\"{image}\",\
             \"size\":{{\"cpu_millicores\":10,\"memory_bytes\":1048576}},\"power\":\"off\"}}]}}"
        );
        let headers = format!("content-type: application/json\r\nidempotency-key: {name}\r\n");
        tenant.request("POST", "/v1/rcontracts", &headers, body.as_bytes())
    }
}

async fn one_client(load: Rc<Load>, shared: Rc<Shared>, client: usize) -> anyhow::Result<Histogram<u64>> {
    let mut random = StdRng::seed_from_u64(client as u64);
    let mut connection = Connection::open(&load.tenant.address).await?;
    let mut latency = Histogram::new(3)?;
    let mut number = 0;
    loop {
        let begun = shared.phase.get();
        if begun == Phase::Over {
            return Ok(latency);
        }
        let host = &load.hosts[random.random_range(0..load.hosts.len())];
        let request = load.request(client, number, host);
        let from = Instant::now();
        let (status, answer) = connection.exchange(&request).await?;
        ensure!(status == 201, "a claim was refused: {status} {}", String::from_utf8_lossy(answer));
        let took = u64::try_from(from.elapsed().as_micros()).unwrap_or(u64::MAX);
        number += 1;
        shared.acknowledged.set(shared.acknowledged.get() + 1);
        // Counted where it is acknowledged within the measured time.
        if begun != Phase::Over && shared.phase.get() == Phase::Measured {
            latency.record(took)?;
        }
        if shared.acknowledged.get() >= CLAIMS_MOST {
            shared.phase.set(Phase::Over);
        }
    }
}
