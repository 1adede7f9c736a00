//! Hosts out of service and back.

use sea_orm::ConnectionTrait;
use yiqiu_base::{Code, NodeState, NodeType, Power, database::sql, http::Paging};
use yiqiu_resources::{
    model::{HostSeen, HostState, HostWish, NodeModel},
    service::{Hello, Push},
};

use crate::support::{Agent, Tier, facts, line, ops, report, size, tenant};

async fn wish(tier: &Tier, host: &str, wish: HostWish) -> Result<Vec<String>, Code> {
    let asked = tier.service.host_wish(&ops(), host, wish, "new memory", None).await;
    asked.map(|(_, warnings)| warnings).map_err(|problem| problem.code)
}

async fn state(tier: &Tier, host: &str) -> HostState {
    tier.service.host_get(&ops(), host).await.unwrap().state()
}

/// The kinds and owners of events about lines, and what hosts became, since a position.
async fn told(tier: &Tier, after: i64) -> Vec<String> {
    let reading = tier.service.events(&ops(), after, 1000, std::time::Duration::ZERO).await.unwrap();
    let text = |payload: &str, field: &str| {
        serde_json::from_str::<serde_json::Value>(payload).unwrap()[field].as_str().unwrap_or_default().to_owned()
    };
    let of = |event: &yiqiu_base::outbox::Event| match event.kind.as_str() {
        "host.changed" => Some(format!("host {}", text(&event.payload, "state"))),
        kind if kind.starts_with("line.") => {
            assert_eq!(text(&event.payload, "detail"), "new memory");
            Some(format!("{kind} {} {}", event.owner, text(&event.payload, "name")))
        }
        _ => None,
    };
    reading.events.iter().filter_map(of).collect()
}

async fn head(tier: &Tier) -> i64 {
    tier.service.events(&ops(), i64::MAX, 1, std::time::Duration::ZERO).await.unwrap().head
}

/// Two tenants' nodes on a host.
async fn carried(tier: &Tier, agent: &Agent) -> Vec<NodeModel> {
    let mut nodes = Vec::new();
    for (owner, name) in [("t", "one"), ("u", "two")] {
        let lines = [line(name, &agent.host, size(100, 1 << 20))];
        let made = tier.service.contract_create(&tenant(owner), None, "c", &lines, None).await.unwrap().1;
        tier.service.agent_report(&agent.host, report(&made[0], NodeState::Running)).await.unwrap();
        nodes.extend(made);
    }
    nodes
}

