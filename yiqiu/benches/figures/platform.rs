//! The platform as processes of its own, and simulated hosts for it.

use std::{
    net::TcpListener,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, ensure};
use clap::ValueEnum;
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use yiqiu_base::{database::Database, secret::hex};

use crate::{
    process::Process,
    report,
    wire::{Api, Connection},
};

const YIQIU: &str = env!("CARGO_BIN_EXE_yiqiu");
/// The most units of a rack.
const UNITS: usize = 100;
/// More than any load here makes in a second.
const RATE_LIMIT: &str = "1000000";

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

/// A running platform.
pub(crate) struct Platform {
    pub(crate) process: Process,
    pub(crate) ops: Api,
    command: Command,
    folder: TempDir,
}

impl Platform {
    /// `yiqiu up` with these flags.
    pub(crate) async fn up(flags: &[&str]) -> anyhow::Result<Self> {
        let folder = folder()?;
        let token = folder.path().join("data/ops.token");
        let mut command = Command::new(YIQIU);
        command
            .arg("up")
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .args(["--host-name", "machine"])
            .args(flags);
        Self::start(command, folder, &token).await
    }

    /// Every tier in one process, without an agent, on this database: what differs is the database alone.
    pub(crate) async fn without_agent(kind: Kind) -> anyhow::Result<Self> {
        match kind {
            Kind::Sqlite => Self::up(&["--no-agent"]).await,
            Kind::Postgres => Self::on_postgres().await,
        }
    }

    async fn on_postgres() -> anyhow::Result<Self> {
        let server = std::env::var("YIQIU_TEST_POSTGRES")
            .context("YIQIU_TEST_POSTGRES names no PostgreSQL server: run this by `make bench`")?;
        let (base, _) = server.rsplit_once('/').context("YIQIU_TEST_POSTGRES is no URL of a database")?;
        let folder = folder()?;
        let keys = folder.path().join("keys");
        let made = Command::new(YIQIU).args(["keys", "init"]).arg(&keys).output()?;
        ensure!(made.status.success(), "{made:?}");
        let token = folder.path().join("ops.token");
        let mut command = Command::new(YIQIU);
        command.args(["serve", "--roles", "resources,components,projects"]).arg("--keys-dir").arg(&keys);
        command.arg("--images-dir").arg(folder.path().join("images")).arg("--ops-token-file").arg(&token);
        let maintenance = Database::connect(&server).await?;
        for role in ["resources", "components", "projects"] {
            let name = format!("bench_{}_{role}", uuid::Uuid::new_v4().simple());
            maintenance.schema().execute_unprepared(&format!("CREATE DATABASE {name}")).await?;
            command.env(format!("YIQIU_DATABASE_{}", role.to_uppercase()), format!("{base}/{name}"));
        }
        Self::start(command, folder, &token).await
    }

