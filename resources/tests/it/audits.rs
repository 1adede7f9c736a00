use std::time::Duration;

use tokio::sync::mpsc;
use yiqiu_base::{Code, Id, NodeState, NodeType, http::Paging};
use yiqiu_resources::{
    Service,
    model::{AuditModel, AuditState, Finding, FindingKind, Found, HostModel, Inventory, NodeModel},
    service::{Answer, Connected, Hello, Push, Settle},
};

use crate::support::{Agent, Tier, facts, line, ops, report, size, tenant};

fn found(node: &NodeModel) -> Found {
    Found {
        node_id: Some(node.id),
        node_type: NodeType::Vm,
        handle: node.id.to_string(),
        labelled: node.id.to_string(),
        running: true,
        cpu_limit_millicores: Some(node.spec.size.cpu_millicores),
        memory_limit_bytes: Some(node.spec.size.memory_bytes),
        cpu_millicores: 0,
        memory_bytes: 0,
    }
}

/// Dials as the agent of a host that answers every question for what is there, and does what ops decide.
async fn answers(tier: &Tier, agent: &Agent, there: Vec<Found>) -> mpsc::UnboundedReceiver<String> {
    let hello =
        Hello { host_id: agent.host.id, facts: facts(NodeType::Vm, agent.host.machine), epoch: 0, nodes: vec![] };
    let Connected { mut pushes, .. } = tier.service.agent_connect(&agent.credential, hello).await.unwrap();
    let (service, host) = (tier.service.clone(), agent.host.clone());
    let (tell, done) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(push) = pushes.recv().await {
            match push {
                Push::Assign(_) | Push::Open(_) => {}
                Push::Inventory { id } => {
                    let overhead = vec![(NodeType::Vm, size(3, 5 << 20))];
                    let inventory = Inventory { found: there.clone(), overhead, ..Inventory::default() };
                    // Another host cannot answer for it.
                    let other = HostModel { id: Id::new(), ..host.clone() };
                    service.agent_answers(&other, id, Answer::Inventory(Inventory::default()));
                    service.agent_answers(&host, id, Answer::Inventory(inventory));
                }
                Push::Orphan { id, handle, adopt_as, .. } => {
                    let _ = tell.send(format!("{handle} {}", adopt_as.map(|n| n.to_string()).unwrap_or_default()));
                    let failed = if handle == "stuck" { "it cannot be removed" } else { "" };
                    service.agent_answers(&host, id, Answer::Orphan(failed.to_owned()));
                }
            }
        }
    });
    done
}

async fn audit(service: &Service, host: Option<&str>) -> (AuditModel, Vec<Finding>) {
    let begun = service.audit_create(&ops(), host, None).await.unwrap();
    ended(service, &begun).await
}

