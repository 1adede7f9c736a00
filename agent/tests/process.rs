//! Process groups on this machine, minded by the real supervisor.

mod common;

use std::{path::Path, time::Duration};

use common::{Server, assignment, shown, size, until};
use tokio_util::sync::CancellationToken;
use yiqiu_agent::{AgentConfig, driver::NodeId};
use yiqiu_base::{NodeState, NodeType, Power};
use yiqiu_proto::{
    agent::Assignment,
    common::{self as words, NodeSpec, Runtime},
};

struct Agent {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Agent {
    fn in_folder(folder: &Path, server: &Server) -> Self {
        Self::in_boot(folder, server, None)
    }

    fn in_boot(folder: &Path, server: &Server, boot_id: Option<&str>) -> Self {
        let stop = CancellationToken::new();
        let config = AgentConfig {
            token: Some("once".to_owned()),
            node_types: vec![NodeType::Bm, NodeType::Vm],
            boot_id: boot_id.map(str::to_owned),
            supervisor: Some(env!("CARGO_BIN_EXE_yiqiu-agent").into()),
            ..AgentConfig::new(folder)
        };
        Self { task: tokio::spawn(yiqiu_agent::run(config, server.link(), stop.clone())), stop }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Ends what is in a node's group when a test fails in the middle.
struct EndGroup(NodeId);

impl Drop for EndGroup {
    fn drop(&mut self) {
        for pid in pids(self.0) {
            let _ = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }
}

fn sh(node: NodeId, script: &str, power: Power, generation: i64) -> Assignment {
    let spec = NodeSpec {
        command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec(),
        size: size(500, 64 << 20),
        ..NodeSpec::default()
    };
    let mut assignment = assignment(node, power, generation, generation, spec);
    assignment.set_node_type(words::NodeType::Bm);
    assignment
}

fn group(controller: &str, node: NodeId, file: &str) -> std::path::PathBuf {
    let v1 = Path::new("/sys/fs/cgroup").join(controller);
    let root = if v1.is_dir() { v1 } else { "/sys/fs/cgroup".into() };
    root.join("yiqiu").join(node.to_string()).join(file)
}

fn pids(node: NodeId) -> Vec<i32> {
    let procs = std::fs::read_to_string(group("pids", node, "cgroup.procs")).unwrap_or_default();
    procs.lines().filter_map(|l| l.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_outlives_its_agent_is_adopted_counted_and_ends_whole() {
    let (server, node, folder) = (Server::new(), NodeId::new(), tempfile::tempdir().unwrap());
    let _ends = EndGroup(node);
    let agent = Agent::in_folder(folder.path(), &server);
    until("hello", || !server.get().hellos.is_empty()).await;
    let facts = server.get().hellos[0].facts.clone().unwrap();
    let vm = facts.drivers.iter().find(|d| d.name == "libvirt").unwrap();
    assert_eq!((vm.ready, &*vm.missing), (false, "this build has no libvirt driver"));

    // A leader with children that ignore SIGTERM, one of them in another process group.
    let script = "trap '' TERM; (while :; do :; done) & setsid sleep 1000 & while :; do sleep 1000; done";
    server.assign(&sh(node, script, Power::On, 1));
    server.state(node, NodeState::Running).await;
    until("all are in the group", || pids(node).len() >= 4).await;
    let before = pids(node);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(folder.path().join("identity.json")).unwrap().permissions(),
    );
    assert_eq!(mode & 0o777, 0o600, "the credential is its owner's only");

    agent.end().await;
    assert!(before.iter().all(|pid| pids(node).contains(pid)), "they run on without the agent");
    server.get().reports.clear();
    let agent = Agent::in_folder(folder.path(), &server); // its token is used: the saved credential serves
    let adopted = server.state(node, NodeState::Running).await;
    assert_eq!((adopted.boot, adopted.generation), (1, 1));
    assert_eq!(pids(node).len(), before.len(), "nothing was started anew");

    until("half a second of cpu was counted", || server.last_sample(node).is_some_and(|s| s.cpu_ns > 500_000_000))
        .await;
    server.assign(&sh(node, script, Power::Off, 2));
    server.state(node, NodeState::Off).await;
    assert_eq!(pids(node), Vec::<i32>::new(), "the whole group is gone");
    until("the last sample", || {
        let counted = server.last_sample(node).map_or(0, |s| s.cpu_ns);
        let kernel = std::fs::read_to_string(group("cpuacct", node, "cpuacct.usage"));
        let kernel: i64 = kernel.ok().and_then(|t| t.trim().parse().ok()).unwrap_or(counted);
        // What the supervisor used between joining the group and leaving it belongs to it too.
        counted == kernel
    })
    .await;

    server.assign(&Assignment { removed: true, revision: 3, ..sh(node, script, Power::Off, 2) });
    server.state(node, NodeState::Gone).await;
    assert!(!group("cpuacct", node, "").exists() && !group("memory", node, "").exists());
    assert!(!folder.path().join("process").join(node.to_string()).exists());
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_and_refusals_are_reported_in_words() {
    let (server, folder) = (Server::new(), tempfile::tempdir().unwrap());
    let agent = Agent::in_folder(folder.path(), &server);
    until("hello", || !server.get().hellos.is_empty()).await;
    let [exits, missing, pictured, bare] = [NodeId::new(), NodeId::new(), NodeId::new(), NodeId::new()];
    server.assign(&sh(exits, "exit 3", Power::On, 1));
    let within = Duration::from_secs(5);
    let report = server.report(exits, within, |r| r.state() == words::NodeState::Failed).await;
    assert!(report.detail.contains("exited with code 3"), "{}", shown(&report));
    assert_eq!((report.generation, report.boot), (1, 1));

    let with = |node, change: fn(&mut NodeSpec)| {
        let mut assignment = sh(node, "true", Power::On, 1);
        change(assignment.spec.as_mut().unwrap());
        assignment
    };
    server.assign(&with(missing, |s| s.command = vec!["/no/such/program".to_owned()]));
    server.assign(&with(pictured, |s| s.image_sha256 = "a".repeat(64)));
    server.assign(&with(bare, |s| s.command.clear()));
    for (node, words) in [
        (missing, "`/no/such/program` cannot be started"),
        (pictured, "leave the image out"),
        (bare, "needs a command"),
    ] {
        let report = server.state(node, NodeState::Failed).await;
        assert!(report.detail.contains(words), "{}", shown(&report));
    }
    for node in [exits, missing, pictured, bare] {
        server.assign(&Assignment { removed: true, revision: 9, ..sh(node, "", Power::Off, 2) });
        server.state(node, NodeState::Gone).await;
    }
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_outlives_its_supervisor_is_running_until_it_is_stopped() {
    let (server, node, folder) = (Server::new(), NodeId::new(), tempfile::tempdir().unwrap());
    let _ends = EndGroup(node);
    let agent = Agent::in_folder(folder.path(), &server);
    until("hello", || !server.get().hellos.is_empty()).await;
    server.assign(&sh(node, "setsid sleep 1000 & sleep 1000", Power::On, 1));
    server.state(node, NodeState::Running).await;
    until("all are in the group", || pids(node).len() == 3).await;
    let run = std::fs::read(folder.path().join("process").join(node.to_string()).join("run.json")).unwrap();
    let run: serde_json::Value = serde_json::from_slice(&run).unwrap();
    for who in ["supervisor", "leader"] {
        let pid = run[who]["pid"].to_string();
        assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    }
    until("the supervisor and the leader are gone", || pids(node).len() == 2).await;
    tokio::time::sleep(Duration::from_millis(1200)).await; // two looks
    let id = node.to_string();
    let last = server.get().reports.iter().rfind(|r| r.node_id == id).cloned().unwrap();
    assert_eq!(last.state(), words::NodeState::Running, "{}", shown(&last));
    server.assign(&sh(node, "", Power::Off, 2));
    server.state(node, NodeState::Off).await;
    assert_eq!(pids(node), Vec::<i32>::new(), "off means that nothing runs");
    server.assign(&Assignment { removed: true, revision: 3, ..sh(node, "", Power::Off, 2) });
    server.state(node, NodeState::Gone).await;
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_serves_once_and_the_refusal_says_so() {
    let (server, folder) = (Server::new(), tempfile::tempdir().unwrap());
    server.get().tokens.clear();
    let agent = Agent::in_folder(folder.path(), &server);
    let error = agent.task.await.unwrap().unwrap_err();
    assert!(format!("{error:#}").contains("join_token_invalid"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_agent_finds_its_node_again() {
    let (server, node, folder) = (Server::new(), NodeId::new(), tempfile::tempdir().unwrap());
    let _ends = EndGroup(node);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let agents = yiqiu_proto::agent::agents_server::AgentsServer::new(server.clone());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(agents).serve_with_incoming(incoming));
    let token = folder.path().join("token");
    std::fs::write(&token, "once\n").unwrap();
    let start = || {
        std::process::Command::new(env!("CARGO_BIN_EXE_yiqiu-agent"))
            .args(["--server", &url, "--node-types", "bm", "--data-dir"])
            .arg(folder.path())
            .arg("--token-file")
            .arg(&token)
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut agent = start();
    until("hello", || !server.get().hellos.is_empty()).await;
    server.assign(&sh(node, "sleep 1000", Power::On, 1));
    server.state(node, NodeState::Running).await;
    let before = pids(node);
    std::fs::remove_file(&token).unwrap(); // it has joined
    agent.kill().unwrap(); // SIGKILL: it cannot say good-bye
    agent.wait().unwrap();
    assert_eq!(pids(node), before, "the node runs on");
    server.get().reports.clear();

    let mut agent = start();
    let report = server.state(node, NodeState::Running).await;
    assert_eq!((report.boot, report.generation), (1, 1));
    assert_eq!(pids(node), before);
    server.assign(&Assignment { removed: true, revision: 2, ..sh(node, "sleep 1000", Power::On, 1) });
    server.state(node, NodeState::Gone).await;
    assert!(!group("cpuacct", node, "").exists());
    agent.kill().unwrap();
    agent.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_bind_processes_too() {
    let (server, folder) = (Server::new(), tempfile::tempdir().unwrap());
    let [eats, forks, quits] = [NodeId::new(), NodeId::new(), NodeId::new()];
    let _ends = [EndGroup(eats), EndGroup(forks), EndGroup(quits)];
    let agent = Agent::in_folder(folder.path(), &server);
    until("hello", || !server.get().hellos.is_empty()).await;
    let facts = server.get().hellos[0].facts.clone().unwrap();
    let bm = facts.drivers.iter().find(|d| d.name == "process").unwrap();
    assert!(bm.unbound.contains("disk space"), "{bm:?}");

    server.assign(&sh(eats, "exec dd if=/dev/zero of=/dev/null bs=200M count=10", Power::On, 1));
    let report = server.state(eats, NodeState::Failed).await;
    assert!(report.detail.contains("more memory than its 64 MiB"), "{}", shown(&report));

    let mut bomb = sh(forks, "while :; do sleep 1000 & done", Power::On, 1);
    bomb.spec.as_mut().unwrap().runtime = Some(Runtime { pids: 20, ..Runtime::default() });
    server.assign(&bomb);
    until("the kernel refuses a process", || {
        let events = std::fs::read_to_string(group("pids", forks, "pids.events")).unwrap_or_default();
        events.lines().any(|l| l.strip_prefix("max ").is_some_and(|n| n != "0"))
    })
    .await;
    assert!(pids(forks).len() <= 20);

    let script = "trap 'exit 5' QUIT; trap '' TERM; while :; do sleep 0.1; done";
    let wish = |power, generation| {
        let mut assignment = sh(quits, script, power, generation);
        let runtime = Runtime { stop_signal: "quit".to_owned(), ..Runtime::default() };
        assignment.spec.as_mut().unwrap().runtime = Some(runtime);
        Assignment { stop_grace_ms: 60_000, ..assignment }
    };
    server.assign(&wish(Power::On, 1));
    server.state(quits, NodeState::Running).await;
    server.assign(&wish(Power::Off, 2));
    server.state(quits, NodeState::Off).await; // long before its grace is over
    for node in [eats, forks, quits] {
        server.assign(&Assignment { removed: true, revision: 9, ..sh(node, "", Power::Off, 2) });
        server.state(node, NodeState::Gone).await;
    }
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ran_when_its_machine_restarted_reads_so() {
    let (server, node, folder) = (Server::new(), NodeId::new(), tempfile::tempdir().unwrap());
    let _ends = EndGroup(node);
    let agent = Agent::in_boot(folder.path(), &server, Some("one"));
    until("hello", || !server.get().hellos.is_empty()).await;
    server.assign(&sh(node, "sleep 1000", Power::On, 1));
    server.state(node, NodeState::Running).await;
    agent.end().await;
    // What a restart of the machine does to it: everything ends at once, and nobody writes how.
    let run = std::fs::read(folder.path().join("process").join(node.to_string()).join("run.json")).unwrap();
    let run: serde_json::Value = serde_json::from_slice(&run).unwrap();
    let supervisor = run["supervisor"]["pid"].to_string();
    for pid in std::iter::once(supervisor).chain(pids(node).iter().map(ToString::to_string)) {
        assert!(std::process::Command::new("kill").args(["-9", &pid]).status().unwrap().success());
    }
    until("everything has ended", || pids(node).is_empty()).await;
    server.get().reports.clear();
    let agent = Agent::in_boot(folder.path(), &server, Some("two"));
    let report = server.state(node, NodeState::Failed).await;
    assert_eq!(report.detail, "the host restarted: power it on to start it again");
    server.assign(&sh(node, "sleep 1000", Power::On, 2));
    assert_eq!(server.state(node, NodeState::Running).await.boot, 2);
    server.assign(&Assignment { removed: true, revision: 3, ..sh(node, "", Power::Off, 2) });
    server.state(node, NodeState::Gone).await;
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_size_binds_what_runs() {
    let (server, folder, node) = (Server::new(), tempfile::tempdir().unwrap(), NodeId::new());
    let _ends = EndGroup(node);
    let agent = Agent::in_folder(folder.path(), &server);
    let wish = |revision, cpu, memory| {
        let mut assignment = sh(node, "exec sleep 1000", Power::On, 1);
        assignment.spec.as_mut().unwrap().size = size(cpu, memory);
        Assignment { revision, ..assignment }
    };
    let memory = || std::fs::read_to_string(group("memory", node, "memory.limit_in_bytes")).unwrap();
    server.assign(&wish(1, 500, 64 << 20));
    server.report(node, Duration::from_secs(30), |r| r.state() == words::NodeState::Running && r.sized == 1).await;
    let running = pids(node);
    for (revision, cpu, bytes) in [(2, 1_000, 128 << 20), (3, 250, 32 << 20)] {
        server.assign(&wish(revision, cpu, bytes));
        server.report(node, Duration::from_secs(30), |r| r.sized == revision).await;
        let quota = std::fs::read_to_string(group("cpu", node, "cpu.cfs_quota_us")).unwrap();
        assert_eq!((quota.trim(), memory().trim()), (&*(cpu * 100).to_string(), &*bytes.to_string()));
    }
    assert_eq!(pids(node), running, "it runs on");
    server.assign(&Assignment { removed: true, revision: 9, ..sh(node, "", Power::Off, 2) });
    server.state(node, NodeState::Gone).await;
    agent.end().await;
}
