use yiqiu_base::{Code, Id, NodeState, NodeType, Power, id::Command, secret::Secret};
use yiqiu_resources::{
    model::{HostState, Limit},
    service::{Hello, Push, host::HostRequest},
};

use crate::support::{Tier, facts, line, ops, report, report_of, size, tenant};

#[tokio::test]
async fn a_join_token_works_once_and_not_for_ever() {
    for tier in Tier::both().await {
        let service = &tier.service;
        let request =
            HostRequest { name: "a".into(), rack: None, unit: None, node_type: None, limit: Limit::default() };
        let (_, token) = service.host_create(&ops(), &request, None).await.unwrap();
        let facts = facts(NodeType::Cm, size(1_000, 1 << 30));
        service.agent_join(&token, &facts).await.unwrap();
        assert_eq!(service.agent_join(&token, &facts).await.unwrap_err().code, Code::JoinTokenInvalid, "used");
        let made_up = Secret::generate("yqj_");
        assert_eq!(service.agent_join(&made_up, &facts).await.unwrap_err().code, Code::JoinTokenInvalid, "unknown");
        let (_, late) = service.host_join_token(&ops(), "a").await.unwrap();
        tier.tick(3_600_001);
        assert_eq!(service.agent_join(&late, &facts).await.unwrap_err().code, Code::JoinTokenInvalid, "expired");
    }
}

#[tokio::test]
async fn an_agent_speaks_for_its_own_host_only() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let a = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let b = tier.host("b", 2, NodeType::Vm, size(1_000, 1 << 30)).await;
        let service = &tier.service;
        let hello = Hello { host_id: b.host.id, facts: facts(NodeType::Vm, size(1, 1)), epoch: 0, nodes: Vec::new() };
        let claimed = service.agent_connect(&a.credential, hello.clone()).await.err().unwrap();
        assert_eq!(claimed.code, Code::PermissionDenied);
        let forged = service.agent_connect(&Secret::generate("yqa_"), hello).await.err().unwrap();
        assert_eq!(forged.code, Code::Unauthenticated);

        // What a reports of a node on b changes nothing.
        let lines = [line("one", &b.host, size(100, 1 << 20))];
        let (_, nodes) = service.contract_create(&tenant("t"), None, "c", &lines, None).await.unwrap();
        service.agent_report(&a.host, report(&nodes[0], NodeState::Running)).await.unwrap();
        assert_eq!(service.node_get(&ops(), nodes[0].id).await.unwrap().state, NodeState::Pending);
    }
}

#[tokio::test]
async fn a_lost_agent_makes_its_host_unreachable_and_claims_nothing_away() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let service = &tier.service;
        let lines = [line("one", &agent.host, size(100, 1 << 20))];
        let (_, nodes) = service.contract_create(&tenant("t"), None, "c", &lines, None).await.unwrap();
        service.agent_report(&agent.host, report(&nodes[0], NodeState::Running)).await.unwrap();
        service.agent_lost(&agent.host, agent.number).await;
        let host = service.host_get(&ops(), "a").await.unwrap();
        assert_eq!((host.state(), host.nodes), (HostState::Unreachable, 1));
        assert_eq!(service.node_get(&ops(), nodes[0].id).await.unwrap().state, NodeState::Running);
        let refused = service.contract_create(&tenant("t"), None, "d", &lines, None).await.unwrap_err();
        assert_eq!(refused.code, Code::WrongState);

        // It dials again, and an older session of it that ends late changes nothing.
        let facts = facts(NodeType::Vm, size(1_000, 1 << 30));
        let hello = Hello { host_id: agent.host.id, facts, epoch: 0, nodes: vec![report(&nodes[0], NodeState::Off)] };
        let connected = service.agent_connect(&agent.credential, hello).await.unwrap();
        assert_eq!(connected.full_set.len(), 1);
        service.agent_lost(&agent.host, agent.number).await;
        assert_eq!(service.host_get(&ops(), "a").await.unwrap().state(), HostState::Online);
        assert_eq!(service.node_get(&ops(), nodes[0].id).await.unwrap().state, NodeState::Off, "Hello told of it");
        tier.books_hold("after a lost agent").await;
    }
}

#[tokio::test]
async fn after_a_restart_hosts_are_unreachable_until_they_dial() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let tier = tier.restart().await;
        assert_eq!(tier.service.host_get(&ops(), "a").await.unwrap().state(), HostState::Unreachable);
        let lines = [line("one", &agent.host, size(1, 1))];
        let refused = tier.service.contract_create(&tenant("t"), None, "c", &lines, None).await.unwrap_err();
        assert_eq!(refused.code, Code::WrongState, "{refused}");
        let events = tier.service.events(&ops(), 0, 1_000, std::time::Duration::ZERO).await.unwrap().events;
        let last = events.iter().rfind(|event| event.kind == "host.changed").unwrap();
        assert!(last.payload.contains("the server started anew"), "{}", last.payload);
    }
}

