//! Lines that release cpu and memory while they are off.

use std::time::Duration;

use yiqiu_base::{Code, Id, NodeState, NodeType, Power, Size, http::Paging, id::Command};
use yiqiu_proto::resources::{SegmentClosed, SegmentOpened};
use yiqiu_resources::{
    model::{ContractState, Hold, HostWish, LineChange, NodeModel, Report, SizeChange},
    service::{AmendRequest, ContractRequest, LineRequest},
};

use crate::support::{Agent, Tier, line, ops, report, size, tenant};

const MIB: i64 = 1 << 20;
/// What the node costs beside its size: it stays when the node is parked.
const EACH: Size = Size { cpu_millicores: 5, memory_bytes: 1 << 10, disk_bytes: 0, disk_iops: 0 };

fn sized(cpu: i64, memory: i64, disk: i64) -> Size {
    Size { disk_bytes: disk, ..size(cpu, memory) }
}

/// A line that opted in.
fn releasing(name: &str, host: &Agent, size: Size) -> LineRequest {
    LineRequest { release_while_off: true, ..line(name, &host.host, size) }
}

async fn used(tier: &Tier, host: &str) -> Size {
    tier.service.host_get(&ops(), host).await.unwrap().used
}

async fn now(tier: &Tier, node: &NodeModel) -> NodeModel {
    tier.service.node_get(&ops(), node.id).await.unwrap()
}

/// The agent says so, of the newest wish.
async fn says(tier: &Tier, agent: &Agent, node: &NodeModel, state: NodeState) -> NodeModel {
    let node = now(tier, node).await;
    let boot = node.boot + i64::from(state == NodeState::Running && node.state != NodeState::Running);
    let report = Report { boot, sized: node.revision, ..report(&node, state) };
    tier.service.agent_report(&agent.host, report).await.unwrap();
    tier.books_hold(&format!("after {state}")).await;
    now(tier, &node).await
}

async fn power(tier: &Tier, node: &NodeModel, power: Power) -> NodeModel {
    let node = tier.service.node_power(&tenant("t"), node.id, power, None, None).await.unwrap();
    tier.books_hold(&format!("after a wish for {power}")).await;
    node
}

async fn off(tier: &Tier, agent: &Agent, node: &NodeModel) -> NodeModel {
    power(tier, node, Power::Off).await;
    says(tier, agent, node, NodeState::Off).await
}

