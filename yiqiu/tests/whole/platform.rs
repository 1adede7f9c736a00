//! The platform under test, in one process or apart, and the ways to talk to it.

use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::Value;
use tempfile::TempDir;
use yiqiu_base::testing::TestDatabase;

/// How the platform runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// `yiqiu up`: one process, SQLite.
    Together,
    /// A process for each tier and one for the agent, PostgreSQL.
    Apart,
}

pub(crate) struct Platform {
    pub(crate) folder: TempDir,
    pub(crate) server: Server,
    processes: Vec<(String, Child)>,
    /// How each tier apart was started, to start it again.
    tiers: Vec<(String, Start)>,
}

/// A command line with its variables.
#[derive(Clone)]
struct Start {
    arguments: Vec<OsString>,
    variables: Vec<(String, String)>,
}

/// Where the platform is, and who asks.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) resources: String,
    pub(crate) components: String,
    pub(crate) projects: String,
    pub(crate) token: String,
}

/// The answer of one request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
    pub(crate) headers: reqwest::header::HeaderMap,
}

impl Answer {
    /// The body of an answer that is not a refusal.
    pub(crate) fn good(self) -> Value {
        assert!(self.status < 400, "{} {}", self.status, self.body);
        self.body
    }

    /// Checks that it is a refusal with this status and code, told as a problem.
    pub(crate) fn refused(self, status: u16, code: &str) -> Value {
        assert_eq!((self.status, self.body["code"].as_str()), (status, Some(code)), "{}", self.body);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert!(
            !self.body["detail"].as_str().unwrap().is_empty() && !self.body["request_id"].as_str().unwrap().is_empty()
        );
        self.body
    }
}

pub(crate) fn docker_socket() -> String {
    std::env::var("YIQIU_TEST_DOCKER").expect("YIQIU_TEST_DOCKER names no Docker socket: run the tests by `make test`")
}

pub(crate) fn yiqiu() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_yiqiu"))
}

/// The agent's program, which cargo builds beside this one.
pub(crate) fn yiqiu_agent() -> PathBuf {
    let path = yiqiu().with_file_name("yiqiu-agent");
    assert!(path.exists(), "{} is missing: `cargo build --workspace` makes it", path.display());
    path
}

