use std::time::{Duration, Instant};

use yiqiu_base::{Code, NodeState, NodeType, Power, Size, http::Paging};
use yiqiu_resources::{
    model::{Change, ContractState, Entry},
    service::ContractRequest,
};

use crate::support::{Tier, line, ops, report, report_of, size, tenant};

const HOUR: u64 = 3_600_000;

async fn history(tier: &Tier, id: &str) -> Vec<Entry> {
    tier.service.contract_history(&tenant("t"), id, &Paging::default()).await.unwrap().items
}

fn kinds(entries: &[Entry]) -> Vec<&'static str> {
    let kind = |entry: &Entry| match entry.change {
        Change::Created { .. } => "created",
        Change::Started { .. } => "started",
        Change::Renewed { .. } => "renewed",
        Change::Amended { .. } => "amended",
        Change::Ending { .. } => "ending",
        Change::Expired => "expired",
        Change::Releasing => "releasing",
        Change::Released => "released",
    };
    entries.iter().map(kind).collect()
}

#[tokio::test]
async fn a_contract_lives_by_its_term() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let agent = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let (service, who, now) = (&tier.service, tenant("t"), tier.clock.now());
        let hour = i64::try_from(HOUR).unwrap();
        let request = ContractRequest {
            starts_ms: Some(now + hour),
            ends_ms: Some(now + 3 * hour),
            reason: "a weekend's load".to_owned(),
            ..ContractRequest::open(None, "c", &[line("one", &agent.host, size(500, 1 << 20))])
        };
        let (contract, nodes) = service.contract_lease(&who, &request, None).await.unwrap();
        let id = contract.id.to_string();
        assert_eq!((contract.state, contract.due_ms), (ContractState::Scheduled, Some(now + hour)));
        assert_eq!((nodes[0].power, nodes[0].resumes), (Power::Off, true), "it waits");
        assert_ne!(service.host_get(&ops(), "a").await.unwrap().used, Size::ZERO, "held from now on");
        tier.books_hold("while scheduled").await;
        let early = service.node_power(&who, nodes[0].id, Power::On, None, None).await.unwrap_err();
        assert_eq!(early.code, Code::WrongState, "{early}");
        service.terms().await.unwrap();
        assert_eq!(service.contract_get(&who, &id).await.unwrap().0.state, ContractState::Scheduled, "not yet");

        // The start.
        tier.tick(HOUR);
        service.terms().await.unwrap();
        service.terms().await.unwrap();
        let (contract, nodes) = service.contract_get(&who, &id).await.unwrap();
        assert_eq!((contract.state, contract.generation), (ContractState::Active, 2), "started once");
        assert_eq!((nodes[0].power, nodes[0].generation, nodes[0].resumes), (Power::On, 2, false));
        service.agent_report(&agent.host, report(&nodes[0], NodeState::Running)).await.unwrap();
        tier.books_hold("while active").await;

        // The end: off, and held for the grace.
        tier.tick(2 * HOUR);
        service.terms().await.unwrap();
        let (contract, nodes) = service.contract_get(&who, &id).await.unwrap();
        assert_eq!((contract.state, contract.due_ms), (ContractState::Ending, Some(now + 4 * hour)));
        assert_eq!((nodes[0].power, nodes[0].removed), (Power::Off, false));
        service.agent_report(&agent.host, report(&nodes[0], NodeState::Off)).await.unwrap();
        let late = service.node_power(&who, nodes[0].id, Power::On, None, None).await.unwrap_err();
        assert!(late.code == Code::WrongState && late.detail.contains("renew"), "{late}");
        tier.books_hold("in the grace").await;

        // Renewed: on again. The same key again changes nothing; a generation of before is refused.
        let ends = Some(now + 5 * hour);
        let renew = |ends, seen, key| service.contract_renew(&who, &id, ends, "one more day", seen, key);
        assert_eq!(renew(ends, Some(1), None).await.unwrap_err().code, Code::StaleGeneration);
        assert_eq!(renew(Some(now), None, None).await.unwrap_err().code, Code::InvalidArgument, "over already");
        let (contract, nodes) = renew(ends, Some(contract.generation), Some("k")).await.unwrap();
        assert_eq!((contract.state, contract.term.ends_ms, contract.generation), (ContractState::Active, ends, 4));
        assert_eq!((nodes[0].power, nodes[0].generation), (Power::On, 4));
        assert_eq!(renew(ends, Some(3), Some("k")).await.unwrap().0.generation, 4, "once under one key");
        assert_eq!(renew(None, Some(3), Some("k")).await.unwrap_err().code, Code::IdempotencyKeyReused);
        service.agent_report(&agent.host, report(&nodes[0], NodeState::Running)).await.unwrap();

        // The end again, and nobody renews.
        tier.tick(2 * HOUR);
        service.terms().await.unwrap();
        tier.tick(HOUR - 1);
        service.terms().await.unwrap();
        assert_eq!(service.contract_get(&who, &id).await.unwrap().0.state, ContractState::Ending);
        tier.tick(1);
        service.terms().await.unwrap();
        let (contract, nodes) = service.contract_get(&who, &id).await.unwrap();
        assert_eq!((contract.state, nodes[0].removed), (ContractState::Releasing, true));
        assert_eq!(renew(ends, None, None).await.unwrap_err().code, Code::WrongState);
        service.agent_report(&agent.host, report_of(nodes[0].id, NodeState::Gone, 9, 1)).await.unwrap();
        assert_eq!(service.contract_get(&who, &id).await.unwrap().0.state, ContractState::Released);
        assert_eq!(service.host_get(&ops(), "a").await.unwrap().used, Size::ZERO);
        tier.books_hold("after its life").await;

        let told = history(&tier, &id).await;
        let all = ["created", "started", "ending", "renewed", "ending", "expired", "released"];
        assert_eq!(kinds(&told), all);
        assert_eq!(told.iter().map(|e| e.generation).collect::<Vec<_>>(), (1..=7).collect::<Vec<_>>());
        assert_eq!((told[0].who.as_str(), told[0].reason.as_str()), ("user:t", "a weekend's load"));
        assert_eq!((told[3].who.as_str(), told[3].reason.as_str()), ("user:t", "one more day"));
        assert_eq!(told[1].who, "service:resources");
        let Change::Created { lines } = &told[0].change else { panic!("{:?}", told[0]) };
        assert_eq!((lines[0].name.as_str(), lines[0].host.as_str()), ("one", "a"));
        let events = service.events(&who, 0, 1_000, Duration::ZERO).await.unwrap().events;
        let of_contract: Vec<&str> = events.iter().filter_map(|e| e.kind.strip_prefix("rcontract.")).collect();
        assert_eq!(of_contract, all);
        let other = service.contract_history(&tenant("other"), &id, &Paging::default()).await.unwrap_err();
        assert_eq!(other.code, Code::NotFound);
    }
}

