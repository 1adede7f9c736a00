use std::time::Duration;

use yiqiu_base::{Code, NodeState, NodeType, Power, Size, http::Paging, size::MOST};
use yiqiu_proto::resources::{SegmentClosed, SegmentOpened};
use yiqiu_resources::{
    model::{Change, Counters, LineChange, NodeModel, Report, Sample, SizeChange},
    service::AmendRequest,
};

use crate::support::{Agent, Tier, line, ops, report, report_of, size, tenant};

fn resize(line: &str, cpu: i64, memory: i64) -> LineChange {
    let size = SizeChange { cpu_millicores: Some(cpu), memory_bytes: Some(memory), ..SizeChange::default() };
    LineChange { line: line.to_owned(), name: None, size: Some(size) }
}

fn rename(line: &str, name: &str) -> LineChange {
    LineChange { line: line.to_owned(), name: Some(name.to_owned()), size: None }
}

async fn used(tier: &Tier, host: &str) -> Size {
    tier.service.host_get(&ops(), host).await.unwrap().used
}

/// The node of a line.
fn of<'a>(nodes: &'a [NodeModel], name: &str) -> &'a NodeModel {
    nodes.iter().find(|n| n.name == name && !n.removed).unwrap()
}

async fn says(tier: &Tier, agent: &Agent, node: &NodeModel, state: NodeState, sized: i64) {
    let report = Report { sized, ..report(node, state) };
    tier.service.agent_report(&agent.host, report).await.unwrap();
}

/// Each node costs 5 millicores and 1 KiB beside its size.
const EACH: (i64, i64) = (5, 1 << 10);