#[tokio::test]
async fn a_line_that_opted_in_is_parked_when_seen_off_and_claims_again_before_it_runs() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let a = tier.host("a", 1, NodeType::Vm, sized(1_000, 1 << 30, 1 << 30)).await;
        let (service, who, start) = (&tier.service, tenant("t"), tier.clock.now());
        let whole = sized(600, 64 * MIB, MIB);
        let lines = [releasing("one", &a, whole), line("two", &a.host, size(100, MIB))];
        let (contract, nodes) = service.contract_create(&who, None, "c", &lines, None).await.unwrap();
        let (one, two) = (nodes[0].clone(), nodes[1].clone());
        assert_eq!((one.hold, two.hold), (Hold::Whole, Hold::Always));
        let rest = size(100, MIB).plus(EACH.times(2));
        says(&tier, &a, &one, NodeState::Running).await;
        says(&tier, &a, &two, NodeState::Running).await;

        // The wish alone gives nothing back, nor does what was seen before it; a line that did not opt in never does.
        tier.tick(1_000);
        let stale = report(&now(&tier, &one).await, NodeState::Off);
        power(&tier, &one, Power::Off).await;
        service.agent_report(&a.host, stale).await.unwrap();
        assert_eq!((now(&tier, &one).await.hold, used(&tier, "a").await), (Hold::Whole, whole.plus(rest)));
        says(&tier, &a, &one, NodeState::Stopping).await;
        off(&tier, &a, &two).await;
        assert_eq!(used(&tier, "a").await, whole.plus(rest));
        tier.tick(1_000);
        let parked = says(&tier, &a, &one, NodeState::Off).await;
        assert_eq!((parked.state, parked.hold, parked.spec.size), (NodeState::Off, Hold::Parked, whole));
        assert_eq!(used(&tier, "a").await, sized(0, 0, MIB).plus(rest), "disk and overhead stay");
        let usage = service.contract_get_used(&who, "c").await.unwrap().2;
        assert_eq!(usage.iter().find(|l| l.name == "one").unwrap().held, sized(0, 0, MIB), "what it holds now");
        says(&tier, &a, &one, NodeState::Off).await;
        assert_eq!(used(&tier, "a").await, sized(0, 0, MIB).plus(rest), "once");

        // Another takes the room: powering on is refused, says who holds it and what would fit, and changes nothing.
        let lines = [line("three", &a.host, size(500, MIB))];
        service.contract_create(&tenant("u"), None, "other", &lines, None).await.unwrap();
        let before = (now(&tier, &one).await, used(&tier, "a").await);
        let command = Some(Id::<Command>::new());
        let refused = service.node_power(&who, one.id, Power::On, command, None).await.unwrap_err();
        assert_eq!(refused.code, Code::HostFull, "{refused}");
        assert!(
            refused.detail.starts_with("line one cannot claim again what it released while it was off on host a: "),
            "{refused}"
        );
        assert!(
            refused.detail.ends_with("Of what is taken, others hold 0.5 cpu, c holds 0.1 cpu")
                || refused.detail.ends_with("Of what is taken, c holds 0.1 cpu, others hold 0.5 cpu"),
            "{refused}"
        );
        let fits = refused.data.unwrap()["changes"][0]["size"]["cpu_millicores"].as_i64().unwrap();
        assert!(fits > 0 && fits < 600, "{fits} would fit");
        assert_eq!((now(&tier, &one).await, used(&tier, "a").await), before);
        tier.books_hold("after a refused power-on").await;
        // Asked for what would fit, it fits; the command that was refused was not used up.
        let change = SizeChange { cpu_millicores: Some(fits), ..SizeChange::default() };
        let change = vec![LineChange { line: "one".into(), name: None, size: Some(change) }];
        service
            .contract_amend(&who, "c", &AmendRequest { change, ..AmendRequest::default() }, None, None)
            .await
            .unwrap();
        tier.books_hold("a parked line shrinks").await;
        says(&tier, &a, &one, NodeState::Off).await;
        tier.tick(1_000);
        let on = service.node_power(&who, one.id, Power::On, command, None).await.unwrap();
        assert_eq!((on.power, on.hold), (Power::On, Hold::Whole));
        assert_eq!(service.host_get(&ops(), "a").await.unwrap().free().cpu_millicores, 0, "the very last of it");
        tier.books_hold("after it claimed again").await;
        let again = service.node_power(&who, one.id, Power::On, command, None).await.unwrap();
        assert_eq!(again.generation, on.generation, "once");
        says(&tier, &a, &one, NodeState::Running).await;

        // Metered without a gap, by what was claimed, in power off while parked.
        let events = service.events(&ops(), 0, 1_000, Duration::ZERO).await.unwrap().events;
        let of =
            |kind: &'static str| events.iter().filter(move |e| e.kind == kind && e.subject == one.line_id.to_string());
        let opened: Vec<_> = of("segment.opened")
            .map(|e| serde_json::from_str::<SegmentOpened>(&e.payload).unwrap())
            .map(|s| (s.power, Size::from(s.size.unwrap()), s.from_ms - start))
            .collect();
        let fit = sized(fits, 64 * MIB, MIB);
        let stretch = |power: &str, size, at| (power.to_owned(), size, at);
        assert_eq!(
            opened,
            [
                stretch("off", whole, 0),
                stretch("on", whole, 0),
                stretch("off", whole, 1_000),
                stretch("on", whole, 1_000),
                stretch("off", sized(0, 0, MIB), 2_000),
                stretch("off", fit, 3_000),
                stretch("on", fit, 3_000),
            ]
        );
        let closed: Vec<i64> = of("segment.closed")
            .map(|e| serde_json::from_str::<SegmentClosed>(&e.payload).unwrap().to_ms - start)
            .collect();
        assert_eq!(closed, [0, 1_000, 1_000, 2_000, 3_000, 3_000]);
        assert!(
            events.iter().any(|e| e.kind == "node.changed" && e.payload.contains("\"parked\"")),
            "watchers are told"
        );

        // Parked and released: what it holds is given back, once.
        off(&tier, &a, &one).await;
        service.contract_release(&who, &contract.id.to_string()).await.unwrap();
        says_gone(&tier, &a, &[&one, &two]).await;
        assert_eq!(used(&tier, "a").await, size(500, MIB).plus(EACH));
    }
}