#[tokio::test]
async fn a_drain_takes_nothing_new_tells_holders_and_survives_a_restart() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let nodes = carried(&tier, &agent).await;
        let before = head(&tier).await;
        let refused = tier.service.host_wish(&tenant("t"), "a", HostWish::Draining, "", None).await.unwrap_err();
        assert_eq!(refused.code, Code::PermissionDenied);
        let warnings = wish(&tier, "a", HostWish::Draining).await.unwrap();
        assert!(warnings[0].contains("no other host of zone r takes claims"), "{warnings:?}");
        let expected = ["host draining", "line.draining project:t one", "line.draining project:u two"];
        assert_eq!(told(&tier, before).await, expected, "on {}", tier.database.name);
        wish(&tier, "a", HostWish::Draining).await.unwrap();
        assert_eq!(told(&tier, before).await.len(), 3, "asked twice is the same as once");

        // A tenant reads of its own lines only.
        let own = tier.service.events(&tenant("t"), before, 100, std::time::Duration::ZERO).await.unwrap().events;
        assert_eq!(own.iter().map(|e| e.kind.as_str()).collect::<Vec<_>>(), ["line.draining"]);

        // It is in rows: another process goes on with it, and an agent that comes back does not end it.
        let tier = tier.restart().await;
        assert_eq!(state(&tier, "a").await, HostState::Unreachable);
        let agent = tier.dial(agent.host, agent.credential).await;
        assert_eq!(state(&tier, "a").await, HostState::Draining);
        let lines = [line("more", &agent.host, size(1, 1))];
        let refused = tier.service.contract_create(&tenant("t"), None, "d", &lines, None).await.unwrap_err();
        assert_eq!((refused.code, refused.detail.contains("draining")), (Code::WrongState, true), "{refused}");

        // What runs there may be stopped and started as ever; nothing is done to it by itself.
        let (service, who) = (&tier.service, tenant("t"));
        service.node_power(&who, nodes[0].id, Power::Off, None, None).await.unwrap();
        service.node_power(&who, nodes[0].id, Power::On, None, None).await.unwrap();
        let drain = service.drain_get(&ops(), "a", &Paging::default()).await.unwrap();
        assert_eq!((drain.wished.by.as_str(), drain.wished.why.as_str()), ("user:ops", "new memory"));
        assert_eq!(
            drain.left.items.iter().map(|l| (&*l.name, &*l.owner)).collect::<Vec<_>>(),
            [("one", "project:t"), ("two", "project:u")]
        );
        assert_eq!(drain.holders.len(), 2);
        for not_empty in [HostWish::Maintenance, HostWish::Retired] {
            assert_eq!(wish(&tier, "a", not_empty).await, Err(Code::InUse));
        }
        let refused = service.drain_get(&who, "a", &Paging::default()).await.unwrap_err();
        assert_eq!(refused.code, Code::PermissionDenied);

        let before = head(&tier).await;
        wish(&tier, "a", HostWish::InService).await.unwrap();
        let expected = ["host online", "line.undrained project:t one", "line.undrained project:u two"];
        assert_eq!(told(&tier, before).await, expected);
        service.contract_create(&who, None, "d", &lines, None).await.unwrap();
        tier.books_hold("after a drain that was taken back").await;
    }
}

#[tokio::test]
async fn ops_stop_nodes_for_a_drain_and_they_stay_off() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let other = tier.host("b", 2, NodeType::Vm, size(1_000, 1 << 30)).await;
        let nodes = carried(&tier, &agent).await;
        let elsewhere = tier
            .service
            .contract_create(&tenant("t"), None, "e", &[line("e", &other.host, size(1, 1))], None)
            .await
            .unwrap()
            .1;
        let service = &tier.service;
        let stop = async |ids: Vec<_>| {
            service.drain_stop(&ops(), "a", &ids, "new memory").await.map_err(|problem| problem.code)
        };
        assert_eq!(stop(vec![nodes[0].id]).await, Err(Code::WrongState), "it is not draining");
        assert!(wish(&tier, "a", HostWish::Draining).await.unwrap().is_empty(), "another host takes claims");
        let before = head(&tier).await;
        assert_eq!(stop(vec![nodes[0].id, elsewhere[0].id]).await, Err(Code::NotFound), "that one is not here");
        assert_eq!(stop(Vec::new()).await, Err(Code::InvalidArgument));
        assert_eq!(service.node_get(&ops(), nodes[0].id).await.unwrap().power, Power::On, "all or none");
        let hello = Hello {
            host_id: agent.host.id,
            facts: facts(NodeType::Vm, size(1_000, 1 << 30)),
            epoch: 0,
            nodes: vec![report(&nodes[0], NodeState::Running), report(&nodes[1], NodeState::Running)],
        };
        let mut connected = service.agent_connect(&agent.credential, hello).await.unwrap();
        stop(vec![nodes[0].id, nodes[0].id]).await.unwrap();
        stop(vec![nodes[0].id]).await.unwrap();
        let Some(Push::Assign(assigned)) = connected.pushes.recv().await else { panic!("the session ended") };
        assert_eq!((assigned.id, assigned.power, assigned.generation), (nodes[0].id, Power::Off, 2));
        assert_eq!(told(&tier, before).await, ["line.stopped project:t one"], "told once");

        let refused = service.node_power(&tenant("t"), nodes[0].id, Power::On, None, None).await.unwrap_err();
        assert_eq!(refused.code, Code::WrongState);
        assert!(refused.detail.contains("host a is draining"), "{refused}");
        assert_eq!(service.node_get(&ops(), nodes[0].id).await.unwrap().generation, 2, "the refusal changed nothing");
        service.node_power(&tenant("u"), nodes[1].id, Power::On, None, None).await.unwrap();
        let left = service.drain_get(&ops(), "a", &Paging::default()).await.unwrap().left.items;
        assert_eq!(left.iter().map(|l| l.stopped).collect::<Vec<_>>(), [true, false]);

        wish(&tier, "a", HostWish::InService).await.unwrap();
        assert_eq!(service.node_get(&ops(), nodes[0].id).await.unwrap().power, Power::Off, "nothing starts by itself");
        service.node_power(&tenant("t"), nodes[0].id, Power::On, None, None).await.unwrap();
        tier.books_hold("after stops").await;
    }
}

