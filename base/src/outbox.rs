//! The outbox of a tier: what changed, in the order of commits, for whoever consumes it.
//!
//! Tables (made by each tier's migrations): `outbox_head(id = 1, position, epoch)` and
//! `outbox(position, at_ms, kind, owner, subject, request_id, payload)`. Positions grow by one without a gap.
//! A consumer keeps its own cursor in `cursor(source, position)` and commits it together with the effect.

use std::time::Duration;

use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Value};

use crate::{
    Principal, Problem,
    clock::Ms,
    database::{Database, Write, problem, sql},
    principal::Role,
};

/// An event before it has a position.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// When it happened.
    pub at_ms: Ms,
    /// What happened, such as `segment.opened`: names the shape of the payload.
    pub kind: &'static str,
    /// The owner label of the contract it is about, or empty.
    pub owner: String,
    /// The id of what it is about.
    pub subject: String,
    /// The request that led to it, or empty.
    pub request_id: String,
    /// The payload as JSON.
    pub payload: String,
}

impl NewEvent {
    /// An event with its payload as JSON.
    pub fn new(
        at_ms: Ms,
        kind: &'static str,
        owner: &str,
        subject: impl ToString,
        payload: &impl serde::Serialize,
    ) -> Self {
        Self {
            at_ms,
            kind,
            owner: owner.to_owned(),
            subject: subject.to_string(),
            request_id: crate::telemetry::request_id(),
            // Payloads are plain messages of strings and integers, which always have a JSON form.
            payload: serde_json::to_string(payload).unwrap_or_default(),
        }
    }
}

/// An event as consumers read it.
#[derive(Debug, Clone, PartialEq, Eq, FromQueryResult)]
pub struct Event {
    /// Its place in the order of commits.
    pub position: i64,
    /// When it happened.
    pub at_ms: Ms,
    /// What happened.
    pub kind: String,
    /// The owner label of the contract it is about, or empty.
    pub owner: String,
    /// The id of what it is about.
    pub subject: String,
    /// The request that led to it, or empty.
    pub request_id: String,
    /// The payload as JSON.
    pub payload: String,
}

/// The statements that write events with the next positions. They come last in a transaction: from the first of them
/// on it holds the lock of the head row, until the commit.
pub(crate) fn append(events: &[NewEvent], backend: DbBackend) -> Vec<Write> {
    let count = i64::try_from(events.len()).unwrap_or(i64::MAX);
    let head = "UPDATE outbox_head SET position = position + ? WHERE id = 1";
    let mut writes = Vec::with_capacity(2);
    // PostgreSQL does both in one statement, and holds the lock for one way less.
    let mut with = None;
    match backend {
        DbBackend::Postgres => with = Some(format!("WITH head AS ({head} RETURNING position) ")),
        _ => writes.push((head.to_owned(), vec![Value::from(count)])),
    }
    for (chunk_at, chunk) in events.chunks(CHUNK).enumerate() {
        let (with, source, mut values) = match with.take() {
            Some(with) => (with, "head", vec![Value::from(count)]),
            None => (String::new(), "outbox_head WHERE id = 1", Vec::new()),
        };
        let place = format!("((SELECT position FROM {source}) - ?, ?, ?, ?, ?, ?, ?)");
        let text = format!(
            "{with}INSERT INTO outbox (position, at_ms, kind, owner, subject, request_id, payload) VALUES {}",
            vec![place.as_str(); chunk.len()].join(", ")
        );
        values.extend(chunk.iter().enumerate().flat_map(|(at, event)| {
            let before_last = count - 1 - i64::try_from(chunk_at * CHUNK + at).unwrap_or(i64::MAX);
            [
                Value::from(before_last),
                event.at_ms.into(),
                event.kind.into(),
                event.owner.as_str().into(),
                event.subject.as_str().into(),
                event.request_id.as_str().into(),
                event.payload.as_str().into(),
            ]
        }));
        writes.push((text, values));
    }
    writes
}

/// How many events one statement inserts.
const CHUNK: usize = 500;

/// Events after a position, oldest first, at most `limit`; waits up to `wait` for a first one.
pub async fn read(database: &Database, after: i64, limit: u32, wait: Duration) -> Result<Vec<Event>, Problem> {
    let deadline = tokio::time::Instant::now() + wait.min(Duration::from_secs(30));
    let mut head = database.head();
    loop {
        head.mark_unchanged();
        let statement = sql(
            database.backend(),
            "SELECT position, at_ms, kind, owner, subject, request_id, payload FROM outbox \
             WHERE position > ? ORDER BY position LIMIT ?",
            [after.into(), i64::from(limit.clamp(1, 1000)).into()],
        );
        let events = Event::find_by_statement(statement).all(database.read()).await.map_err(problem)?;
        let now = tokio::time::Instant::now();
        if !events.is_empty() || now >= deadline {
            return Ok(events);
        }
        // Another replica may write too: look again after a second even without a hint.
        let pause = (deadline - now).min(Duration::from_secs(1));
        let _ = tokio::time::timeout(pause, head.changed()).await;
    }
}

/// What one question for events gives.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The events that the asker may see, oldest first.
    pub events: Vec<Event>,
    /// The position up to which was read, also over events of others: ask after it next.
    pub next: i64,
    /// The newest position. A consumer that stands beyond it has followed another history.
    pub head: i64,
    /// Names this history; a consumer begins anew when it changes.
    pub epoch: i64,
}