async fn says_gone(tier: &Tier, agent: &Agent, nodes: &[&NodeModel]) {
    for node in nodes {
        let node = now(tier, node).await;
        let gone = Report { boot: node.boot, ..report(&node, NodeState::Gone) };
        tier.service.agent_report(&agent.host, gone).await.unwrap();
        tier.books_hold("after gone").await;
    }
}

#[tokio::test]
async fn what_time_starts_stays_whole_and_what_is_parked_lives_with_terms_and_drains() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let a = tier.host("a", 1, NodeType::Vm, sized(1_000, 1 << 30, 1 << 30)).await;
        let (service, who, start) = (&tier.service, tenant("t"), tier.clock.now());
        let request = ContractRequest {
            starts_ms: Some(start + 1_000),
            ends_ms: Some(start + 2_000),
            grace_ms: Some(1_000),
            ..ContractRequest::open(
                None,
                "c",
                &[releasing("one", &a, size(100, MIB)), releasing("two", &a, size(200, MIB))],
            )
        };
        let (_, nodes) = service.contract_lease(&who, &request, None).await.unwrap();
        let (one, two) = (nodes[0].clone(), nodes[1].clone());
        let all = size(300, 2 * MIB).plus(EACH.times(2));
        assert_eq!(says(&tier, &a, &one, NodeState::Off).await.hold, Hold::Whole, "its start comes");
        tier.tick(1_000);
        service.terms().await.unwrap();
        says(&tier, &a, &one, NodeState::Running).await;
        says(&tier, &a, &two, NodeState::Running).await;
        assert_eq!(off(&tier, &a, &two).await.hold, Hold::Parked);

        // At the end the one is switched off and resumes; the other stays as it is.
        tier.tick(1_000);
        service.terms().await.unwrap();
        assert_eq!(service.contract_get(&who, "c").await.unwrap().0.state, ContractState::Ending);
        let one = says(&tier, &a, &one, NodeState::Off).await;
        assert_eq!((one.hold, one.resumes), (Hold::Whole, true), "a renewal starts it");
        tier.books_hold("in the grace").await;
        service.contract_renew(&who, "c", None, "", None, None).await.unwrap();
        let (one, two) = (now(&tier, &one).await, now(&tier, &two).await);
        assert_eq!((one.power, two.power, two.hold), (Power::On, Power::Off, Hold::Parked));
        says(&tier, &a, &one, NodeState::Running).await;
        assert_eq!(used(&tier, "a").await, all.minus(size(200, MIB)));

        // While its host drains, what is whole may run, and what is parked claims nothing new.
        service.host_wish(&ops(), "a", HostWish::Draining, "", None).await.unwrap();
        let two = now(&tier, &two).await;
        let refused = service.node_power(&who, two.id, Power::On, None, None).await.unwrap_err();
        assert_eq!(refused.code, Code::WrongState, "{refused}");
        assert!(refused.detail.contains("draining"), "{refused}");
        assert_eq!(now(&tier, &two).await, two);
        // One that ops stop for the drain was not given up by its holder.
        service.drain_stop(&ops(), "a", &[one.id, two.id], "").await.unwrap();
        assert_eq!(says(&tier, &a, &one, NodeState::Off).await.hold, Hold::Whole);
        service.host_wish(&ops(), "a", HostWish::InService, "", None).await.unwrap();
        assert_eq!(
            says(&tier, &a, &one, NodeState::Off).await.hold,
            Hold::Parked,
            "from now on it is off as any other"
        );
        power(&tier, &two, Power::On).await;
        assert_eq!(power(&tier, &one, Power::On).await.hold, Hold::Whole);
        assert_eq!(used(&tier, "a").await, all);
        // A wish for on that is not carried out yet is followed by one for off: what was off before both is no news.
        let late = report(&two, NodeState::Off);
        power(&tier, &two, Power::Off).await;
        service.agent_report(&a.host, late).await.unwrap();
        assert_eq!(now(&tier, &two).await.hold, Hold::Whole);
    }
}

