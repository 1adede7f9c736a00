//! The server is killed at every commit of a contract's life, before and after it; then it starts again, the client
//! asks again, and the books hold.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::platform::{Answer, Mode, Platform, SOON, Server, Sim, http, until};

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_at_any_commit_leaves_the_books_whole() {
    let mut platform = Platform::together(&["--no-agent".into()], &[]).await;
    crate::platform::place_r(&platform.server).await;
    let alice = platform.tenant("alice").await;
    let _sim = Sim::start(&platform, 2).await;
    let mut boundaries = 0;
    for side in ["before", "after"] {
        for n in 1.. {
            platform.kill("up");
            let at = [("YIQIU_CRASH_AT_COMMIT", format!("{n}:{side}"))];
            platform.up(&["--no-agent".into()], &at);
            let mut life =
                Life { platform: &mut platform, alice: alice.clone(), name: format!("{side}-{n}"), crashed: false };
            life.live().await;
            // The crash may still come: what follows the outbox commits after the client has its answer.
            let ops = life.platform.server.clone();
            let books = life.ask_as(&ops, Method::GET, "/v1/resources/books", None).await.good();
            let hosts = life.ask_as(&ops, Method::GET, "/v1/hosts", None).await.good();
            let crashed = life.crashed;
            let when = format!("killed {side} commit {n}");
            assert_eq!((&books["hold"], &books["short"]), (&json!(true), &json!([])), "{when}: {books}");
            for host in hosts["items"].as_array().unwrap() {
                assert_eq!(host["nodes"], 0, "{when}: nothing is held after release: {host}");
            }
            if !crashed {
                break; // the whole life took fewer commits
            }
            boundaries += 1;
        }
    }
    println!("killed at {boundaries} commit boundaries");
    assert!(boundaries >= 20, "only {boundaries} boundaries: the crash points are not reached");
    // The last server still waits for a commit to be killed at.
    platform.kill("up");
    platform.up(&["--no-agent".into()], &[]);
    platform.ready().await;
    for tier in ["resources", "components", "projects"] {
        let events = platform.server.events(tier).await;
        let positions: Vec<i64> = events.iter().map(|e| e["position"].as_i64().unwrap()).collect();
        assert_eq!(positions, (1..=positions.len() as i64).collect::<Vec<_>>(), "the outbox of {tier} has no gap");
    }
}

/// One contract's life, by a client who asks again when the server was killed under it.
struct Life<'a> {
    platform: &'a mut Platform,
    alice: Server,
    name: String,
    crashed: bool,
}