#[tokio::test]
async fn lines_come_go_and_change_in_one_step_on_several_hosts() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let a = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let b = tier.host("b", 2, NodeType::Vm, size(1_000, 1 << 30)).await;
        let (service, who, start) = (&tier.service, tenant("t"), tier.clock.now());
        let lines = [line("one", &a.host, size(100, 1 << 20)), line("two", &b.host, size(200, 1 << 20))];
        let (contract, nodes) = service.contract_create(&who, None, "c", &lines, None).await.unwrap();
        let id = contract.id.to_string();
        let (one, two) = (of(&nodes, "one").clone(), of(&nodes, "two").clone());
        says(&tier, &a, &one, NodeState::Running, 1).await;
        says(&tier, &b, &two, NodeState::Running, 1).await;

        tier.tick(1_000);
        let request = AmendRequest {
            name: Some("d".to_owned()),
            add: vec![line("three", &b.host, size(50, 1 << 20))],
            remove: vec!["two".to_owned()],
            change: vec![LineChange { name: Some("first".to_owned()), ..resize("one", 300, 1 << 19) }],
            reason: "a larger first, another place for the second".to_owned(),
        };
        let forecast = service.contract_amend_dry_run(&who, &id, &request, None).await.unwrap();
        let told: Vec<_> = forecast.hosts.iter().map(|h| (h.host.as_str(), h.nodes, h.asked, h.returns)).collect();
        assert_eq!(
            told,
            [
                ("a", 0, size(200, 0), size(0, 1 << 19)),
                ("b", 1, size(50, 1 << 20), size(200 + EACH.0, (1 << 20) + EACH.1))
            ]
        );
        assert_eq!(used(&tier, "a").await, size(100 + EACH.0, (1 << 20) + EACH.1), "a dry run claims nothing");

        let amend = |seen, key| service.contract_amend(&who, &id, &request, seen, key);
        let (amended, nodes) = amend(Some(1), Some("k")).await.unwrap();
        assert_eq!((amended.name.as_str(), amended.generation, amended.lines), ("d", 2, 2));
        tier.books_hold("after an amendment").await;
        let first = of(&nodes, "first").clone();
        assert_eq!((first.id, first.spec.size, first.resizing), (one.id, size(300, 1 << 19), Some(2)));
        assert_eq!(
            used(&tier, "a").await,
            size(300 + EACH.0, (1 << 20) + EACH.1),
            "what grows at once, what shrinks not"
        );
        assert!(nodes.iter().any(|n| n.id == two.id && n.removed && n.power == Power::Off), "a tombstone");
        assert_eq!(used(&tier, "b").await, size(250, 2 << 20).plus(size(2 * EACH.0, 2 * EACH.1)), "held until gone");

        // Once under one key, and only from the generation that was seen.
        assert_eq!(amend(Some(1), Some("k")).await.unwrap().0.generation, 2);
        assert_eq!(amend(Some(1), None).await.unwrap_err().code, Code::StaleGeneration);
        assert_eq!(amend(None, Some("k")).await.unwrap_err().code, Code::IdempotencyKeyReused);

        // The host confirms the size: only then the rest is given back. An older revision confirms nothing.
        tier.tick(500);
        says(&tier, &a, &first, NodeState::Running, 1).await;
        assert_eq!(used(&tier, "a").await, size(300 + EACH.0, (1 << 20) + EACH.1));
        says(&tier, &a, &first, NodeState::Running, 2).await;
        assert_eq!(used(&tier, "a").await, size(300 + EACH.0, (1 << 19) + EACH.1));
        assert_eq!(service.node_get(&who, first.id).await.unwrap().resizing, None);
        says(&tier, &b, &two, NodeState::Gone, 0).await;
        assert_eq!(used(&tier, "b").await, size(50 + EACH.0, (1 << 20) + EACH.1));
        tier.books_hold("after it was carried out").await;
        assert_eq!(service.contract_get(&who, "d").await.unwrap().1.len(), 2);

        // The meter of the line that changed: contiguous, each stretch under what was held.
        let events = service.events(&ops(), 0, 1_000, Duration::ZERO).await.unwrap().events;
        let opened: Vec<_> = events
            .iter()
            .filter(|e| e.kind == "segment.opened" && e.subject == one.line_id.to_string())
            .map(|e| serde_json::from_str::<SegmentOpened>(&e.payload).unwrap())
            .map(|s| (s.node_name, s.power, Size::from(s.size.unwrap()), s.from_ms - start))
            .collect();
        let stretch = |name: &str, power: &str, size, at| (name.to_owned(), power.to_owned(), size, at);
        assert_eq!(
            opened,
            [
                stretch("one", "off", size(100, 1 << 20), 0),
                stretch("one", "on", size(100, 1 << 20), 0),
                stretch("first", "on", size(300, 1 << 20), 1_000),
                stretch("first", "on", size(300, 1 << 19), 1_500),
            ]
        );
        let closed: Vec<i64> = events
            .iter()
            .filter(|e| e.kind == "segment.closed" && e.subject == one.line_id.to_string())
            .map(|e| serde_json::from_str::<SegmentClosed>(&e.payload).unwrap().to_ms - start)
            .collect();
        assert_eq!(closed, [0, 1_000, 1_500]);

        // Preset by what was held, to the millisecond.
        tier.tick(100);
        let (_, _, usage) = service.contract_get_used(&who, "d").await.unwrap();
        let first = usage.iter().find(|u| u.name == "first").unwrap();
        assert_eq!((first.on.ms, first.off.ms, first.held), (1_600, 0, size(300, 1 << 19)));
        assert_eq!(first.on.cpu_millicore_ms, 100 * 1_000 + 300 * 600);
        assert_eq!(first.on.memory_byte_ms, (1 << 20) * 1_500 + (1 << 19) * 100);

        let told = service.contract_history(&who, "d", &Paging::default()).await.unwrap().items;
        let Change::Created { lines } = &told[0].change else { panic!("{told:?}") };
        assert_eq!(lines.iter().map(|l| (l.name.as_str(), l.size)).collect::<Vec<_>>()[0], ("one", size(100, 1 << 20)));
        let Change::Amended { name, added, removed, resized, renamed } = &told[1].change else { panic!("{told:?}") };
        assert_eq!(name.as_ref().unwrap().from, "c");
        assert_eq!((added[0].name.as_str(), added[0].host.as_str()), ("three", "b"));
        assert_eq!((removed[0].name.as_str(), resized[0].to), ("two", size(300, 1 << 19)));
        assert_eq!((renamed[0].from.as_str(), renamed[0].to.as_str()), ("one", "first"));
        assert_eq!((told[1].who.as_str(), told[1].reason.as_str()), ("user:t", request.reason.as_str()));
    }
}

