//! Power of real containers: how they are asked to end, when they are killed, and what cuts what short.

use std::time::{Duration, Instant};

use yiqiu_agent::driver::NodeId;
use yiqiu_base::{NodeState, Power};
use yiqiu_proto::{
    agent::{Assignment, NodeReport},
    common::{NodeState as Word, Runtime},
};

use crate::{
    bench::{Bench, docker_socket},
    common::{shown, until},
};

/// Ignores SIGTERM; ends by SIGQUIT.
const STUBBORN: &str = "trap '' TERM; trap 'exit 0' QUIT; while :; do sleep 0.1; done";

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_asked_to_end_by_its_signal_and_killed_after_its_grace() {
    let bench = Bench::new(docker_socket());
    let (server, agent) = (&bench.server, bench.agent().await);
    let [asked, killed] = [NodeId::new(), NodeId::new()];
    let wish = |node, power, generation, grace, signal: &str| {
        let mut assignment = bench.sh(node, STUBBORN, power, generation);
        let runtime = Runtime { stop_signal: signal.to_owned(), ..Runtime::default() };
        assignment.spec.as_mut().unwrap().runtime = Some(runtime);
        Assignment { stop_grace_ms: grace, ..assignment }
    };
    server.assign(&wish(asked, Power::On, 1, 0, "quit"));
    server.assign(&wish(killed, Power::On, 1, 0, ""));
    for node in [asked, killed] {
        server.state(node, NodeState::Running).await;
    }
    let began = Instant::now();
    server.assign(&wish(asked, Power::Off, 2, 60_000, "quit"));
    server.state(asked, NodeState::Off).await;
    assert!(began.elapsed() < Duration::from_secs(20), "it ended by its own signal");

    server.assign(&wish(killed, Power::Off, 2, 60_000, ""));
    let report = server.state(killed, NodeState::Stopping).await;
    assert!(report.detail.contains("killed after 60s"), "{}", shown(&report));
    server.assign(&wish(killed, Power::Off, 3, 0, ""));
    let report = server.state(killed, NodeState::Off).await;
    assert_eq!((report.generation, &*report.detail), (3, ""));
    assert!(began.elapsed() < Duration::from_secs(40), "less grace cuts more grace short");

    server.assign(&wish(killed, Power::On, 4, 0, ""));
    server.report(killed, Duration::from_secs(20), |r| r.boot == 2 && r.state() == Word::Running).await;
    let before = bench.inspect(killed, "{{.State.StartedAt}}");
    server.assign(&Assignment { reboot: true, ..wish(killed, Power::On, 5, 200, "") });
    let again = |r: &NodeReport| r.generation == 5 && r.state() == Word::Running;
    assert_eq!(server.report(killed, Duration::from_secs(20), again).await.boot, 3);
    assert_ne!(bench.inspect(killed, "{{.State.StartedAt}}"), before);
    for node in [asked, killed] {
        bench.remove(node).await;
    }
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_off_cancels_the_fetch_of_an_image() {
    let bench = Bench::new(docker_socket());
    let (server, agent, node) = (&bench.server, bench.agent().await, NodeId::new());
    server.get().hold_fetches = true;
    server.assign(&bench.sh(node, "sleep 1000", Power::On, 1));
    server.state(node, NodeState::Preparing).await;
    until("the fetch", || server.get().fetches == 1).await;
    server.assign(&bench.sh(node, "sleep 1000", Power::Off, 2));
    let report = server.state(node, NodeState::Off).await;
    assert_eq!((report.generation, report.boot), (2, 0));
    server.get().hold_fetches = false;
    server.assign(&bench.sh(node, "sleep 1000", Power::On, 3));
    let report = server.state(node, NodeState::Running).await;
    assert_eq!((report.generation, report.boot), (3, 1));
    bench.remove(node).await;
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ran_when_its_host_restarted_reads_so_and_is_not_started() {
    let bench = Bench::new(docker_socket());
    let (server, [exited, gone]) = (&bench.server, [NodeId::new(), NodeId::new()]);
    let agent = bench.agent_in_boot(Some("one")).await;
    for node in [exited, gone] {
        server.assign(&bench.sh(node, "sleep 1000", Power::On, 1));
        server.state(node, NodeState::Running).await;
    }
    agent.end().await;
    bench.docker(&["kill", &format!("yiqiu-{exited}")]);
    bench.docker(&["rm", "-f", &format!("yiqiu-{gone}")]);
    server.get().reports.clear();
    let agent = bench.agent_in_boot(Some("two")).await;
    for node in [exited, gone] {
        let report = server.state(node, NodeState::Failed).await;
        assert_eq!(report.detail, "the host restarted: power it on to start it again");
        assert_ne!(bench.docker(&["ps", "-q", "--filter", &format!("label=yiqiu.node={node}")]).len(), 12);
        server.assign(&bench.sh(node, "sleep 1000", Power::On, 2));
        assert_eq!(server.state(node, NodeState::Running).await.boot, 2);
        bench.remove(node).await;
    }
    agent.end().await;
}
