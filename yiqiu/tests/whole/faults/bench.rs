//! A server, an agent of its own and a Docker of its own, each of which can be killed without anyone else noticing.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::platform::{Answer, Platform, SOON, Server, until, yiqiu_agent};

/// Writes each of its starts into its volume, and takes a moment to end when it is asked to.
const COUNTS: &str = "echo start >>/data/starts; trap 'sleep 0.3; exit 0' TERM; while :; do sleep 0.05; done";

/// A Docker daemon of one test, in a folder of its own.
pub(super) struct OwnDocker(TempDir);

impl OwnDocker {
    fn start() -> Self {
        let docker = Self(tempfile::Builder::new().prefix("yiqiu-docker-").tempdir_in("/tmp").unwrap());
        docker.up();
        docker
    }

    fn script(&self, arguments: &[&str]) -> Output {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/docker.sh");
        Command::new(script).arg(arguments[0]).arg(self.0.path()).args(&arguments[1..]).output().unwrap()
    }

    /// Starts the daemon (again). Containers live on without it.
    pub(super) fn up(&self) {
        let done = self.script(&["start", "own", "--live-restore"]);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }

    /// Kills the daemon, and its containerd with it, as Docker has it.
    pub(super) async fn kill(&self) {
        for file in ["pid", "exec/containerd/containerd.pid"] {
            let pid: i32 = std::fs::read_to_string(self.0.path().join(file)).unwrap().trim().parse().unwrap();
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
            until("it is gone", SOON, async || {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.is_empty().then_some(()) // nobody may have collected it
            })
            .await;
        }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.0.path().join("docker.sock")
    }

