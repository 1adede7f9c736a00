use std::sync::Arc;

use yiqiu_base::{Code, Id, NodeState, NodeType, Power, Size, size::MOST};
use yiqiu_resources::model::ContractState;

use crate::support::{Tier, line, ops, report, size, tenant};

#[tokio::test]
async fn a_contract_claims_every_line_or_none() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let a = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await.host;
        let b = tier.host("b", 2, NodeType::Vm, size(1_000, 1 << 30)).await.host;
        let (service, who) = (&tier.service, tenant("t"));
        let lines = [line("one", &a, size(500, 1 << 20)), line("two", &b, size(2_000, 1 << 20))];
        let refused = service.contract_create(&who, None, "c", &lines, Some("k")).await.unwrap_err();
        assert_eq!(refused.code, Code::HostFull);
        let data = refused.data.unwrap();
        assert_eq!(data["host"]["name"], "b");
        assert_eq!(data["lacking"][0]["dimension"], "cpu_millicores");
        assert_eq!(data["lacking"][0]["by"], 2_000 - (1_000 - 100 - 5));
        tier.books_hold("after a refusal").await;
        assert_eq!(service.host_get(&ops(), "a").await.unwrap().used, Size::ZERO);

        // The refused request left nothing, so its name and its key are free.
        let lines = [line("one", &a, size(500, 1 << 20)), line("two", &b, size(500, 1 << 20))];
        let (contract, nodes) = service.contract_create(&who, None, "c", &lines, Some("k")).await.unwrap();
        assert_eq!(nodes.len(), 2);
        assert_eq!(service.host_get(&ops(), "a").await.unwrap().used, size(505, (1 << 20) + (1 << 10)));
        let (again, _) = service.contract_create(&who, None, "c", &lines, Some("k")).await.unwrap();
        assert_eq!(again.id, contract.id);
        tier.books_hold("after a claim").await;
    }
}

#[tokio::test]
async fn asking_twice_is_the_same_as_once() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let host = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await.host;
        let (service, who) = (&tier.service, tenant("t"));
        let id = Some(Id::new());
        let lines = [line("one", &host, size(100, 1 << 20))];
        let (first, nodes) = service.contract_create(&who, id, "c", &lines, None).await.unwrap();
        let (second, same) = service.contract_create(&who, id, "c", &lines, None).await.unwrap();
        assert_eq!((first.id, nodes[0].id), (second.id, same[0].id));
        // Another tenant cannot get at it by its id, nor by asking for it again.
        let other = tenant("other");
        assert_eq!(service.contract_get(&other, &first.id.to_string()).await.unwrap_err().code, Code::NotFound);
        assert_eq!(service.node_get(&other, nodes[0].id).await.unwrap_err().code, Code::NotFound);
        assert_eq!(service.contract_release(&other, &first.id.to_string()).await.unwrap_err().code, Code::NotFound);
        assert_eq!(service.contract_create(&other, id, "c", &lines, None).await.unwrap_err().code, Code::AlreadyExists);
        assert_eq!(
            service.contract_create(&who, None, "c", &lines, None).await.unwrap_err().code,
            Code::AlreadyExists,
            "the name is taken"
        );
        tier.books_hold("after asking twice").await;
    }
}

