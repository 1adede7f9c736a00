//! Lines that give back cpu and memory while they are off: claim, host, meter and node change in the transaction that
//! sees the node off, and in the one that wishes it on again.

use std::collections::HashMap;

use sea_orm::{ConnectionTrait, DbErr};
use yiqiu_base::{
    Power, Problem,
    clock::Ms,
    database::{Transaction, sql, stored},
};

use super::{
    admission::hosts_charged,
    amend::{claim_set, host_returned, line_size},
    host::host_locked,
    node::{Closed, segment_change, segment_close, segment_open},
};
use crate::{
    lifecycle::park,
    model::{Hold, NodeModel, Report},
};

/// Whether a report parks its node, whose row is locked.
pub(super) async fn parks_now(transaction: &Transaction, node: &NodeModel, report: &Report) -> Result<bool, Problem> {
    if node.hold != Hold::Whole || node.power != Power::Off {
        return Ok(false);
    }
    // The row of the node is locked: what its contract is now, it stays until this is committed.
    let text = "SELECT rcontract.state, node.drain_stopped FROM node \
                JOIN rcontract ON rcontract.id = node.rcontract_id WHERE node.id = ?";
    let row = transaction.query_one_raw(sql(transaction.get_database_backend(), text, [node.id.uuid().into()])).await?;
    let row = row.ok_or_else(|| Problem::internal("a locked node is gone"))?;
    let contract = stored(&row.try_get::<String>("", "state")?)?;
    Ok(park::parks(node, report, contract, row.try_get("", "drain_stopped")?))
}

/// Parks a node that is seen off: its meter goes on under what it still claims, and the host gets back the rest.
pub(super) async fn park(transaction: &mut Transaction, node: &mut NodeModel, now: Ms) -> Result<(), Problem> {
    let size = line_size(transaction, node.line_id).await?;
    let (from, to) = (node.hold.claims(size), Hold::Parked.claims(size));
    claim_set(transaction, node.line_id, to).await?;
    host_returned(transaction, node.host_id, from.minus(to)).await?;
    let closed = segment_close(transaction, node, now).await?;
    segment_open(transaction, node, Closed { power: Power::Off, size: to, ..closed }, now).await?;
    Ok(hold_set(transaction, node, Hold::Parked).await?)
}

/// Claims again what a parked node gave back, or refuses.
pub(super) async fn unpark(transaction: &mut Transaction, node: &mut NodeModel, now: Ms) -> Result<(), Problem> {
    let size = line_size(transaction, node.line_id).await?;
    let host = host_locked(transaction, &[node.host_id]).await?.pop();
    let host = host.ok_or_else(|| Problem::internal("the host of a node is gone"))?;
    let mut then = host.clone();
    park::unpark(&mut then, &node.name, size)?;
    let was = HashMap::from([(host.id, (host.used, host.nodes))]);
    hosts_charged(transaction, &HashMap::from([(then.id, then)]), &was).await?;
    let claims = Hold::Whole.claims(size);
    claim_set(transaction, node.line_id, claims).await?;
    segment_change(transaction, node, claims, now).await?;
    Ok(hold_set(transaction, node, Hold::Whole).await?)
}

async fn hold_set(transaction: &Transaction, node: &mut NodeModel, hold: Hold) -> Result<(), DbErr> {
    node.hold = hold;
    let values = [hold.as_str().into(), node.id.uuid().into()];
    let text = "UPDATE node SET hold = ? WHERE id = ?";
    transaction.execute_raw(sql(transaction.get_database_backend(), text, values)).await?;
    Ok(())
}