    pub(super) fn run(&self, arguments: &[&str]) -> String {
        let address = format!("unix://{}", self.socket().display());
        let done = Command::new("docker").args(["-H", &address]).args(arguments).output().unwrap();
        assert!(done.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    /// How often a node was started, by its own account. It stays readable without the daemon.
    pub(super) fn starts(&self, node: &str) -> usize {
        let volume = self.0.path().join("data/volumes").join(format!("yiqiu-{node}-data")).join("_data/starts");
        std::fs::read_to_string(volume).map_or(0, |text| text.lines().count())
    }
}

impl Drop for OwnDocker {
    fn drop(&mut self) {
        let _ = self.script(&["stop"]); // the folder goes with it
    }
}

/// All of it, furnished: the machine is placed, the image is there, alice is a tenant.
pub(super) struct Bench {
    pub(super) platform: Platform,
    pub(super) docker: OwnDocker,
    pub(super) ops: Server,
    pub(super) alice: Server,
    /// Where the agent finds the server.
    pub(super) way: String,
    token: String,
}

impl Bench {
    pub(super) async fn start() -> Self {
        Self::start_with(&[], ToOwned::to_owned).await
    }

    /// `way`: how the agent reaches the server of that URL.
    pub(super) async fn start_with(variables: &[(&str, String)], way: impl FnOnce(&str) -> String) -> Self {
        let docker = OwnDocker::start();
        let platform = Platform::together(&["--no-agent".into()], variables).await;
        let ops = platform.server.clone();
        let made = ops.post("/v1/hosts", &json!({ "name": "machine" })).await.good();
        let token = made["join_token"].as_str().unwrap().to_owned();
        let way = way(&ops.resources);
        let mut bench = Self { platform, docker, alice: ops.clone(), ops, way, token };
        bench.agent_up();
        bench.platform.furnish().await;
        bench.alice = bench.platform.tenant("alice").await;
        bench
    }

    pub(super) fn server_up(&mut self) {
        self.platform.up(&["--no-agent".into()], &[]);
    }

    pub(super) fn agent_data(&self) -> PathBuf {
        self.platform.folder.path().join("agent")
    }

    pub(super) fn agent_up(&mut self) {
        let mut agent = Command::new(yiqiu_agent());
        agent.args(["--server", &self.way, "--docker"]).arg(self.docker.socket());
        agent.arg("--data-dir").arg(self.agent_data()).env("YIQIU_JOIN_TOKEN", &self.token);
        self.platform.spawn("agent", &mut agent);
    }

    /// Waits until the server answers and the host is in session with its driver ready.
    pub(super) async fn online(&mut self) {
        self.platform.ready().await;
        self.host_reads("online").await;
    }

    pub(super) async fn host_reads(&self, state: &str) {
        until(&format!("the host reads {state}"), SOON, async || {
            (self.ops.get("/v1/hosts/machine").await.good()["state"] == state).then_some(())
        })
        .await;
    }

    /// A line with one node that counts its starts.
    pub(super) fn line(name: &str) -> Value {
        let mounts = json!([{ "kind": "volume", "name": "data", "path": "/data" }]);
        json!({ "name": name, "host": "machine", "image": "web", "command": ["/bin/sh", "-c", COUNTS],
            "size": { "cpu_millicores": 100, "memory_bytes": 32 << 20 },
            "runtime": { "stop_grace_ms": 20_000, "mounts": mounts } })
    }

    /// A contract of one node, asked for and not waited for: the contract's path, and the node's.
    pub(super) async fn lease(&self, name: &str) -> Leased {
        let body = json!({ "name": name, "lines": [Self::line(name)] });
        let made = self.asked(Method::POST, "/v1/rcontracts", name, Some(&body)).await.good();
        let id = made["nodes"][0]["id"].as_str().unwrap().to_owned();
        Leased {
            contract: format!("/v1/rcontracts/{}", made["id"].as_str().unwrap()),
            path: format!("/v1/nodes/{id}"),
            id,
        }
    }

    /// Contracts of one node each, which run.
    pub(super) async fn leases<const N: usize>(&self, names: [&str; N]) -> [Leased; N] {
        let mut leases = Vec::new();
        for name in names {
            leases.push(self.lease(name).await);
        }
        for node in &leases {
            self.reads(node, "running").await;
        }
        leases.try_into().unwrap_or_else(|_| unreachable!("as many as names"))
    }

    /// One request of alice's under a key.
    pub(super) async fn asked(&self, method: Method, path: &str, key: &str, body: Option<&Value>) -> Answer {
        let body = body.map(|body| serde_json::to_vec(body).unwrap());
        let headers = [("content-type", "application/json"), ("idempotency-key", key)];
        self.alice.send(method, path, &headers, body).await.unwrap()
    }

    pub(super) async fn power(&self, node: &Leased, power: &str) -> i64 {
        let asked = self.alice.post(&format!("{}/power", node.path), &json!({ "power": power })).await.good();
        asked["generation"].as_i64().unwrap()
    }

    pub(super) async fn node(&self, node: &Leased) -> Value {
        self.alice.get(&node.path).await.good()
    }

    /// Waits until a node reads so, and its host says so itself.
    pub(super) async fn reads(&self, node: &Leased, state: &str) -> Value {
        until(&format!("{} reads {state}", node.id), SOON, async || {
            let found = self.alice.get(&node.path).await.body;
            let carried = found["carried"].as_i64() >= found["generation"].as_i64();
            let verified = !found["detail"].as_str().unwrap_or_default().contains("not verified");
            (found["state"] == state && carried && verified && found["host_state"] == "online").then_some(found)
        })
        .await
    }

    pub(super) async fn released(&self, node: &Leased) {
        until(&format!("{} is released", node.contract), SOON, async || {
            (self.alice.get(&node.contract).await.body["state"] == "released").then_some(())
        })
        .await;
    }

    /// The containers of this host, running or not.
    pub(super) fn containers(&self) -> Vec<String> {
        let names = self.docker.run(&["ps", "-a", "--filter", "label=yiqiu.host", "--format", "{{.Names}}"]);
        let mut names: Vec<String> = names.lines().map(|name| name.replace("yiqiu-", "")).collect();
        names.sort();
        names
    }

    /// `yiqiu audit -o json`.
    pub(super) fn audit(&self) -> Value {
        let done = self.ops.cli(&["audit", "-o", "json"]);
        let out = String::from_utf8_lossy(&done.stdout).into_owned();
        let audit: Value =
            serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{}", String::from_utf8_lossy(&done.stderr)));
        assert_eq!(audit["clean"] == true, done.status.success(), "the exit code says whether it is clean: {audit}");
        audit
    }

    /// The books hold, and every claim is as the host itself says.
    pub(super) async fn all_is_well(&self, when: &str) {
        self.ops.books_hold(when).await;
        let audit = self.audit();
        assert_eq!(audit["clean"], true, "{when}: {audit}");
    }

    /// Until an audit finds exactly these: kind, and the node's id.
    pub(super) async fn audit_finds(&self, expected: &[(&str, &str)]) -> Value {
        let mut expected: Vec<(String, String)> =
            expected.iter().map(|(kind, node)| ((*kind).to_owned(), (*node).to_owned())).collect();
        expected.sort();
        let mut last = Value::Null;
        let found = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                last = self.audit();
                let findings = last["findings"].as_array().unwrap();
                let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
                let mut kinds: Vec<(String, String)> = findings
                    .iter()
                    .map(|f| (text(f, "kind"), text(f, "node_id") + text(f, "handle").trim_start_matches("yiqiu-")))
                    .collect();
                kinds.sort();
                if kinds == expected {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        assert!(found.await.is_ok(), "expected {expected:?}, found {last}");
        last
    }
}

/// A contract of one node.
#[derive(Clone)]
pub(super) struct Leased {
    pub(super) contract: String,
    pub(super) path: String,
    pub(super) id: String,
}
