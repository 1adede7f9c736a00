//! What may follow what: pure functions over states, decided before anything is written.

pub mod amend;
mod audit;
pub(crate) mod full;
mod host;
pub(crate) mod park;
pub mod term;

use std::collections::HashMap;

use yiqiu_base::{Code, Id, NodeState, NodeType, Power, Problem, Size, id::Host};

pub use audit::{Compared, adoptable, compare, removable};
pub use host::{Turn, agent_refused, host_changed, host_turn, overcommit_of_cut, refuse_retired, seen_after};

use self::full::{Asked, host_full};
use crate::model::{ContractState, Counters, HostModel, NewContract, NewLine, NodeModel, Report};

/// What a report changes.
///
/// ```text
///              report of its own agent
///   pending ──▶ preparing ──▶ starting ──▶ running ──▶ stopping ──▶ off
///                   │             │           │                      │
///                   └─────────────┴──▶ failed ◀┘        (any) ──▶ removing ──▶ gone
/// ```
///
/// Any state may follow any other: the host is the truth, and a report may have missed what was between. What is
/// refused is a report from before: an older boot or generation than the one known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Observed {
    /// It says nothing new, or is from before.
    Nothing,
    /// The node is seen like this now.
    Seen {
        /// The claim is metered as something else from now on.
        metered_as: Option<Power>,
    },
    /// The node is gone, as was asked: its claim ends.
    Gone,
    /// The host says that it is gone, though nobody asked for that: it is shown as failed, and its claim stays.
    Lost,
}

/// Decides what a report changes.
pub fn observe(node: &NodeModel, report: &Report) -> Observed {
    if report.boot < node.boot || report.generation < node.carried {
        return Observed::Nothing;
    }
    if report.state == NodeState::Gone {
        return match node.removed {
            // Said before its host knew that it shall go: it may have been made anew since.
            true if report.revision < node.revision => Observed::Nothing,
            true => Observed::Gone,
            // A node that was never made is "gone" to its host as well.
            false if node.state == NodeState::Pending || node.state == NodeState::Failed => Observed::Nothing,
            false => Observed::Lost,
        };
    }
    let same = report.state == node.state
        && report.generation == node.carried
        && report.boot == node.boot
        && report.detail == node.detail
        && report.ports == node.ports
        && report.health == node.health;
    if same {
        return Observed::Nothing;
    }
    let (before, after) = (node.state.metered_as(), report.state.metered_as());
    Observed::Seen { metered_as: (before != after).then_some(after) }
}

/// Whether a host has nothing left to do for a node: the wish is carried out, or failed for good.
pub fn settled(power: Power, generation: i64, carried: i64, state: NodeState, removed: bool) -> bool {
    if removed {
        return state == NodeState::Gone;
    }
    match (power, state) {
        (Power::On, NodeState::Running | NodeState::Failed) => carried >= generation,
        (Power::On, NodeState::Off) => carried >= generation,
        (Power::Off, NodeState::Off | NodeState::Pending) => true,
        (Power::Off, NodeState::Failed) => true,
        (Power::Hibernated, NodeState::Hibernated | NodeState::Failed) => true,
        (
            Power::On,
            NodeState::Pending
            | NodeState::Preparing
            | NodeState::Starting
            | NodeState::Stopping
            | NodeState::Hibernated
            | NodeState::Removing
            | NodeState::Gone,
        )
        | (
            Power::Off,
            NodeState::Preparing
            | NodeState::Starting
            | NodeState::Running
            | NodeState::Stopping
            | NodeState::Hibernated
            | NodeState::Removing
            | NodeState::Gone,
        )
        | (
            Power::Hibernated,
            NodeState::Pending
            | NodeState::Preparing
            | NodeState::Starting
            | NodeState::Running
            | NodeState::Stopping
            | NodeState::Off
            | NodeState::Removing
            | NodeState::Gone,
        ) => false,
    }
}

/// What a contract becomes when its release is asked for, and when its last node is gone. What time does to it is in
/// [`term`].
///
/// ```text
///   scheduled, active, ending ──release──▶ releasing ──last node gone──▶ released
/// ```
pub fn contract_after_release(state: ContractState, nodes_left: usize) -> ContractState {
    use ContractState::{Active, Ending, Released, Releasing, Scheduled};
    match (state, nodes_left) {
        (Scheduled | Active | Ending | Releasing, 1..) => Releasing,
        (Scheduled | Active | Ending | Releasing, 0) | (Released, _) => Released,
    }
}