#[tokio::test]
async fn parked_lines_change_in_place_and_whole_hosts_are_not_parked() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let a = tier.host("a", 1, NodeType::Vm, sized(1_000, 1 << 30, 1 << 30)).await;
        let bm = tier.host("bm", 2, NodeType::Bm, size(4_000, 1 << 30)).await;
        let (service, who) = (&tier.service, tenant("t"));
        let whole = [LineRequest { size: None, ..releasing("all", &bm, Size::ZERO) }];
        let refused = service.contract_create(&ops(), None, "bm", &whole, None).await.unwrap_err();
        assert_eq!(refused.code, Code::InvalidArgument, "{refused}");
        assert_eq!(used(&tier, "bm").await, Size::ZERO);

        let lines = [releasing("one", &a, sized(100, MIB, MIB)), line("two", &a.host, size(1, MIB))];
        let (_, nodes) = service.contract_create(&who, None, "c", &lines, None).await.unwrap();
        let (one, rest) = (nodes[0].clone(), size(1, MIB).plus(EACH.times(2)));
        says(&tier, &a, &one, NodeState::Running).await;
        off(&tier, &a, &one).await;
        let amend = async |size: SizeChange, name: Option<&str>| {
            let change =
                vec![LineChange { line: one.line_id.to_string(), name: name.map(str::to_owned), size: Some(size) }];
            let request = AmendRequest { change, ..AmendRequest::default() };
            let forecast = service.contract_amend_dry_run(&who, "c", &request, None).await?;
            service.contract_amend(&who, "c", &request, None, None).await?;
            tier.books_hold("a parked line is amended").await;
            Ok::<_, yiqiu_base::Problem>(forecast.hosts[0].clone())
        };
        // More cpu and memory than the host has is no matter while it is off; disk is, and cpu when it is powered on.
        let none = SizeChange::default();
        let told =
            amend(SizeChange { cpu_millicores: Some(5_000), disk_bytes: Some(2 * MIB), ..none }, Some("uno")).await;
        assert_eq!(told.unwrap().asked, sized(0, 0, MIB));
        assert_eq!(used(&tier, "a").await, sized(0, 0, 2 * MIB).plus(rest));
        let disk = amend(SizeChange { disk_bytes: Some(1 << 40), ..none }, None).await.unwrap_err();
        assert_eq!(disk.code, Code::HostFull);
        let refused = service.node_power(&who, one.id, Power::On, None, None).await.unwrap_err();
        assert!(refused.code == Code::HostFull && refused.detail.starts_with("line uno "), "{refused}");
        // A shrink is given back when it is confirmed: of what is parked, its disk.
        let told = amend(SizeChange { cpu_millicores: Some(50), disk_bytes: Some(MIB), ..none }, None).await.unwrap();
        assert_eq!((told.asked, told.returns), (Size::ZERO, sized(0, 0, MIB)));
        assert_eq!(used(&tier, "a").await, sized(0, 0, 2 * MIB).plus(rest));
        let one = says(&tier, &a, &one, NodeState::Off).await;
        assert_eq!((one.hold, one.resizing), (Hold::Parked, None));
        assert_eq!(used(&tier, "a").await, sized(0, 0, MIB).plus(rest));
        // Powered on with a size that is not confirmed yet, it claims what its line holds.
        amend(SizeChange { cpu_millicores: Some(40), ..none }, None).await.unwrap();
        power(&tier, &one, Power::On).await;
        assert_eq!(used(&tier, "a").await, sized(50, MIB, MIB).plus(rest));
        says(&tier, &a, &one, NodeState::Running).await;
        assert_eq!(used(&tier, "a").await, sized(40, MIB, MIB).plus(rest));
        // Parked and shrunk in one report.
        power(&tier, &one, Power::Off).await;
        amend(SizeChange { memory_bytes: Some(MIB / 2), disk_bytes: Some(MIB / 2), ..none }, None).await.unwrap();
        assert_eq!(says(&tier, &a, &one, NodeState::Off).await.hold, Hold::Parked);
        assert_eq!(used(&tier, "a").await, sized(0, 0, MIB / 2).plus(rest));
        // A parked line goes.
        let request = AmendRequest { remove: vec!["uno".into()], ..AmendRequest::default() };
        service.contract_amend(&who, "c", &request, None, None).await.unwrap();
        tier.books_hold("with a tombstone").await;
        says_gone(&tier, &a, &[&one]).await;
        assert_eq!(used(&tier, "a").await, size(1, MIB).plus(EACH));
    }
}

