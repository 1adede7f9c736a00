//! Long random histories, one thing after the other. After every step (on PostgreSQL: every few) the books are checked
//! and everything that can be seen is compared with a model. `YIQIU_SEED=7` replays one.

use std::time::{Duration, Instant};

use futures::FutureExt;
use rand::{SeedableRng, rngs::StdRng};
use yiqiu_base::testing::TestDatabase;

use super::{
    script::{Step, script},
    world::{Tally, World},
};
use crate::support::Tier;

/// Steps of one history.
const STEPS: usize = 320;
/// How many histories on SQLite, and after how many steps all is compared.
const ON_SQLITE: (u64, usize) = (28, 1);
const ON_POSTGRES: (u64, usize) = (4, 8);
/// How long a history that failed may be cut shorter, unless `YIQIU_SHRINK_SECONDS` says otherwise.
const SHRINK_SECONDS: u64 = 60;

/// What went wrong, and after how many steps.
struct Fault {
    step: usize,
    what: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_a_long_history_keeps_the_books_on_sqlite() {
    histories("sqlite", ON_SQLITE).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_of_a_long_history_keeps_the_books_on_postgresql() {
    histories("postgres", ON_POSTGRES).await;
}

async fn histories(database: &'static str, (count, every): (u64, usize)) {
    let seeds: Vec<u64> = match std::env::var("YIQIU_SEED") {
        Ok(seed) => vec![seed.parse().expect("YIQIU_SEED is a number")],
        Err(_) => (1..=count).collect(),
    };
    let (started, mut tally) = (Instant::now(), Tally::new());
    for seed in &seeds {
        println!("seed {seed} on {database}");
        let script = script(&mut StdRng::seed_from_u64(*seed), STEPS);
        match run(database, &script, every).await {
            Ok(more) => more.into_iter().for_each(|(kind, [granted, refused])| {
                let sum = tally.entry(kind).or_default();
                *sum = [sum[0] + granted, sum[1] + refused];
            }),
            Err(fault) => {
                let (script, fault) = shrunk(database, script, fault, every).await;
                let steps: Vec<String> = script.iter().map(|step| format!("  {step:?}")).collect();
                panic!(
                    "seed {seed} on {database}, after {} steps that are left of {STEPS}: {}\n{}\nreplay it: \
                 YIQIU_SEED={seed} cargo test -p yiqiu-resources --test it long_history -- --nocapture",
                    script.len(),
                    fault.what,
                    steps.join("\n"),
                );
            }
        }
    }
    println!("{} steps on {database} in {:.1} s", seeds.len() * STEPS, started.elapsed().as_secs_f64());
    println!("granted and refused: {tally:?}");
    // A history in which nothing happens proves nothing.
    let happens = |kind: &str| tally.get(kind).is_some_and(|[granted, refused]| *granted > 0 && *refused > 0);
    let quiet: Vec<_> = ["claim", "amend", "renew", "power"].into_iter().filter(|kind| !happens(kind)).collect();
    assert!(quiet.is_empty() || seeds.len() == 1, "never both granted and refused: {quiet:?}");
}

async fn run(database: &str, script: &[Step], every: usize) -> Result<Tally, Fault> {
    let database = if database == "sqlite" { TestDatabase::sqlite() } else { TestDatabase::postgres().await };
    let mut world = World::start(Tier::start(database).await).await;
    let mut at = 0;
    let going = async {
        for (n, step) in script.iter().enumerate() {
            at = n + 1;
            world.step(step).await?;
            if at % every == 0 {
                world.compare().await?;
            }
        }
        world.wind_up().await
    };
    match std::panic::AssertUnwindSafe(going).catch_unwind().await {
        Ok(Ok(())) => {
            world.tier().service.environment().stop.cancel();
            Ok(world.tally)
        }
        Ok(Err(what)) => Err(Fault { step: at, what }),
        Err(_) => Err(Fault { step: at, what: "a panic: see above".to_owned() }),
    }
}

/// Leaves out of a script what is not needed for it to fail, larger parts first.
async fn shrunk(database: &str, mut script: Vec<Step>, mut fault: Fault, every: usize) -> (Vec<Step>, Fault) {
    script.truncate(fault.step);
    let seconds = std::env::var("YIQIU_SHRINK_SECONDS").map(|text| text.parse().expect("a number of seconds"));
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(SHRINK_SECONDS));
    let mut part = script.len() / 2;
    while part > 0 {
        let mut at = 0;
        while at < script.len() && Instant::now() < until {
            let mut shorter = script.clone();
            shorter.drain(at..(at + part).min(script.len()));
            match run(database, &shorter, every).await {
                Err(failed) => {
                    shorter.truncate(failed.step);
                    (script, fault) = (shorter, failed);
                }
                Ok(_) => at += part,
            }
        }
        part /= 2;
    }
    (script, fault)
}