#[tokio::test]
async fn amendments_that_cannot_be_change_nothing() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let a = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let bm = tier.host("bm", 2, NodeType::Bm, size(1_000, 1 << 30)).await;
        let (service, who) = (&tier.service, tenant("t"));
        let lines = [line("one", &a.host, size(100, 64 << 20)), line("two", &a.host, size(100, 64 << 20))];
        let (contract, nodes) = service.contract_create(&who, None, "c", &lines, None).await.unwrap();
        let id = contract.id.to_string();
        says(&tier, &a, of(&nodes, "one"), NodeState::Running, 1).await;
        let sample = Sample {
            node_id: of(&nodes, "one").id,
            boot: 1,
            seq: 1,
            at_ms: tier.clock.now(),
            counters: Counters::default(),
            memory_bytes: 40 << 20,
        };
        service.agent_usage(&a.host, &[sample]).await.unwrap();
        let whole = yiqiu_resources::service::LineRequest { size: None, ..line("whole", &bm.host, Size::ZERO) };
        let (whole, _) = service.contract_create(&ops(), None, "whole", &[whole], None).await.unwrap();
        let change = |change: Vec<LineChange>| AmendRequest { change, ..AmendRequest::default() };
        let before = service.contract_get(&who, &id).await.unwrap();

        let none = AmendRequest::default();
        let all = AmendRequest { remove: vec!["one".into(), "two".into()], ..none.clone() };
        let both = AmendRequest { remove: vec!["one".into()], ..change(vec![resize("one", 1, 1)]) };
        let path = AmendRequest { name: Some("../etc".into()), ..none.clone() };
        let full =
            AmendRequest { add: vec![line("three", &a.host, size(900, 1))], ..change(vec![rename("one", "uno")]) };
        let again = AmendRequest { add: vec![line("two", &a.host, size(1, 1))], ..none.clone() };
        let below = change(vec![resize("one", 100, 30 << 20)]);
        for (what, request, code) in [
            ("nothing", none, Code::InvalidArgument),
            ("no line left", all, Code::InvalidArgument),
            ("a line that goes and changes", both, Code::InvalidArgument),
            ("a line twice", change(vec![resize("one", 1, 64 << 20), rename("one", "x")]), Code::InvalidArgument),
            ("a name that is a path", path, Code::InvalidArgument),
            ("a line's name that is a path", change(vec![rename("one", "../../x")]), Code::InvalidArgument),
            ("an unknown line", change(vec![resize("three", 1, 1)]), Code::NotFound),
            ("a name that is taken", change(vec![rename("one", "two")]), Code::AlreadyExists),
            ("a new line of that name", again, Code::AlreadyExists),
            ("zero", change(vec![resize("one", 0, 1)]), Code::InvalidArgument),
            ("below zero", change(vec![resize("one", i64::MIN, 1)]), Code::InvalidArgument),
            ("the edge of 64 bits", change(vec![resize("one", i64::MAX, i64::MAX)]), Code::InvalidArgument),
            ("the most there is", change(vec![resize("one", MOST, 1 << 30)]), Code::HostFull),
            ("less than is used", below.clone(), Code::InUse),
            ("one line too many for the host", full, Code::HostFull),
        ] {
            let refused = service.contract_amend(&who, &id, &request, None, Some("k")).await.unwrap_err();
            assert_eq!(refused.code, code, "{what}: {refused}");
            assert_eq!(service.contract_get(&who, &id).await.unwrap(), before, "{what}");
        }
        let refused = service.contract_amend(&who, &id, &below, None, None).await.unwrap_err();
        assert!(refused.detail.contains("30 MiB") && refused.detail.contains("uses 40 MiB now"), "{refused}");
        let part = change(vec![resize("whole", 1, 1)]);
        let refused = service.contract_amend(&ops(), &whole.id.to_string(), &part, None, None).await.unwrap_err();
        assert_eq!(refused.code, Code::InvalidArgument, "a host is held whole: {refused}");
        let theirs = service.contract_amend(&tenant("other"), &id, &below, None, None).await.unwrap_err();
        assert_eq!(theirs.code, Code::NotFound);
        tier.books_hold("after refused amendments").await;

        // Growth beyond what is free says what is free and what would fit.
        let refused =
            service.contract_amend(&who, &id, &change(vec![resize("one", 5_000, 64 << 20)]), None, None).await;
        let refused = refused.unwrap_err();
        assert!(refused.detail.contains("cannot grow on host a: 4.9 cpu more asked, 0.69 cpu free"), "{refused}");
        assert!(refused.detail.ends_with("Of what is taken, c holds 0.2 cpu"), "{refused}");
        assert_eq!(refused.data.unwrap()["changes"][0]["size"]["cpu_millicores"], 790);
        // Another tenant learns that others hold the rest, and not who.
        let line = [line("big", &a.host, size(5_000, 1 << 20))];
        let refused = service.contract_create(&tenant("other"), None, "big", &line, None).await.unwrap_err();
        assert!(refused.detail.ends_with("Of what is taken, others hold 0.2 cpu"), "{refused}");
        let data = refused.data.unwrap();
        assert_eq!((&data["holders"], data["others"]["nodes"].as_i64()), (&serde_json::json!([]), Some(2)));
        let refused = service.contract_create(&ops(), None, "big", &line, None).await.unwrap_err().data.unwrap();
        assert_eq!(
            (&refused["holders"][0]["rcontract"], &refused["holders"][0]["owner"]),
            (&"c".into(), &"project:t".into())
        );

        // Names may swap, and a node that is off may shrink below what it used.
        let swap = change(vec![rename("one", "two"), rename("two", "one")]);
        let (_, nodes) = service.contract_amend(&who, &id, &swap, None, Some("k")).await.expect("the key is free");
        let uno = of(&nodes, "two").clone();
        says(&tier, &a, &uno, NodeState::Off, 2).await;
        let small = change(vec![resize("two", 100, 30 << 20)]);
        service.contract_amend(&who, &id, &small, None, None).await.unwrap();
        tier.books_hold("after a swap and a shrink").await;
        service.contract_release(&who, &id).await.unwrap();
        assert_eq!(service.contract_amend(&who, &id, &small, None, None).await.unwrap_err().code, Code::WrongState);
    }
}

