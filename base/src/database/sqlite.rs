//! Connections to one SQLite file.
//!
//! Statements run on the thread that asks, without a hand-over to another: most take a few microseconds, less than two
//! switches of threads do. Only what may take longer, a commit or a list, tells the runtime that it blocks.

use std::{
    collections::{BTreeMap, HashSet},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, types::ValueRef};
use sea_orm::{
    ConnAcquireErr, DbErr, ExecResult, ProxyDatabaseTrait, ProxyExecResult, ProxyRow, QueryResult, RuntimeErr,
    Statement, Value,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// From which size on the write-ahead log is moved into the file, in bytes.
const LOG_BYTES: u64 = 16 << 20;
/// How often its size is looked at.
const LOG_EVERY: Duration = Duration::from_millis(250);

/// The connections of one kind: one that writes, or some that read. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    idle: Mutex<Vec<Open>>,
    permits: Arc<Semaphore>,
    /// Grows with each schema change that is made here.
    schema: Arc<AtomicU64>,
}

#[derive(Debug)]
struct Open {
    connection: Connection,
    /// The columns that hold truth values. SQLite keeps them as numbers, and does not tell the types of what
    /// `RETURNING` gives: columns are known by their names.
    flags: HashSet<String>,
    /// Of which schema they are.
    schema: Option<u64>,
}

/// Opens the file: the one connection that writes, and those that read.
pub(super) fn open(url: &str, readers: usize) -> Result<(Pool, Pool), DbErr> {
    let path = path_of(url);
    let schema = Arc::new(AtomicU64::new(0));
    let writer = Pool::of(&path, 1, 512, 32 << 10, &schema)?;
    // What readers keep is worth nothing after the next change, so they keep little.
    let readers = Pool::of(&path, readers, 128, 4 << 10, &schema)?;
    let log = PathBuf::from(format!("{}-wal", path.display()));
    tokio::spawn(keep_log_short(Arc::downgrade(&writer.0), Arc::new(Mutex::new(connect(&path)?)), log));
    Ok((writer, readers))
}

impl Pool {
    fn of(
        path: &Path,
        count: usize,
        statements: usize,
        cache_kib: i64,
        schema: &Arc<AtomicU64>,
    ) -> Result<Self, DbErr> {
        let mut idle = Vec::with_capacity(count);
        for _ in 0..count {
            let connection = connect(path)?;
            connection.set_prepared_statement_cache_capacity(statements);
            connection.pragma_update(None, "cache_size", -cache_kib).map_err(failed)?;
            idle.push(Open { connection, flags: HashSet::new(), schema: None });
        }
        let permits = Arc::new(Semaphore::new(count));
        Ok(Self(Arc::new(Shared { idle: Mutex::new(idle), permits, schema: schema.clone() })))
    }

    /// A connection to oneself, in the order of asking.
    async fn lend(&self) -> Result<Lent, DbErr> {
        let closed = || DbErr::ConnectionAcquire(ConnAcquireErr::ConnectionClosed);
        let permit = self.0.permits.clone().acquire_owned().await.map_err(|_| closed())?;
        let mut open = held(&self.0.idle).pop().ok_or_else(closed)?;
        let schema = self.0.schema.load(Ordering::Acquire);
        if open.schema != Some(schema) {
            open.flags = flags(&open.connection)?;
            open.schema = Some(schema);
        }
        Ok(Lent { open: Some(Mutex::new(open)), home: self.0.clone(), _permit: permit })
    }

    /// Begins a change; of the connection that writes: once nobody else writes.
    pub(super) async fn begin(&self, how: Begin) -> Result<Change, DbErr> {
        let lent = self.lend().await?;
        let text = match how {
            Begin::Write => "BEGIN IMMEDIATE",
            Begin::Read => "BEGIN",
        };
        lent.open().execute(text, &[])?;
        Ok(Change { lent, ended: false })
    }

    /// A statement by itself.
    pub(super) async fn execute(&self, statement: &Statement) -> Result<ExecResult, DbErr> {
        let lent = self.lend().await?;
        let rows_affected = blocking(|| lent.open().execute(&statement.sql, values(statement)))?;
        Ok(ProxyExecResult { last_insert_id: 0, rows_affected }.into())
    }

    /// One row, or few: what a key finds.
    pub(super) async fn query_one(&self, statement: &Statement) -> Result<Option<QueryResult>, DbErr> {
        let rows = self.lend().await?.open().query(&statement.sql, values(statement))?;
        Ok(rows.into_iter().next().map(Into::into))
    }