/// What came while nothing ran is made up for by the loop of a new process, from the rows alone.
#[tokio::test]
async fn terms_are_kept_across_a_restart() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let host = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await.host;
        let (who, now) = (tenant("t"), tier.clock.now());
        let at = |starts, ends, name: &str| ContractRequest {
            starts_ms: starts,
            ends_ms: ends,
            grace_ms: Some(1_000),
            ..ContractRequest::open(None, name, &[line("one", &host, size(10, 1 << 20))])
        };
        for request in [
            at(Some(now + 100), None, "starts"),
            at(None, Some(now + 100), "ends"),
            at(Some(now + 100), Some(now + 200), "never-ran"),
            at(None, None, "open"),
        ] {
            tier.service.contract_lease(&who, &request, None).await.unwrap();
        }
        tier.tick(5_000);
        let tier = tier.restart().await;
        let deadline = Instant::now() + Duration::from_secs(20);
        while tier.service.contract_get(&who, "starts").await.unwrap().0.state != ContractState::Active {
            assert!(Instant::now() < deadline, "the loop of terms does not start a contract");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tier.service.terms().await.unwrap();
        for (name, state, power) in [
            ("starts", ContractState::Active, Power::On),
            // The grace counts from when its nodes were told: nobody could renew while nothing ran.
            ("ends", ContractState::Ending, Power::Off),
            ("never-ran", ContractState::Ending, Power::Off),
            ("open", ContractState::Active, Power::On),
        ] {
            let (contract, nodes) = tier.service.contract_get(&who, name).await.unwrap();
            assert_eq!((contract.state, nodes[0].power), (state, power), "{name} on {}", tier.database.name);
        }
        tier.books_hold("after a restart").await;
    }
}

#[tokio::test]
async fn terms_that_cannot_be_are_refused_and_leave_nothing() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let host = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await.host;
        let (service, who, now) = (&tier.service, tenant("t"), tier.clock.now());
        let open = ContractRequest::open(None, "c", &[line("one", &host, size(10, 1 << 20))]);
        for (what, request) in [
            (
                "ends before it starts",
                ContractRequest { starts_ms: Some(now + 9), ends_ms: Some(now + 8), ..open.clone() },
            ),
            ("over already", ContractRequest { ends_ms: Some(now), ..open.clone() }),
            ("the edge of 64 bits", ContractRequest { ends_ms: Some(i64::MAX), ..open.clone() }),
            ("below zero", ContractRequest { starts_ms: Some(i64::MIN), ..open.clone() }),
            ("a grace below zero", ContractRequest { grace_ms: Some(-1), ..open.clone() }),
            ("a reason of two lines", ContractRequest { reason: "a\nb".to_owned(), ..open.clone() }),
            ("an endless reason", ContractRequest { reason: "a".repeat(501), ..open.clone() }),
        ] {
            let refused = service.contract_lease(&who, &request, Some("k")).await.unwrap_err();
            assert_eq!(refused.code, Code::InvalidArgument, "{what}: {refused}");
        }
        assert_eq!(service.host_get(&ops(), "a").await.unwrap().used, Size::ZERO);
        service.contract_lease(&who, &open, Some("k")).await.expect("the key and the name are free");
        tier.books_hold("after refused terms").await;
    }
}
