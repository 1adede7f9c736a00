//! The rules of a session, on a simulated host: what is obeyed, what is never done, what survives a lost stream.

mod common;

use std::{sync::Arc, time::Duration};

use common::{CREDENTIAL, Server, assignment, size, until};
use tokio_util::sync::CancellationToken;
use yiqiu_agent::{
    Identity,
    driver::NodeId,
    drivers::sim::{Behaviour, SimHost},
    fleet,
    journal::Journal,
};
use yiqiu_base::{Clock, NodeState, NodeType, Power, Size};
use yiqiu_proto::{
    agent::{Assignment, FullSet, NodeReport, server_message::Message},
    common::{self as words, NodeSpec},
};

struct Agent {
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Agent {
    async fn on(hardware: &Arc<SimHost>, server: &Server) -> Self {
        let journal = Journal::volatile(&server.get().host);
        Self::in_boot(hardware, server, journal, "simulated").await
    }

    async fn in_boot(hardware: &Arc<SimHost>, server: &Server, journal: Journal, boot_id: &str) -> Self {
        let stop = CancellationToken::new();
        let host_id = server.get().host.clone();
        let identity = Identity {
            host_id,
            host_name: "h1".to_owned(),
            credential: CREDENTIAL.to_owned(),
            token_hash: String::new(),
        };
        let mut facts = fleet::facts(hardware, Size::ZERO, 1000).await;
        boot_id.clone_into(&mut facts.boot_id);
        let hardware = Arc::clone(hardware);
        let run = fleet::run_host(identity, journal, hardware, facts, server.link(), Clock::system(), stop.clone());
        Self { stop, task: tokio::spawn(run) }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn spec() -> NodeSpec {
    NodeSpec { size: size(1000, 64 << 20), ..NodeSpec::default() }
}

fn on(node: NodeId, generation: i64, revision: i64) -> Assignment {
    assignment(node, Power::On, generation, revision, spec())
}

fn off(node: NodeId, generation: i64, revision: i64) -> Assignment {
    assignment(node, Power::Off, generation, revision, spec())
}

fn hardware() -> Arc<SimHost> {
    SimHost::new(7, Arc::new(Behaviour::default()))
}

#[tokio::test]
async fn power_goes_on_and_off_and_a_tombstone_removes() {
    let (server, hardware, node) = (Server::new(), hardware(), NodeId::new());
    let agent = Agent::on(&hardware, &server).await;
    until("hello", || !server.get().hellos.is_empty()).await;
    server.assign(&on(node, 1, 1));
    let report = server.state(node, NodeState::Running).await;
    assert_eq!((report.generation, report.boot, report.revision), (1, 1, 1));
    server.assign(&off(node, 2, 2));
    let report = server.state(node, NodeState::Off).await;
    assert_eq!((report.generation, report.boot), (2, 1));
    server.assign(&on(node, 3, 3));
    server.report(node, Duration::from_secs(5), |r| r.boot == 2 && r.generation == 3).await;
    server.assign(&Assignment { removed: true, ..on(node, 3, 4) });
    server.state(node, NodeState::Gone).await;
    assert_eq!(hardware.running_and_starts().0, 0);
    until("heartbeats", || server.get().heartbeats > 2).await;
    agent.end().await;
}

#[tokio::test]
async fn what_died_stays_failed_until_a_newer_generation() {
    let (server, hardware, node) = (Server::new(), hardware(), NodeId::new());
    let agent = Agent::on(&hardware, &server).await;
    until("hello", || !server.get().hellos.is_empty()).await;
    server.assign(&on(node, 1, 1));
    server.state(node, NodeState::Running).await;
    hardware.kill(node);
    let report = server.state(node, NodeState::Failed).await;
    assert!(report.detail.contains("exited with code 1"), "{}", report.detail);
    server.assign(&on(node, 1, 2)); // the same power-on again: nothing to do
    server.report(node, Duration::from_secs(5), |r| r.revision == 2).await;
    assert_eq!(hardware.running_and_starts(), (0, 1));
    server.assign(&off(node, 2, 3));
    server.state(node, NodeState::Off).await;
    server.assign(&on(node, 3, 4));
    server.state(node, NodeState::Running).await;
    hardware.kill(node);
    server.state(node, NodeState::Failed).await;
    server.assign(&on(node, 4, 5));
    server.state(node, NodeState::Running).await;
    assert_eq!(hardware.running_and_starts(), (1, 3));
    agent.end().await;
}

#[tokio::test]
async fn older_revisions_and_older_epochs_are_not_obeyed() {
    let (server, hardware, node) = (Server::new(), hardware(), NodeId::new());
    server.get().epoch = 5;
    let agent = Agent::on(&hardware, &server).await;
    until("hello", || !server.get().hellos.is_empty()).await;
    server.assign(&on(node, 4, 10));
    server.state(node, NodeState::Running).await;
    server.send(Message::Assignment(off(node, 5, 10)));
    server.send(Message::Assignment(off(node, 5, 9)));
    server.send(Message::Assignment(Assignment { removed: true, ..on(node, 4, 8) }));
    let marker = NodeId::new();
    server.assign(&on(marker, 1, 1));
    server.state(marker, NodeState::Running).await;
    assert_eq!(hardware.running_and_starts().0, 2, "nothing older was obeyed");

    // A server on an old copy of its database: not obeyed at all.
    server.get().epoch = 4;
    server.assign(&off(node, 9, 99));
    server.get().full_set = vec![off(node, 9, 100)];
    let hellos = server.get().hellos.len();
    until("revision 99 is obeyed in the old session", || hardware.running_and_starts().0 == 1).await;
    server.get().full_set = vec![on(node, 10, 101)];
    server.drop_session();
    until("it comes back more than once", || server.get().hellos.len() >= hellos + 2).await;
    assert_eq!(hardware.running_and_starts().0, 1, "an older epoch is not obeyed");
    assert!(server.get().hellos.iter().skip(1).all(|h| h.epoch == 5));

    // A restored one announces itself by a greater epoch: then lower revisions are newer.
    server.get().epoch = 6;
    server.get().full_set = vec![on(node, 10, 1)];
    until("the greater epoch is obeyed", || hardware.running_and_starts().0 == 2).await;
    agent.end().await;
}

#[tokio::test]
async fn absence_never_deletes() {
    let (server, hardware, node) = (Server::new(), hardware(), NodeId::new());
    let agent = Agent::on(&hardware, &server).await;
    until("hello", || !server.get().hellos.is_empty()).await;
    server.assign(&on(node, 1, 1));
    server.state(node, NodeState::Running).await;
    server.get().full_set.clear();
    server.send(Message::FullSet(FullSet::default()));
    let hellos = server.get().hellos.len();
    server.drop_session();
    until("a new session", || server.get().hellos.len() > hellos).await;
    let hello = server.get().hellos.last().cloned().unwrap();
    assert!(hello.nodes.iter().any(|n| n.node_id == node.to_string()), "it is said to be there");
    let marker = NodeId::new();
    server.assign(&on(marker, 1, 1));
    server.state(marker, NodeState::Running).await;
    assert_eq!(hardware.running_and_starts().0, 2);

    // An agent that lost its journal says what is there, and starts nothing twice.
    agent.end().await;
    assert_eq!(hardware.running_and_starts(), (2, 2), "nodes outlive the agent");
    server.get().reports.clear();
    let agent = Agent::on(&hardware, &server).await;
    let orphan = server.state(node, NodeState::Running).await;
    assert!(orphan.detail.contains("no assignment"), "{}", orphan.detail);
    server.assign(&Assignment { carried: 1, boot: 1, ..on(node, 1, 2) });
    let report = server.report(node, Duration::from_secs(5), |r| r.revision == 2).await;
    assert!(report.boot > 1, "counters begin anew in a boot of their own");
    assert_eq!(hardware.running_and_starts(), (2, 2));
    agent.end().await;
}

#[tokio::test]
async fn usage_is_sent_again_until_it_is_acknowledged() {
    let (server, hardware, node) = (Server::new(), hardware(), NodeId::new());
    server.get().acknowledges = false;
    let agent = Agent::on(&hardware, &server).await;
    until("hello", || !server.get().hellos.is_empty()).await;
    server.assign(&on(node, 1, 1));
    server.state(node, NodeState::Running).await;
    until("a block", || !server.get().blocks.is_empty()).await;
    server.assign(&off(node, 2, 2));
    server.state(node, NodeState::Off).await;
    server.drop_session();
    let before = server.get().blocks.len();
    until("a block in the next session", || server.get().blocks.len() > before).await;
    server.get().acknowledges = true;
    server.drop_session();
    until("the last sample of the boot", || server.last_sample(node).is_some()).await;
    let sample = server.last_sample(node).unwrap();
    assert!(sample.cpu_ns > 0 && sample.memory_byte_ms > 0 && sample.boot == 1, "{sample:?}");
    agent.end().await;
}

#[tokio::test]
async fn a_wish_waits_for_a_driver_that_does_not_answer_and_is_decided_on_what_is_true_then() {
    let (server, hardware, node, new) = (Server::new(), hardware(), NodeId::new(), NodeId::new());
    let agent = Agent::on(&hardware, &server).await;
    until("hello", || !server.get().hellos.is_empty()).await;
    server.assign(&on(node, 1, 1));
    server.state(node, NodeState::Running).await;

    hardware.answers(false);
    let report = server.report(node, Duration::from_secs(3), |r| r.detail.starts_with("not verified: ")).await;
    assert_eq!((report.state(), report.generation), (words::NodeState::Running, 1));
    hardware.kill(node);
    server.assign(&on(node, 2, 2));
    server.assign(&on(new, 1, 1));
    server.report(new, Duration::from_secs(3), |r| r.detail.contains("does not answer")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let id = node.to_string();
    let carried = server.get().reports.iter().filter(|r| r.node_id == id).map(|r| r.generation).max();
    assert_eq!((hardware.running_and_starts(), carried), ((0, 1), Some(1)), "nothing is decided on what was seen last");

    hardware.answers(true);
    for (node, generation) in [(node, 2), (new, 1)] {
        let within = Duration::from_secs(3);
        let report = server.report(node, within, |r| r.generation == generation && r.detail.is_empty()).await;
        assert_eq!((report.state(), report.boot), (words::NodeState::Running, generation));
    }
    assert_eq!(hardware.running_and_starts().0, 2);

    // Verified again without a wish, too.
    hardware.answers(false);
    server.report(node, Duration::from_secs(3), |r| !r.detail.is_empty()).await;
    hardware.answers(true);
    server.report(node, Duration::from_secs(3), |r| r.detail.is_empty()).await;
    agent.end().await;
}

#[tokio::test]
async fn a_start_that_is_not_decided_has_no_samples() {
    let behaviour = Behaviour { start_ms: (700, 700), start_fails_permille: 1000, ..Behaviour::default() };
    let (server, hardware, node) = (Server::new(), SimHost::new(3, Arc::new(behaviour)), NodeId::new());
    let agent = Agent::on(&hardware, &server).await;
    until("hello", || !server.get().hellos.is_empty()).await;
    for generation in [1, 2] {
        server.assign(&on(node, generation, generation));
        let failed = |r: &NodeReport| r.generation == generation && r.state() == words::NodeState::Failed;
        server.report(node, Duration::from_secs(5), failed).await;
    }
    // Its boot's number is the next attempt's: had it samples, theirs would be counted for those of a boot that ran.
    assert!(server.last_sample(node).is_none() && server.get().blocks.is_empty(), "{:?}", server.last_sample(node));
    agent.end().await;
}

#[tokio::test]
async fn hibernation_and_missing_drivers_are_said_plainly() {
    let (server, hardware, node, vm) = (Server::new(), hardware(), NodeId::new(), NodeId::new());
    let agent = Agent::on(&hardware, &server).await;
    until("hello", || !server.get().hellos.is_empty()).await;
    server.assign(&on(node, 1, 1));
    server.state(node, NodeState::Running).await;
    server.assign(&assignment(node, Power::Hibernated, 2, 2, spec()));
    let report = server.report(node, Duration::from_secs(5), |r| r.generation == 2).await;
    assert!(report.detail.contains("cannot hibernate"), "{}", report.detail);
    assert_eq!(hardware.running_and_starts().0, 1, "it stays as it is");
    let mut wrong = on(vm, 1, 1);
    wrong.set_node_type(yiqiu_proto::common::NodeType::from(NodeType::Vm));
    server.assign(&wrong);
    let report = server.state(vm, NodeState::Failed).await;
    assert!(report.detail.contains("offers no nodes of that type"), "{}", report.detail);
    server.assign(&Assignment { removed: true, revision: 2, ..wrong });
    server.state(vm, NodeState::Gone).await;
    agent.end().await;
}

#[tokio::test]
async fn a_thousand_nodes_with_faults_start_once_each() {
    let behaviour = Behaviour {
        create_ms: (0, 20),
        start_ms: (0, 20),
        start_fails_permille: 100,
        dies_permille: 100,
        dies_after_ms: (0, 100),
        ..Behaviour::default()
    };
    let (server, hardware) = (Server::new(), SimHost::new(3, Arc::new(behaviour)));
    let agent = Agent::on(&hardware, &server).await;
    until("hello", || !server.get().hellos.is_empty()).await;
    let nodes: Vec<NodeId> = (0..1000).map(|_| NodeId::new()).collect();
    for &node in &nodes {
        server.assign(&on(node, 1, 1));
        server.assign(&on(node, 1, 2));
    }
    for &node in &nodes {
        use yiqiu_proto::common::NodeState::{Failed, Running};
        server.report(node, Duration::from_secs(20), |r| matches!(r.state(), Running | Failed)).await;
    }
    server.drop_session();
    let starts = hardware.running_and_starts().1;
    assert!((800..=1000).contains(&starts), "{starts} starts");
    agent.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_shares_a_few_connections() {
    const HOSTS: usize = 300;
    let server = Server::new();
    let tokens: Vec<String> = (0..HOSTS).map(|i| format!("token-{i}")).collect();
    server.get().tokens = tokens.clone();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let agents = yiqiu_proto::agent::agents_server::AgentsServer::new(server.clone());
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(tonic::transport::Server::builder().add_service(agents).serve_with_incoming(incoming));
    let stop = CancellationToken::new();
    let config = fleet::FleetConfig {
        links: (0..3).map(|_| yiqiu_proto::link::remote(&url).unwrap()).collect(),
        tokens,
        seed: 1,
        capacity: Size { cpu_millicores: 64_000, ..Size::ZERO },
        clock_mhz: 2_500,
        behaviour: Behaviour::default(),
    };
    let fleet = tokio::spawn(fleet::run(config, stop.clone()));
    until("every host says hello", || server.get().hellos.len() >= HOSTS).await;
    until("heartbeats of all", || server.get().heartbeats > 3 * HOSTS as u64).await;
    assert_eq!(server.get().hellos.len(), HOSTS, "no session had to be made twice");
    stop.cancel();
    fleet.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_reboot_is_one_new_boot_however_often_it_is_told() {
    let (server, hardware, node) = (Server::new(), hardware(), NodeId::new());
    let agent = Agent::on(&hardware, &server).await;
    until("hello", || !server.get().hellos.is_empty()).await;
    server.assign(&on(node, 1, 1));
    server.state(node, NodeState::Running).await;
    let reboot = |generation, revision| Assignment { reboot: true, ..on(node, generation, revision) };
    server.assign(&reboot(2, 2));
    let carried = |r: &NodeReport| r.generation == 2 && r.boot == 2 && r.state() == words::NodeState::Running;
    server.report(node, Duration::from_secs(5), carried).await;
    server.assign(&reboot(2, 3));
    server.report(node, Duration::from_secs(5), |r| r.revision == 3).await;
    assert_eq!(hardware.running_and_starts(), (1, 2));
    // What failed is started by it; what is off is too, as its wish is to run.
    hardware.kill(node);
    server.state(node, NodeState::Failed).await;
    server.assign(&reboot(3, 4));
    server.report(node, Duration::from_secs(5), |r| r.generation == 3 && r.boot == 3).await;
    assert_eq!(hardware.running_and_starts(), (1, 3));
    agent.end().await;
}

#[tokio::test]
async fn a_long_stop_is_cut_short_by_a_power_off_with_less_grace_and_finished_before_a_start() {
    let behaviour = Behaviour { stop_ms: (3_600_000, 3_600_000), ..Behaviour::default() };
    let (server, hardware, node) = (Server::new(), SimHost::new(7, Arc::new(behaviour)), NodeId::new());
    let agent = Agent::on(&hardware, &server).await;
    until("hello", || !server.get().hellos.is_empty()).await;
    server.assign(&on(node, 1, 1));
    server.state(node, NodeState::Running).await;
    let patient = Assignment { stop_grace_ms: 600_000, ..off(node, 2, 2) };
    server.assign(&patient);
    let report = server.state(node, NodeState::Stopping).await;
    assert!(report.detail.contains("killed after 600s"), "{}", report.detail);
    server.assign(&Assignment { stop_grace_ms: 0, ..off(node, 3, 3) });
    let report = server.state(node, NodeState::Off).await;
    assert_eq!((report.generation, report.boot), (3, 1));
    // The other way round: a power-on waits for the stop.
    server.assign(&on(node, 4, 4));
    server.report(node, Duration::from_secs(5), |r| r.boot == 2).await;
    server.assign(&Assignment { stop_grace_ms: 500, ..off(node, 5, 5) });
    server.state(node, NodeState::Stopping).await;
    server.assign(&on(node, 6, 6));
    server.report(node, Duration::from_secs(5), |r| r.boot == 3 && r.generation == 6).await;
    assert_eq!(hardware.running_and_starts(), (1, 3));
    agent.end().await;
}

#[tokio::test]
async fn what_ran_on_a_host_that_restarted_reads_so_until_someone_starts_it() {
    let (server, hardware, folder) = (Server::new(), hardware(), tempfile::tempdir().unwrap());
    let [runs, died, off_before] = [NodeId::new(), NodeId::new(), NodeId::new()];
    let journal = || Journal::open(&folder.path().join("journal"), &server.get().host).unwrap();
    let agent = Agent::in_boot(&hardware, &server, journal(), "one").await;
    until("hello", || !server.get().hellos.is_empty()).await;
    for node in [runs, died, off_before] {
        server.assign(&on(node, 1, 1));
        server.state(node, NodeState::Running).await;
    }
    hardware.kill(died);
    let before = server.state(died, NodeState::Failed).await;
    server.assign(&off(off_before, 2, 2));
    server.state(off_before, NodeState::Off).await;
    agent.end().await;
    hardware.restart();
    server.get().reports.clear();

    let agent = Agent::in_boot(&hardware, &server, journal(), "two").await;
    let report = server.state(runs, NodeState::Failed).await;
    assert_eq!(report.detail, "the host restarted: power it on to start it again");
    assert_eq!(server.state(died, NodeState::Failed).await.detail, before.detail, "it had died before");
    server.state(off_before, NodeState::Off).await;
    assert_eq!(hardware.running_and_starts(), (0, 3), "nothing is started by itself");
    server.assign(&on(runs, 2, 2));
    let report = server.state(runs, NodeState::Running).await;
    assert_eq!((report.boot, &*report.detail), (2, ""));
    agent.end().await;
    hardware.restart();
    let agent = Agent::in_boot(&hardware, &server, journal(), "three").await;
    let report = server.state(runs, NodeState::Failed).await;
    assert_eq!((report.boot, &*report.detail), (2, "the host restarted: power it on to start it again"));
    agent.end().await;
}