#[tokio::test]
async fn bad_requests_change_nothing() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let cm = tier.host("cm", 1, NodeType::Cm, size(1_000, 1 << 30)).await.host;
        let bm = tier.host("bm", 2, NodeType::Bm, size(1_000, 1 << 30)).await.host;
        let vm = tier.host("vm", 3, NodeType::Vm, size(1_000, 1 << 30)).await.host;
        let (service, who) = (&tier.service, tenant("t"));
        let good = line("one", &vm, size(100, 1 << 20));
        let unknown = yiqiu_resources::service::LineRequest {
            host: Id::<yiqiu_base::id::Host>::new().to_string(),
            ..good.clone()
        };
        let mismatch = yiqiu_resources::service::LineRequest { node_type: Some(NodeType::Cm), ..good.clone() };
        let no_size = yiqiu_resources::service::LineRequest { size: None, ..good.clone() };
        let hibernated = yiqiu_resources::service::LineRequest { power: Some(Power::Hibernated), ..good.clone() };
        for (what, lines, code) in [
            ("no lines", vec![], Code::InvalidArgument),
            ("unknown host", vec![unknown], Code::NotFound),
            ("no size", vec![no_size], Code::InvalidArgument),
            ("zero cpu", vec![line("one", &vm, size(0, 1))], Code::InvalidArgument),
            ("negative", vec![line("one", &vm, size(-5, 1))], Code::InvalidArgument),
            ("absurd", vec![line("one", &vm, size(i64::MAX, 1))], Code::InvalidArgument),
            ("too much", vec![line("one", &vm, size(MOST, 1))], Code::HostFull),
            ("twice the name", vec![good.clone(), good.clone()], Code::AlreadyExists),
            ("a container without an image", vec![line("one", &cm, size(1, 1))], Code::InvalidArgument),
            ("a bm", vec![line("one", &bm, size(1, 1))], Code::PermissionDenied),
            ("another node type", vec![mismatch], Code::NodeTypeMismatch),
            ("born hibernated", vec![hibernated], Code::InvalidArgument),
        ] {
            let refused = service.contract_create(&who, None, "c", &lines, None).await.unwrap_err();
            assert_eq!(refused.code, code, "{what}: {refused}");
        }
        let nobody = yiqiu_base::Principal { owner: String::new(), ..ops() };
        let refused = service.contract_create(&nobody, None, "c", &[good], None).await.unwrap_err();
        assert_eq!(refused.code, Code::InvalidArgument, "ops without a project own nothing");
        tier.books_hold("after bad requests").await;
        for host in ["cm", "bm", "vm"] {
            assert_eq!(service.host_get(&ops(), host).await.unwrap().nodes, 0);
        }
    }
}

#[tokio::test]
async fn a_bm_host_is_claimed_whole() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let host = tier.host("bm", 1, NodeType::Bm, size(4_000, 1 << 30)).await.host;
        let (service, who) = (&tier.service, ops());
        let whole = yiqiu_resources::service::LineRequest { size: None, ..line("one", &host, Size::ZERO) };
        let (_, nodes) = service.contract_create(&who, None, "c", std::slice::from_ref(&whole), None).await.unwrap();
        let foreign = service.contract_create(&tenant("t"), None, "c", std::slice::from_ref(&whole), None).await;
        assert_eq!(foreign.unwrap_err().code, Code::PermissionDenied, "a whole host is for ops");
        assert_eq!(nodes[0].spec.size, size(4_000 - 100 - 5, (1 << 30) - (1 << 20) - (1 << 10)));
        let full = service.contract_create(&who, None, "d", &[whole], None).await.unwrap_err();
        assert!(matches!(full.code, Code::HostFull | Code::InvalidArgument), "{full}");
        tier.books_hold("with a bm").await;
    }
}

/// A line id that is there already fails its own contract, not those that share the transaction with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_fails_for_a_neighbour() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let host = tier.host("a", 1, NodeType::Vm, size(100_000, 1 << 40)).await.host;
        let (service, who) = (tier.service.clone(), tenant("t"));
        let taken = Id::new();
        let first = yiqiu_resources::service::LineRequest { id: Some(taken), ..line("one", &host, size(1, 1)) };
        service.contract_create(&who, None, "first", std::slice::from_ref(&first), None).await.unwrap();
        let asks = (0..40).map(|n| {
            let (service, who, host, first) = (service.clone(), who.clone(), host.clone(), first.clone());
            tokio::spawn(async move {
                let lines = if n % 4 == 0 { [first] } else { [line("one", &host, size(1, 1))] };
                (n, service.contract_create(&who, None, &format!("c{n}"), &lines, None).await)
            })
        });
        for ask in asks.collect::<Vec<_>>() {
            let (n, verdict) = ask.await.unwrap();
            match verdict {
                Ok(_) => assert_ne!(n % 4, 0),
                Err(problem) => assert!(n % 4 == 0 && problem.code == Code::AlreadyExists, "{n}: {problem}"),
            }
        }
        tier.books_hold("after neighbours").await;
    }
}

