//! Audits: how far each is, what it says of each host, and what it found.

use sea_orm::{ConnectionTrait, FromQueryResult, Value};
use uuid::Uuid;
use yiqiu_base::{
    Id, Problem, Size,
    clock::Ms,
    database::{Transaction, Write, inserts, places, sql, stored},
    http::Paging,
    id::{self, Host, Line},
    idempotency::{self, Key},
    outbox::NewEvent,
};
use yiqiu_proto::resources::{AuditFinished, OrphanSettled};

use super::{Store, rows::models};
use crate::model::{AuditHost, AuditModel, AuditState, Finding, FindingKind, Tally};

const AUDIT: &str = "id, state, asked_by, host, started_ms, ended_ms, hosts, done, unknown, matched, ghosts, orphans, \
    over, ledger";
const FINDING: [&str; 16] = [
    "id",
    "audit_id",
    "kind",
    "at_ms",
    "host_id",
    "host_name",
    "node_type",
    "node_id",
    "line_id",
    "rcontract_id",
    "owner",
    "name",
    "handle",
    "labelled",
    "detail",
    "settled",
];

#[derive(FromQueryResult)]
struct AuditRow {
    id: Uuid,
    state: String,
    asked_by: String,
    host: String,
    started_ms: i64,
    ended_ms: Option<i64>,
    hosts: i64,
    done: i64,
    unknown: i64,
    matched: i64,
    ghosts: i64,
    orphans: i64,
    over: i64,
    ledger: i64,
}

impl TryFrom<AuditRow> for AuditModel {
    type Error = sea_orm::DbErr;
    fn try_from(row: AuditRow) -> Result<Self, Self::Error> {
        let AuditRow {
            id,
            state,
            asked_by,
            host,
            started_ms,
            ended_ms,
            hosts,
            done,
            unknown,
            matched,
            ghosts,
            orphans,
            over,
            ledger,
        } = row;
        let tally = Tally { matched, ghosts, orphans, over, unknown, ledger };
        Ok(Self { id: id.into(), state: stored(&state)?, asked_by, host, started_ms, ended_ms, hosts, done, tally })
    }
}

#[derive(FromQueryResult)]
struct FindingRow {
    id: Uuid,
    kind: String,
    at_ms: i64,
    host_id: Option<Uuid>,
    host_name: String,
    node_type: String,
    node_id: Option<Uuid>,
    line_id: Option<Uuid>,
    rcontract_id: Option<Uuid>,
    owner: String,
    name: String,
    handle: String,
    labelled: String,
    detail: String,
    settled: String,
}

impl TryFrom<FindingRow> for Finding {
    type Error = sea_orm::DbErr;
    fn try_from(row: FindingRow) -> Result<Self, Self::Error> {
        let FindingRow {
            id,
            kind,
            at_ms,
            host_id,
            host_name,
            node_type,
            node_id,
            line_id,
            rcontract_id,
            owner,
            name,
            handle,
            labelled,
            detail,
            settled,
        } = row;
        Ok(Self {
            id: id.into(),
            kind: stored(&kind)?,
            at_ms,
            host_id: host_id.map(Into::into),
            host_name,
            node_type: (!node_type.is_empty()).then(|| stored(&node_type)).transpose()?,
            node_id: node_id.map(Into::into),
            line_id: line_id.map(Into::into),
            rcontract_id: rcontract_id.map(Into::into),
            owner,
            name,
            handle,
            labelled,
            detail,
            settled,
        })
    }
}

#[derive(FromQueryResult)]
struct HostRow {
    host_id: Uuid,
    host_name: String,
    at_ms: i64,
    unknown: String,
    matched: i64,
    findings: i64,
    model_cpu: i64,
    model_memory: i64,
    model_disk: i64,
    model_iops: i64,
    measured_cpu: i64,
    measured_memory: i64,
    measured_disk: i64,
    measured_iops: i64,
}

impl TryFrom<HostRow> for AuditHost {
    type Error = sea_orm::DbErr;
    fn try_from(row: HostRow) -> Result<Self, Self::Error> {
        let size = |cpu_millicores, memory_bytes, disk_bytes, disk_iops| Size {
            cpu_millicores,
            memory_bytes,
            disk_bytes,
            disk_iops,
        };
        let HostRow {
            host_id,
            host_name,
            at_ms,
            unknown,
            matched,
            findings,
            model_cpu,
            model_memory,
            model_disk,
            model_iops,
            measured_cpu,
            measured_memory,
            measured_disk,
            measured_iops,
        } = row;
        Ok(Self {
            host_id: host_id.into(),
            host_name,
            at_ms,
            unknown,
            matched,
            findings,
            overhead_model: size(model_cpu, model_memory, model_disk, model_iops),
            overhead_measured: size(measured_cpu, measured_memory, measured_disk, measured_iops),
        })
    }
}

