//! What is claimed beside what is there. Pure: two readings of the claims, and one inventory taken between them.
//!
//! Claims come and go while a host is asked. What both readings agree on can be judged; the rest is on its way, and the
//! next audit will see it.

use std::collections::{HashMap, HashSet};

use yiqiu_base::{Code, Id, NodeState, Problem, Size, clock::Ms, id::Node, size::Dimension};

use crate::model::{Finding, FindingKind, Found, HostModel, Inventory, NodeModel};

/// What came of one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Compared {
    /// Claims that are as they should be.
    pub matched: i64,
    /// What is not.
    pub findings: Vec<Finding>,
}

/// Measured use above its claim by less than this is the measuring: quotas are given by the tenth of a second.
const CPU_SLACK: i64 = 100;
/// The smallest quota that a kernel takes.
const CPU_LEAST: i64 = 10;
/// Limits are rounded to pages.
const MEMORY_SLACK: i64 = 64 << 10;

/// Compares one host.
pub fn compare(host: &HostModel, before: &[NodeModel], after: &[NodeModel], there: &Inventory, now: Ms) -> Compared {
    let mut compared = Compared::default();
    let mut finding = |kind, node: Option<&NodeModel>, found: Option<&Found>, detail: String| {
        compared.findings.push(Finding {
            id: Id::new(),
            kind,
            at_ms: now,
            host_id: Some(host.id),
            host_name: host.name.clone(),
            node_type: found.map(|found| found.node_type).or(node.map(|node| node.node_type)),
            node_id: node.map(|node| node.id),
            line_id: node.map(|node| node.line_id),
            rcontract_id: node.map(|node| node.rcontract_id),
            owner: node.map(|node| node.owner.clone()).unwrap_or_default(),
            name: node.map(|node| node.name.clone()).unwrap_or_default(),
            handle: found.map(|found| found.handle.clone()).unwrap_or_default(),
            labelled: found.map(|found| found.labelled.clone()).unwrap_or_default(),
            detail,
            settled: String::new(),
        });
    };
    let claimed: HashMap<Id<Node>, &NodeModel> = before.iter().chain(after).map(|node| (node.id, node)).collect();
    let known: HashSet<Id<Node>> = there.found.iter().filter_map(|found| found.node_id).collect();
    let first: HashMap<Id<Node>, &NodeModel> = before.iter().map(|node| (node.id, node)).collect();
    let mut matched = 0;
    for node in after {
        // A driver that cannot be asked says nothing of its nodes; the host is told of as unknown besides.
        if there.missing.iter().any(|(node_type, _)| *node_type == node.node_type) {
            continue;
        }
        let expected = should_be_there(node) && first.get(&node.id).is_some_and(|node| should_be_there(node));
        if expected && !known.contains(&node.id) {
            let detail = format!("node {} is claimed as {} and is not on host {}", node.name, node.state, host.name);
            finding(FindingKind::Ghost, Some(node), None, detail);
            continue;
        }
        // One that is being resized has limits of before, or of after.
        let same = first.get(&node.id).is_some_and(|first| {
            first.spec.size == node.spec.size
                && first.hold == node.hold
                && first.resizing.is_none()
                && node.resizing.is_none()
        });
        let found = there.found.iter().find(|found| found.node_id == Some(node.id));
        let excess = found.filter(|_| same).and_then(|found| {
            // What is parked keeps the limits that it runs under, and holds nothing to run with.
            let claim = if found.running { node.hold.claims(node.spec.size) } else { node.spec.size };
            excess(claim, found)
        });
        match excess {
            Some(detail) => finding(FindingKind::Over, Some(node), found, format!("node {} {detail}", node.name)),
            None => matched += 1,
        }
    }
    for found in &there.found {
        if found.node_id.is_some_and(|node| claimed.contains_key(&node)) {
            continue;
        }
        let state = if found.running { "runs" } else { "is there" };
        let why = match (found.node_id, found.labelled.as_str()) {
            (Some(_), _) => "no claim is of it".to_owned(),
            (None, "") => "it names no node".to_owned(),
            (None, labelled) if claimed.keys().any(|node| node.to_string() == labelled) => {
                format!("it says that it is node {labelled}, and was not made as that by the agent")
            }
            (None, labelled) => format!("it says that it is node {}, which nothing claims", shown(labelled)),
        };
        let detail = format!("`{}` {state} on host {} with its mark: {why}", shown(&found.handle), host.name);
        finding(FindingKind::Orphan, None, Some(found), detail);
    }
    compared.matched = matched;
    compared
}

