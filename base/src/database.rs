//! One database of one tier: SQLite in a file, or PostgreSQL.
//!
//! SQLite runs in WAL mode with `synchronous=FULL` and one writing connection; readers have connections of their own.
//! Every change goes through [`Transaction`], which writes the events of the change beside it.

use std::{ops::Deref, str::FromStr, time::Duration};

use sea_orm::{
    ConnectOptions, ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, IsolationLevel,
    RuntimeErr, SqlErr, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait,
};
use tokio::sync::watch;

use crate::{Code, Problem, outbox::NewEvent};

/// A tier's database. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    write: DatabaseConnection,
    read: DatabaseConnection,
    head: watch::Sender<u64>,
}

impl Database {
    /// Opens `sqlite:PATH` (made if missing) or `postgres://…`; `unavailable` if it does not answer.
    pub async fn connect(url: &str) -> Result<Self, Problem> {
        let sqlite = url.starts_with("sqlite:");
        if !sqlite && !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(Problem::invalid("a database URL begins with `sqlite:` or `postgres://`"));
        }
        let (write, read) = if sqlite {
            let url = if url.contains("mode=") { url.to_owned() } else { format!("{url}?mode=rwc") };
            (open(&url, 1).await?, open(&url, 4).await?)
        } else {
            let pool = open(url, 12).await?;
            (pool.clone(), pool)
        };
        let database = Self { write, read, head: watch::Sender::new(0) };
        Ok(database)
    }

    /// The connection for reading. On SQLite it sees what is committed, and never waits for a writer.
    pub fn read(&self) -> &DatabaseConnection {
        &self.read
    }

    /// The connection for schema changes.
    pub fn schema(&self) -> &DatabaseConnection {
        &self.write
    }

    /// Which of the two it is.
    pub fn backend(&self) -> DbBackend {
        self.write.get_database_backend()
    }

    /// Begins a change. On SQLite it holds the one write lock from here on.
    pub async fn begin(&self) -> Result<Transaction, DbErr> {
        let options = TransactionOptions {
            sqlite_transaction_mode: (self.backend() == DbBackend::Sqlite).then_some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let inner = self.write.begin_with_options(options).await?;
        Ok(Transaction { inner, later: Vec::new(), events: Vec::new(), head: self.head.clone() })
    }

    /// One unchanging view of what is committed, for checks over many tables. It holds no lock; drop it to end it.
    pub async fn snapshot(&self) -> Result<DatabaseTransaction, DbErr> {
        let isolation_level = match self.backend() {
            DbBackend::Postgres => Some(IsolationLevel::RepeatableRead),
            _ => None, // a reader in WAL mode sees one snapshot anyway
        };
        self.read.begin_with_options(TransactionOptions { isolation_level, ..TransactionOptions::default() }).await
    }

    /// Whether it answers.
    pub async fn ping(&self) -> Result<(), Problem> {
        self.read.execute_unprepared("SELECT 1").await.map(|_| ()).map_err(problem)
    }

    /// Changes when this process committed events: a hint to read, no more.
    pub fn head(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }
}

async fn open(url: &str, connections: u32) -> Result<DatabaseConnection, Problem> {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(connections)
        .min_connections(1)
        .acquire_timeout(Duration::from_secs(30))
        .idle_timeout(None)
        .test_before_acquire(false)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(|sqlite| {
            sqlite
                .pragma("journal_mode", "WAL")
                .pragma("synchronous", "FULL")
                .pragma("foreign_keys", "ON")
                .pragma("cache_size", "-32768")
                .pragma("wal_autocheckpoint", "8000")
                .busy_timeout(Duration::from_secs(10))
                .statement_cache_capacity(512)
        })
        .map_sqlx_postgres_opts(|postgres| postgres.statement_cache_capacity(512));
    sea_orm::Database::connect(options).await.map_err(|error| {
        Problem::new(Code::Unavailable, format!("the database does not open: {}", without_password(&error.to_string())))
    })
}

/// A change with its events: all of it is committed, or none.
pub struct Transaction {
    inner: DatabaseTransaction,
    later: Vec<Write>,
    events: Vec<NewEvent>,
    head: watch::Sender<u64>,
}

/// A statement that gives no rows, with its values.
pub type Write = (String, Vec<sea_orm::Value>);

impl Deref for Transaction {
    type Target = DatabaseTransaction;
    fn deref(&self) -> &DatabaseTransaction {
        &self.inner
    }
}

impl Transaction {
    /// Adds statements that give no rows: they are carried out in this order by [`Transaction::commit`], together. To hand
    /// a statement to SQLite's thread costs more than most statements do. What is read before the commit sees nothing
    /// of them; what they break, the commit reports.
    pub fn later(&mut self, writes: impl IntoIterator<Item = Write>) {
        self.later.extend(writes);
    }

    /// Adds an event that tells of this change.
    pub fn emit(&mut self, event: NewEvent) {
        self.events.push(event);
    }

    /// Gives the events their positions and commits. When this returns, the change is on disk.
    ///
    /// Positions are taken last, under the lock of one row that is held until the commit: that is what makes their
    /// order the order of commits.
    pub async fn commit(mut self) -> Result<(), DbErr> {
        let tells = !self.events.is_empty();
        if tells {
            self.later.extend(crate::outbox::append(&self.events));
        }
        write_all(&self.inner, self.later).await?;
        crash_point("before");
        self.inner.commit().await?;
        crash_point("after");
        if tells {
            self.head.send_modify(|commits| *commits += 1);
        }
        Ok(())
    }
}

