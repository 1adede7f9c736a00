//! The books: what must hold after every commit, checked against the tables themselves.

use sea_orm::{ConnectionTrait, DbBackend};
use serde::Serialize;
use utoipa::ToSchema;
use yiqiu_base::{Problem, database::sql};

use super::Store;

/// The outcome of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Books {
    /// Whether every book holds.
    pub hold: bool,
    /// Claims that were checked.
    pub claims: i64,
    /// What does not hold, one sentence each, at most 100 for each rule.
    pub faults: Vec<String>,
    /// Hosts that lost capacity under their claims, at most 100: true, and shown; no new claim lands on them.
    pub short: Vec<String>,
}

/// Each rule as the query that finds what breaks it. The one column is the sentence.
const RULES: [&str; 11] = [
    // Book 1: `used` is what the claims and their overhead say.
    "SELECT 'host ' || host.name || ' counts as used what its claims do not say' AS fault FROM host \
     LEFT JOIN (SELECT host_id, COUNT(*) AS n, SUM(cpu) AS cpu, SUM(memory) AS memory, SUM(disk) AS disk, \
     SUM(iops) AS iops FROM claim GROUP BY host_id) AS held ON held.host_id = host.id \
     WHERE host.nodes <> COALESCE(held.n, 0) \
     OR host.used_cpu <> COALESCE(held.cpu, 0) + host.nodes * host.node_overhead_cpu \
     OR host.used_memory <> COALESCE(held.memory, 0) + host.nodes * host.node_overhead_memory \
     OR host.used_disk <> COALESCE(held.disk, 0) + host.nodes * host.node_overhead_disk \
     OR host.used_iops <> COALESCE(held.iops, 0) + host.nodes * host.node_overhead_iops",
    "SELECT 'host ' || name || ' is cut as bm and carries ' || nodes || ' nodes' AS fault FROM host \
     WHERE node_type = 'bm' AND nodes > 1",
    // Book 2: claim = line, less cpu and memory while its node is parked; open segment = claim, always.
    "SELECT 'line ' || line.name || ' has no claim of its size' AS fault FROM line \
     LEFT JOIN node ON node.line_id = line.id LEFT JOIN claim \
     ON claim.line_id = line.id AND claim.host_id = line.host_id \
     AND claim.cpu = CASE WHEN node.hold = 'parked' THEN 0 ELSE line.cpu END \
     AND claim.memory = CASE WHEN node.hold = 'parked' THEN 0 ELSE line.memory END \
     AND claim.disk = line.disk AND claim.iops = line.iops WHERE claim.line_id IS NULL",
    "SELECT 'line ' || line.name || ' has no open segment of what it claims' AS fault FROM line \
     JOIN claim ON claim.line_id = line.id LEFT JOIN segment \
     ON segment.line_id = line.id AND segment.to_ms IS NULL AND segment.cpu = claim.cpu \
     AND segment.memory = claim.memory AND segment.disk = claim.disk AND segment.iops = claim.iops \
     WHERE segment.line_id IS NULL",
    "SELECT 'node ' || name || ' is parked and wished to run' AS fault FROM node \
     WHERE hold = 'parked' AND (power <> 'off' OR resumes)",
    "SELECT 'a segment is open though its line ended' AS fault FROM segment LEFT JOIN line \
     ON line.id = segment.line_id WHERE segment.to_ms IS NULL AND line.id IS NULL",
    "SELECT 'line ' || line.name || ' has no node' AS fault FROM line LEFT JOIN node ON node.line_id = line.id \
     AND node.host_id = line.host_id WHERE node.id IS NULL",
    "SELECT 'rcontract ' || rcontract.name || ' is ' || rcontract.state || ' and does not hold what it should' AS fault \
     FROM rcontract LEFT JOIN (SELECT rcontract_id, COUNT(*) AS n, SUM(CASE WHEN removed THEN 0 ELSE 1 END) AS standing \
     FROM node GROUP BY rcontract_id) AS held \
     ON held.rcontract_id = rcontract.id WHERE (rcontract.state IN ('scheduled', 'active', 'ending') \
     AND COALESCE(held.standing, 0) <> rcontract.lines) \
     OR (rcontract.state = 'released' AND COALESCE(held.n, 0) <> 0) \
     OR (rcontract.state = 'releasing' AND COALESCE(held.n, 0) = 0)",
    "SELECT 'line ' || line.name || ' has a node of another name' AS fault FROM line \
     JOIN node ON node.line_id = line.id WHERE line.name <> node.name",
    // Book 4: the segments of a line follow each other.
    "SELECT 'segment ' || a.ordinal || ' of a line does not begin where the one before ends' AS fault \
     FROM segment AS a LEFT JOIN segment AS b ON b.line_id = a.line_id AND b.ordinal = a.ordinal - 1 \
     WHERE a.ordinal > 1 AND (b.to_ms IS NULL OR b.to_ms <> a.from_ms)",
    // The outbox has no gap.
    "SELECT 'the outbox has a gap' AS fault FROM outbox_head WHERE position <> (SELECT COUNT(*) FROM outbox)",
];

/// Book 1: what a host carries is within its capacity times its overcommit, unless the capacity went away.
const SHORT: &str = "SELECT name FROM host WHERE nodes > 0 AND (used_cpu > rentable_cpu \
    OR used_memory > rentable_memory OR used_disk > rentable_disk OR used_iops > rentable_iops) \
    ORDER BY name LIMIT 100";

/// Book 2: a node is wished the size that its line holds; while a host has not confirmed another one, at most that.
fn bound(backend: DbBackend) -> String {
    let wished = |part: &str| match backend {
        DbBackend::Postgres => format!("(node.spec::json -> 'size' ->> '{part}')::bigint"),
        _ => format!("json_extract(node.spec, '$.size.{part}')"),
    };
    let differs =
        [("cpu", "cpu_millicores"), ("memory", "memory_bytes"), ("disk", "disk_bytes"), ("iops", "disk_iops")]
            .map(|(column, part)| {
                let wished = wished(part);
                format!("{wished} > line.{column} OR (node.resizing IS NULL AND {wished} <> line.{column})")
            })
            .join(" OR ");
    format!(
        "SELECT 'line ' || line.name || ' holds another size than its node is wished' AS fault FROM line \
         JOIN node ON node.line_id = line.id WHERE {differs}"
    )
}

impl Store {
    /// Checks every rule in one snapshot.
    pub async fn books(&self) -> Result<Books, Problem> {
        let backend = self.database.backend();
        let snapshot = self.database.snapshot().await?;
        let mut books = Books::default();
        for rule in RULES.map(str::to_owned).into_iter().chain([bound(backend)]) {
            for row in snapshot.query_all_raw(sql(backend, &format!("{rule} LIMIT 100"), [])).await? {
                books.faults.push(row.try_get("", "fault")?);
            }
        }
        for row in snapshot.query_all_raw(sql(backend, SHORT, [])).await? {
            books.short.push(row.try_get("", "name")?);
        }
        let row = snapshot.query_one_raw(sql(backend, "SELECT COUNT(*) AS n FROM claim", [])).await?;
        books.claims = row.map_or(Ok(0), |row| row.try_get("", "n"))?;
        books.hold = books.faults.is_empty();
        Ok(books)
    }
}