impl Store {
    /// Begins one. The same key again gives the first one, and `false`.
    pub async fn audit_insert(&self, new: &AuditModel, key: Option<&Key>) -> Result<(AuditModel, bool), Problem> {
        let transaction = self.database.begin().await?;
        if let Some(key) = key
            && let Some(kept) = idempotency::kept(&*transaction, &[key]).await?.first()
        {
            let first = Id::parse(kept.replay(key)?)?;
            drop(transaction);
            return Ok((self.audit_get(first).await?, false));
        }
        let AuditModel { id, state, asked_by, host, started_ms, ended_ms: _, hosts, done: _, tally: _ } = new;
        let text = "INSERT INTO audit (id, state, asked_by, host, started_ms, hosts, done, unknown, matched, ghosts, \
            orphans, over, ledger) VALUES (?, ?, ?, ?, ?, ?, 0, 0, 0, 0, 0, 0, 0)";
        let values: [Value; 6] = [
            id.uuid().into(),
            state.as_str().into(),
            asked_by.as_str().into(),
            host.as_str().into(),
            (*started_ms).into(),
            (*hosts).into(),
        ];
        transaction.execute_raw(sql(self.database.backend(), text, values)).await?;
        if let Some(key) = key {
            idempotency::keep(&*transaction, &[(key, id.to_string())], *started_ms).await?;
        }
        transaction.commit().await?;
        Ok((new.clone(), true))
    }

    /// By id; `not_found` otherwise.
    pub async fn audit_get(&self, id: Id<id::Audit>) -> Result<AuditModel, Problem> {
        let text = format!("SELECT {AUDIT} FROM audit WHERE id = ?");
        let statement = sql(self.database.backend(), &text, [id.uuid().into()]);
        let row = AuditRow::find_by_statement(statement).one(self.database.read()).await?;
        Ok(row.ok_or_else(|| Problem::not_found("audit", id))?.try_into()?)
    }

    /// The newest that ended in good order and asked every host.
    pub async fn audit_latest(&self) -> Result<Option<AuditModel>, Problem> {
        let text = format!("SELECT {AUDIT} FROM audit WHERE state = 'done' AND host = '' ORDER BY id DESC LIMIT 1");
        let row =
            AuditRow::find_by_statement(sql(self.database.backend(), &text, [])).one(self.database.read()).await?;
        Ok(row.map(TryInto::try_into).transpose()?)
    }

    /// Newest first.
    pub async fn audit_list(&self, paging: &Paging) -> Result<Vec<AuditModel>, Problem> {
        let before = match &paging.cursor {
            Some(cursor) => Id::<id::Audit>::parse(cursor)?.uuid(),
            None => Uuid::max(),
        };
        let text = format!("SELECT {AUDIT} FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?");
        let limit = i64::try_from(paging.limit()).unwrap_or(i64::MAX);
        let statement = sql(self.database.backend(), &text, [before.into(), limit.into()]);
        Ok(models(AuditRow::find_by_statement(statement).all(self.database.read()).await?)?)
    }

    /// Adds what came of some hosts.
    pub async fn audit_add(
        &self,
        audit: Id<id::Audit>,
        hosts: &[AuditHost],
        findings: &[Finding],
        done: i64,
        tally: Tally,
    ) -> Result<(), Problem> {
        let mut transaction = self.database.begin().await?;
        let rows = hosts.iter().map(|host| host_row(audit, host)).collect();
        let columns = [
            "audit_id",
            "host_id",
            "host_name",
            "at_ms",
            "unknown",
            "matched",
            "findings",
            "model_cpu",
            "model_memory",
            "model_disk",
            "model_iops",
            "measured_cpu",
            "measured_memory",
            "measured_disk",
            "measured_iops",
        ];
        transaction.later(inserts("audit_host", &columns, rows));
        transaction.later(inserts("finding", &FINDING, findings.iter().map(|f| finding_row(audit, f)).collect()));
        let Tally { matched, ghosts, orphans, over, unknown, ledger } = tally;
        let text = "UPDATE audit SET done = done + ?, matched = matched + ?, ghosts = ghosts + ?, \
            orphans = orphans + ?, over = over + ?, unknown = unknown + ?, ledger = ledger + ? WHERE id = ?";
        let counts = [done, matched, ghosts, orphans, over, unknown, ledger];
        let values = counts.map(Value::from).into_iter().chain([audit.uuid().into()]).collect();
        transaction.later([(text.to_owned(), values)]);
        Ok(transaction.commit().await?)
    }