    async fn start(mut command: Command, folder: TempDir, token: &Path) -> anyhow::Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let address = format!("127.0.0.1:{port}");
        command.args(["--listen", &address, "--rate-limit", RATE_LIMIT]);
        let process = Process::start(&mut command, &folder.path().join("server.log"))?;
        let mut platform = Self { process, ops: Api { address, token: String::new() }, command, folder };
        platform.ready().await?;
        std::fs::read_to_string(token).context(token.display().to_string())?.trim().clone_into(&mut platform.ops.token);
        Ok(platform)
    }

    async fn ready(&mut self) -> anyhow::Result<()> {
        let from = Instant::now();
        while self.ops.get("/readyz").await.is_err() {
            self.process.still_runs()?;
            ensure!(from.elapsed() < Duration::from_secs(60), "the server is not ready after a minute");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Ends the server and starts it anew, on what it left; back when it answers, with how long that took from its
    /// start.
    pub(crate) async fn restart(&mut self) -> anyhow::Result<Duration> {
        self.process.stop();
        let from = Instant::now();
        self.process = Process::start(&mut self.command, &self.folder.path().join("server.log"))?;
        self.ready().await?;
        Ok(from.elapsed())
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A user in a project of that name: what asks as that tenant.
    pub(crate) async fn tenant(&self, name: &str) -> anyhow::Result<Api> {
        self.ops.post("/v1/users", json!({ "name": name })).await?;
        self.ops.post("/v1/projects", json!({ "name": name })).await?;
        self.ops.post(&format!("/v1/projects/{name}/members"), json!({ "user": name })).await?;
        let made = self.ops.post("/v1/tokens", json!({ "user": name, "project": name })).await?;
        Ok(Api { token: text(&made, "secret")?, ..self.ops.clone() })
    }

    /// An image that is everyone's; its id.
    pub(crate) async fn image(&self, name: &str, tar: &[u8]) -> anyhow::Result<String> {
        let new = json!({ "name": name, "sha256": hex(&Sha256::digest(tar)), "bytes": tar.len() });
        let id = text(&self.ops.post("/v1/images", new).await?, "id")?;
        let headers = "content-type: application/x-tar\r\n";
        let request = self.ops.request("PUT", &format!("/v1/images/{id}/content"), headers, tar);
        let mut connection = Connection::open(&self.ops.address).await?;
        let (status, answer) = connection.exchange(&request).await?;
        ensure!(status == 200, "the image: {status} {}", String::from_utf8_lossy(answer));
        Ok(id)
    }

    /// Racks with places for so many hosts; which rack and unit a host has follows from its number.
    pub(crate) async fn racks(&self, hosts: usize) -> anyhow::Result<()> {
        self.ops.post("/v1/regions", json!({ "name": "here" })).await?;
        self.ops.post("/v1/zones", json!({ "name": "here", "region": "here" })).await?;
        for rack in 0..hosts.div_ceil(UNITS) {
            let new = json!({ "name": format!("rack-{rack}"), "zone": "here", "units": UNITS });
            self.ops.post("/v1/racks", new).await?;
        }
        Ok(())
    }

    /// Simulated hosts in racks, cut for containers, before any agent runs: their ids and join tokens.
    pub(crate) async fn sim_hosts(&self, count: usize) -> anyhow::Result<Vec<(String, String)>> {
        self.racks(count).await?;
        let mut makers = Vec::new();
        for maker in 0..8 {
            let ops = self.ops.clone();
            makers.push(tokio::spawn(async move {
                let mut connection = Connection::open(&ops.address).await?;
                let mut made = Vec::new();
                for host in (maker..count).step_by(8) {
                    let new = json!({ "name": format!("sim-{host}"), "rack": format!("rack-{}", host / UNITS),
                        "unit": host % UNITS + 1, "node_type": "cm" });
                    let answer = ops.call_over(&mut connection, "POST", "/v1/hosts", Some(&new)).await?;
                    made.push((text(&answer["host"], "id")?, text(&answer, "join_token")?));
                }
                anyhow::Ok(made)
            }));
        }
        let mut hosts = Vec::with_capacity(count);
        for maker in makers {
            hosts.extend(maker.await??);
        }
        Ok(hosts)
    }

    /// The agents of simulated hosts in one process of their own; back when all of them are online. Each host is so
    /// large that no load here fills it.
    pub(crate) async fn sim_agents(&mut self, hosts: &[(String, String)]) -> anyhow::Result<Process> {
        let tokens = self.folder().join("join-tokens");
        let lines: Vec<&str> = hosts.iter().map(|(_, token)| token.as_str()).collect();
        std::fs::write(&tokens, lines.join("\n"))?;
        let program = Path::new(YIQIU).with_file_name("yiqiu-agent");
        ensure!(program.exists(), "{} is missing: run this by `make bench`", program.display());
        let mut command = Command::new(program);
        command.args(["sim", "--server", &format!("http://{}", self.ops.address), "--tokens-file"]).arg(&tokens);
        command.args(["--cpu", "1000000", "--memory", "500TiB", "--disk", "500TiB", "--iops", "1000000000"]);
        let mut agents = Process::start(&mut command, &self.folder().join("agents.log"))?;
        self.all_online(hosts.len(), &mut agents).await?;
        Ok(agents)
    }

    /// Waits until that many hosts are online.
    pub(crate) async fn all_online(&mut self, hosts: usize, agents: &mut Process) -> anyhow::Result<()> {
        let most = Duration::from_secs(60 + hosts as u64 / 20);
        let from = Instant::now();
        loop {
            // To list thousands of hosts is work: not before their agents are there.
            let connected = self.connected().await?;
            let online = if connected < hosts { connected } else { self.online().await? };
            if online == hosts {
                return Ok(());
            }
            agents.still_runs()?;
            self.process.still_runs()?;
            ensure!(from.elapsed() < most, "{online} of {hosts} hosts are online after {most:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn connected(&self) -> anyhow::Result<usize> {
        let metrics = self.ops.text("/metrics").await?;
        let line = metrics.lines().find_map(|l| l.strip_prefix("yiqiu_agents_connected "));
        Ok(line.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
    }

    async fn online(&self) -> anyhow::Result<usize> {
        let (mut online, mut cursor) = (0, String::new());
        loop {
            let page = self.ops.get(&format!("/v1/hosts?limit=1000{cursor}")).await?;
            let items = page["items"].as_array().context("a page of hosts")?;
            online += items.iter().filter(|h| h["state"] == "online").count();
            let Some(next) = page["next"].as_str() else { return Ok(online) };
            cursor = format!("&cursor={next}");
        }
    }
}

fn folder() -> anyhow::Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("run-").tempdir_in(report::folder()?)?)
}

/// A text of a JSON object.
pub(crate) fn text(value: &Value, field: &str) -> anyhow::Result<String> {
    Ok(value[field].as_str().with_context(|| format!("no {field} in {value}"))?.to_owned())
}
