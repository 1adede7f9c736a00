//! What is held: of a host by contracts, and by the lines of a contract over time.

use std::collections::HashMap;

use sea_orm::{ConnectionTrait, QueryResult};
use yiqiu_base::{
    Id, Problem, Size,
    clock::Ms,
    database::{sql, stored},
    id::{Host, Line, RContract},
};

use super::{Store, rows::size};
use crate::model::{Counters, Holder, LineUsage, Stretch};

impl Store {
    /// What each contract holds of a host.
    pub async fn host_holders(&self, host: Id<Host>) -> Result<Vec<Holder>, Problem> {
        let text = "SELECT rcontract.id, rcontract.name, rcontract.owner, COUNT(*) AS nodes, \
                    CAST(SUM(claim.cpu) AS BIGINT) AS cpu, CAST(SUM(claim.memory) AS BIGINT) AS memory, \
                    CAST(SUM(claim.disk) AS BIGINT) AS disk, CAST(SUM(claim.iops) AS BIGINT) AS iops FROM node \
                    JOIN claim ON claim.line_id = node.line_id JOIN rcontract ON rcontract.id = node.rcontract_id \
                    WHERE node.host_id = ? GROUP BY rcontract.id, rcontract.name, rcontract.owner";
        let statement = sql(self.database.backend(), text, [host.uuid().into()]);
        let rows = self.database.read().query_all_raw(statement).await?;
        rows.iter()
            .map(|row| {
                let id: uuid::Uuid = row.try_get("", "id")?;
                let (name, owner) = (row.try_get("", "name")?, row.try_get("", "owner")?);
                let nodes = row.try_get("", "nodes")?;
                Ok(Holder { rcontract_id: id.into(), name, owner, nodes, size: sized(row)? })
            })
            .collect()
    }

    /// Preset and actual of each line of a contract, in one snapshot.
    pub async fn line_usage(&self, contract: Id<RContract>, now: Ms) -> Result<Vec<LineUsage>, Problem> {
        let backend = self.database.backend();
        let snapshot = self.database.snapshot().await?;
        let of = |text: &str| sql(backend, text, [contract.uuid().into()]);
        let line = |row: &QueryResult| row.try_get::<uuid::Uuid>("", "line_id").map(Id::<Line>::from);
        let mut lines: HashMap<Id<Line>, LineUsage> = HashMap::new();
        let text = "SELECT line.id AS line_id, line.name, claim.cpu, claim.memory, claim.disk, claim.iops FROM line \
                    JOIN claim ON claim.line_id = line.id WHERE line.rcontract_id = ?";
        for row in snapshot.query_all_raw(of(text)).await? {
            lines.insert(line(&row)?, LineUsage::new(line(&row)?, row.try_get("", "name")?, sized(&row)?));
        }
        let text = "SELECT segment.line_id, power, from_ms, to_ms, segment.cpu, segment.memory, segment.disk, \
                    segment.iops FROM segment JOIN line ON line.id = segment.line_id WHERE line.rcontract_id = ?";
        for row in snapshot.query_all_raw(of(text)).await? {
            let power: String = row.try_get("", "power")?;
            let (from_ms, to_ms) = (row.try_get("", "from_ms")?, row.try_get("", "to_ms")?);
            let stretch = Stretch { power: stored(&power)?, size: sized(&row)?, from_ms, to_ms };
            if let Some(usage) = lines.get_mut(&line(&row)?) {
                usage.add_stretch(stretch, now);
            }
        }
        let text = "SELECT usage_counter.* FROM usage_counter JOIN line ON line.id = usage_counter.line_id \
                    WHERE line.rcontract_id = ?";
        for row in snapshot.query_all_raw(of(text)).await? {
            let column = |name| row.try_get::<i64>("", name);
            let counters = Counters {
                cpu_ns: column("cpu_ns")?,
                memory_byte_ms: column("memory_byte_ms")?,
                net_rx_bytes: column("net_rx_bytes")?,
                net_tx_bytes: column("net_tx_bytes")?,
                block_read_bytes: column("block_read_bytes")?,
                block_write_bytes: column("block_write_bytes")?,
            };
            if let Some(usage) = lines.get_mut(&line(&row)?) {
                usage.add_boot(counters);
            }
        }
        let mut lines: Vec<LineUsage> = lines.into_values().collect();
        lines.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(lines)
    }
}

fn sized(row: &QueryResult) -> Result<Size, sea_orm::DbErr> {
    let column = |name| row.try_get::<i64>("", name);
    Ok(size(column("cpu")?, column("memory")?, column("disk")?, column("iops")?))
}
