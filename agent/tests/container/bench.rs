//! An agent on a real Docker engine, and what a test asks of both.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use yiqiu_agent::{AgentConfig, driver::NodeId};
use yiqiu_base::{NodeState, NodeType, Power};
use yiqiu_proto::{
    agent::{Assignment, NodeReport},
    common::{EnvironmentVariable, NodeSpec, PortMapping},
};

use crate::common::{Server, assignment, root_file_system, size, until};

pub(crate) const IMAGE: &str = "image-1";

pub(crate) fn docker_socket() -> String {
    std::env::var("YIQIU_TEST_DOCKER").unwrap_or_else(|_| {
        panic!(
            "this test needs a Docker engine: install docker.io, start one with `dockerd -H unix:///tmp/d.sock \
             --data-root D --exec-root E --pidfile P`, and set YIQIU_TEST_DOCKER=/tmp/d.sock"
        )
    })
}

pub(crate) struct Agent {
    pub(crate) stop: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Agent {
    pub(crate) fn new(folder: &Path, server: &Server, socket: &str, boot_id: Option<&str>) -> Self {
        let stop = CancellationToken::new();
        let config = AgentConfig {
            docker: Some(socket.to_owned()),
            token: Some("once".to_owned()),
            node_types: vec![NodeType::Cm],
            boot_id: boot_id.map(str::to_owned),
            ..AgentConfig::new(folder)
        };
        Self { task: tokio::spawn(yiqiu_agent::run(config, server.link(), stop.clone())), stop }
    }

    pub(crate) async fn end(self) {
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

pub(crate) struct Bench {
    pub(crate) server: Server,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) socket: String,
    pub(crate) sha256: String,
}

impl Bench {
    pub(crate) fn new(socket: String) -> Self {
        let (tar, sha256) = root_file_system();
        let server = Server::new();
        server.get().images.insert(IMAGE.to_owned(), tar);
        Self { server, folder: tempfile::tempdir().unwrap(), socket, sha256 }
    }

    pub(crate) async fn agent(&self) -> Agent {
        self.agent_in_boot(None).await
    }

    pub(crate) async fn agent_in_boot(&self, boot_id: Option<&str>) -> Agent {
        let hellos = self.server.get().hellos.len();
        let agent = Agent::new(self.folder.path(), &self.server, &self.socket, boot_id);
        until("hello", || self.server.get().hellos.len() > hellos || agent.task.is_finished()).await;
        agent
    }

    pub(crate) fn sh(&self, node: NodeId, script: &str, power: Power, generation: i64) -> Assignment {
        let spec = NodeSpec {
            image_id: IMAGE.to_owned(),
            image_sha256: self.sha256.clone(),
            command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
            environment: vec![EnvironmentVariable { name: "WHO".to_owned(), value: "a node".to_owned() }],
            ports: vec![PortMapping { node_port: 80, ..PortMapping::default() }],
            size: size(500, 64 << 20),
            ..NodeSpec::default()
        };
        assignment(node, power, generation, generation, spec)
    }

    /// The same, with another spec.
    pub(crate) fn with(&self, node: NodeId, script: &str, change: impl FnOnce(&mut NodeSpec)) -> Assignment {
        let mut assignment = self.sh(node, script, Power::On, 1);
        change(assignment.spec.as_mut().unwrap());
        assignment
    }

    pub(crate) async fn remove(&self, node: NodeId) {
        let gone = self.sh(node, "true", Power::Off, 1);
        self.server.assign(&Assignment { removed: true, revision: 1000, ..gone });
        self.server.state(node, NodeState::Gone).await;
        assert!(self.docker(&["ps", "-aq", "--filter", &format!("label=yiqiu.node={node}")]).is_empty());
        assert!(self.docker(&["volume", "ls", "-q", "--filter", &format!("label=yiqiu.node={node}")]).is_empty());
        for controller in ["", "cpuacct", "memory", "pids", "blkio", "devices", "freezer", "unified", "systemd"] {
            let group = Path::new("/sys/fs/cgroup").join(controller).join("yiqiu").join(node.to_string());
            assert!(!group.exists(), "{} is left", group.display());
        }
    }

    pub(crate) fn docker(&self, arguments: &[&str]) -> String {
        let host = format!("unix://{}", self.socket.trim_start_matches("unix://"));
        let output = Command::new("docker").arg("-H").arg(host).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn inspect(&self, node: NodeId, format: &str) -> String {
        self.docker(&["inspect", &format!("yiqiu-{node}"), "-f", format])
    }
}

pub(crate) fn fetch(report: &NodeReport) -> Option<String> {
    let port = report.ports.iter().find(|p| p.node_port == 80)?;
    assert_eq!(port.host_address, "127.0.0.1");
    let mut stream = TcpStream::connect(("127.0.0.1", u16::try_from(port.host_port).ok()?)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n").ok()?;
    let mut page = String::new();
    stream.read_to_string(&mut page).ok()?;
    page.contains("hello from a node").then_some(page)
}

pub(crate) fn cpuacct(node: NodeId) -> i64 {
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

/// A Docker engine of this test's own, that it may restart.
pub(crate) struct Engine {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) process: Child,
}

impl Engine {
    pub(crate) fn start(folder: &tempfile::TempDir) -> Child {
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

    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = Self::start(&folder);
        Self { folder, process }
    }

    pub(crate) fn stop(&mut self) {
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let _ = self.process.wait();
    }

    pub(crate) fn socket(&self) -> String {
        self.folder.path().join("docker.sock").display().to_string()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.stop();
    }
}