#[tokio::test]
async fn an_empty_host_is_maintained_and_retired_and_its_agent_is_refused() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let nodes = carried(&tier, &agent).await;
        wish(&tier, "a", HostWish::Draining).await.unwrap();
        let service = &tier.service;
        for (owner, node) in ["t", "u"].into_iter().zip(&nodes) {
            service.contract_release(&tenant(owner), "c").await.unwrap();
            assert_eq!(wish(&tier, "a", HostWish::Maintenance).await, Err(Code::InUse), "held until verified gone");
            service.agent_report(&agent.host, report(node, NodeState::Gone)).await.unwrap();
        }
        wish(&tier, "a", HostWish::Maintenance).await.unwrap();
        assert_eq!(wish(&tier, "a", HostWish::Draining).await, Err(Code::WrongState), "there is nothing to drain");
        service.agent_lost(&agent.host, agent.number).await;
        assert_eq!(state(&tier, "a").await, HostState::Maintenance, "it may be switched off");
        let agent = tier.dial(agent.host, agent.credential).await;
        assert_eq!(state(&tier, "a").await, HostState::Maintenance, "and on");
        let lines = [line("one", &agent.host, size(1, 1))];
        let refused = service.contract_create(&tenant("t"), None, "d", &lines, None).await.unwrap_err();
        assert_eq!((refused.code, refused.detail.contains("in maintenance")), (Code::WrongState, true), "{refused}");
        wish(&tier, "a", HostWish::InService).await.unwrap();
        assert_eq!(state(&tier, "a").await, HostState::Online);
        service.contract_create(&tenant("t"), None, "d", &lines, None).await.unwrap();
        assert_eq!(wish(&tier, "a", HostWish::Retired).await, Err(Code::InUse));

        let gone = tier.host("b", 2, NodeType::Vm, size(1_000, 1 << 30)).await;
        let (_, unused) = service.host_join_token(&ops(), "b").await.unwrap();
        wish(&tier, "b", HostWish::Retired).await.unwrap();
        assert_eq!(state(&tier, "b").await, HostState::Retired);
        assert!(!service.agent_is_current(&gone.host, gone.number), "its session ended");
        service.agent_lost(&gone.host, gone.number).await;
        let told = facts(NodeType::Vm, size(1_000, 1 << 30));
        let hello = Hello { host_id: gone.host.id, facts: told.clone(), epoch: 0, nodes: Vec::new() };
        let refused = service.agent_connect(&gone.credential, hello).await.err().unwrap();
        assert_eq!((refused.code, refused.detail.contains("retired")), (Code::PermissionDenied, true), "{refused}");
        assert_eq!(service.agent_facts(&gone.host, &told).await.unwrap_err().code, Code::PermissionDenied);
        assert_eq!(service.agent_join(&unused, &told).await.unwrap_err().code, Code::JoinTokenInvalid);
        for refused in [
            service.host_join_token(&ops(), "b").await.map(|_| ()),
            service.host_place(&ops(), "b", "r", 3, NodeType::Vm, None).await.map(|_| ()),
            service.host_change(&ops(), "b", Default::default(), Some(None), None).await.map(|_| ()),
        ] {
            assert_eq!(refused.unwrap_err().code, Code::WrongState);
        }
        for back in [HostWish::InService, HostWish::Draining, HostWish::Maintenance] {
            assert_eq!(wish(&tier, "b", back).await, Err(Code::WrongState));
        }
        // Its unit is free for another machine.
        tier.host("c", 2, NodeType::Vm, size(1_000, 1 << 30)).await;
        service.host_delete(&ops(), "b").await.unwrap();
        tier.books_hold("after a retirement").await;
    }
}

