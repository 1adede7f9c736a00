//! Hosts: what ops may say of them.

use yiqiu_base::{Code, NodeType, Problem, size::Dimension};

use crate::model::{HostChange, HostModel, HostState};

/// The host as a change by ops leaves it. Nobody may claim that a machine has more than it says, and nobody may take
/// from under claims what they hold: a host is short only where its machine lost something.
pub fn host_changed(host: &HostModel, change: &HostChange) -> Result<HostModel, Problem> {
    let HostChange { limit, overcommit, labels: _, pool } = change;
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
    if host.state != HostState::Joining {
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
