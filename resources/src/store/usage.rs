//! Actual use: cumulative counters by (line, boot), each reading taken once.

use std::collections::HashMap;

use sea_orm::ConnectionTrait;
use yiqiu_base::{
    Id, Problem,
    clock::Ms,
    database::{places, sql},
    id::{Host, Line},
    outbox::NewEvent,
};
use yiqiu_proto::resources::{UsageDelta, UsageRecorded};

use super::{Store, node::metered};
use crate::{
    lifecycle::usage_since,
    model::{Counters, Sample},
};

impl Store {
    /// Takes readings of one host. A reading that was taken before, or is older than the newest, adds nothing.
    pub async fn usage_record(&self, host: Id<Host>, samples: &[Sample], now: Ms) -> Result<(), Problem> {
        if samples.is_empty() {
            return Ok(());
        }
        let mut transaction = self.database.begin().await?;
        let backend = self.database.backend();
        let mut ids: Vec<_> = samples.iter().map(|s| s.node_id).collect();
        ids.sort_unstable();
        ids.dedup();
        let nodes = metered(&transaction, host, &ids).await?;
        if nodes.is_empty() {
            return Ok(());
        }
        let text = format!(
            "SELECT line_id, boot, seq, at_ms, cpu_ns, memory_byte_ms, net_rx_bytes, net_tx_bytes, block_read_bytes, \
             block_write_bytes FROM usage_counter WHERE line_id IN ({})",
            places(nodes.len())
        );
        let values = nodes.values().map(|n| n.line_id.uuid().into());
        let mut known: HashMap<(Id<Line>, i64), (i64, Ms, Counters)> = HashMap::new();
        for row in transaction.query_all_raw(sql(backend, &text, values)).await? {
            let line: uuid::Uuid = row.try_get("", "line_id")?;
            let counters = Counters {
                cpu_ns: row.try_get("", "cpu_ns")?,
                memory_byte_ms: row.try_get("", "memory_byte_ms")?,
                net_rx_bytes: row.try_get("", "net_rx_bytes")?,
                net_tx_bytes: row.try_get("", "net_tx_bytes")?,
                block_read_bytes: row.try_get("", "block_read_bytes")?,
                block_write_bytes: row.try_get("", "block_write_bytes")?,
            };
            known.insert(
                (line.into(), row.try_get("", "boot")?),
                (row.try_get("", "seq")?, row.try_get("", "at_ms")?, counters),
            );
        }
        let mut deltas = Vec::new();
        for sample in samples {
            let Some(node) = nodes.get(&sample.node_id) else { continue };
            let entry = known.entry((node.line_id, sample.boot));
            let before = match &entry {
                std::collections::hash_map::Entry::Occupied(entry) => *entry.get(),
                std::collections::hash_map::Entry::Vacant(_) => (i64::MIN, sample.at_ms, Counters::default()),
            };
            if sample.seq <= before.0 {
                continue;
            }
            let delta = usage_since(before.2, sample.counters);
            entry.insert_entry((sample.seq, sample.at_ms, sample.counters));
            deltas.push(UsageDelta {
                line_id: node.line_id.to_string(),
                owner: node.owner.clone(),
                boot: sample.boot,
                seq: sample.seq,
                from_ms: before.1.min(now),
                to_ms: sample.at_ms.min(now),
                cpu_ns: delta.cpu_ns,
                memory_byte_ms: delta.memory_byte_ms,
                net_rx_bytes: delta.net_rx_bytes,
                net_tx_bytes: delta.net_tx_bytes,
                block_read_bytes: delta.block_read_bytes,
                block_write_bytes: delta.block_write_bytes,
            });
            let Counters { cpu_ns, memory_byte_ms, net_rx_bytes, net_tx_bytes, block_read_bytes, block_write_bytes } =
                sample.counters;
            transaction
                .execute_raw(sql(
                    backend,
                    "INSERT INTO usage_counter (line_id, boot, seq, at_ms, cpu_ns, memory_byte_ms, net_rx_bytes, \
                     net_tx_bytes, block_read_bytes, block_write_bytes, memory_bytes) \
                     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
                     ON CONFLICT (line_id, boot) DO UPDATE SET seq = excluded.seq, at_ms = excluded.at_ms, \
                     cpu_ns = excluded.cpu_ns, memory_byte_ms = excluded.memory_byte_ms, \
                     net_rx_bytes = excluded.net_rx_bytes, net_tx_bytes = excluded.net_tx_bytes, \
                     block_read_bytes = excluded.block_read_bytes, block_write_bytes = excluded.block_write_bytes, \
                     memory_bytes = excluded.memory_bytes \
                     WHERE excluded.seq > usage_counter.seq",
                    [
                        node.line_id.uuid().into(),
                        sample.boot.into(),
                        sample.seq.into(),
                        sample.at_ms.into(),
                        cpu_ns.into(),
                        memory_byte_ms.into(),
                        net_rx_bytes.into(),
                        net_tx_bytes.into(),
                        block_read_bytes.into(),
                        block_write_bytes.into(),
                        sample.memory_bytes.max(0).into(),
                    ],
                ))
                .await?;
        }
        if deltas.is_empty() {
            return Ok(());
        }
        let payload = UsageRecorded { host_id: host.to_string(), deltas };
        transaction.emit(NewEvent::new(now, "usage.recorded", "", host, &payload));
        Ok(transaction.commit().await?)
    }
}
