//! Volumes, memory and a read-only root: what is kept, what is not, and what cannot be written.

use yiqiu_agent::driver::NodeId;
use yiqiu_base::{NodeState, Power};
use yiqiu_proto::{
    agent::Assignment,
    common::{Mount, Runtime},
};

use crate::{
    bench::{Bench, docker_socket},
    common::until,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_is_kept_over_restarts_and_goes_with_its_node() {
    let bench = Bench::new(docker_socket());
    let (server, agent, node) = (&bench.server, bench.agent().await, NodeId::new());
    let volume = Mount { path: "/data".to_owned(), volume: "data".to_owned(), ..Mount::default() };
    let memory = Mount { path: "/scratch".to_owned(), size_bytes: 1 << 20, ..Mount::default() };
    let runtime = Runtime { read_only_root: true, mounts: vec![volume, memory], ..Runtime::default() };
    // Each start counts in the volume; memory is empty each time, holds its size and no more; the root is not written.
    let script = "echo run >> /data/runs && [ ! -e /scratch/run ] && echo run > /scratch/run || exit 9; \
                  echo no 2>/dev/null > /no && exit 8; \
                  dd if=/dev/zero of=/scratch/much bs=64k count=32 2>/dev/null && exit 7; sleep 1000";
    let wish = |power, generation| {
        let mut assignment = bench.sh(node, script, power, generation);
        assignment.spec.as_mut().unwrap().runtime = Some(runtime.clone());
        assignment
    };
    let runs = || bench.docker(&["exec", &format!("yiqiu-{node}"), "cat", "/data/runs"]).lines().count();
    let volumes = || bench.docker(&["volume", "ls", "-q", "--filter", &format!("label=yiqiu.node={node}")]);
    server.assign(&wish(Power::On, 1));
    server.state(node, NodeState::Running).await;
    until("the first run", || runs() == 1).await;
    assert_eq!(volumes(), format!("yiqiu-{node}-data"));
    server.assign(&wish(Power::Off, 2));
    server.state(node, NodeState::Off).await;
    server.assign(&wish(Power::On, 3));
    server.state(node, NodeState::Running).await;
    until("the second run", || runs() == 2).await;
    // Also where its container is lost: the volume is the node's, not the container's.
    bench.docker(&["rm", "-f", &format!("yiqiu-{node}")]);
    server.state(node, NodeState::Failed).await;
    until("the container is gone", || {
        bench.docker(&["ps", "-aq", "--filter", &format!("name=yiqiu-{node}")]).is_empty()
    })
    .await;
    server.assign(&wish(Power::On, 4));
    server.state(node, NodeState::Running).await;
    until("the third run", || runs() == 3).await;
    bench.docker(&["rm", "-f", &format!("yiqiu-{node}")]);
    server.state(node, NodeState::Failed).await;
    server.assign(&Assignment { removed: true, revision: 9, ..wish(Power::Off, 5) });
    server.state(node, NodeState::Gone).await;
    assert_eq!(volumes(), "", "nothing is left where only the volume was left");
    agent.end().await;
}
