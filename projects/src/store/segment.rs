//! Segments of claims.

use sea_orm::{ConnectionTrait, DbErr, FromQueryResult, Value};
use uuid::Uuid;
use yiqiu_base::{
    Size,
    clock::Ms,
    database::{sql, stored},
};

use super::{CHUNK, count, places, within};
use crate::{
    model::{LineId, Segment},
    report::HeldLine,
};

#[derive(FromQueryResult)]
struct Row {
    line_id: Uuid,
    from_ms: i64,
    to_ms: Option<i64>,
    rcontract_id: Uuid,
    owner: String,
    node_name: String,
    power: String,
    cpu_millicores: i64,
    memory_bytes: i64,
    disk_bytes: i64,
    disk_iops: i64,
}

impl TryFrom<Row> for Segment {
    type Error = DbErr;
    fn try_from(row: Row) -> Result<Self, DbErr> {
        let Row {
            line_id,
            from_ms,
            to_ms,
            rcontract_id,
            owner,
            node_name,
            power,
            cpu_millicores,
            memory_bytes,
            disk_bytes,
            disk_iops,
        } = row;
        Ok(Self {
            line: line_id.into(),
            rcontract: rcontract_id.into(),
            owner,
            node_name,
            power: stored(&power)?,
            size: Size { cpu_millicores, memory_bytes, disk_bytes, disk_iops },
            from_ms,
            to_ms,
        })
    }
}

const COLUMNS: &str = "line_id, from_ms, to_ms, rcontract_id, owner, node_name, power, \
                       cpu_millicores, memory_bytes, disk_bytes, disk_iops";

/// New ones; whether all of them are in. One that is there already gives way if it has no length, and stays otherwise.
pub(crate) async fn segment_insert(connection: &impl ConnectionTrait, segments: &[&Segment]) -> Result<bool, DbErr> {
    for segments in segments.chunks(CHUNK) {
        let text = format!(
            "INSERT INTO segments ({COLUMNS}) VALUES {} ON CONFLICT (line_id, from_ms) DO UPDATE SET \
             to_ms = excluded.to_ms, rcontract_id = excluded.rcontract_id, owner = excluded.owner, \
             node_name = excluded.node_name, power = excluded.power, cpu_millicores = excluded.cpu_millicores, \
             memory_bytes = excluded.memory_bytes, disk_bytes = excluded.disk_bytes, disk_iops = excluded.disk_iops \
             WHERE segments.to_ms = segments.from_ms",
            places("(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", segments.len()),
        );
        let values: Vec<Value> = segments.iter().flat_map(|segment| values(segment)).collect();
        let done = connection.execute_raw(sql(connection.get_database_backend(), &text, values)).await?;
        if done.rows_affected() != segments.len() as u64 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn values(segment: &Segment) -> [Value; 11] {
    let Segment { line, rcontract, owner, node_name, power, size, from_ms, to_ms } = segment;
    let Size { cpu_millicores, memory_bytes, disk_bytes, disk_iops } = *size;
    [
        line.uuid().into(),
        (*from_ms).into(),
        (*to_ms).into(),
        rcontract.uuid().into(),
        owner.as_str().into(),
        node_name.as_str().into(),
        power.as_str().into(),
        cpu_millicores.into(),
        memory_bytes.into(),
        disk_bytes.into(),
        disk_iops.into(),
    ]
}

/// Ends an open one; whether there was one.
pub(crate) async fn segment_close(
    connection: &impl ConnectionTrait,
    line: LineId,
    from_ms: Ms,
    to_ms: Ms,
) -> Result<bool, DbErr> {
    let text = "UPDATE segments SET to_ms = ? WHERE line_id = ? AND from_ms = ? AND to_ms IS NULL";
    let values = [to_ms.into(), line.uuid().into(), from_ms.into()];
    let done = connection.execute_raw(sql(connection.get_database_backend(), text, values)).await?;
    Ok(done.rows_affected() == 1)
}

/// Those that touch a period and carry this owner label, or are of a line that was ever bound in its name.
pub(crate) async fn segment_of_owner(
    connection: &impl ConnectionTrait,
    owner: &str,
    from_ms: Ms,
    to_ms: Ms,
) -> Result<Vec<Segment>, DbErr> {
    let mut segments = Vec::new();
    for condition in ["owner = ?", "line_id IN (SELECT line_id FROM bindings WHERE owner = ?) AND owner <> ?"] {
        let text = format!(
            "SELECT {COLUMNS} FROM segments WHERE {condition} AND from_ms < ? AND (to_ms IS NULL OR to_ms > ?) \
             ORDER BY line_id, from_ms"
        );
        let mut values: Vec<Value> = vec![owner.into(); condition.matches('?').count()];
        values.extend([to_ms.into(), from_ms.into()]);
        let rows = Row::find_by_statement(sql(connection.get_database_backend(), &text, values));
        for row in rows.all(connection).await? {
            segments.push(row.try_into()?);
        }
    }
    Ok(segments)
}

/// The open ones, in the order of their lines, after one and up to one.
pub(crate) async fn segment_open_within(
    connection: &impl ConnectionTrait,
    after: Option<LineId>,
    up_to: Option<LineId>,
) -> Result<Vec<Segment>, DbErr> {
    let text =
        format!("SELECT {COLUMNS} FROM segments WHERE to_ms IS NULL AND line_id > ? AND line_id <= ? ORDER BY line_id");
    let statement = sql(connection.get_database_backend(), &text, within(after, up_to));
    Row::find_by_statement(statement).all(connection).await?.into_iter().map(TryInto::try_into).collect()
}

/// How many open ones are attributed to this owner label.
pub(crate) async fn segment_open_count(connection: &impl ConnectionTrait, owner: &str) -> Result<i64, DbErr> {
    let text = "SELECT COUNT(*) AS n FROM segments WHERE to_ms IS NULL AND \
                (owner = ? OR line_id IN (SELECT line_id FROM bindings WHERE owner = ?))";
    count(connection, sql(connection.get_database_backend(), text, [owner.into(), owner.into()])).await
}

/// The lines whose segments carry this owner label, whenever that was.
pub(crate) async fn segment_lines(connection: &impl ConnectionTrait, owner: &str) -> Result<Vec<HeldLine>, DbErr> {
    let text = "SELECT DISTINCT line_id, rcontract_id, node_name FROM segments WHERE owner = ?";
    let rows = connection.query_all_raw(sql(connection.get_database_backend(), text, [owner.into()])).await?;
    rows.iter()
        .map(|row| {
            let (line, rcontract): (Uuid, Uuid) = (row.try_get("", "line_id")?, row.try_get("", "rcontract_id")?);
            Ok(HeldLine { line: line.into(), rcontract: rcontract.into(), node_name: row.try_get("", "node_name")? })
        })
        .collect()
}