    /// Ends one, tells of it, and lets go of all but the newest `keep`.
    pub async fn audit_end(&self, id: Id<id::Audit>, keep: i64, now: Ms) -> Result<AuditModel, Problem> {
        let mut transaction = self.database.begin().await?;
        let backend = self.database.backend();
        let text = format!("UPDATE audit SET state = 'done', ended_ms = ? WHERE id = ? RETURNING {AUDIT}");
        let row = AuditRow::find_by_statement(sql(backend, &text, [now.into(), id.uuid().into()]));
        let row = row.one(&*transaction).await?.ok_or_else(|| Problem::not_found("audit", id))?;
        let audit: AuditModel = row.try_into()?;
        let oldest = "SELECT id FROM audit WHERE state <> 'running' ORDER BY id DESC LIMIT 1 OFFSET ?";
        if let Some(row) = transaction.query_one_raw(sql(backend, oldest, [keep.into()])).await? {
            let last: Uuid = row.try_get("", "id")?;
            transaction.later([("finding", "audit_id"), ("audit_host", "audit_id"), ("audit", "id")].map(
                |(table, column)| -> Write {
                    let running = "SELECT id FROM audit WHERE state = 'running'";
                    let text = format!("DELETE FROM {table} WHERE {column} <= ? AND {column} NOT IN ({running})");
                    (text, vec![last.into()])
                },
            ));
        }
        let Tally { matched, ghosts, orphans, over, unknown, ledger } = audit.tally;
        let told = AuditFinished {
            audit_id: id.to_string(),
            state: if audit.tally.is_clean() { "clean" } else { "unclean" }.to_owned(),
            host_name: audit.host.clone(),
            hosts: audit.hosts,
            unknown,
            matched,
            ghosts,
            orphans,
            over,
            ledger,
        };
        transaction.emit(NewEvent::new(now, "audit.finished", "", id, &told));
        transaction.commit().await?;
        Ok(audit)
    }

    /// Notes that this one is broken off; `None`: all that a process before this one did not end.
    pub async fn audit_interrupted(&self, id: Option<Id<id::Audit>>, now: Ms) -> Result<(), Problem> {
        let mut transaction = self.database.begin().await?;
        let mut text = "UPDATE audit SET state = ?, ended_ms = ? WHERE state = 'running'".to_owned();
        let mut values: Vec<Value> = vec![AuditState::Interrupted.as_str().into(), now.into()];
        if let Some(id) = id {
            text += " AND id = ?";
            values.push(id.uuid().into());
        }
        transaction.later([(text, values)]);
        Ok(transaction.commit().await?)
    }

    /// What one found, in order, after a finding.
    pub async fn finding_list(&self, audit: Id<id::Audit>, paging: &Paging) -> Result<Vec<Finding>, Problem> {
        let after = match &paging.cursor {
            Some(cursor) => Id::<id::Finding>::parse(cursor)?.uuid(),
            None => Uuid::nil(),
        };
        let text =
            format!("SELECT {} FROM finding WHERE audit_id = ? AND id > ? ORDER BY id LIMIT ?", FINDING.join(", "));
        let limit = i64::try_from(paging.limit()).unwrap_or(i64::MAX);
        let values: [Value; 3] = [audit.uuid().into(), after.into(), limit.into()];
        let statement = sql(self.database.backend(), &text, values);
        Ok(models(FindingRow::find_by_statement(statement).all(self.database.read()).await?)?)
    }

    /// By id; `not_found` otherwise.
    pub async fn finding_get(&self, id: Id<id::Finding>) -> Result<Finding, Problem> {
        let text = format!("SELECT {} FROM finding WHERE id = ?", FINDING.join(", "));
        let statement = sql(self.database.backend(), &text, [id.uuid().into()]);
        let row = FindingRow::find_by_statement(statement).one(self.database.read()).await?;
        Ok(row.ok_or_else(|| Problem::not_found("finding", id))?.try_into()?)
    }