/// Power-ons race for the room of one: one gets it, and neither books nor host are overdrawn.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_power_ons_share_what_is_left() {
    for tier in Tier::both().await {
        tier.place("r").await;
        let a = tier.host("a", 1, NodeType::Vm, size(1_000, 1 << 30)).await;
        let who = tenant("t");
        let mut nodes = Vec::new();
        for n in 0..6 {
            let lines = [releasing("one", &a, size(300, MIB))];
            let name = format!("c{n}");
            let (_, made) = tier.service.contract_create(&who, None, &name, &lines, None).await.unwrap();
            says(&tier, &a, &made[0], NodeState::Running).await;
            nodes.push(off(&tier, &a, &made[0]).await);
        }
        for _ in 0..3 {
            let racers: Vec<_> = nodes
                .iter()
                .map(|node| {
                    let (service, who, id) = (tier.service.clone(), who.clone(), node.id);
                    tokio::spawn(async move { service.node_power(&who, id, Power::On, None, None).await })
                })
                .collect();
            let mut on = Vec::new();
            for racer in racers {
                match racer.await.unwrap() {
                    Ok(node) => on.push(node),
                    Err(problem) => assert_eq!(problem.code, Code::HostFull, "{problem}"),
                }
            }
            tier.books_hold("after a race of power-ons").await;
            // 900 millicores are rentable, of which six nodes cost 5 each.
            assert_eq!(on.len(), 2, "on {}", tier.database.name);
            let all = tier.service.node_list(&who, None, &Paging::default()).await.unwrap().items;
            assert_eq!(all.iter().filter(|n| n.hold == Hold::Whole).count(), 2);
            let agents = on.into_iter().map(|node| {
                let (service, who, host) = (tier.service.clone(), who.clone(), a.host.clone());
                tokio::spawn(async move {
                    service
                        .agent_report(&host, Report { boot: node.boot + 1, ..report(&node, NodeState::Running) })
                        .await
                        .unwrap();
                    let off = service.node_power(&who, node.id, Power::Off, None, None).await.unwrap();
                    service
                        .agent_report(&host, Report { boot: node.boot + 1, ..report(&off, NodeState::Off) })
                        .await
                        .unwrap();
                })
            });
            for agent in agents.collect::<Vec<_>>() {
                agent.await.unwrap();
            }
            assert_eq!(used(&tier, "a").await, EACH.times(6), "all are parked again");
            tier.books_hold("all are parked again").await;
        }
    }
}
