//! The server, the agent and Docker are killed in the middle of each operation, and started again: it ends as it was
//! asked, exactly once.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::bench::{Bench, Leased};
use crate::platform::{SOON, until};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Victim {
    Server,
    Agent,
    Docker,
}

/// One operation: what is asked, by what one sees that it is in the middle, and how the node ends.
struct Operation {
    name: &'static str,
    method: Method,
    path: String,
    body: Option<Value>,
    middle: &'static [&'static str],
    ends: &'static str,
    starts: usize,
}

fn operations(node: &Leased, contract: &Value) -> Vec<Operation> {
    let (power, reboot) = (format!("{}/power", node.path), format!("{}/reboot", node.path));
    let line = contract["nodes"][0]["line_id"].as_str().unwrap();
    let size = json!({ "cpu_millicores": 200, "memory_bytes": 48 << 20 });
    let of = |name, path: &str, body, middle, ends, starts| Operation {
        name,
        method: Method::POST,
        path: path.to_owned(),
        body: Some(body),
        middle,
        ends,
        starts,
    };
    vec![
        of("power off", &power, json!({ "power": "off" }), &["stopping"], "off", 1),
        of("power on", &power, json!({ "power": "on" }), &["starting"], "running", 2),
        of("reboot, while it stops", &reboot, json!({}), &["stopping"], "running", 3),
        of("reboot, while it starts", &reboot, json!({}), &["off", "starting"], "running", 4),
        Operation {
            name: "resize",
            method: Method::PATCH,
            path: node.contract.clone(),
            body: Some(json!({ "change": [{ "line": line, "size": size }] })),
            middle: &["resizing"],
            ends: "running",
            starts: 4,
        },
    ]
}

struct Life {
    bench: Bench,
    victim: Victim,
    /// Starts that Docker forgot.
    lost: usize,
}

impl Life {
    /// Kills as soon as the node is in the middle, or past it, and starts what was killed again.
    async fn strike(&mut self, node: &Leased, middle: &[&str], past: impl Fn(&Value) -> bool) {
        let alice = self.bench.alice.clone();
        let deadline = std::time::Instant::now() + SOON;
        loop {
            let seen = alice.get(&node.path).await.body;
            let state = seen["state"].as_str().unwrap_or("gone");
            if middle.contains(&state) || (middle == ["resizing"] && !seen["resizing"].is_null()) || past(&seen) {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "no sign of {middle:?}: {seen}");
        }
        match self.victim {
            Victim::Server => {
                self.bench.platform.kill("up");
                self.bench.server_up();
            }
            Victim::Agent => {
                self.bench.platform.kill("agent");
                self.bench.agent_up();
            }
            Victim::Docker => {
                self.bench.docker.kill().await;
                self.bench.docker.up();
            }
        }
        self.bench.online().await;
    }

    async fn live(&mut self) {
        let victim = self.victim;
        let node = self.bench.lease("box").await;
        self.strike(&node, &["preparing", "starting"], |seen| seen["state"] == "running").await;
        self.ended(&node, "create", "running", 1).await;
        assert_eq!(self.bench.lease("box").await.id, node.id, "asked again, it is the same contract");

        let contract = self.bench.alice.get(&node.contract).await.good();
        for (at, operation) in operations(&node, &contract).into_iter().enumerate() {
            let Operation { name, method, path, body, middle, ends, starts } = operation;
            let key = format!("{victim:?}-{at}");
            let asked = self.bench.asked(method.clone(), &path, &key, body.as_ref()).await.good();
            let generation = asked["generation"].as_i64().unwrap();
            let past = |seen: &Value| {
                let carried = seen["carried"].as_i64() >= seen["generation"].as_i64();
                carried && seen["state"] == ends && seen["resizing"].is_null()
            };
            self.strike(&node, middle, past).await;
            let again = self.bench.asked(method, &path, &key, body.as_ref()).await.good();
            assert_eq!(again["generation"].as_i64(), Some(generation), "{name}: asked again, it is the same wish");
            self.ended(&node, name, ends, starts).await;
        }
        let bound = self.bench.docker.run(&["inspect", "-f", "{{.HostConfig.Memory}}", &format!("yiqiu-{}", node.id)]);
        assert_eq!(bound, (48 << 20).to_string(), "the new size binds what runs");

        self.bench.asked(Method::DELETE, &node.contract, "release", None).await.good();
        self.strike(&node, &["stopping", "removing", "gone"], |_| false).await;
        self.bench.released(&node).await;
        assert_eq!(self.bench.containers(), [""; 0], "nothing is left of it");
        assert_eq!(self.bench.docker.run(&["volume", "ls", "-q"]), "");
        let host = self.bench.ops.get("/v1/hosts/machine").await.good();
        assert_eq!(host["nodes"], 0, "nothing is held after release: {host}");
        self.bench.all_is_well("released").await;
    }

    async fn ran_or_unknown(&self, node: &Leased) -> Value {
        until("it runs, or is said to be unknown", SOON, async || {
            let found = self.bench.node(node).await;
            let unknown = found["detail"].as_str().unwrap().contains("whether it ran is unknown");
            let carried = found["carried"].as_i64() >= found["generation"].as_i64();
            (carried && (found["state"] == "running" || (found["state"] == "failed" && unknown))).then_some(found)
        })
        .await
    }

    /// Waits until an operation ended, and checks that it was done once.
    async fn ended(&mut self, node: &Leased, what: &str, state: &str, starts: usize) {
        let when = format!("{:?} killed in the middle of {what}", self.victim);
        println!("{when}");
        let found = match self.victim {
            // Docker may forget a start that it was killed in. Whether it ran is unknown, so it is not started again by
            // itself: whoever wants it asks once more.
            Victim::Docker if state == "running" => {
                let found = self.ran_or_unknown(node).await;
                if found["state"] == "failed" {
                    self.bench.power(node, "on").await;
                    self.lost += 1;
                }
                self.bench.reads(node, "running").await
            }
            Victim::Server | Victim::Agent | Victim::Docker => self.bench.reads(node, state).await,
        };
        until("its size is confirmed", SOON, async || self.bench.node(node).await["resizing"].is_null().then_some(()))
            .await;
        until("it began", Duration::from_secs(10), async || {
            (self.bench.docker.starts(&node.id) >= starts).then_some(())
        })
        .await;
        let boots = usize::try_from(found["boot"].as_u64().unwrap()).unwrap();
        let begun = self.bench.docker.starts(&node.id);
        assert_eq!(boots, starts, "{when}: {found}");
        assert!((starts..=starts + self.lost).contains(&begun), "{when}: {begun} starts by its own account: {found}");
        assert_eq!(self.bench.containers(), std::slice::from_ref(&node.id), "{when}");
        self.bench.all_is_well(&when).await;
    }
}

async fn killed(victim: Victim) {
    Life { bench: Bench::start().await, victim, lost: 0 }.live().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_is_killed_in_the_middle_of_each_operation() {
    killed(Victim::Server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_agent_is_killed_in_the_middle_of_each_operation() {
    killed(Victim::Agent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn docker_is_killed_in_the_middle_of_each_operation() {
    killed(Victim::Docker).await;
}