#[tokio::test]
async fn a_wish_that_lost_a_race_changes_nothing() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let host = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await.host;
        let ask = async |wish, why: &str, seen| {
            tier.service.host_wish(&ops(), "a", wish, why, seen).await.map_err(|problem| problem.code)
        };
        ask(HostWish::Draining, "", Some(host.generation)).await.unwrap();
        assert_eq!(ask(HostWish::Retired, "", Some(host.generation)).await.unwrap_err(), Code::StaleGeneration);
        assert_eq!(ask(HostWish::InService, "a\nb", None).await.unwrap_err(), Code::InvalidArgument);
        assert_eq!(ask(HostWish::InService, &"x".repeat(201), None).await.unwrap_err(), Code::InvalidArgument);
        assert_eq!(state(&tier, "a").await, HostState::Draining);
    }
}

/// The state that the database keeps for its queries is the one that everybody is shown, for every pair.
#[tokio::test]
async fn the_state_of_a_host_is_the_same_word_everywhere() {
    for tier in Tier::both().await {
        tier.place("r").await;
        tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let database = tier.database.open().await;
        for wish in HostWish::ALL {
            for seen in HostSeen::ALL {
                let transaction = database.begin().await.unwrap();
                let text = "UPDATE host SET wish = ?, seen = ? RETURNING state";
                let values = [wish.as_str().into(), seen.as_str().into()];
                let row = transaction.query_one_raw(sql(database.backend(), text, values)).await.unwrap().unwrap();
                let kept: String = row.try_get("", "state").unwrap();
                transaction.commit().await.unwrap();
                let host = tier.service.host_get(&ops(), "a").await.unwrap();
                assert_eq!((host.wish, host.seen), (*wish, *seen));
                assert_eq!(kept, host.state().as_str(), "{wish}, {seen} on {}", tier.database.name);
            }
        }
    }
}

/// Claims that race with a drain: each lands before it, and its holder is told, or is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_claim_slips_past_a_drain() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let host = tier.host("a", 1, NodeType::Vm, size(1_000_000, 1 << 40)).await.host;
        let claims: Vec<_> = (0..40)
            .map(|n| {
                let (service, lines) = (tier.service.clone(), [line(&format!("n{n}"), &host, size(1, 1))]);
                let ask =
                    async move { service.contract_create(&tenant("t"), None, &format!("c{n}"), &lines, None).await };
                tokio::spawn(ask)
            })
            .collect();
        wish(&tier, "a", HostWish::Draining).await.unwrap();
        let mut landed = 0;
        for claim in claims {
            match claim.await.unwrap() {
                Ok(_) => landed += 1,
                Err(problem) => assert_eq!(problem.code, Code::WrongState, "{problem}"),
            }
        }
        let lines = told(&tier, 0).await.into_iter().filter(|told| told.starts_with("line.draining")).count();
        assert_eq!(lines, landed, "whoever landed before it was told");
        let drain = tier.service.drain_get(&ops(), "a", &Paging { cursor: None, limit: Some(1000) }).await.unwrap();
        assert_eq!((drain.host.nodes, drain.left.items.len()), (landed as i64, landed));
        tier.books_hold("after a drain with claims under way").await;
    }
}