    /// A list, which may be long.
    pub(super) async fn query_all(&self, statement: &Statement) -> Result<Vec<QueryResult>, DbErr> {
        let lent = self.lend().await?;
        let rows = blocking(|| lent.open().query(&statement.sql, values(statement)))?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Statements without values, one after the other.
    pub(super) async fn execute_unprepared(&self, text: &str) -> Result<ExecResult, DbErr> {
        let lent = self.lend().await?;
        blocking(|| lent.open().connection.execute_batch(text)).map_err(failed)?;
        Ok(ProxyExecResult::default().into())
    }
}

/// For schema changes, which the migrations make through a connection of sea-orm's.
#[async_trait::async_trait]
impl ProxyDatabaseTrait for Pool {
    async fn query(&self, statement: Statement) -> Result<Vec<ProxyRow>, DbErr> {
        let lent = self.lend().await?;
        blocking(|| lent.open().query(&statement.sql, values(&statement)))
    }

    async fn execute(&self, statement: Statement) -> Result<ProxyExecResult, DbErr> {
        let lent = self.lend().await?;
        let done = blocking(|| match &statement.values {
            Some(values) => lent.open().execute(&statement.sql, &values.0),
            None => lent.open().connection.execute_batch(&statement.sql).map(|()| 0).map_err(failed),
        });
        self.0.schema.fetch_add(1, Ordering::Release);
        Ok(ProxyExecResult { last_insert_id: 0, rows_affected: done? })
    }
}

/// What a change is for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Begin {
    /// It holds the one write lock.
    Write,
    /// It sees one unchanging view.
    Read,
}

/// A connection that goes back when it is dropped.
struct Lent {
    open: Option<Mutex<Open>>,
    home: Arc<Shared>,
    _permit: OwnedSemaphorePermit,
}

impl Lent {
    fn open(&self) -> MutexGuard<'_, Open> {
        held(self.open.as_ref().unwrap_or_else(|| unreachable!("it is taken by `drop` alone")))
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            held(&self.home.idle).push(open.into_inner().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

/// A transaction; dropped without a commit, it is undone.
pub(super) struct Change {
    lent: Lent,
    ended: bool,
}

impl Change {
    pub(super) fn execute(&self, statement: &Statement) -> Result<ExecResult, DbErr> {
        let rows_affected = self.write(&statement.sql, values(statement))?;
        Ok(ProxyExecResult { last_insert_id: 0, rows_affected }.into())
    }

    pub(super) fn write(&self, text: &str, values: &[Value]) -> Result<u64, DbErr> {
        self.lent.open().execute(text, values)
    }

    pub(super) fn execute_unprepared(&self, text: &str) -> Result<ExecResult, DbErr> {
        self.lent.open().connection.execute_batch(text).map_err(failed)?;
        Ok(ProxyExecResult::default().into())
    }

    pub(super) fn query(&self, statement: &Statement) -> Result<Vec<QueryResult>, DbErr> {
        let rows = self.lent.open().query(&statement.sql, values(statement))?;
        Ok(rows.into_iter().map(Into::into).collect())
    }

    /// Returns when the change is on disk.
    pub(super) fn commit(mut self) -> Result<(), DbErr> {
        blocking(|| self.lent.open().execute("COMMIT", &[]))?;
        self.ended = true;
        Ok(())
    }
}

impl Drop for Change {
    fn drop(&mut self) {
        let open = self.lent.open();
        // A failed statement may have undone it already.
        if !self.ended
            && !open.connection.is_autocommit()
            && let Err(error) = open.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "a change could not be undone");
        }
    }
}

/// Does what may wait for the disk, or take long; other tasks go on meanwhile where the runtime has more threads.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    let many = tokio::runtime::Handle::try_current()
        .is_ok_and(|h| h.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread);
    if many { tokio::task::block_in_place(work) } else { work() }
}