impl Life<'_> {
    async fn live(&mut self) {
        // The crash may come while the server starts.
        self.recovered().await;
        let deadline = std::time::Instant::now() + SOON;
        let ops = self.platform.server.clone();
        loop {
            let hosts = self.ask_as(&ops, Method::GET, "/v1/hosts", None).await.good();
            if hosts["items"].as_array().unwrap().iter().all(|h| h["state"] == "online") {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "the simulated hosts do not connect: {hosts}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let line = |n: usize| {
            json!({ "name": format!("l{n}"), "host": format!("sim-{n}"), "command": ["true"],
                "size": { "cpu_millicores": 100, "memory_bytes": 1 << 20 } })
        };
        let body = json!({ "name": self.name, "lines": [line(0), line(1)] });
        let made = self.ask(Method::POST, "/v1/rcontracts", Some(body.clone())).await.good();
        let again = self.ask(Method::POST, "/v1/rcontracts", Some(body)).await.good();
        assert_eq!(made["id"], again["id"], "one contract, however often it is asked for");
        let contract = format!("/v1/rcontracts/{}", made["id"].as_str().unwrap());
        let nodes = self.wait(&contract, "running").await;
        for power in ["off", "on"] {
            for (at, node) in nodes.iter().enumerate() {
                let path = format!("/v1/nodes/{}/power", node["id"].as_str().unwrap());
                let command = uuid_of(&format!("{} {power} {at}", self.name));
                let wish = json!({ "power": power, "command_id": command });
                let answer = self.ask(Method::POST, &path, Some(wish)).await.good();
                assert_eq!(answer["generation"], if power == "off" { 2 } else { 3 }, "one command, one generation");
            }
            self.wait(&contract, if power == "off" { "off" } else { "running" }).await;
        }
        self.ask(Method::DELETE, &contract, None).await.good();
        let deadline = std::time::Instant::now() + SOON;
        while self.ask(Method::GET, &contract, None).await.good()["state"] != "released" {
            assert!(std::time::Instant::now() < deadline, "{contract} is not released");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn wait(&mut self, contract: &str, state: &str) -> Vec<Value> {
        let deadline = std::time::Instant::now() + SOON;
        loop {
            let found = self.ask(Method::GET, contract, None).await.good();
            let nodes = found["nodes"].as_array().unwrap();
            if nodes.len() == 2 && nodes.iter().all(|n| n["state"] == state) {
                return nodes.clone();
            }
            assert!(std::time::Instant::now() < deadline, "not {state}: {found}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks until there is an answer, with the same key each time. A server that was killed is started again.
    async fn ask(&mut self, method: Method, path: &str, body: Option<Value>) -> Answer {
        let alice = self.alice.clone();
        self.ask_as(&alice, method, path, body).await
    }

    async fn ask_as(&mut self, who: &Server, method: Method, path: &str, body: Option<Value>) -> Answer {
        let key = uuid_of(&format!("{} {method} {path} {body:?}", self.name));
        let body = body.map(|b| serde_json::to_vec(&b).unwrap());
        loop {
            let headers = [JSON, ("idempotency-key", key.as_str())];
            match who.send(method.clone(), path, &headers, body.clone()).await {
                // Hosts are unreachable for a moment after a restart: the same request may be made again.
                Ok(answer) if answer.status == 503 || answer.body["code"] == "wrong_state" => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Ok(answer) => return answer,
                Err(_) => self.recovered().await,
            }
        }
    }

    async fn recovered(&mut self) {
        let mut up = std::pin::pin!(tokio::time::sleep(SOON));
        loop {
            tokio::select! {
                () = &mut up => panic!("the server neither answers nor ends"),
                ready = http().get(format!("{}/readyz", self.alice.resources)).send() => {
                    if ready.is_ok_and(|r| r.status() == 200) {
                        return;
                    }
                }
            }
            if !self.crashed && self.platform.has_ended("up") {
                self.crashed = true;
                self.platform.ended("up").await;
                self.platform.up(&["--no-agent".into()], &[]);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A UUID that a text always gives.
fn uuid_of(text: &str) -> String {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let one = hasher.finish();
    text.len().hash(&mut hasher);
    uuid::Uuid::from_u64_pair(one, hasher.finish()).to_string()
}

/// The tenant's contract is recorded before Resources is asked: a server that is killed between the two carries on, and
/// nothing is placed twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tier_that_is_killed_while_it_places_carries_on() {
    let mut platform = Platform::start(Mode::Apart).await;
    platform.furnish().await;
    let alice = platform.tenant("alice").await;
    for round in 0..3 {
        let name = format!("web-{round}");
        let key = format!("key-{round}");
        let body = json!({ "name": name, "component_type": "container", "count": 2,
            "need": { "size": { "cpu_millicores": 50, "memory_bytes": 32 << 20 }, "image": "web", "command": ["/bin/serve"] } });
        let asking = tokio::spawn({
            let (alice, key, body) = (alice.clone(), key.clone(), serde_json::to_vec(&body).unwrap());
            async move {
                alice.send(Method::POST, "/v1/ccontracts", &[JSON, ("idempotency-key", key.as_str())], Some(body)).await
            }
        });
        // Killed as soon as something of the contract is recorded on either side.
        let ops = platform.server.clone();
        until("the contract is recorded", SOON, async || {
            let held = ops.get("/v1/rcontracts").await.good();
            (!held["items"].as_array().unwrap().is_empty()).then_some(())
        })
        .await;
        platform.kill(if round % 2 == 0 { "components" } else { "resources" });
        let _ = asking.await.unwrap(); // answered or broken off
        platform.restart_tier(if round % 2 == 0 { "components" } else { "resources" });
        platform.ready().await;
        let headers = [JSON, ("idempotency-key", key.as_str())];
        let body = serde_json::to_vec(&body).unwrap();
        until("asking again answers", SOON, async || {
            let answer = alice.send(Method::POST, "/v1/ccontracts", &headers, Some(body.clone())).await.ok()?;
            (answer.status < 400).then_some(())
        })
        .await;
        until("both components run", SOON, async || {
            let all = alice.get("/v1/components").await.good();
            let all = all["items"].as_array().unwrap();
            (all.len() == 2 && all.iter().all(|c| c["state"] == "running")).then_some(())
        })
        .await;
        let nodes = platform.server.get("/v1/nodes").await.good();
        assert_eq!(nodes["items"].as_array().unwrap().len(), 2, "nothing was placed twice");
        platform.clear().await;
        platform.server.books_hold("after a killed tier").await;
    }
}