async fn ended(service: &Service, begun: &AuditModel) -> (AuditModel, Vec<Finding>) {
    tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let audit = service.audit_get(&ops(), &begun.id.to_string()).await.unwrap();
            if audit.state != AuditState::Running {
                let findings = service.finding_list(&ops(), audit.id, &Paging::default()).await.unwrap().items;
                return (audit, findings);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the audit ends")
}

/// A host with two running nodes of one contract.
async fn host_with_two(tier: &Tier) -> (Agent, Vec<NodeModel>) {
    tier.place("r").await;
    let agent = tier.host("a", 1, NodeType::Vm, size(4_000, 1 << 33)).await;
    let each = size(500, 64 << 20);
    let lines = [line("one", &agent.host, each), line("two", &agent.host, each)];
    let (_, nodes) = tier.service.contract_create(&tenant("t"), None, "c", &lines, None).await.unwrap();
    for node in &nodes {
        tier.service.agent_report(&agent.host, report(node, NodeState::Running)).await.unwrap();
    }
    (agent, nodes)
}

#[tokio::test]
async fn an_audit_tells_ghosts_orphans_and_what_is_over() {
    for tier in Tier::both().await {
        let (agent, nodes) = host_with_two(&tier).await;
        let stranger = Found { node_id: None, handle: "by-hand".into(), labelled: String::new(), ..found(&nodes[0]) };
        let loose = Found { memory_limit_bytes: Some(1 << 30), ..found(&nodes[0]) };
        let service = &tier.service;

        let _agent = answers(&tier, &agent, nodes.iter().map(found).collect()).await;
        let (clean, findings) = audit(service, None).await;
        assert!(clean.tally.is_clean() && findings.is_empty(), "{clean:?} {findings:?}");
        assert_eq!((clean.tally.matched, clean.hosts, clean.done), (2, 1, 1));
        let hosts = service.audit_hosts(&ops(), clean.id, &Paging::default()).await.unwrap().items;
        assert_eq!(
            (hosts[0].overhead_measured, hosts[0].overhead_model),
            (size(3, 5 << 20), size(110, (1 << 20) + 2048))
        );

        let _agent = answers(&tier, &agent, vec![loose, stranger]).await;
        let (dirty, findings) = audit(service, Some("a")).await;
        let told: Vec<(FindingKind, &str)> = findings.iter().map(|f| (f.kind, f.name.as_str())).collect();
        let mut sorted = told.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [(FindingKind::Ghost, "two"), (FindingKind::Orphan, ""), (FindingKind::Over, "one")]);
        assert_eq!((dirty.tally.ghosts, dirty.tally.orphans, dirty.tally.over, dirty.tally.matched), (1, 1, 1, 0));
        assert!(findings.iter().filter(|f| f.kind != FindingKind::Orphan).all(|f| f.owner == "project:t"));

        // What a tier may ask of its lines is what the newest audit of *every* host says.
        let lines: Vec<_> = nodes.iter().map(|node| node.line_id).collect();
        let (of, about) = service.finding_of_lines(&ops(), &lines).await.unwrap().unwrap();
        assert_eq!((of.id, about.len()), (clean.id, 0));
        let (_, _) = audit(service, None).await;
        let (_, about) = service.finding_of_lines(&ops(), &lines).await.unwrap().unwrap();
        assert_eq!(about.len(), 2, "{about:?}");

        for refused in [
            service.audit_create(&tenant("t"), None, None).await.unwrap_err(),
            service.audit_get(&tenant("t"), "latest").await.unwrap_err(),
        ] {
            assert_eq!(refused.code, Code::PermissionDenied);
        }
        assert_eq!(service.audit_create(&ops(), Some("nowhere"), None).await.unwrap_err().code, Code::NotFound);
        let once = service.audit_create(&ops(), None, Some("key")).await.unwrap();
        assert_eq!(service.audit_create(&ops(), None, Some("key")).await.unwrap().id, once.id);
        ended(service, &once).await;
        tier.books_hold("after audits").await;
    }
}

#[tokio::test]
async fn hosts_that_leave_or_never_answer_are_unknown_and_those_taken_away_are_nobody() {
    for tier in Tier::both().await {
        let (agent, nodes) = host_with_two(&tier).await;
        let service = &tier.service;
        // It leaves while it is asked.
        let begun = service.audit_create(&ops(), None, None).await.unwrap();
        assert_eq!(begun.state, AuditState::Running);
        tokio::time::sleep(Duration::from_millis(50)).await;
        service.agent_lost(&agent.host, agent.number).await;
        let (audit_left, findings) = ended(service, &begun).await;
        assert_eq!((audit_left.tally.unknown, audit_left.tally.matched), (1, 0), "{findings:?}");
        assert_eq!((findings[0].kind, findings[0].host_name.as_str()), (FindingKind::Unknown, "a"));
        assert!(findings[0].detail.contains("left") || findings[0].detail.contains("not connected"), "{findings:?}");
        let lines: Vec<_> = nodes.iter().map(|node| node.line_id).collect();
        let (_, about) = service.finding_of_lines(&ops(), &lines).await.unwrap().unwrap();
        assert!(about.len() == 2 && about.iter().all(|f| f.kind == FindingKind::Unknown), "{about:?}");

        // It is away before it is asked.
        let (away, _) = audit(service, None).await;
        assert_eq!(away.tally.unknown, 1);
        assert!(!away.tally.is_clean(), "never silently clean");

        // A driver that does not answer is no clean host either.
        let hello =
            Hello { host_id: agent.host.id, facts: facts(NodeType::Vm, agent.host.machine), epoch: 0, nodes: vec![] };
        let mut connected = service.agent_connect(&agent.credential, hello).await.unwrap();
        let begun = service.audit_create(&ops(), None, None).await.unwrap();
        let id = loop {
            if let Some(Push::Inventory { id }) = connected.pushes.recv().await {
                break id;
            }
        };
        let missing = vec![(NodeType::Vm, "the driver is away".to_owned())];
        service.agent_answers(&agent.host, id, Answer::Inventory(Inventory { missing, ..Inventory::default() }));
        let (away, findings) = ended(service, &begun).await;
        assert_eq!((away.tally.unknown, away.tally.ghosts, away.tally.matched), (1, 0, 0));
        assert_eq!(findings[0].detail, "the driver is away");

        // One that is taken away while it is asked is not spoken of.
        let other = tier.host("b", 2, NodeType::Vm, size(1_000, 1 << 30)).await;
        let begun = service.audit_create(&ops(), Some("b"), None).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        service.host_delete(&ops(), "b").await.unwrap();
        service.agent_lost(&other.host, other.number).await;
        let (gone, findings) = ended(service, &begun).await;
        assert!(gone.tally.is_clean() && findings.is_empty(), "{findings:?}");
    }
}