impl Open {
    fn execute(&self, text: &str, values: &[Value]) -> Result<u64, DbErr> {
        let mut statement = self.connection.prepare_cached(text).map_err(failed)?;
        bind(&mut statement, values)?;
        if statement.column_count() == 0 {
            return Ok(statement.raw_execute().map_err(failed)? as u64);
        }
        let mut rows = statement.raw_query();
        let mut count = 0;
        while rows.next().map_err(failed)?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    fn query(&self, text: &str, values: &[Value]) -> Result<Vec<ProxyRow>, DbErr> {
        let mut statement = self.connection.prepare_cached(text).map_err(failed)?;
        bind(&mut statement, values)?;
        let columns: Vec<String> = statement.column_names().into_iter().map(str::to_owned).collect();
        let flags: Vec<bool> = columns.iter().map(|name| self.flags.contains(name)).collect();
        let mut rows = statement.raw_query();
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(failed)? {
            let mut values = BTreeMap::new();
            for (at, name) in columns.iter().enumerate() {
                values.insert(name.clone(), read(row.get_ref(at).map_err(failed)?, flags[at])?);
            }
            found.push(ProxyRow::new(values));
        }
        Ok(found)
    }
}

/// A null is of the type that is asked for: any null reads as `None`.
fn read(value: ValueRef<'_>, flag: bool) -> Result<Value, DbErr> {
    Ok(match value {
        ValueRef::Null => Value::String(None),
        ValueRef::Integer(n) if flag => Value::Bool(Some(n != 0)),
        ValueRef::Integer(n) => Value::BigInt(Some(n)),
        ValueRef::Real(n) => Value::Double(Some(n)),
        ValueRef::Text(text) => {
            Value::String(Some(String::from_utf8(text.to_vec()).map_err(|e| DbErr::Type(e.to_string()))?))
        }
        // Ids are the only blobs of 16 bytes here.
        ValueRef::Blob(bytes) => match uuid::Uuid::from_slice(bytes) {
            Ok(id) => id.into(),
            Err(_) => Value::Bytes(Some(bytes.to_vec())),
        },
    })
}

fn values(statement: &Statement) -> &[Value] {
    statement.values.as_ref().map_or(&[], |values| &values.0)
}

fn bind(statement: &mut rusqlite::Statement<'_>, values: &[Value]) -> Result<(), DbErr> {
    if statement.parameter_count() != values.len() {
        return Err(DbErr::Type(format!("{} values for {} parameters", values.len(), statement.parameter_count())));
    }
    for (at, value) in values.iter().enumerate() {
        let at = at + 1;
        match value {
            Value::Bool(value) => statement.raw_bind_parameter(at, value),
            Value::Int(value) => statement.raw_bind_parameter(at, value),
            Value::BigInt(value) => statement.raw_bind_parameter(at, value),
            // A limit or an offset.
            Value::BigUnsigned(value) => {
                statement.raw_bind_parameter(at, value.map(|n| i64::try_from(n).unwrap_or(i64::MAX)))
            }
            Value::String(value) => statement.raw_bind_parameter(at, value),
            Value::Bytes(value) => statement.raw_bind_parameter(at, value),
            Value::Uuid(value) => statement.raw_bind_parameter(at, value.as_ref().map(uuid::Uuid::as_bytes)),
            other => return Err(DbErr::Type(format!("no column holds such a value: {other:?}"))),
        }
        .map_err(failed)?;
    }
    Ok(())
}

fn connect(path: &Path) -> Result<Connection, DbErr> {
    let connection = Connection::open(path).map_err(failed)?;
    connection.busy_timeout(Duration::from_secs(10)).map_err(failed)?;
    for (name, value) in [("journal_mode", "WAL"), ("synchronous", "FULL"), ("foreign_keys", "ON")] {
        connection.pragma_update(None, name, value).map_err(failed)?;
    }
    // The log is moved by a task of its own, so that no change waits for it.
    connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(failed)?;
    Ok(connection)
}

/// `sqlite:PATH?mode=rwc` or `sqlite://PATH`.
fn path_of(url: &str) -> PathBuf {
    let path = url.trim_start_matches("sqlite:");
    let path = path.strip_prefix("//").unwrap_or(path);
    path.split('?').next().unwrap_or(path).into()
}

fn flags(connection: &Connection) -> Result<HashSet<String>, DbErr> {
    let text = "SELECT DISTINCT c.name FROM sqlite_schema t, pragma_table_info(t.name) c \
                WHERE t.type = 'table' AND lower(c.type) = 'boolean'";
    let mut statement = connection.prepare(text).map_err(failed)?;
    let names = statement.query_map([], |row| row.get(0)).map_err(failed)?;
    names.collect::<Result<_, _>>().map_err(failed)
}

fn held<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Moves the write-ahead log into the file once it is long: most of it beside the writer, the rest while the writer is
/// held, so that the next change begins the log anew.
async fn keep_log_short(writer: Weak<Shared>, mover: Arc<Mutex<Connection>>, log: PathBuf) {
    let mut every = tokio::time::interval(LOG_EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let Some(writer) = writer.upgrade().map(Pool) else { return };
        let length = tokio::fs::metadata(&log).await.map_or(0, |m| m.len());
        if length < LOG_BYTES || !moved(&mover).await {
            continue;
        }
        let Ok(_held) = writer.lend().await else { return };
        moved(&mover).await;
    }
}

/// Moves what no reader still needs; whether that was tried.
async fn moved(mover: &Arc<Mutex<Connection>>) -> bool {
    let mover = mover.clone();
    let done = tokio::task::spawn_blocking(move || {
        held(&mover).query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get::<_, i64>(0))
    })
    .await;
    match done {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            tracing::warn!(%error, "the log of the database is not moved into its file");
            false
        }
        Err(_) => false, // the runtime stops
    }
}

/// What a failed statement means to those who decide by it.
#[allow(clippy::needless_pass_by_value)] // used as `map_err(failed)`
fn failed(error: rusqlite::Error) -> DbErr {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => DbErr::ConnectionAcquire(ConnAcquireErr::Timeout),
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => {
            DbErr::Conn(RuntimeErr::Internal(error.to_string()))
        }
        _ => DbErr::Exec(RuntimeErr::Internal(error.to_string())),
    }
}
