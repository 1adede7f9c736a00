//! Limits bind in real containers, by the kernel's own counters, and the end of a node says why.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use yiqiu_agent::driver::NodeId;
use yiqiu_base::{NodeState, Power};
use yiqiu_proto::{
    agent::{Assignment, NodeReport},
    common::{NodeState as Word, Power as WordPower, Runtime},
};

use crate::{
    bench::{Bench, cpuacct, docker_socket},
    common::{shown, size, until},
};

/// A number of a node's group: of a line `name number` in a file of a v1 controller or of v2, or of the file itself.
fn counter(node: NodeId, controller: &str, file: &str, name: &str) -> i64 {
    let v1 = Path::new("/sys/fs/cgroup").join(controller);
    let root = if v1.is_dir() { v1 } else { "/sys/fs/cgroup".into() };
    let group = root.join("yiqiu").join(node.to_string());
    // The engine makes a group of its own below the node's.
    let below = std::fs::read_dir(&group).unwrap().flatten().find(|e| e.file_type().unwrap().is_dir()).unwrap();
    let text = std::fs::read_to_string(below.path().join(file)).unwrap();
    let number =
        text.lines().find_map(|l| if name.is_empty() { Some(l) } else { l.strip_prefix(name)?.strip_prefix(' ') });
    number.unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_bind_and_ends_are_reported_within_seconds() {
    let bench = Bench::new(docker_socket());
    let (server, agent) = (&bench.server, bench.agent().await);
    let [burns, eats, ends, wrong] = [NodeId::new(), NodeId::new(), NodeId::new(), NodeId::new()];

    // A tenth of a processor, which it gets however busy this machine is.
    server.assign(&bench.with(burns, "while :; do :; done", |s| s.size = size(100, 64 << 20)));
    server.state(burns, NodeState::Running).await;
    let held = || counter(burns, "cpu", "cpu.stat", "nr_throttled");
    until("the kernel holds it back", || held() > 0).await;
    let (began, used, before) = (Instant::now(), cpuacct(burns), held());
    until("it is held back in period after period", || held() >= before + 20).await;
    let used = Duration::from_nanos(u64::try_from(cpuacct(burns) - used).unwrap());
    let allowed = began.elapsed() / 10;
    assert!(used < allowed + allowed / 4 + Duration::from_millis(20), "{used:?} used of {allowed:?}");
    assert!(used > allowed / 2, "{used:?} used of {allowed:?}");

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
async fn a_fork_bomb_is_held_by_the_number_of_processes() {
    let bench = Bench::new(docker_socket());
    let (server, agent) = (&bench.server, bench.agent().await);
    let [bomb, usual] = [NodeId::new(), NodeId::new()];
    let forks = "i=0; while [ $i -lt 200 ]; do i=$((i+1)); sleep 1000 & done; wait";
    server.assign(&bench.with(bomb, forks, |s| s.runtime = Some(Runtime { pids: 20, ..Runtime::default() })));
    server.assign(&bench.sh(usual, "sleep 1000", Power::On, 1));
    // The shell gives up at the limit: that is an end by itself, as any other.
    let report = server.state(bomb, NodeState::Failed).await;
    assert!(report.detail.contains("exited with code 2"), "{}", shown(&report));
    assert_eq!(bench.inspect(bomb, "{{.HostConfig.PidsLimit}}"), "20");
    server.state(usual, NodeState::Running).await;
    assert_eq!(counter(usual, "pids", "pids.max", ""), 1024, "every node is bound");
    for node in [bomb, usual] {
        bench.remove(node).await;
    }
    agent.end().await;
}

/// Another size binds what runs, without a restart, and is reported when it does; what would not hold what is used
/// now is told and tried again.
#[tokio::test(flavor = "multi_thread")]
async fn another_size_binds_what_runs() {
    let bench = Bench::new(docker_socket());
    let (server, agent, node) = (&bench.server, bench.agent().await, NodeId::new());
    // Holds 40 MB until it is told to let go: the shell keeps what it read.
    let script =
        "x=$(dd if=/dev/zero bs=1M count=20 2>/dev/null | tr '\\0' a); trap 'x=' USR1; while :; do sleep 0.1; done";
    let wish =
        |revision, cpu, memory| Assignment { revision, ..bench.with(node, script, |s| s.size = size(cpu, memory)) };
    let bound = || bench.inspect(node, "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}}");
    server.assign(&wish(1, 500, 256 << 20));
    let report = server.report(node, Duration::from_secs(60), |r| r.state() == Word::Running && r.sized == 1).await;
    let (boot, started) = (report.boot, bench.inspect(node, "{{.State.StartedAt}}"));

    server.assign(&wish(2, 1_500, 512 << 20));
    let report = server.report(node, Duration::from_secs(30), |r| r.sized == 2).await;
    assert_eq!((report.boot, bound()), (boot, format!("1500000000 {}", 512 << 20)), "{}", shown(&report));
    server.assign(&wish(3, 200, 128 << 20));
    server.report(node, Duration::from_secs(30), |r| r.sized == 3).await;
    assert_eq!(bound(), format!("200000000 {}", 128 << 20));
    assert_eq!(bench.inspect(node, "{{.State.StartedAt}}"), started, "it runs on");

    server.assign(&wish(4, 200, 8 << 20));
    let told = |r: &NodeReport| r.detail.contains("cannot shrink to 8 MiB of memory yet: it uses");
    let report = server.report(node, Duration::from_secs(60), |r| r.revision == 4 && told(r)).await;
    assert_eq!((report.sized, report.state()), (0, Word::Running), "{}", shown(&report));
    assert_eq!(bound(), format!("200000000 {}", 128 << 20), "what runs is not killed for it");
    // Off it uses nothing: the size is bound then.
    server.assign(&Assignment { generation: 2, power: WordPower::Off.into(), ..wish(5, 200, 8 << 20) });
    server.report(node, Duration::from_secs(60), |r| r.state() == Word::Off && r.sized == 5).await;
    assert_eq!(bound(), format!("200000000 {}", 8 << 20));
    bench.remove(node).await;
    agent.end().await;
}