#[tokio::test]
async fn an_audit_that_a_restart_cut_off_says_so() {
    for tier in Tier::both().await {
        let (_agent, _) = host_with_two(&tier).await; // it never answers
        let begun = tier.service.audit_create(&ops(), None, None).await.unwrap();
        let tier = tier.restart().await;
        let audit = tier.service.audit_get(&ops(), &begun.id.to_string()).await.unwrap();
        assert_eq!((audit.state, audit.done), (AuditState::Interrupted, 0));
        assert_eq!(tier.service.audit_get(&ops(), "latest").await.unwrap_err().code, Code::NotFound);
    }
}

#[tokio::test]
async fn an_orphan_is_adopted_or_removed_only_as_ops_say_and_as_claims_allow() {
    for tier in Tier::both().await {
        let (agent, nodes) = host_with_two(&tier).await;
        let service = &tier.service;
        let orphan = |handle: &str, labelled: String| Found {
            node_id: None,
            handle: handle.into(),
            labelled,
            ..found(&nodes[1])
        };
        let there = vec![
            found(&nodes[0]),
            orphan("mine", nodes[1].id.to_string()),
            orphan("nobodys", String::new()),
            orphan("second", nodes[0].id.to_string()),
            Found { cpu_limit_millicores: None, ..orphan("loose", nodes[1].id.to_string()) },
            orphan("stuck", String::new()),
        ];
        let mut done = answers(&tier, &agent, there).await;
        let (audit, findings) = audit(service, None).await;
        assert_eq!((audit.tally.orphans, audit.tally.ghosts, audit.tally.matched), (5, 1, 1));
        let of = |handle: &str| findings.iter().find(|f| f.handle == handle).unwrap().id;
        let ghost = findings.iter().find(|f| f.kind == FindingKind::Ghost).unwrap().id;
        let (who, why) = (ops(), "it was made by hand");
        for (finding, settle, code) in [
            (ghost, Settle::Remove, Code::WrongState),
            (of("nobodys"), Settle::Adopt, Code::WrongState),
            (of("second"), Settle::Adopt, Code::WrongState),
            (of("loose"), Settle::Adopt, Code::WrongState),
            (Id::new(), Settle::Remove, Code::NotFound),
        ] {
            assert_eq!(service.orphan_settle(&who, finding, settle, why).await.unwrap_err().code, code);
        }
        let denied = service.orphan_settle(&tenant("t"), of("nobodys"), Settle::Remove, why).await.unwrap_err();
        assert_eq!(denied.code, Code::PermissionDenied);
        assert!(done.try_recv().is_err(), "what was refused reached no host");

        let settled = service.orphan_settle(&who, of("mine"), Settle::Adopt, why).await.unwrap();
        assert_eq!(settled.settled, "adopted by user:ops");
        assert_eq!(done.recv().await.unwrap(), format!("mine {}", nodes[1].id));
        service.orphan_settle(&who, of("nobodys"), Settle::Remove, why).await.unwrap();
        assert_eq!(done.recv().await.unwrap(), "nobodys ");
        service.orphan_settle(&who, of("nobodys"), Settle::Remove, why).await.unwrap();
        assert!(done.try_recv().is_err(), "once and no more");
        let again = service.orphan_settle(&who, of("nobodys"), Settle::Adopt, why).await.unwrap_err();
        assert_eq!(again.code, Code::WrongState);
        let stuck = service.orphan_settle(&who, of("stuck"), Settle::Remove, why).await.unwrap_err();
        assert!(stuck.detail.contains("it cannot be removed"), "{stuck}");

        let events = service.events(&who, 0, 1000, Duration::ZERO).await.unwrap().events;
        let told: Vec<&str> = events.iter().map(|e| e.kind.as_str()).filter(|k| k.starts_with("orphan.")).collect();
        let expected = ["adopting", "adopted", "removing", "removed", "removing", "refused"];
        assert_eq!(told, expected.map(|word| format!("orphan.{word}")));
        let tells =
            |word: &str| events.iter().filter(|e| e.kind.starts_with("orphan.")).all(|e| e.payload.contains(word));
        assert!(tells("user:ops") && tells(why), "each tells who and why");
    }
}