/// Carries out statements one after the other; an error ends it. On SQLite they are handed over together.
async fn write_all(connection: &impl ConnectionTrait, writes: Vec<Write>) -> Result<(), DbErr> {
    let backend = connection.get_database_backend();
    if backend == DbBackend::Sqlite {
        let (mut text, mut values) = (String::new(), Vec::new());
        for (one, more) in writes {
            // SQLite takes 32,766 parameters a statement, and sqlx numbers them through all statements of one text.
            if values.len() + more.len() > 30_000 {
                let full = (std::mem::take(&mut text), std::mem::take(&mut values));
                connection.execute_raw(sql(backend, &full.0, full.1)).await?;
            }
            if !text.is_empty() {
                text.push_str("; ");
            }
            text.push_str(&one);
            values.extend(more);
        }
        if !text.is_empty() {
            connection.execute_raw(sql(backend, &text, values)).await?;
        }
        return Ok(());
    }
    for (text, values) in writes {
        connection.execute_raw(sql(backend, &text, values)).await?;
    }
    Ok(())
}

/// In test builds: ends the process as a crash would, before or after its n-th commit, when the environment says
/// `YIQIU_CRASH_AT_COMMIT=n:before` or `n:after`.
#[cfg(debug_assertions)]
fn crash_point(side: &str) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };
    static AT: OnceLock<Option<(u64, String)>> = OnceLock::new();
    static COMMITS: AtomicU64 = AtomicU64::new(0);
    let at = AT.get_or_init(|| {
        let text = std::env::var("YIQIU_CRASH_AT_COMMIT").ok()?;
        let (n, side) = text.split_once(':')?;
        Some((n.parse().ok()?, side.to_owned()))
    });
    if let Some((n, wanted)) = at {
        let count =
            if side == "before" { COMMITS.fetch_add(1, Ordering::SeqCst) + 1 } else { COMMITS.load(Ordering::SeqCst) };
        if count == *n && side == wanted {
            std::process::abort();
        }
    }
}

#[cfg(not(debug_assertions))]
fn crash_point(_side: &str) {}

/// A failed statement as a refusal: `unavailable` where trying again may help, else `internal`.
#[allow(clippy::needless_pass_by_value)] // used as `map_err(problem)`
pub fn problem(error: DbErr) -> Problem {
    let text = error.to_string();
    if text.contains("invalid byte sequence for encoding") {
        return Problem::invalid("a text holds a NUL character or is not UTF-8"); // SQLSTATE 22021
    }
    match error {
        DbErr::ConnectionAcquire(_) | DbErr::Conn(RuntimeErr::SqlxError(_)) => {
            tracing::warn!(error = %without_password(&text), "the database does not answer");
            Problem {
                retry_after_s: Some(1),
                ..Problem::new(Code::Unavailable, "the database does not answer now; try the same request again")
            }
        }
        _ => Problem::internal(without_password(&text)),
    }
}

impl From<DbErr> for Problem {
    fn from(error: DbErr) -> Self {
        problem(error)
    }
}

/// The statements that insert rows into `table(columns)`: as few as parameters allow. Rows have a value for each column.
pub fn inserts(table: &str, columns: &[&str], rows: Vec<Vec<sea_orm::Value>>) -> Vec<Write> {
    // SQLite takes 32,766 parameters a statement, PostgreSQL 65,535.
    let most = 30_000 / columns.len().max(1);
    let row_places = format!("({})", vec!["?"; columns.len()].join(", "));
    let mut rows = rows.into_iter().peekable();
    let mut writes = Vec::new();
    while rows.peek().is_some() {
        let chunk: Vec<_> = rows.by_ref().take(most).collect();
        let places = vec![row_places.as_str(); chunk.len()].join(", ");
        let text = format!("INSERT INTO {table} ({}) VALUES {places}", columns.join(", "));
        writes.push((text, chunk.into_iter().flatten().collect()));
    }
    writes
}

/// Carries out [`inserts`] at once.
pub async fn insert_rows(
    connection: &impl ConnectionTrait,
    table: &str,
    columns: &[&str],
    rows: Vec<Vec<sea_orm::Value>>,
) -> Result<(), DbErr> {
    write_all(connection, inserts(table, columns, rows)).await
}

/// `?, ?, …` for an `IN (…)` list.
pub fn places(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// Whether a statement failed because there is already such a row.
pub fn is_duplicate(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
}

/// Whether a statement failed because a row it names is missing, or is still needed.
pub fn is_reference(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::ForeignKeyConstraintViolation(_)))
}

/// A statement with its values, for either database: parameters are written `?` and numbered here for PostgreSQL.
pub fn sql(backend: DbBackend, text: &str, values: impl IntoIterator<Item = sea_orm::Value>) -> Statement {
    let text = match backend {
        DbBackend::Postgres => {
            let mut numbered = String::with_capacity(text.len() + 16);
            let mut n = 0;
            for c in text.chars() {
                if c == '?' {
                    n += 1;
                    numbered.push('$');
                    numbered.push_str(&n.to_string());
                } else {
                    numbered.push(c);
                }
            }
            numbered
        }
        _ => text.to_owned(),
    };
    Statement::from_sql_and_values(backend, text, values)
}

/// Reads a stored word back into its enum; what the schema cannot hold is a fault of ours.
pub fn stored<T: FromStr<Err = Problem>>(text: &str) -> Result<T, DbErr> {
    text.parse().map_err(|p: Problem| DbErr::Type(p.detail))
}

fn without_password(text: &str) -> String {
    // Drivers may quote the URL: what stands between `://` and `@` is a credential.
    match (text.find("://"), text.find('@')) {
        (Some(from), Some(to)) if from < to => format!("{}://***{}", &text[..from], &text[to..]),
        _ => text.to_owned(),
    }
}
