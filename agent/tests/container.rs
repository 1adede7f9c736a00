//! Containers of a real Docker engine, through the whole agent.
//!
//! They need a Docker engine that publishes ports: set YIQIU_TEST_DOCKER to the path of its unix socket. The test that
//! restarts an engine starts one of its own.

mod common;

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use common::{Server, assignment, root_file_system, shown, size, until};
use tokio_util::sync::CancellationToken;
use yiqiu_agent::{AgentConfig, driver::NodeId};
use yiqiu_base::{NodeState, NodeType, Power};
use yiqiu_proto::{
    agent::{Assignment, NodeReport},
    common::{EnvironmentVariable, NodeSpec, NodeState as Word, PortMapping},
};

const IMAGE: &str = "image-1";

fn docker_socket() -> String {
    std::env::var("YIQIU_TEST_DOCKER").unwrap_or_else(|_| {
        panic!(
            "this test needs a Docker engine: install docker.io, start one with `dockerd -H unix:///tmp/d.sock \
             --data-root D --exec-root E --pidfile P`, and set YIQIU_TEST_DOCKER=/tmp/d.sock"
        )
    })
}

struct Agent {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Agent {
    fn new(folder: &Path, server: &Server, socket: &str) -> Self {
        let stop = CancellationToken::new();
        let config = AgentConfig {
            docker: Some(socket.to_owned()),
            token: Some("once".to_owned()),
            node_types: vec![NodeType::Cm],
            ..AgentConfig::new(folder)
        };
        Self { task: tokio::spawn(yiqiu_agent::run(config, server.link(), stop.clone())), stop }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

impl Drop for Bench {
    /// Leaves nothing behind when a test fails in the middle either.
    fn drop(&mut self) {
        let host = format!("unix://{}", self.socket);
        let mark = format!("label=yiqiu.host={}", self.server.get().host);
        let Ok(listed) = Command::new("docker").args(["-H", &host, "ps", "-aq", "--filter", &mark]).output() else {
            return;
        };
        let left = String::from_utf8_lossy(&listed.stdout).into_owned();
        for container in left.split_whitespace() {
            let _ = Command::new("docker").args(["-H", &host, "rm", "-f", container]).output();
        }
        let image = format!("yiqiu/image:{}", self.sha256);
        let _ = Command::new("docker").args(["-H", &host, "rmi", &image]).output();
    }
}

struct Bench {
    server: Server,
    folder: tempfile::TempDir,
    socket: String,
    sha256: String,
}

impl Bench {
    fn new(socket: String) -> Self {
        let (tar, sha256) = root_file_system();
        let server = Server::new();
        server.get().images.insert(IMAGE.to_owned(), tar);
        Self { server, folder: tempfile::tempdir().unwrap(), socket, sha256 }
    }

    async fn agent(&self) -> Agent {
        let hellos = self.server.get().hellos.len();
        let agent = Agent::new(self.folder.path(), &self.server, &self.socket);
        until("hello", || self.server.get().hellos.len() > hellos || agent.task.is_finished()).await;
        agent
    }

    fn sh(&self, node: NodeId, script: &str, power: Power, generation: i64) -> Assignment {
        let spec = NodeSpec {
            image_id: IMAGE.to_owned(),
            image_sha256: self.sha256.clone(),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            environment: vec![EnvironmentVariable { name: "WHO".to_owned(), value: "a node".to_owned() }],
            ports: vec![PortMapping { node_port: 80, ..PortMapping::default() }],
            size: size(500, 64 << 20),
        };
        assignment(node, power, generation, generation, spec)
    }

    async fn remove(&self, node: NodeId) {
        let gone = self.sh(node, "true", Power::Off, 1);
        self.server.assign(&Assignment { removed: true, revision: 1000, ..gone });
        self.server.state(node, NodeState::Gone).await;
        assert!(self.docker(&["ps", "-aq", "--filter", &format!("label=yiqiu.node={node}")]).is_empty());
        for controller in ["", "cpuacct", "memory", "pids", "blkio", "devices", "freezer", "unified", "systemd"] {
            let group = Path::new("/sys/fs/cgroup").join(controller).join("yiqiu").join(node.to_string());
            assert!(!group.exists(), "{} is left", group.display());
        }
    }

    fn docker(&self, arguments: &[&str]) -> String {
        let host = format!("unix://{}", self.socket.trim_start_matches("unix://"));
        let output = Command::new("docker").arg("-H").arg(host).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn inspect(&self, node: NodeId, format: &str) -> String {
        self.docker(&["inspect", &format!("yiqiu-{node}"), "-f", format])
    }
}

fn fetch(report: &NodeReport) -> Option<String> {
    let port = report.ports.iter().find(|p| p.node_port == 80)?;
    assert_eq!(port.host_address, "127.0.0.1");
    let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port.host_port).ok()?)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    page.contains("hello from a node").then_some(page)
}

fn cpuacct(node: NodeId) -> i64 {
    let file = format!("/sys/fs/cgroup/cpuacct/yiqiu/{node}/cpuacct.usage");
    let v2 = format!("/sys/fs/cgroup/yiqiu/{node}/cpu.stat");
    match std::fs::read_to_string(file) {
        Ok(text) => text.trim().parse().unwrap(),
        Err(_) => {
            let text = std::fs::read_to_string(v2).unwrap();
            text.lines().find_map(|l| l.strip_prefix("usage_usec ")).unwrap().parse::<i64>().unwrap() * 1000
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_serves_is_bound_adopted_counted_and_removed_whole() {
    let bench = Bench::new(docker_socket());
    let (server, node) = (&bench.server, NodeId::new());
    server.get().break_fetch_after = Some(100_000); // the transfer breaks once and is gone on with
    let agent = bench.agent().await;
    assert!(server.get().hellos[0].facts.as_ref().unwrap().drivers[0].ready);
    let httpd = "httpd -f -p 80 -h /www";
    let twin = NodeId::new();
    server.assign(&bench.sh(node, httpd, Power::On, 1));
    server.assign(&bench.sh(twin, httpd, Power::On, 1));
    let report = server.state(node, NodeState::Running).await;
    server.state(twin, NodeState::Running).await;
    assert!(server.get().fetches <= 2, "two nodes and a broken transfer fetched the image together");
    assert_eq!(std::fs::read_dir(bench.folder.path().join("images")).unwrap().count(), 0, "nothing is kept twice");
    until("the page", || fetch(&report).is_some()).await;
    bench.remove(twin).await;
    let image = format!("yiqiu/image:{}", bench.sha256);
    let images = || bench.docker(&["images", "-q", "--filter", &format!("reference={image}")]);
    assert!(!images().is_empty(), "the other one needs it");

    assert_eq!(
        bench.inspect(node, "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}}"),
        format!("500000000 {}", 64 << 20)
    );
    assert_eq!(
        bench.inspect(node, "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.SecurityOpt}}"),
        "no [no-new-privileges]"
    );

    // The agent goes and comes back: the container is the same.
    let id = bench.inspect(node, "{{.Id}} {{.State.StartedAt}}");
    agent.end().await;
    server.get().reports.clear();
    let agent = bench.agent().await;
    let adopted = server.state(node, NodeState::Running).await;
    assert_eq!((adopted.boot, &adopted.ports), (1, &report.ports));
    assert_eq!(bench.inspect(node, "{{.Id}} {{.State.StartedAt}}"), id);

    server.assign(&bench.sh(node, httpd, Power::Off, 2));
    server.state(node, NodeState::Off).await;
    let kernel = cpuacct(node);
    until("the last counters", || server.last_sample(node).is_some_and(|s| s.cpu_ns == kernel)).await;
    let first = server.last_sample(node).unwrap();
    assert!(first.net_rx_bytes > 0 && first.net_tx_bytes > 100 && first.memory_byte_ms > 0, "{first:?}");

    server.assign(&bench.sh(node, httpd, Power::On, 3));
    let again = server.report(node, Duration::from_secs(20), |r| r.boot == 2 && r.state() == Word::Running).await;
    until("the page again", || fetch(&again).is_some()).await;
    server.assign(&bench.sh(node, httpd, Power::Off, 4));
    server.report(node, Duration::from_secs(20), |r| r.generation == 4 && r.state() == Word::Off).await;
    let both = cpuacct(node);
    until("the counters of the second boot", || {
        server.last_sample(node).is_some_and(|s| s.boot == 2 && s.cpu_ns == both - kernel)
    })
    .await;
    bench.remove(node).await;
    until("the image goes with its last node", || images().is_empty()).await;
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_bind_and_ends_are_reported_within_seconds() {
    let bench = Bench::new(docker_socket());
    let (server, agent) = (&bench.server, bench.agent().await);
    let [burns, eats, ends, wrong] = [NodeId::new(), NodeId::new(), NodeId::new(), NodeId::new()];

    server.assign(&bench.sh(burns, "while :; do :; done", Power::On, 1));
    server.state(burns, NodeState::Running).await;
    let (began, used) = (Instant::now(), cpuacct(burns));
    until("a second of cpu", || cpuacct(burns) - used > 1_000_000_000).await;
    assert!(began.elapsed() > Duration::from_millis(1_700), "half a processor took {:?}", began.elapsed());

    server.assign(&bench.sh(eats, "dd if=/dev/zero of=/dev/null bs=200M count=10", Power::On, 1));
    let report = server.state(eats, NodeState::Failed).await;
    assert!(report.detail.contains("more memory than its 64 MiB"), "{}", shown(&report));

    server.assign(&bench.sh(ends, "sleep 1000", Power::On, 1));
    server.state(ends, NodeState::Running).await;
    let began = Instant::now();
    bench.docker(&["kill", &format!("yiqiu-{ends}")]);
    let report = server.report(ends, Duration::from_secs(5), |r| r.state() == Word::Failed).await;
    assert!(began.elapsed() < Duration::from_secs(5) && report.detail.contains("137"), "{}", shown(&report));

    let mut assignment = bench.sh(wrong, "", Power::On, 1);
    assignment.spec.as_mut().unwrap().command = vec!["/no/such".to_owned()];
    server.assign(&assignment);
    let report = server.state(wrong, NodeState::Failed).await;
    assert!(report.detail.contains("/no/such"), "{}", shown(&report));

    for node in [burns, eats, ends, wrong] {
        bench.remove(node).await;
    }
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_docker_it_says_what_to_install() {
    let bench = Bench::new("/no/such/docker.sock".to_owned());
    let (server, agent) = (&bench.server, bench.agent().await);
    let driver = server.get().hellos[0].facts.as_ref().unwrap().drivers[0].clone();
    assert!(!driver.ready);
    assert_eq!(
        driver.missing,
        "Docker does not answer at unix:///no/such/docker.sock: install docker.io and start dockerd"
    );
    let node = NodeId::new();
    server.assign(&bench.sh(node, "true", Power::On, 1));
    let report = server.report(node, Duration::from_secs(10), |r| !r.detail.is_empty()).await;
    assert!(report.detail.contains("start dockerd"), "{}", shown(&report));
    agent.end().await;
}

/// A Docker engine of this test's own, that it may restart.
struct Engine {
    folder: tempfile::TempDir,
    process: Child,
}

impl Engine {
    fn start(folder: &tempfile::TempDir) -> Child {
        let at = |name: &str| folder.path().join(name);
        let log = std::fs::File::create(at("log")).unwrap();
        // In a network of its own: two engines would take each other's bridge away.
        Command::new("unshare")
            .args(["--net", "dockerd"])
            .arg("--data-root")
            .arg(at("data"))
            .arg("--exec-root")
            .arg(at("exec"))
            .arg("--pidfile")
            .arg(at("pid"))
            .arg("-H")
            .arg(format!("unix://{}", at("docker.sock").display()))
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the test needs unshare and dockerd: install util-linux and docker.io")
    }

    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = Self::start(&folder);
        Self { folder, process }
    }

    fn stop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }

    fn socket(&self) -> String {
        self.folder.path().join("docker.sock").display().to_string()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_docker_is_survived() {
    docker_socket(); // asked for here too, so that the tests of containers are left out together
    let mut engine = Engine::new();
    let bench = Bench::new(engine.socket());
    let (server, node) = (&bench.server, NodeId::new());
    let agent = bench.agent().await;
    let portless = |power, generation| {
        let mut assignment = bench.sh(node, "sleep 1000", power, generation);
        assignment.spec.as_mut().unwrap().ports.clear();
        assignment
    };
    server.assign(&portless(Power::On, 1));
    server.state(node, NodeState::Running).await;

    // Nothing is known while it is away, so a new wish waits; the node went down with it, so the wish is a start then.
    let facts = server.get().facts.len();
    engine.stop();
    until("facts without Docker", || server.get().facts[facts..].iter().any(|f| !f.drivers[0].ready)).await;
    let unverified = |r: &NodeReport| r.detail.starts_with("not verified: Docker does not answer");
    let report = server.report(node, Duration::from_secs(5), unverified).await;
    assert_eq!((report.state(), report.generation), (Word::Running, 1));
    server.assign(&portless(Power::On, 2));
    engine.process = Engine::start(&engine.folder);
    until("facts with Docker", || server.get().facts.last().is_some_and(|f| f.drivers[0].ready)).await;
    let carried = |r: &NodeReport| r.generation == 2 && r.state() == Word::Running && r.detail.is_empty();
    assert_eq!(server.report(node, Duration::from_secs(20), carried).await.boot, 2);

    engine.stop();
    engine.process = Engine::start(&engine.folder);
    let report = server.state(node, NodeState::Failed).await; // without a new wish that is said, and left so
    assert_eq!((report.boot, report.generation), (2, 2));
    bench.remove(node).await;
    agent.end().await;
}
