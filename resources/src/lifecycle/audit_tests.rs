use yiqiu_base::NodeType;

use super::*;
use crate::{
    lifecycle::tests::{host, node},
    model::Hold,
};

const CLAIM: Size = Size { cpu_millicores: 500, memory_bytes: 64 << 20, disk_bytes: 0, disk_iops: 0 };

fn claimed(state: NodeState, boot: i64, removed: bool) -> NodeModel {
    let mut node = node(state, removed);
    node.boot = boot;
    node.spec.size = CLAIM;
    node
}

fn found(node: Option<&NodeModel>) -> Found {
    Found {
        node_id: node.map(|node| node.id),
        node_type: NodeType::Vm,
        handle: "h".into(),
        labelled: node.map(|node| node.id.to_string()).unwrap_or_default(),
        running: true,
        cpu_limit_millicores: Some(500),
        memory_limit_bytes: Some(64 << 20),
        cpu_millicores: 100,
        memory_bytes: 1 << 20,
    }
}

fn kinds(before: &[NodeModel], after: &[NodeModel], there: &Inventory) -> (i64, Vec<FindingKind>) {
    let compared = compare(&host(NodeType::Vm, Size::ZERO), before, after, there, 7);
    (compared.matched, compared.findings.iter().map(|finding| finding.kind).collect())
}

fn of(found: Vec<Found>) -> Inventory {
    Inventory { found, ..Inventory::default() }
}

#[test]
fn every_state_there_and_not_there() {
    for state in NodeState::ALL {
        for (boot, removed) in [(0, false), (1, false), (1, true)] {
            let node = claimed(*state, boot, removed);
            let all = std::slice::from_ref(&node);
            let there = kinds(all, all, &of(vec![found(Some(&node))]));
            assert_eq!(there, (1, vec![]), "{state} and there");
            let ghost = match state {
                NodeState::Running | NodeState::Off | NodeState::Hibernated => !removed,
                NodeState::Failed => boot > 0 && !removed,
                NodeState::Pending
                | NodeState::Preparing
                | NodeState::Starting
                | NodeState::Stopping
                | NodeState::Removing
                | NodeState::Gone => false,
            };
            let expected = if ghost { (0, vec![FindingKind::Ghost]) } else { (1, vec![]) };
            assert_eq!(kinds(all, all, &of(vec![])), expected, "{state}, boot {boot}, removed {removed}, not there");
        }
    }
}

#[test]
fn what_changes_while_a_host_is_asked_is_not_judged() {
    let node = claimed(NodeState::Running, 1, false);
    let early = claimed(NodeState::Starting, 1, false);
    let early = NodeModel { id: node.id, ..early };
    let all = std::slice::from_ref(&node);
    // It came, went, or came up meanwhile.
    assert_eq!(kinds(&[], all, &of(vec![])), (1, vec![]), "claimed after the host was asked");
    assert_eq!(kinds(&[], all, &of(vec![found(Some(&node))])), (1, vec![]), "claimed while the host was asked");
    assert_eq!(kinds(all, &[], &of(vec![found(Some(&node))])), (0, vec![]), "released while the host was asked");
    assert_eq!(kinds(all, &[], &of(vec![])), (0, vec![]), "released before the host was asked");
    assert_eq!(kinds(&[early], all, &of(vec![])), (1, vec![]), "it started meanwhile");
    // A claim that grew meanwhile is not compared with limits of before.
    let mut larger = node.clone();
    larger.spec.size.cpu_millicores = 100;
    assert_eq!(kinds(all, &[larger], &of(vec![found(Some(&node))])), (1, vec![]));
    // A driver that cannot be asked: nothing is said of its nodes, for nobody knows.
    let away = Inventory { missing: vec![(NodeType::Vm, "away".into())], ..Inventory::default() };
    assert_eq!(kinds(all, all, &away), (0, vec![]));
}

#[test]
fn what_nobody_claims_is_an_orphan() {
    let node = claimed(NodeState::Running, 1, false);
    let all = std::slice::from_ref(&node);
    let stranger = claimed(NodeState::Running, 1, false);
    let genuine = found(Some(&node));
    for (orphan, why) in [
        (found(Some(&stranger)), "no claim is of it"),
        (found(None), "it names no node"),
        (Found { labelled: node.id.to_string(), ..found(None) }, "was not made as that by the agent"),
        (Found { labelled: "\u{1b}[31mx".into(), ..found(None) }, "which nothing claims"),
    ] {
        let compared =
            compare(&host(NodeType::Vm, Size::ZERO), all, all, &of(vec![genuine.clone(), orphan.clone()]), 7);
        assert_eq!((compared.matched, compared.findings.len()), (1, 1), "{why}");
        let finding = &compared.findings[0];
        assert_eq!((finding.kind, finding.node_id, &finding.handle), (FindingKind::Orphan, None, &orphan.handle));
        assert!(finding.detail.contains(why) && !finding.detail.contains('\u{1b}'), "{}", finding.detail);
    }
}

#[test]
fn what_is_parked_and_runs_is_over() {
    let node = NodeModel { hold: Hold::Parked, ..claimed(NodeState::Off, 1, false) };
    let whole = NodeModel { hold: Hold::Whole, ..node.clone() };
    let all = std::slice::from_ref(&node);
    let (stands, runs) = (Found { running: false, ..found(Some(&node)) }, found(Some(&node)));
    assert_eq!(kinds(all, all, &of(vec![stands])), (1, vec![]));
    assert_eq!(kinds(all, all, &of(vec![runs.clone()])), (0, vec![FindingKind::Over]));
    assert_eq!(kinds(all, &[whole], &of(vec![runs])), (1, vec![]), "it was powered on meanwhile");
}

#[test]
fn what_exceeds_its_claim_is_over() {
    let node = claimed(NodeState::Running, 1, false);
    let all = std::slice::from_ref(&node);
    let fits = found(Some(&node));
    for (found, over) in [
        (fits.clone(), None),
        (Found { cpu_limit_millicores: Some(499), ..fits.clone() }, None),
        (Found { cpu_limit_millicores: Some(501), ..fits.clone() }, Some("may use 0.501 cpu")),
        (Found { cpu_limit_millicores: None, ..fits.clone() }, Some("may use any cpu")),
        (Found { cpu_limit_millicores: None, memory_limit_bytes: None, running: false, ..fits.clone() }, None),
        (Found { memory_limit_bytes: Some((64 << 20) + 4096), ..fits.clone() }, None),
        (Found { memory_limit_bytes: Some(128 << 20), ..fits.clone() }, Some("may use 128 MiB memory")),
        (Found { memory_limit_bytes: None, ..fits.clone() }, Some("may use any memory")),
        (Found { cpu_millicores: 800, ..fits.clone() }, None),
        (Found { cpu_millicores: 2000, ..fits.clone() }, Some("uses 2 cpu")),
        (Found { memory_bytes: 65 << 20, ..fits.clone() }, Some("uses 65 MiB memory")),
        (Found { memory_bytes: i64::MAX, cpu_millicores: i64::MAX, ..fits }, Some("uses")),
    ] {
        let compared = compare(&host(NodeType::Vm, Size::ZERO), all, all, &of(vec![found]), 7);
        match over {
            None => assert_eq!((compared.matched, compared.findings.len()), (1, 0)),
            Some(detail) => {
                let finding = &compared.findings[0];
                assert_eq!((finding.kind, finding.node_id), (FindingKind::Over, Some(node.id)));
                assert!(finding.detail.contains(detail), "{}", finding.detail);
                assert!(finding.detail.contains("its claim is 0.5 cpu"), "{}", finding.detail);
            }
        }
    }
}