pub(crate) fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits for a condition, and fails with `what` at the deadline.
pub(crate) async fn until<T>(what: &str, within: Duration, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {within:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A client whose requests end: one that is never answered fails, and whoever waits asks again.
pub(crate) fn http() -> reqwest::Client {
    reqwest::Client::builder().timeout(Duration::from_secs(15)).build().unwrap()
}

pub(crate) const SOON: Duration = Duration::from_secs(60);

impl Platform {
    /// Starts it with an agent for this machine on the tests' Docker.
    pub(crate) async fn start(mode: Mode) -> Self {
        match mode {
            Mode::Together => Self::together(&["--docker".into(), docker_socket().into()], &[]).await,
            Mode::Apart => Self::apart().await,
        }
    }

    /// `yiqiu up` with these flags and variables.
    pub(crate) async fn together(flags: &[OsString], variables: &[(&str, String)]) -> Self {
        Self::together_in(TempDir::new().unwrap(), flags, variables).await
    }

    /// The same in a folder that was prepared: its data is in `data`.
    pub(crate) async fn together_in(folder: TempDir, flags: &[OsString], variables: &[(&str, String)]) -> Self {
        let base = format!("http://127.0.0.1:{}", free_port());
        let server = Server { resources: base.clone(), components: base.clone(), projects: base, token: String::new() };
        let mut platform = Self { folder, server, processes: Vec::new(), tiers: Vec::new() };
        platform.up(flags, variables);
        platform.ready().await;
        platform.server.token = std::fs::read_to_string(platform.data().join("ops.token")).unwrap().trim().to_owned();
        platform
    }

    /// Starts `yiqiu up` on the data that is there, without waiting.
    pub(crate) fn up(&mut self, flags: &[OsString], variables: &[(&str, String)]) {
        let listen = self.server.resources.trim_start_matches("http://").to_owned();
        let mut command = Command::new(yiqiu());
        command.arg("up").arg("--data-dir").arg(self.data()).args(["--listen", &listen]);
        command.args(["--host-name", "machine", "--usage-interval", "1s"]).args(flags);
        if !flags.iter().any(|flag| flag == "--rate-limit") {
            command.args(["--rate-limit", "5000"]);
        }
        command.envs(variables.iter().map(|(k, v)| (*k, v)));
        self.spawn("up", &mut command);
    }

    async fn apart() -> Self {
        let folder = TempDir::new().unwrap();
        let url = || format!("http://127.0.0.1:{}", free_port());
        let server = Server { resources: url(), components: url(), projects: url(), token: String::new() };
        let mut platform = Self { folder, server, processes: Vec::new(), tiers: Vec::new() };
        let keys = platform.folder.path().join("keys");
        let made = Command::new(yiqiu()).args(["keys", "init"]).arg(&keys).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let ops_token = platform.folder.path().join("ops.token");
        let server = platform.server.clone();
        for (role, base) in
            [("resources", &server.resources), ("components", &server.components), ("projects", &server.projects)]
        {
            // Each process gets the keys of its own role only.
            let own = platform.folder.path().join(format!("keys-{role}"));
            std::fs::create_dir(&own).unwrap();
            for file in ["keyring.json".to_owned(), format!("{role}.key")] {
                std::fs::copy(keys.join(&file), own.join(&file)).unwrap();
            }
            let database = TestDatabase::postgres().await;
            let path = |name: &str| platform.folder.path().join(name).into_os_string();
            let mut arguments: Vec<OsString> =
                ["serve", "--roles", role, "--listen", base.trim_start_matches("http://")].map(Into::into).into();
            arguments
                .extend(["--resources-url", &server.resources, "--components-url", &server.components].map(Into::into));
            arguments.extend(["--projects-url", &server.projects, "--usage-interval", "1s"].map(Into::into));
            arguments.extend(["--rate-limit".into(), "5000".into(), "--keys-dir".into(), own.into_os_string()]);
            arguments.extend(["--images-dir".into(), path("images"), "--ops-token-file".into(), path("ops.token")]);
            let variables = vec![(format!("YIQIU_DATABASE_{}", role.to_uppercase()), database.url.clone())];
            platform.tiers.push((role.to_owned(), Start { arguments, variables }));
            platform.restart_tier(role);
        }
        platform.ready().await;
        platform.server.token = std::fs::read_to_string(ops_token).unwrap().trim().to_owned();
        let made = platform.server.post("/v1/hosts", &serde_json::json!({ "name": "machine" })).await.good();
        let mut agent = Command::new(yiqiu_agent());
        agent
            .args(["--server", &platform.server.resources, "--docker", &docker_socket()])
            .arg("--data-dir")
            .arg(platform.folder.path().join("agent"))
            .env("YIQIU_JOIN_TOKEN", made["join_token"].as_str().unwrap());
        platform.spawn("agent", &mut agent);
        platform
    }

    /// Starts a tier that is apart (again), without waiting.
    pub(crate) fn restart_tier(&mut self, role: &str) {
        let Start { arguments, variables } = self.tiers.iter().find(|(r, _)| r == role).unwrap().1.clone();
        let mut command = Command::new(yiqiu());
        command.args(arguments).envs(variables);
        self.spawn(role, &mut command);
    }

    /// Whether a process ended by itself.
    pub(crate) fn has_ended(&mut self, name: &str) -> bool {
        let process = self.processes.iter_mut().find(|(n, _)| n == name);
        process.is_some_and(|(_, child)| child.try_wait().unwrap().is_some())
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// Starts a process that ends with the platform.
    pub(crate) fn spawn(&mut self, name: &str, command: &mut Command) {
        let log = File::options().create(true).append(true).open(self.log(name)).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .env("RUST_BACKTRACE", "0")
            .spawn()
            .unwrap();
        self.processes.push((name.to_owned(), child));
    }

    /// Waits until every server answers that it is ready; a server that ended before fails with its log.
    pub(crate) async fn ready(&mut self) {
        for base in [self.server.resources.clone(), self.server.components.clone(), self.server.projects.clone()] {
            let deadline = Instant::now() + SOON;
            while !is_ready(&base).await {
                for (name, child) in &mut self.processes {
                    if let Some(status) = child.try_wait().unwrap() {
                        let log = std::fs::read_to_string(self.folder.path().join(format!("{name}.log")));
                        panic!("{name} ended ({status}):\n{}", log.unwrap_or_default());
                    }
                }
                assert!(Instant::now() < deadline, "{base} is not ready");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// The process of that name.
    pub(crate) fn pid(&self, name: &str) -> u32 {
        self.processes.iter().find(|(n, _)| n == name).unwrap().1.id()
    }

    /// Waits for a process that ends by itself, as one that crashes.
    pub(crate) async fn ended(&mut self, name: &str) {
        let at = self.processes.iter().position(|(n, _)| n == name).unwrap();
        let (_, mut child) = self.processes.remove(at);
        until("the process ends", SOON, async || child.try_wait().unwrap()).await;
    }

    /// Kills a process the hard way.
    pub(crate) fn kill(&mut self, name: &str) {
        let at = self.processes.iter().position(|(n, _)| n == name).unwrap();
        let (_, mut child) = self.processes.remove(at);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// What a process printed and logged.
    pub(crate) fn logged(&self, name: &str) -> String {
        std::fs::read_to_string(self.log(name)).unwrap_or_default()
    }

    /// Region, zone and rack `r`, the machine placed as `cm`, and the image `web`.
    pub(crate) async fn furnish(&self) {
        let ops = &self.server;
        place_r(ops).await;
        until("the agent connects", SOON, async || {
            let host = ops.get("/v1/hosts/machine").await.good();
            (host["state"] == "online").then_some(())
        })
        .await;
        let place = serde_json::json!({ "rack": "r", "unit": 1, "node_type": "cm" });
        ops.put("/v1/hosts/machine/place", &place).await.good();
        let tar = self.folder.path().join("web.tar");
        rootfs(&tar);
        let done = ops.cli(&["image", "upload", "web", tar.to_str().unwrap()]);
        assert!(done.status.success(), "{done:?}");
    }

    /// A user and a project of that name, and a token of theirs.
    pub(crate) async fn tenant(&self, name: &str) -> Server {
        let ops = &self.server;
        ops.post("/v1/users", &serde_json::json!({ "name": name })).await.good();
        ops.post("/v1/projects", &serde_json::json!({ "name": name })).await.good();
        let file = self.folder.path().join(format!("{name}.token"));
        for arguments in [
            &["project", "add-member", name, name][..],
            &["token", "create", "test", "--user", name, "--project", name, "--save", file.to_str().unwrap()],
        ] {
            let done = ops.cli(arguments);
            assert!(done.status.success(), "{arguments:?}: {done:?}");
        }
        Server { token: std::fs::read_to_string(file).unwrap().trim().to_owned(), ..ops.clone() }
    }

    /// Releases every contract and waits until nothing of this platform is left on the host.
    pub(crate) async fn clear(&self) {
        let ops = &self.server;
        for contract in ops.get("/v1/ccontracts").await.good()["items"].as_array().unwrap() {
            ops.delete(&format!("/v1/ccontracts/{}", contract["id"].as_str().unwrap())).await.good();
        }
        for contract in ops.get("/v1/rcontracts").await.good()["items"].as_array().unwrap() {
            ops.delete(&format!("/v1/rcontracts/{}", contract["id"].as_str().unwrap())).await.good();
        }
        until("every node is gone", SOON, async || {
            let nodes = ops.get("/v1/nodes").await.good();
            nodes["items"].as_array().unwrap().is_empty().then_some(())
        })
        .await;
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        for (name, child) in &mut self.processes {
            if std::thread::panicking() {
                let log = std::fs::read_to_string(self.folder.path().join(format!("{name}.log"))).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(40).collect();
                eprintln!("--- the end of the log of {name}:");
                end.iter().rev().for_each(|line| eprintln!("{line}"));
            }
            let _ = child.kill(); // it may have ended
            let _ = child.wait();
        }
    }
}

async fn is_ready(base: &str) -> bool {
    matches!(http().get(format!("{base}/readyz")).send().await, Ok(answer) if answer.status() == 200)
}

pub(crate) async fn place_r(ops: &Server) {
    ops.post("/v1/regions", &serde_json::json!({ "name": "r" })).await.good();
    ops.post("/v1/zones", &serde_json::json!({ "name": "r", "region": "r" })).await.good();
    ops.post("/v1/racks", &serde_json::json!({ "name": "r", "zone": "r", "units": 100 })).await.good();
}

/// Simulated hosts in a process of their own, placed in rack `r` and connected.
pub(crate) struct Sim {
    child: Child,
}

impl Sim {
    /// Starts `count` hosts named `sim-0`, `sim-1`, …, cut as `vm`: their nodes need no image.
    pub(crate) async fn start(platform: &Platform, count: usize) -> Self {
        let ops = &platform.server;
        let mut tokens = String::new();
        for n in 0..count {
            let host =
                serde_json::json!({ "name": format!("sim-{n}"), "rack": "r", "unit": n + 10, "node_type": "vm" });
            let made = ops.post("/v1/hosts", &host).await.good();
            tokens += made["join_token"].as_str().unwrap();
            tokens.push('\n');
        }
        let file = platform.folder.path().join("sim.tokens");
        std::fs::write(&file, tokens).unwrap();
        let log = File::create(platform.log("sim")).unwrap();
        let child = Command::new(yiqiu_agent())
            .args(["sim", "--node-type", "vm", "--server", &ops.resources, "--tokens-file"])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let sim = Self { child };
        sim.connected(ops, count).await;
        sim
    }

    /// They stay connected, and do nothing any more.
    pub(crate) fn freeze(&self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
    }

    /// Waits until all of them are connected.
    pub(crate) async fn connected(&self, ops: &Server, count: usize) {
        until("the simulated hosts connect", SOON, async || {
            let answer = ops.send(Method::GET, "/v1/hosts?limit=1000", &[], None).await.ok()?;
            let hosts = answer.body["items"].as_array()?.clone();
            let online =
                hosts.iter().filter(|h| h["state"] == "online" && h["name"].as_str().unwrap().starts_with("sim-"));
            (online.count() == count).then_some(())
        })
        .await;
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

/// The root file system of the demo.
pub(crate) fn rootfs(out: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/rootfs.sh");
    let made = Command::new("sh").arg(script).arg(out).output().unwrap();
    assert!(made.status.success(), "{made:?}");
}

impl Server {
    /// The tier that serves a path.
    fn url(&self, path: &str) -> String {
        let noun = path.trim_start_matches("/v1/").split(['/', '?']).next().unwrap_or_default();
        let tier = path.rsplit('/').next().unwrap_or_default();
        let base = match noun {
            "events" if tier.starts_with("components") => &self.components,
            "events" if tier.starts_with("projects") => &self.projects,
            "ccontracts" | "components" | "component-types" => &self.components,
            "users" | "projects" | "tokens" | "usage" | "whoami" => &self.projects,
            _ => &self.resources,
        };
        format!("{base}{path}")
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Vec<u8>>,
    ) -> Result<Answer, reqwest::Error> {
        let mut request = http().request(method, self.url(path)).timeout(Duration::from_secs(60));
        if !self.token.is_empty() {
            request = request.bearer_auth(&self.token);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.body(body);
        }
        let answer = request.send().await?;
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let text = answer.text().await?;
        let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
        Ok(Answer { status, body, headers })
    }

    async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Answer {
        let body = body.map(|b| serde_json::to_vec(b).unwrap());
        self.send(method, path, &[("content-type", "application/json")], body).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.json(Method::GET, path, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.json(Method::POST, path, Some(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.json(Method::PUT, path, Some(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        self.json(Method::DELETE, path, None).await
    }

    /// The command line, as this user, on this server.
    pub(crate) fn cli(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(yiqiu())
            .args(arguments)
            .env("YIQIU_SERVER", &self.resources)
            .env("YIQIU_TOKEN", &self.token)
            .env_remove("YIQIU_TOKEN_FILE")
            .env("COLUMNS", "100")
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// The same, for what must succeed; standard output as JSON.
    pub(crate) fn cli_json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        let at = all.iter().position(|a| *a == "--").unwrap_or(all.len());
        all.splice(at..at, ["-o", "json"]);
        let done = self.cli(&all);
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "yiqiu {all:?}: {out}{err}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("yiqiu {all:?} printed no JSON ({error}): {out}"))
    }

    /// Every event of a tier so far.
    pub(crate) async fn events(&self, tier: &str) -> Vec<Value> {
        let mut events: Vec<Value> = Vec::new();
        loop {
            let after = events.last().map_or(0, |e| e["position"].as_i64().unwrap());
            let page = self.get(&format!("/v1/events/{tier}?after={after}&limit=1000")).await.good();
            let page = page["items"].as_array().unwrap();
            if page.is_empty() {
                return events;
            }
            events.extend(page.iter().cloned());
        }
    }

    pub(crate) async fn books_hold(&self, when: &str) {
        let books = self.get("/v1/resources/books").await.good();
        assert_eq!((&books["hold"], &books["short"]), (&true.into(), &serde_json::json!([])), "{when}: {books}");
    }
}