/// Racing amendments and reports: the books hold in between, no host is overfilled, nothing is left over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_amendments_keep_the_books() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let a = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let b = tier.host("b", 2, NodeType::Vm, size(1_000, 1 << 30)).await;
        let who = tenant("t");
        let lines = [line("one", &a.host, size(100, 1 << 20)), line("two", &b.host, size(100, 1 << 20))];
        for name in ["c", "d"] {
            tier.service.contract_create(&who, None, name, &lines, None).await.unwrap();
        }
        let racers = (0..6_i64).map(|n| {
            let (service, who, hosts) = (tier.service.clone(), who.clone(), [a.host.clone(), b.host.clone()]);
            tokio::spawn(async move {
                for step in 0..8_i64 {
                    let contract = if (n + step) % 2 == 0 { "c" } else { "d" };
                    let fresh = format!("n{n}-{step}");
                    let host = &hosts[usize::try_from((n + step) % 2).unwrap()];
                    let request = AmendRequest {
                        add: vec![line(&fresh, host, size(30, 1 << 20))],
                        change: vec![
                            resize("one", 50 + 37 * ((n + step) % 7), 1 << 20),
                            resize("two", 60 + 10 * n, 2 << 20),
                        ],
                        ..AmendRequest::default()
                    };
                    match service.contract_amend(&who, contract, &request, None, None).await {
                        Ok((_, nodes)) => {
                            for node in nodes {
                                let host = hosts.iter().find(|h| h.id == node.host_id).unwrap();
                                let sized = Report { sized: node.revision, ..report(&node, NodeState::Running) };
                                service.agent_report(host, sized).await.unwrap();
                            }
                            let gone = AmendRequest { remove: vec![fresh], ..AmendRequest::default() };
                            let (_, nodes) = service.contract_amend(&who, contract, &gone, None, None).await.unwrap();
                            for node in nodes.iter().filter(|n| n.removed) {
                                let host = hosts.iter().find(|h| h.id == node.host_id).unwrap();
                                let gone = report_of(node.id, NodeState::Gone, node.generation, 1);
                                service.agent_report(host, gone).await.unwrap();
                            }
                        }
                        Err(problem) => assert_eq!(problem.code, Code::HostFull, "{problem}"),
                    }
                }
            })
        });
        let racers: Vec<_> = racers.collect();
        while racers.iter().any(|r| !r.is_finished()) {
            tier.books_hold("in a race of amendments").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for racer in racers {
            racer.await.unwrap();
        }
        for name in ["c", "d"] {
            let (contract, nodes) = tier.service.contract_get(&who, name).await.unwrap();
            assert_eq!(contract.lines, 2);
            for node in nodes.iter().filter(|n| n.removed) {
                let agent = if node.host_id == a.host.id { &a } else { &b };
                says(&tier, agent, node, NodeState::Gone, 0).await;
            }
            for node in nodes.iter().filter(|n| !n.removed) {
                let agent = if node.host_id == a.host.id { &a } else { &b };
                says(&tier, agent, node, NodeState::Running, node.revision).await;
            }
        }
        let held = tier.service.node_list(&ops(), None, &Paging::default()).await.unwrap().items;
        let sum = |host: &Agent| {
            let of = held.iter().filter(|n| n.host_id == host.host.id);
            of.fold(Size::ZERO, |sum, n| sum.plus(n.spec.size).plus(size(EACH.0, EACH.1)))
        };
        assert_eq!((used(&tier, "a").await, used(&tier, "b").await), (sum(&a), sum(&b)), "on {}", tier.database.name);
        tier.books_hold("after a race of amendments").await;
    }
}
