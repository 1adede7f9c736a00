//! Lines with their open segments.

use sea_orm::{DbErr, FromQueryResult, Value};
use uuid::Uuid;
use yiqiu_base::{
    Id, Problem,
    database::{sql, stored},
    id::Line,
};

use super::{
    Store,
    rows::{models, size},
};
use crate::model::{HeldLine, Metered};

#[derive(FromQueryResult)]
struct Row {
    id: Uuid,
    rcontract_id: Uuid,
    owner: String,
    name: String,
    host_id: Uuid,
    removed: Option<bool>,
    cpu: i64,
    memory: i64,
    disk: i64,
    iops: i64,
    power: Option<String>,
    from_ms: Option<i64>,
    metered_cpu: Option<i64>,
    metered_memory: Option<i64>,
    metered_disk: Option<i64>,
    metered_iops: Option<i64>,
}

impl TryFrom<Row> for HeldLine {
    type Error = DbErr;
    fn try_from(row: Row) -> Result<Self, DbErr> {
        let Row {
            id,
            rcontract_id,
            owner,
            name,
            host_id,
            removed,
            cpu,
            memory,
            disk,
            iops,
            power,
            from_ms,
            metered_cpu,
            metered_memory,
            metered_disk,
            metered_iops,
        } = row;
        let metered = size(
            metered_cpu.unwrap_or_default(),
            metered_memory.unwrap_or_default(),
            metered_disk.unwrap_or_default(),
            metered_iops.unwrap_or_default(),
        );
        let metered = match (power, from_ms) {
            (Some(power), Some(from_ms)) => Some(Metered { power: stored(&power)?, from_ms, size: metered }),
            (Some(_) | None, _) => None,
        };
        Ok(Self {
            id: id.into(),
            rcontract_id: rcontract_id.into(),
            owner,
            name,
            host_id: host_id.into(),
            ending: removed.unwrap_or_default(),
            size: size(cpu, memory, disk, iops),
            metered,
        })
    }
}

impl Store {
    /// In the order of ids, after one; `owner` `None`: everyone's.
    pub async fn line_list(
        &self,
        owner: Option<&str>,
        after: Option<Id<Line>>,
        limit: i64,
    ) -> Result<Vec<HeldLine>, Problem> {
        let of = if owner.is_some() { "AND rcontract.owner = ? " } else { "" };
        let text = format!(
            "SELECT line.id, line.rcontract_id, rcontract.owner, line.name, line.host_id, node.removed, line.cpu, \
             line.memory, line.disk, line.iops, segment.power, segment.from_ms, segment.cpu AS metered_cpu, \
             segment.memory AS metered_memory, segment.disk AS metered_disk, segment.iops AS metered_iops FROM line \
             JOIN rcontract ON rcontract.id = line.rcontract_id LEFT JOIN node ON node.line_id = line.id \
             LEFT JOIN segment ON segment.line_id = line.id AND segment.to_ms IS NULL \
             WHERE line.id > ? {of}ORDER BY line.id LIMIT ?"
        );
        let after = after.map_or(Uuid::nil(), Id::uuid);
        let values: Vec<Value> =
            [after.into()].into_iter().chain(owner.map(Value::from)).chain([limit.into()]).collect();
        let statement = sql(self.database.backend(), &text, values);
        Ok(models(Row::find_by_statement(statement).all(self.database.read()).await?)?)
    }
}
