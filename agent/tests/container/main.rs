//! Containers of a real Docker engine, through the whole agent.
//!
//! They need a Docker engine that publishes ports: set YIQIU_TEST_DOCKER to the path of its unix socket. The test that
//! restarts an engine starts one of its own.

mod bench;
#[path = "../common/mod.rs"]
mod common;
mod limits;
mod mounts;
mod power;

use std::time::Duration;

use bench::{Bench, Engine, cpuacct, docker_socket, fetch};
use common::{shown, until};
use yiqiu_agent::driver::NodeId;
use yiqiu_base::{NodeState, Power};
use yiqiu_proto::{agent::NodeReport, common::NodeState as Word};

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