fn shown(text: &str) -> String {
    yiqiu_base::name::shown(text)
}

/// Whether something has to be on the host for a node in this state. One that comes, goes, starts or stops may be
/// either; one that failed before it was ever started may not have been made.
fn should_be_there(node: &NodeModel) -> bool {
    let there = match node.state {
        NodeState::Running | NodeState::Off | NodeState::Hibernated => true,
        NodeState::Failed => node.boot > 0,
        NodeState::Pending
        | NodeState::Preparing
        | NodeState::Starting
        | NodeState::Stopping
        | NodeState::Removing
        | NodeState::Gone => false,
    };
    there && !node.removed
}

/// By how much something may exceed its claim, or does; `None` where it keeps to it.
fn excess(claim: Size, found: &Found) -> Option<String> {
    let mut told = Vec::new();
    let cpu = claim.cpu_millicores.max(CPU_LEAST);
    match found.cpu_limit_millicores {
        None if found.running => told.push("may use any cpu: no limit is set".to_owned()),
        Some(limit) if limit > cpu => told.push(format!("may use {}", Dimension::CpuMillicores.shown(limit))),
        Some(_) | None => {}
    }
    match found.memory_limit_bytes {
        None if found.running => told.push("may use any memory: no limit is set".to_owned()),
        Some(limit) if limit > claim.memory_bytes.saturating_add(MEMORY_SLACK) => {
            told.push(format!("may use {}", Dimension::MemoryBytes.shown(limit)));
        }
        Some(_) | None => {}
    }
    if found.cpu_millicores > cpu.saturating_add(cpu / 2).saturating_add(CPU_SLACK) {
        told.push(format!("uses {}", Dimension::CpuMillicores.shown(found.cpu_millicores)));
    }
    if found.memory_bytes > claim.memory_bytes.saturating_add(MEMORY_SLACK) {
        told.push(format!("uses {}", Dimension::MemoryBytes.shown(found.memory_bytes)));
    }
    (!told.is_empty()).then(|| format!("{}; its claim is {claim}", told.join(", ")))
}

/// As which node an orphan may be adopted: the one that it says it is, if that is claimed here, nothing else is there for
/// it, and the orphan keeps to its claim. Nothing else could honestly be billed as that claim.
pub fn adoptable(orphan: &Finding, claimed: &[NodeModel], there: &Inventory) -> Result<Id<Node>, Problem> {
    let refused = |why: String| Err(Problem::new(Code::WrongState, why));
    let name = shown(&orphan.handle);
    let Some(found) = there.found.iter().find(|found| found.handle == orphan.handle) else {
        return refused(format!("`{name}` is not there any more: nothing is left to adopt"));
    };
    let Some(node) = claimed.iter().find(|node| node.id.to_string() == found.labelled) else {
        return refused(format!(
            "nothing on this host claims what `{name}` says it is, so there is nothing that it could belong to: remove \
             it, or leave it alone"
        ));
    };
    if found.node_id == Some(node.id) {
        return refused(format!("`{name}` is node {} already", node.name));
    }
    if node.removed {
        return refused(format!("node {} is being released: remove `{name}`", node.name));
    }
    if there.found.iter().any(|found| found.node_id == Some(node.id)) {
        return refused(format!("node {} is there already: remove `{name}`, or that one", node.name));
    }
    if let Some(excess) = excess(node.spec.size, found) {
        return refused(format!("`{name}` {excess}: give it the limits of the claim first"));
    }
    Ok(node.id)
}

/// Whether an orphan may be taken away: not if it is claimed by now.
pub fn removable(orphan: &Finding, claimed: &[NodeModel], there: &Inventory) -> Result<(), Problem> {
    let found = there.found.iter().find(|found| found.handle == orphan.handle);
    match claimed.iter().find(|node| found.is_some_and(|found| found.node_id == Some(node.id))) {
        Some(node) => Err(Problem::new(
            Code::WrongState,
            format!("`{}` is node {}, which is claimed: release its line instead", shown(&orphan.handle), node.name),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
#[path = "audit_tests.rs"]
mod tests;
