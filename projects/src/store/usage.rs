//! What was measured, by line and minute; and which samples were counted.

use std::collections::BTreeMap;

use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};
use uuid::Uuid;
use yiqiu_base::{clock::Ms, database::sql};

use super::{CHUNK, places};
use crate::{
    effect::{Buckets, Marks},
    model::{Actual, LineId},
};

/// Byte-milliseconds are kept as whole GiB-milliseconds and a rest, each of which the databases can sum in 64 bits.
const GIB: i128 = 1 << 30;

/// The newest counted sequence numbers of these lines.
pub(crate) async fn mark_list(connection: &impl ConnectionTrait, lines: &[LineId]) -> Result<Marks, DbErr> {
    let mut marks = Marks::new();
    for lines in lines.chunks(CHUNK) {
        let text =
            format!("SELECT line_id, boot, seq FROM usage_marks WHERE line_id IN ({})", places("?", lines.len()));
        let values = lines.iter().map(|line| line.uuid().into());
        for row in connection.query_all_raw(sql(connection.get_database_backend(), &text, values)).await? {
            let line: Uuid = row.try_get("", "line_id")?;
            marks.insert((line.into(), row.try_get("", "boot")?), row.try_get("", "seq")?);
        }
    }
    Ok(marks)
}

/// Keeps the newest counted sequence numbers.
pub(crate) async fn mark_put(connection: &impl ConnectionTrait, marks: &Marks) -> Result<(), DbErr> {
    let marks: Vec<_> = marks.iter().collect();
    for marks in marks.chunks(CHUNK) {
        let text = format!(
            "INSERT INTO usage_marks (line_id, boot, seq) VALUES {} \
             ON CONFLICT (line_id, boot) DO UPDATE SET seq = excluded.seq",
            places("(?, ?, ?)", marks.len())
        );
        let values = marks.iter().flat_map(|((line, boot), seq)| [line.uuid().into(), (*boot).into(), (**seq).into()]);
        connection.execute_raw(sql(connection.get_database_backend(), &text, values)).await?;
    }
    Ok(())
}

/// Adds to the minutes.
pub(crate) async fn usage_add(connection: &impl ConnectionTrait, buckets: &Buckets) -> Result<(), DbErr> {
    let buckets: Vec<_> = buckets.iter().collect();
    for buckets in buckets.chunks(CHUNK) {
        let add = COUNTERS.map(|c| format!("{c} = usage_minutes.{c} + excluded.{c}")).join(", ");
        let text = format!(
            "INSERT INTO usage_minutes (line_id, minute_ms, {}) VALUES {} \
             ON CONFLICT (line_id, minute_ms) DO UPDATE SET {add}",
            COUNTERS.join(", "),
            places("(?, ?, ?, ?, ?, ?, ?, ?, ?)", buckets.len())
        );
        let mut values: Vec<Value> = Vec::with_capacity(buckets.len() * 9);
        for ((line, minute), actual) in buckets {
            values.extend([line.uuid().into(), (*minute).into()]);
            values.extend(counters(actual)?.map(Value::from));
        }
        connection.execute_raw(sql(connection.get_database_backend(), &text, values)).await?;
    }
    Ok(())
}

const COUNTERS: [&str; 7] = [
    "cpu_ns",
    "memory_gib_ms",
    "memory_rest_byte_ms",
    "net_rx_bytes",
    "net_tx_bytes",
    "block_read_bytes",
    "block_write_bytes",
];

fn counters(actual: &Actual) -> Result<[i64; 7], DbErr> {
    let Actual { cpu_ns, memory_byte_ms, net_rx_bytes, net_tx_bytes, block_read_bytes, block_write_bytes } = *actual;
    let parts = [
        cpu_ns,
        memory_byte_ms / GIB,
        memory_byte_ms % GIB,
        net_rx_bytes,
        net_tx_bytes,
        block_read_bytes,
        block_write_bytes,
    ];
    let mut kept = [0; 7];
    for (kept, part) in kept.iter_mut().zip(parts) {
        *kept = i64::try_from(part).map_err(|_| DbErr::Type(format!("a minute of usage is {part}")))?;
    }
    Ok(kept)
}

fn actual(row: &QueryResult) -> Result<Actual, DbErr> {
    let mut sums = [0_i128; 7];
    for (sum, column) in sums.iter_mut().zip(COUNTERS) {
        *sum = row.try_get::<i64>("", column)?.into();
    }
    let [cpu_ns, gib_ms, rest, net_rx_bytes, net_tx_bytes, block_read_bytes, block_write_bytes] = sums;
    let memory_byte_ms = gib_ms * GIB + rest;
    Ok(Actual { cpu_ns, memory_byte_ms, net_rx_bytes, net_tx_bytes, block_read_bytes, block_write_bytes })
}

fn sums() -> String {
    COUNTERS.map(|c| format!("CAST(SUM({c}) AS BIGINT) AS {c}")).join(", ")
}

/// The sums, by line, of the minutes that begin in `[from_ms, to_ms)`, of the lines that carry this owner label or were
/// ever bound in its name.
pub(crate) async fn usage_of_owner(
    connection: &impl ConnectionTrait,
    owner: &str,
    from_ms: Ms,
    to_ms: Ms,
) -> Result<BTreeMap<LineId, Actual>, DbErr> {
    let text = format!(
        "SELECT line_id, {} FROM usage_minutes WHERE line_id IN (SELECT line_id FROM segments WHERE owner = ? \
         UNION SELECT line_id FROM bindings WHERE owner = ?) AND minute_ms >= ? AND minute_ms < ? GROUP BY line_id",
        sums()
    );
    let values = [owner.into(), owner.into(), from_ms.into(), to_ms.into()];
    let rows = connection.query_all_raw(sql(connection.get_database_backend(), &text, values)).await?;
    rows.iter()
        .map(|row| {
            let line: Uuid = row.try_get("", "line_id")?;
            Ok((line.into(), actual(row)?))
        })
        .collect()
}

/// The sum of the minutes of one line that begin in `[from_ms, to_ms)`.
pub(crate) async fn usage_of_line(
    connection: &impl ConnectionTrait,
    line: LineId,
    from_ms: Ms,
    to_ms: Ms,
) -> Result<Actual, DbErr> {
    let text = format!(
        "SELECT line_id, {} FROM usage_minutes WHERE line_id = ? AND minute_ms >= ? AND minute_ms < ? GROUP BY line_id",
        sums()
    );
    let values = [line.uuid().into(), from_ms.into(), to_ms.into()];
    let row = connection.query_one_raw(sql(connection.get_database_backend(), &text, values)).await?;
    row.map_or(Ok(Actual::default()), |row| actual(&row))
}