/// What a sample adds to what is known of the same boot. Counters wrap at the end of 64 bits, as memory over time does
/// within days on a large node: the difference is right all the same. A counter that ran backwards adds nothing, and is
/// counted on from where it is now.
pub fn usage_since(known: Counters, now: Counters) -> Counters {
    now.zip(known, |now, known| now.wrapping_sub(known).max(0))
}

/// Decides contracts in the order given against the room of their hosts, each one whole or not at all. Returns the
/// verdicts; `hosts` is left as the admitted contracts leave it.
pub fn admit(contracts: &[&NewContract], hosts: &mut HashMap<Id<Host>, HostModel>) -> Vec<Result<(), Problem>> {
    contracts.iter().map(|contract| admit_whole(contract, hosts)).collect()
}

fn admit_whole(contract: &NewContract, hosts: &mut HashMap<Id<Host>, HostModel>) -> Result<(), Problem> {
    let mut undo: Vec<(Id<Host>, Size, i64)> = Vec::with_capacity(contract.lines.len());
    for line in &contract.lines {
        let verdict = match hosts.get_mut(&line.host_id) {
            None => Err(Problem::not_found("host", line.host_id)),
            Some(host) => {
                undo.push((host.id, host.used, host.nodes));
                admit_line(host, line, contract.whole_hosts)
            }
        };
        if let Err(problem) = verdict {
            for (id, used, nodes) in undo.into_iter().rev() {
                if let Some(host) = hosts.get_mut(&id) {
                    (host.used, host.nodes) = (used, nodes);
                }
            }
            return Err(problem);
        }
    }
    Ok(())
}

fn admit_line(host: &mut HostModel, line: &NewLine, whole_hosts: bool) -> Result<(), Problem> {
    let (name, size) = (line.name.as_str(), line.spec.size);
    if let Some(why) = host.refuses() {
        let missing = host.node_type.is_some_and(|t| host.area.is_some() && host.driver_missing(t).is_some());
        return Err(Problem::new(if missing { Code::DriverMissing } else { Code::WrongState }, why));
    }
    if let (Some(wanted), Some(is)) = (line.node_type, host.node_type)
        && wanted != is
    {
        return Err(Problem::new(
            Code::NodeTypeMismatch,
            format!("line {name} asks for a node of type {wanted}: host {} is cut as {is}", host.name),
        ));
    }
    if host.node_type == Some(NodeType::Bm) {
        if !whole_hosts {
            return Err(whole_hosts_are_for_ops(name, host));
        }
        if line.release_while_off {
            return Err(Problem::invalid(format!(
                "line {name} cannot release cpu and memory while off: host {} is cut as bm and claimed whole",
                host.name
            )));
        }
        whole_host(host, name, size)?;
    }
    match host_full(host, name, Asked::Node(size)) {
        Some(problem) => Err(problem),
        None => {
            host.used = host.used.plus(size).plus(host.node_overhead);
            host.nodes += 1;
            Ok(())
        }
    }
}

/// The most that one more node on this host may ask for; negative where the host is short.
pub fn largest_node(host: &HostModel) -> Size {
    host.free().minus(host.node_overhead)
}

/// What runs on a whole host is not kept from the host itself, so only those who work the host may have it.
pub(crate) fn whole_hosts_are_for_ops(line: &str, host: &HostModel) -> Problem {
    Problem::new(
        Code::PermissionDenied,
        format!(
            "line {line} asks for the whole of host {}: until hosts are installed anew for each tenant, only ops may have that",
            host.name
        ),
    )
}

/// A host cut as `bm` carries one node, which is the whole of it.
fn whole_host(host: &HostModel, line: &str, size: Size) -> Result<(), Problem> {
    if host.nodes > 0 {
        return Err(Problem::new(
            Code::HostFull,
            format!("host {} is cut as bm and carries its one node already: nothing of it is left", host.name),
        ));
    }
    let whole = largest_node(host);
    if size != whole {
        return Err(Problem::invalid(format!(
            "line {line} asks host {} for {size}: a host cut as bm is claimed whole, which is {whole}; leave the size out",
            host.name
        ))
        .with_data(serde_json::json!({ "whole": whole })));
    }
    Ok(())
}

/// Which hosts a group of contracts names, each once, in the order in which their rows are locked.
pub fn hosts_named(contracts: &[&NewContract]) -> Vec<Id<Host>> {
    let mut ids: Vec<Id<Host>> = contracts.iter().flat_map(|c| c.lines.iter().map(|l| l.host_id)).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[cfg(test)]
mod tests;
