//! Hosts: what may follow what, and what ops may say of them.

use yiqiu_base::{Code, NodeType, Problem, size::Dimension};

use crate::model::{HostChange, HostModel, HostSeen, HostWish};

/// What is seen of a host when its agent connects or is lost.
///
/// ```text
///   never ──connect──▶ connected ◀──connect──  lost
///                          └───────lost───────▶
/// ```
pub fn seen_after(seen: HostSeen, connected: bool) -> HostSeen {
    match (seen, connected) {
        (HostSeen::Never | HostSeen::Connected | HostSeen::Lost, true) => HostSeen::Connected,
        (HostSeen::Never, false) => HostSeen::Never,
        (HostSeen::Connected | HostSeen::Lost, false) => HostSeen::Lost,
    }
}

/// What comes of a wish of ops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// It was wished before.
    Stays,
    /// It is wished from now on.
    Goes,
    /// Only of a host that is empty.
    CarriesNodes,
    /// Not of a host that is like that; the words say why.
    NoWay(&'static str),
}

/// Decides what ops may wish of a host, `empty` or not.
///
/// ```text
///   in service ◀────▶ draining ──if empty──▶ maintenance ────▶ in service
///   in service ──if empty──▶ maintenance
///   in service, draining, maintenance ──if empty──▶ retired
/// ```
///
/// What ops wish does not hang on what is seen: a host that is unreachable can be drained.
pub fn host_turn(is: HostWish, asked: HostWish, empty: bool) -> Turn {
    match (is, asked, empty) {
        (HostWish::InService, HostWish::InService, _)
        | (HostWish::Draining, HostWish::Draining, _)
        | (HostWish::Maintenance, HostWish::Maintenance, _)
        | (HostWish::Retired, HostWish::Retired, _) => Turn::Stays,
        (HostWish::InService, HostWish::Draining, _)
        | (HostWish::Draining | HostWish::Maintenance, HostWish::InService, _)
        | (HostWish::InService | HostWish::Draining, HostWish::Maintenance, true)
        | (HostWish::InService | HostWish::Draining | HostWish::Maintenance, HostWish::Retired, true) => Turn::Goes,
        (HostWish::InService | HostWish::Draining, HostWish::Maintenance, false)
        | (HostWish::InService | HostWish::Draining | HostWish::Maintenance, HostWish::Retired, false) => {
            Turn::CarriesNodes
        }
        (HostWish::Maintenance, HostWish::Draining, _) => {
            Turn::NoWay("a host in maintenance carries nothing, so there is nothing to drain")
        }
        (HostWish::Retired, HostWish::InService | HostWish::Draining | HostWish::Maintenance, _) => {
            Turn::NoWay("a retired host does not come back: delete it, and add its machine anew")
        }
    }
}

/// What the agent of a retired host is told.
pub fn agent_refused(host: &HostModel) -> Problem {
    Problem::new(
        Code::PermissionDenied,
        format!("host {} is retired: its agent has nothing to do here any more", host.name),
    )
}

/// Of a retired host nothing changes any more.
pub fn refuse_retired(host: &HostModel) -> Result<(), Problem> {
    if host.wish != HostWish::Retired {
        return Ok(());
    }
    Err(Problem::new(
        Code::WrongState,
        format!("host {} is retired: delete it, and add its machine anew if it comes back", host.name),
    ))
}

/// The host as a change by ops leaves it. Nobody may claim that a machine has more than it says, and nobody may take
/// from under claims what they hold: a host is short only where its machine lost something.
pub fn host_changed(host: &HostModel, change: &HostChange) -> Result<HostModel, Problem> {
    let HostChange { limit, overcommit, labels: _, pool } = change;
    refuse_retired(host)?;
    let mut after = host.clone();
    after.pool_id = pool.unwrap_or(host.pool_id);
    for (dimension, amount) in limit {
        after.limit = after.limit.with(*dimension, *amount);
    }
    for (dimension, thousandths) in overcommit {
        after.overcommit = after.overcommit.with(*dimension, *thousandths);
    }
    after.limit.check()?;
    after.overcommit.check()?;
    // What a machine has is known when it has joined; until then the least of both will count.
    if host.seen != HostSeen::Never {
        for (dimension, amount) in limit {
            limit_within_machine(host, *dimension, *amount)?;
        }
    }
    overcommit_of_cut(&after.name, after.node_type, &after)?;
    stays_within(host, &after)?;
    Ok(after)
}

fn limit_within_machine(host: &HostModel, dimension: Dimension, amount: Option<i64>) -> Result<(), Problem> {
    let machine = host.machine.get(dimension);
    match amount {
        Some(amount) if amount > machine => Err(Problem::invalid(format!(
            "host {} cannot be taken to have {}: the machine says {}; give at most that, or overcommit it, if more is \
             to be promised than there is",
            host.name,
            dimension.shown(amount),
            dimension.shown(machine),
        ))
        .with_data(serde_json::json!({ "dimension": dimension, "asked": amount, "machine": machine }))),
        _ => Ok(()),
    }
}

/// A node that is the whole of a host cannot be more than the host.
pub fn overcommit_of_cut(name: &str, node_type: Option<NodeType>, host: &HostModel) -> Result<(), Problem> {
    if node_type == Some(NodeType::Bm) && host.overcommit.is_over() {
        return Err(Problem::invalid(format!(
            "host {name} cannot be cut as bm and overcommitted: its one node is the whole of it; set its overcommit \
             to 1 or below"
        )));
    }
    Ok(())
}

fn stays_within(before: &HostModel, after: &HostModel) -> Result<(), Problem> {
    let room = after.rentable();
    let worse = |d: &(Dimension, i64)| room.get(d.0) < before.rentable().get(d.0);
    let lacking: Vec<_> = after.used.beyond(room).into_iter().filter(worse).collect();
    let Some((dimension, by)) = lacking.first().copied() else { return Ok(()) };
    Err(Problem::new(
        Code::InUse,
        format!(
            "host {} carries {} nodes that hold {}: with this it would have {}, which is {} too little; drain it first",
            after.name,
            after.nodes,
            dimension.shown(after.used.get(dimension)),
            dimension.shown(room.get(dimension).max(0)),
            dimension.shown(by),
        ),
    )
    .with_data(serde_json::json!({
        "used": after.used,
        "rentable": room,
        "lacking": lacking.iter().map(|(d, by)| serde_json::json!({ "dimension": d, "by": by })).collect::<Vec<_>>(),
    })))
}
