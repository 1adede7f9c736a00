//! The wall clock jumps forward an hour, and back: terms do not end early for it, meters and the outbox never run
//! backwards, tokens are good by the clock that a process began with.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::platform::{Platform, SOON, Server, Sim, place_r, until};

const HOUR: i64 = 3_600_000;

fn real_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

async fn lease(who: &Server, name: &str, ends_ms: Option<i64>) -> String {
    let line = json!({ "name": name, "host": "sim-0", "command": ["true"],
        "size": { "cpu_millicores": 100, "memory_bytes": 1 << 20 } });
    let body = json!({ "name": name, "lines": [line], "ends_ms": ends_ms, "grace_ms": 0 });
    format!("/v1/rcontracts/{}", who.post("/v1/rcontracts", &body).await.good()["id"].as_str().unwrap())
}

async fn ended(who: &Server, contract: &str) {
    until("its term ends it", SOON, async || (who.get(contract).await.good()["state"] == "released").then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_ends_nothing_early_and_no_meter_runs_backwards() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let jump = |ms: i64| std::fs::write(file.path(), ms.to_string()).unwrap();
    jump(0);
    let variables = [("YIQIU_CLOCK_JUMP_FILE", file.path().display().to_string())];
    let mut platform = Platform::together(&["--no-agent".into()], &variables).await;
    let ops = platform.server.clone();
    place_r(&ops).await;
    let alice = platform.tenant("alice").await;
    let sim = Sim::start(&platform, 1).await;
    let short = platform.folder.path().join("short.token");
    let made = ops.cli(&[
        "token",
        "create",
        "short",
        "--user",
        "alice",
        "--project",
        "alice",
        "--expires-in",
        "30m",
        "--save",
        short.to_str().unwrap(),
    ]);
    assert!(made.status.success(), "{made:?}");
    let short = Server { token: std::fs::read_to_string(short).unwrap().trim().to_owned(), ..alice.clone() };

    // It jumps under a process that runs.
    let open = lease(&alice, "open", None).await;
    let half = lease(&alice, "half", Some(real_ms() + HOUR / 2)).await;
    jump(HOUR);
    let soon = lease(&alice, "soon", Some(real_ms() + 1_000)).await;
    ended(&alice, &soon).await;
    assert_eq!(alice.get(&half).await.good()["state"], "active", "its end is half an hour away");
    short.get("/v1/nodes").await.good();

    // A process begins while it is wrong: it cannot know, and goes by it.
    let again = async |platform: &mut Platform| {
        platform.kill("up");
        platform.up(&["--no-agent".into()], &variables);
        platform.ready().await;
        sim.connected(&ops, 1).await;
    };
    again(&mut platform).await;
    ended(&alice, &half).await;
    short.get("/v1/nodes").await.refused(401, "unauthenticated");
    let ends = real_ms() + HOUR + 3_000;
    let late = lease(&alice, "late", Some(ends)).await;

    // It is set back under that process: by its own count the end comes, by the wall clock it is an hour away.
    jump(0);
    until("its end passes", SOON, async || (real_ms() + HOUR > ends + 2_000).then_some(())).await;
    assert_eq!(alice.get(&late).await.good()["state"], "active", "nothing ends early");
    again(&mut platform).await;
    assert_eq!(alice.get(&late).await.good()["state"], "active");
    short.get("/v1/nodes").await.good();

    let node = alice.get(&open).await.good()["nodes"][0]["id"].as_str().unwrap().to_owned();
    for (power, state) in [("off", "off"), ("on", "running")] {
        alice.post(&format!("/v1/nodes/{node}/power"), &json!({ "power": power })).await.good();
        until(state, SOON, async || {
            (alice.get(&format!("/v1/nodes/{node}")).await.good()["state"] == state).then_some(())
        })
        .await;
    }
    let events = ops.events("resources").await;
    let mut at = 0;
    for event in &events {
        let now = event["at_ms"].as_i64().unwrap();
        assert!(now >= at, "time goes on in the outbox: {event}");
        at = now;
    }
    let closed: Vec<&Value> = events.iter().filter(|event| event["kind"] == "segment.closed").collect();
    assert!(closed.len() >= 3, "{closed:?}");
    for segment in closed {
        let ms = |key: &str| segment["payload"][key].as_i64().unwrap_or_else(|| panic!("{segment}"));
        assert!(ms("to_ms") >= ms("from_ms"), "no interval is below zero: {segment}");
    }
    ops.books_hold("after the clock jumped").await;
    let clean = until("the audit is clean", Duration::from_secs(20), async || {
        ops.cli(&["audit"]).status.success().then_some(())
    });
    clean.await;
}