    /// What an audit found of these lines, and which of them stand on hosts that it could not ask.
    pub async fn finding_of_lines(&self, audit: Id<id::Audit>, lines: &[Id<Line>]) -> Result<Vec<Finding>, Problem> {
        let backend = self.database.backend();
        let mut found: Vec<Finding> = Vec::new();
        for chunk in lines.chunks(1000) {
            let ids = || chunk.iter().map(|line| Value::from(line.uuid()));
            let columns = FINDING.join(", ");
            let text =
                format!("SELECT {columns} FROM finding WHERE audit_id = ? AND line_id IN ({})", places(chunk.len()));
            let values = std::iter::once(Value::from(audit.uuid())).chain(ids());
            found.extend(models(
                FindingRow::find_by_statement(sql(backend, &text, values)).all(self.database.read()).await?,
            )?);
            let text = format!(
                "SELECT node.line_id AS id, node.line_id, node.id AS node_id, node.rcontract_id, node.owner, node.name, \
                 'unknown' AS kind, audit_host.at_ms, audit_host.host_id, audit_host.host_name, '' AS node_type, \
                 '' AS handle, '' AS labelled, audit_host.unknown AS detail, '' AS settled FROM node JOIN audit_host \
                 ON audit_host.host_id = node.host_id AND audit_host.audit_id = ? \
                 WHERE audit_host.unknown <> '' AND node.line_id IN ({})",
                places(chunk.len())
            );
            let values = std::iter::once(Value::from(audit.uuid())).chain(ids());
            found.extend(models(
                FindingRow::find_by_statement(sql(backend, &text, values)).all(self.database.read()).await?,
            )?);
        }
        Ok(found)
    }

    /// What an audit says of each host, in the order of ids.
    pub async fn audit_hosts(&self, audit: Id<id::Audit>, paging: &Paging) -> Result<Vec<AuditHost>, Problem> {
        let after = match &paging.cursor {
            Some(cursor) => Id::<Host>::parse(cursor)?.uuid(),
            None => Uuid::nil(),
        };
        let text = "SELECT host_id, host_name, at_ms, unknown, matched, findings, model_cpu, model_memory, model_disk, \
            model_iops, measured_cpu, measured_memory, measured_disk, measured_iops FROM audit_host \
            WHERE audit_id = ? AND host_id > ? ORDER BY host_id LIMIT ?";
        let limit = i64::try_from(paging.limit()).unwrap_or(i64::MAX);
        let values: [Value; 3] = [audit.uuid().into(), after.into(), limit.into()];
        let statement = sql(self.database.backend(), text, values);
        Ok(models(HostRow::find_by_statement(statement).all(self.database.read()).await?)?)
    }

    /// Notes what is being done about an orphan, or what came of it; the event tells who and why.
    pub async fn orphan_settled(
        &self,
        finding: &Finding,
        kind: &'static str,
        settled: Option<&str>,
        told: &OrphanSettled,
        now: Ms,
    ) -> Result<(), Problem> {
        let mut transaction = self.database.begin().await?;
        if let Some(settled) = settled {
            let text = "UPDATE finding SET settled = ? WHERE id = ?".to_owned();
            transaction.later([(text, vec![settled.into(), finding.id.uuid().into()])]);
        }
        emit(&mut transaction, finding, kind, told, now);
        Ok(transaction.commit().await?)
    }
}

fn emit(transaction: &mut Transaction, finding: &Finding, kind: &'static str, told: &OrphanSettled, now: Ms) {
    transaction.emit(NewEvent::new(now, kind, "", finding.id, told));
}

fn host_row(audit: Id<id::Audit>, host: &AuditHost) -> Vec<Value> {
    let AuditHost { host_id, host_name, at_ms, unknown, matched, findings, overhead_model, overhead_measured } = host;
    let mut row: Vec<Value> = vec![
        audit.uuid().into(),
        host_id.uuid().into(),
        host_name.as_str().into(),
        (*at_ms).into(),
        unknown.as_str().into(),
        (*matched).into(),
        (*findings).into(),
    ];
    for size in [overhead_model, overhead_measured] {
        let Size { cpu_millicores, memory_bytes, disk_bytes, disk_iops } = *size;
        row.extend([cpu_millicores, memory_bytes, disk_bytes, disk_iops].map(Value::from));
    }
    row
}

fn finding_row(audit: Id<id::Audit>, finding: &Finding) -> Vec<Value> {
    let Finding {
        id,
        kind,
        at_ms,
        host_id,
        host_name,
        node_type,
        node_id,
        line_id,
        rcontract_id,
        owner,
        name,
        handle,
        labelled,
        detail,
        settled,
    } = finding;
    vec![
        id.uuid().into(),
        audit.uuid().into(),
        FindingKind::as_str(*kind).into(),
        (*at_ms).into(),
        host_id.map(Id::uuid).into(),
        host_name.as_str().into(),
        node_type.map_or("", |node_type| node_type.as_str()).into(),
        node_id.map(Id::uuid).into(),
        line_id.map(Id::uuid).into(),
        rcontract_id.map(Id::uuid).into(),
        owner.as_str().into(),
        name.as_str().into(),
        handle.as_str().into(),
        labelled.as_str().into(),
        detail.as_str().into(),
        settled.as_str().into(),
    ]
}