#[tokio::test]
async fn wishes_reach_a_connected_agent_and_are_carried_out_once() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let (service, who) = (&tier.service, tenant("t"));
        let facts = facts(NodeType::Vm, size(1_000, 1 << 30));
        let hello = Hello { host_id: agent.host.id, facts, epoch: 0, nodes: Vec::new() };
        let mut connected = service.agent_connect(&agent.credential, hello).await.unwrap();
        let lines = [line("one", &agent.host, size(100, 1 << 20))];
        let (_, nodes) = service.contract_create(&who, None, "c", &lines, None).await.unwrap();
        let Some(Push::Assign(told)) = connected.pushes.recv().await else { panic!("the session ended") };
        assert_eq!((told.id, told.power, told.generation, told.revision), (nodes[0].id, Power::On, 1, 1));

        let command = Some(Id::<Command>::new());
        let off = service.node_power(&who, nodes[0].id, Power::Off, command, Some(1)).await.unwrap();
        let again = service.node_power(&who, nodes[0].id, Power::Off, command, Some(1)).await.unwrap();
        assert_eq!((off.generation, again.generation), (2, 2), "one command, one change");
        let reused = service.node_power(&who, nodes[0].id, Power::On, command, None).await.unwrap_err();
        assert_eq!(reused.code, Code::IdempotencyKeyReused);
        let stale = service.node_power(&who, nodes[0].id, Power::On, None, Some(1)).await.unwrap_err();
        assert_eq!(stale.code, Code::StaleGeneration);
        let Some(Push::Assign(told)) = connected.pushes.recv().await else { panic!("the session ended") };
        assert_eq!((told.power, told.generation, told.revision), (Power::Off, 2, 2));

        // A report from before a newer start changes nothing.
        service.agent_report(&agent.host, report_of(told.id, NodeState::Running, 2, 3)).await.unwrap();
        service.agent_report(&agent.host, report_of(told.id, NodeState::Failed, 2, 2)).await.unwrap();
        assert_eq!(service.node_get(&who, told.id).await.unwrap().state, NodeState::Running);
    }
}

/// A host that is moved while it carries nodes keeps the estimate that their claims were counted with.
#[tokio::test]
async fn a_new_estimate_of_the_overhead_waits_until_the_host_is_empty() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let (service, who) = (&tier.service, tenant("t"));
        let lines = [line("one", &agent.host, size(100, 1 << 20))];
        let (_, nodes) = service.contract_create(&who, None, "c", &lines, None).await.unwrap();
        let mut dearer = facts(NodeType::Vm, size(1_000, 1 << 30));
        dearer.drivers[0].overhead_per_node = size(50, 1 << 11);
        service.agent_facts(&agent.host, &dearer).await.unwrap();
        service.host_place(&ops(), "a", "r", 2, NodeType::Vm, None).await.unwrap();
        tier.books_hold("after a move under nodes").await;
        service.contract_release(&who, "c").await.unwrap();
        service.agent_report(&agent.host, report(&nodes[0], NodeState::Gone)).await.unwrap();
        tier.books_hold("after the last node").await;
        service.agent_facts(&agent.host, &dearer).await.unwrap();
        assert_eq!(service.host_get(&ops(), "a").await.unwrap().node_overhead, size(50, 1 << 11));
    }
}

/// A session that falls behind is cut off, and its host is shown as unreachable.
#[tokio::test]
async fn a_host_is_never_online_without_its_agent() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let (service, who) = (&tier.service, tenant("t"));
        let lines = [line("one", &agent.host, size(100, 1 << 20))];
        let (_, nodes) = service.contract_create(&who, None, "c", &lines, None).await.unwrap();
        let mut wishes = 0;
        while service.agent_is_current(&agent.host, agent.number) {
            let power = if wishes % 2 == 0 { Power::Off } else { Power::On };
            service.node_power(&who, nodes[0].id, power, None, None).await.unwrap();
            wishes += 1;
            assert!(wishes < 10_000, "a session that reads nothing is never cut off");
        }
        service.agent_lost(&agent.host, agent.number).await;
        assert_eq!(service.host_get(&ops(), "a").await.unwrap().state(), HostState::Unreachable);
    }
}