/// How far one question of a tenant looks over events of others.
const WINDOW: i64 = 10_000;

/// What a principal sees of a tier's events after a position: ops and tiers all of them, a tenant those of its own
/// contracts. Waits up to `wait` for a first one. A tenant's answer may be empty though `next` moved on.
pub async fn read_as(
    database: &Database,
    who: &Principal,
    after: i64,
    limit: u32,
    wait: Duration,
) -> Result<Reading, Problem> {
    let after = after.max(0);
    let (events, next) = match who.role {
        Role::Ops | Role::Service => {
            let events = read(database, after, limit, wait).await?;
            let next = events.last().map_or(after, |event| event.position);
            (events, next)
        }
        Role::Tenant => read_own(database, who.owner()?, after, limit, wait).await?,
    };
    let text = "SELECT position, epoch FROM outbox_head WHERE id = 1";
    let row = database.read().query_one_raw(sql(database.backend(), text, [])).await?;
    let row = row.ok_or_else(|| Problem::internal("outbox_head has no row: run the migrations"))?;
    Ok(Reading { events, next, head: row.try_get("", "position")?, epoch: row.try_get("", "epoch")? })
}

/// The events of one owner within a window of positions: what one question costs is bounded, whoever else is busy.
async fn read_own(
    database: &Database,
    owner: &str,
    after: i64,
    limit: u32,
    wait: Duration,
) -> Result<(Vec<Event>, i64), Problem> {
    let deadline = tokio::time::Instant::now() + wait.min(Duration::from_secs(30));
    let mut head = database.head();
    let mut from = after;
    loop {
        head.mark_unchanged();
        let newest = newest(database).await?;
        let to = newest.min(from.saturating_add(WINDOW));
        let statement = sql(
            database.backend(),
            "SELECT position, at_ms, kind, owner, subject, request_id, payload FROM outbox \
             WHERE position > ? AND position <= ? AND owner = ? ORDER BY position LIMIT ?",
            [from.into(), to.into(), owner.into(), i64::from(limit.clamp(1, 1000)).into()],
        );
        let events = Event::find_by_statement(statement).all(database.read()).await.map_err(problem)?;
        if let Some(last) = events.last() {
            let next = last.position;
            return Ok((events, next));
        }
        from = to.max(from);
        let now = tokio::time::Instant::now();
        if now >= deadline || from < newest {
            return Ok((events, from));
        }
        let pause = (deadline - now).min(Duration::from_secs(1));
        let _ = tokio::time::timeout(pause, head.changed()).await;
    }
}

/// Which history this is: changes when the database is restored from a backup.
pub async fn epoch(database: &Database) -> Result<i64, Problem> {
    one_number(database, "SELECT epoch AS n FROM outbox_head WHERE id = 1").await
}

/// Names this history anew after its database was restored from a backup, so that everyone who followed the one that is
/// lost notices. The epoch is greater than any before, also than one that an earlier restore of the same backup gave.
pub async fn epoch_raise(database: &Database, now: Ms) -> Result<i64, Problem> {
    let text = "UPDATE outbox_head SET epoch = CASE WHEN epoch < ? THEN ? ELSE epoch + 1 END WHERE id = 1";
    let change = database.begin().await?;
    change.execute_raw(sql(database.backend(), text, [now.into(), now.into()])).await?;
    change.commit().await?;
    epoch(database).await
}

/// The newest position.
pub async fn newest(database: &Database) -> Result<i64, Problem> {
    one_number(database, "SELECT position AS n FROM outbox_head WHERE id = 1").await
}

/// The time of the newest event, or 0: a clock that starts must not be before it.
pub async fn newest_ms(database: &Database) -> Result<Ms, Problem> {
    one_number(database, "SELECT COALESCE((SELECT at_ms FROM outbox ORDER BY position DESC LIMIT 1), 0) AS n").await
}

/// Where a consumer stands in another tier's outbox; 0 at first.
pub async fn cursor(database: &Database, source: &str) -> Result<i64, Problem> {
    let statement = sql(database.backend(), "SELECT position AS n FROM cursor WHERE source = ?", [source.into()]);
    let row = database.read().query_one_raw(statement).await.map_err(problem)?;
    row.map_or(Ok(0), |row| row.try_get("", "n").map_err(problem))
}

/// Moves a consumer on, in the transaction that holds the effect. Fails if it stood elsewhere than at `from`.
pub async fn cursor_move(connection: &impl ConnectionTrait, source: &str, from: i64, to: i64) -> Result<(), DbErr> {
    let backend = connection.get_database_backend();
    if from == 0 {
        connection
            .execute_raw(sql(
                backend,
                "INSERT INTO cursor (source, position) VALUES (?, 0) ON CONFLICT (source) DO NOTHING",
                [source.into()],
            ))
            .await?;
    }
    let moved = connection
        .execute_raw(sql(
            backend,
            "UPDATE cursor SET position = ? WHERE source = ? AND position = ?",
            [to.into(), source.into(), from.into()],
        ))
        .await?;
    if moved.rows_affected() == 1 { Ok(()) } else { Err(DbErr::RecordNotUpdated) }
}

async fn one_number(database: &Database, text: &str) -> Result<i64, Problem> {
    let row = database.read().query_one_raw(sql(database.backend(), text, [])).await.map_err(problem)?;
    row.map_or(Ok(0), |row| row.try_get("", "n").map_err(problem))
}