/// Racing claims on one host: exactly as many win as fit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_claims_never_overfill_a_host() {
    for tier in Tier::both().await {
        tier.place("r").await;
        // 100 for the cut, 5 beside each node: 9 nodes of 95 fit into the 900 left.
        let host = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 40)).await.host;
        let service = Arc::new(tier.service.clone());
        let asks = (0..50).map(|n| {
            let (service, host) = (service.clone(), host.clone());
            tokio::spawn(async move {
                let lines = [line("one", &host, size(95, 1 << 20))];
                service.contract_create(&tenant(&format!("t{n}")), None, "c", &lines, None).await
            })
        });
        let mut won = 0;
        for ask in asks.collect::<Vec<_>>() {
            match ask.await.unwrap() {
                Ok(_) => won += 1,
                Err(problem) => assert_eq!(problem.code, Code::HostFull),
            }
        }
        assert_eq!(won, 9, "on {}", tier.database.name);
        tier.books_hold("after a race").await;
    }
}

#[tokio::test]
async fn a_claim_ends_when_its_node_is_verified_gone() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let (service, who) = (&tier.service, tenant("t"));
        let lines = [line("one", &agent.host, size(500, 1 << 20))];
        let (contract, nodes) = service.contract_create(&who, None, "c", &lines, None).await.unwrap();
        service.agent_report(&agent.host, report(&nodes[0], NodeState::Running)).await.unwrap();
        assert_eq!(service.host_delete(&ops(), "a").await.unwrap_err().code, Code::InUse);
        // Gone without being asked: shown as failed, and the claim stays.
        service.agent_report(&agent.host, report(&nodes[0], NodeState::Gone)).await.unwrap();
        let lost = service.node_get(&who, nodes[0].id).await.unwrap();
        assert_eq!(lost.state, NodeState::Failed);
        tier.books_hold("with a lost node").await;

        let releasing = service.contract_release(&who, "c").await.unwrap();
        assert_eq!(releasing.state, ContractState::Releasing);
        assert_eq!(service.contract_release(&who, "c").await.unwrap().state, ContractState::Releasing);
        assert_eq!(
            service.node_power(&who, nodes[0].id, Power::On, None, None).await.unwrap_err().code,
            Code::WrongState
        );
        assert_ne!(service.host_get(&ops(), "a").await.unwrap().used, Size::ZERO, "held until verified");
        tier.books_hold("while releasing").await;

        service.agent_report(&agent.host, report(&nodes[0], NodeState::Gone)).await.unwrap();
        let (released, left) = service.contract_get(&who, &contract.id.to_string()).await.unwrap();
        assert_eq!((released.state, left.len()), (ContractState::Released, 0));
        assert_eq!(service.host_get(&ops(), "a").await.unwrap().used, Size::ZERO);
        tier.books_hold("after release").await;
        service.contract_create(&who, None, "c", &lines, None).await.expect("the name is free again");
    }
}

/// What is asked twice at once is decided in turn: the second learns what became of the first, and no key is left that
/// points to nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asking_twice_at_once_is_the_same_as_once() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let host = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await.host;
        let ask = |id, name: &str, cpu, key: String| {
            let (service, name, lines) = (tier.service.clone(), name.to_owned(), [line("one", &host, size(cpu, 1))]);
            tokio::spawn(async move { service.contract_create(&tenant("t"), id, &name, &lines, Some(&key)).await })
        };
        for round in 0..10 {
            let keys = [format!("a{round}"), format!("b{round}")];
            let id = Some(Id::new());
            let refused = keys.clone().map(|key| ask(id, &format!("big{round}"), 5_000, key));
            for answer in refused {
                assert_eq!(answer.await.unwrap().unwrap_err().code, Code::HostFull);
            }
            // The keys of refused requests are free: with room, the same keys make the contract.
            let id = Some(Id::new());
            let made = keys.clone().map(|key| ask(id, &format!("small{round}"), 10, key));
            let mut ids = Vec::new();
            for answer in made {
                ids.push(answer.await.unwrap().unwrap().0.id);
            }
            assert_eq!(ids[0], ids[1]);
            tier.service.contract_get(&tenant("t"), &ids[0].to_string()).await.unwrap();
            for key in keys {
                let other = ask(None, "other", 10, key).await.unwrap().unwrap_err();
                assert_eq!(other.code, Code::IdempotencyKeyReused);
            }
            tier.books_hold("after asking twice at once").await;
        }
    }
}
