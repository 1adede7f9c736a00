//! Random histories with racing clients: the books hold after every round, and after a restart. A seed replays one:
//! `YIQIU_SEED=7 cargo test -p yiqiu-resources --test it racing`.

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use yiqiu_base::{Code, NodeState, NodeType, Power};
use yiqiu_resources::{
    model::{HostWish, LineChange, SizeChange},
    service::AmendRequest,
};

use crate::support::{Agent, Tier, line, ops, report_of, size, tenant};

const ROUNDS: usize = 12;
const CLIENTS: u64 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_books_hold_under_racing_clients() {
    let seeds: Vec<u64> = match std::env::var("YIQIU_SEED") {
        Ok(seed) => vec![seed.parse().expect("YIQIU_SEED is a number")],
        Err(_) => (1..=4).collect(),
    };
    for seed in seeds {
        for tier in Tier::both().await {
            println!("seed {seed} on {}", tier.database.name);
            history(tier, seed).await;
        }
    }
}

async fn history(mut tier: Tier, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    tier.place("r").await;
    let mut agents = Vec::new();
    for n in 0..4 {
        let node_type = if n == 3 { NodeType::Bm } else { NodeType::Vm };
        let capacity = size(random.random_range(200..3_000), random.random_range(2 << 20..1 << 30));
        agents.push(tier.host(&format!("h{n}"), n + 1, node_type, capacity).await);
    }
    for round in 0..ROUNDS {
        let clients = (0..CLIENTS).map(|client| {
            let seed = seed * 1_000_000 + round as u64 * 1_000 + client;
            let hosts = agents.iter().map(|a| a.host.clone()).collect::<Vec<_>>();
            let service = tier.service.clone();
            tokio::spawn(async move {
                let mut random = StdRng::seed_from_u64(seed);
                let who = tenant(&format!("t{}", client % 3));
                for step in 0..5 {
                    act(&service, &who, &hosts, &mut random, &format!("c{seed}-{step}")).await;
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.expect("no client panics");
        }
        tier.tick(random.random_range(0..5_000));
        tier.books_hold(&format!("seed {seed}, round {round}")).await;
        if random.random_bool(0.2) {
            tier = tier.restart().await;
            let mut dialled = Vec::new();
            for agent in agents {
                let Agent { host, credential, .. } = agent;
                dialled.push(tier.dial(host, credential).await);
            }
            agents = dialled;
            tier.books_hold(&format!("seed {seed}, restart after round {round}")).await;
        }
    }
}

/// One random request, of a tenant or of an agent. What may be refused is refused with the code for it.
async fn act(
    service: &yiqiu_resources::Service,
    who: &yiqiu_base::Principal,
    hosts: &[yiqiu_resources::model::HostModel],
    random: &mut StdRng,
    name: &str,
) {
    let nodes = service.node_list(&ops(), None, &yiqiu_base::http::Paging { limit: Some(1000), cursor: None }).await;
    let nodes = nodes.unwrap().items;
    let (verdict, expected): (Result<(), yiqiu_base::Problem>, &[Code]) =
        match (random.random_range(0..14), nodes.choose(random)) {
            (0..4, _) | (_, None) => {
                let mut lines = Vec::new();
                for n in 0..random.random_range(1..4) {
                    let host = hosts.choose(random).unwrap();
                    let asked = size(random.random_range(1..900), random.random_range(1..1 << 28));
                    let mut line = line(&format!("l{n}"), host, asked);
                    line.size = line.size.filter(|_| host.node_type != Some(NodeType::Bm));
                    lines.push(line);
                }
                // Whole hosts are for ops.
                let whole = lines.iter().any(|line| line.size.is_none());
                let who = if whole { &ops() } else { who };
                let made = service.contract_create(who, None, name, &lines, Some(name)).await;
                (made.map(|_| ()), &[Code::HostFull, Code::InvalidArgument, Code::WrongState])
            }
            (7..9, Some(node)) => {
                let resized = SizeChange { cpu_millicores: Some(random.random_range(1..900)), ..SizeChange::default() };
                let change = LineChange { line: node.line_id.to_string(), name: None, size: Some(resized) };
                let mut added = line(&format!("a{name}"), hosts.choose(random).unwrap(), size(50, 1 << 20));
                added.size = added.size.filter(|_| added.host != hosts[3].id.to_string());
                let request = AmendRequest { change: vec![change], add: vec![added], ..AmendRequest::default() };
                let id = node.rcontract_id.to_string();
                let made = service.contract_amend(&ops(), &id, &request, None, Some(name)).await;
                (made.map(|_| ()), &[Code::HostFull, Code::InvalidArgument, Code::WrongState, Code::NotFound])
            }
            (9, Some(node)) => {
                let ends = random.random::<bool>().then_some(1_700_000_000_000 + random.random_range(1..60_000));
                let made = service.contract_renew(&ops(), &node.rcontract_id.to_string(), ends, "", None, None).await;
                (made.map(|_| ()), &[Code::InvalidArgument, Code::WrongState])
            }
            (10, Some(_)) => {
                let wish = if random.random_bool(0.3) { HostWish::Draining } else { HostWish::InService };
                let host = &hosts.choose(random).unwrap().name;
                (service.host_wish(&ops(), host, wish, "", None).await.map(|_| ()), &[])
            }
            (4..6, Some(node)) => {
                let power = if random.random_bool(0.5) { Power::On } else { Power::Off };
                let seen = random.random_bool(0.5).then_some(node.generation);
                let made = service.node_power(&ops(), node.id, power, None, seen).await;
                (made.map(|_| ()), &[Code::WrongState, Code::StaleGeneration, Code::NotFound])
            }
            (6, Some(node)) => {
                let made = service.contract_release(&ops(), &node.rcontract_id.to_string()).await;
                (made.map(|_| ()), &[])
            }
            (_, Some(node)) => {
                let host = hosts.iter().find(|h| h.id == node.host_id).unwrap();
                let states =
                    [NodeState::Running, NodeState::Off, NodeState::Failed, NodeState::Gone, NodeState::Stopping];
                let state = if node.removed { NodeState::Gone } else { *states.choose(random).unwrap() };
                let report = report_of(node.id, state, node.generation, node.boot + random.random_range(0..2));
                (service.agent_report(host, report).await, &[])
            }
        };
    if let Err(problem) = verdict {
        assert!(expected.contains(&problem.code), "{name}: {problem}");
    }
}
