//! One database of one tier: SQLite in a file, or PostgreSQL.
//!
//! SQLite runs in WAL mode with `synchronous=FULL` and one writing connection; readers have connections of their own.
//! Every change goes through [`Transaction`], which writes the events of the change beside it.

mod sqlite;

use std::{ops::Deref, str::FromStr, sync::Arc, time::Duration};

use sea_orm::{
    ConnectOptions, ConnectionTrait, DatabaseConnection, DatabaseConnectionType, DatabaseTransaction, DbBackend, DbErr,
    ExecResult, IsolationLevel, ProxyDatabaseConnection, QueryResult, RuntimeErr, SqlErr, Statement,
    TransactionOptions, TransactionTrait,
};
use tokio::sync::watch;

use crate::{Code, Problem, outbox::NewEvent};

/// A tier's database. Cheap to clone.
#[derive(Clone)]
pub struct Database {
    store: Store,
    read: Reader,
    schema: DatabaseConnection,
    head: watch::Sender<u64>,
}

#[derive(Clone)]
enum Store {
    /// Its one writing connection.
    Sqlite(sqlite::Pool),
    Postgres(DatabaseConnection),
}

/// What reads what is committed. Cheap to clone.
#[derive(Clone)]
pub struct Reader(Store);

impl Database {
    /// Opens `sqlite:PATH` (made if missing) or `postgres://…`; `unavailable` if it does not answer.
    pub async fn connect(url: &str) -> Result<Self, Problem> {
        let sqlite = url.starts_with("sqlite:");
        if !sqlite && !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(Problem::invalid("a database URL begins with `sqlite:` or `postgres://`"));
        }
        let head = watch::Sender::new(0);
        if sqlite {
            let (writer, readers) = sqlite::open(url, 4).map_err(does_not_open)?;
            let schema = ProxyDatabaseConnection::new(DbBackend::Sqlite, Arc::new(Box::new(writer.clone())));
            let schema = DatabaseConnectionType::ProxyDatabaseConnection(Arc::new(schema)).into();
            return Ok(Self { store: Store::Sqlite(writer), read: Reader(Store::Sqlite(readers)), schema, head });
        }
        let pool = open(url, 12).await?;
        Ok(Self {
            store: Store::Postgres(pool.clone()),
            read: Reader(Store::Postgres(pool.clone())),
            schema: pool,
            head,
        })
    }

    /// For reading. On SQLite it sees what is committed, and never waits for a writer.
    pub fn read(&self) -> &Reader {
        &self.read
    }

    /// The connection for schema changes.
    pub fn schema(&self) -> &DatabaseConnection {
        &self.schema
    }

    /// Which of the two it is.
    pub fn backend(&self) -> DbBackend {
        self.read.get_database_backend()
    }

    /// How many changes are worth making beside each other: SQLite has one writer; on PostgreSQL the ways of one to the
    /// server and back pass beside another's.
    pub fn changes_at_a_time(&self) -> usize {
        match &self.store {
            Store::Sqlite(_) => 1,
            Store::Postgres(_) => 2,
        }
    }

    /// Begins a change. On SQLite it holds the one write lock from here on.
    pub async fn begin(&self) -> Result<Transaction, DbErr> {
        let inner = match &self.store {
            Store::Sqlite(writer) => Inner::Sqlite(writer.begin(sqlite::Begin::Write).await?),
            Store::Postgres(pool) => Inner::Postgres(pool.begin().await?),
        };
        Ok(Transaction { inner: Statements(inner), later: Vec::new(), events: Vec::new(), head: self.head.clone() })
    }

    /// One unchanging view of what is committed, for checks over many tables. It holds no lock; drop it to end it.
    pub async fn snapshot(&self) -> Result<Statements, DbErr> {
        let inner = match &self.read.0 {
            Store::Sqlite(readers) => Inner::Sqlite(readers.begin(sqlite::Begin::Read).await?),
            Store::Postgres(pool) => {
                let isolation_level = Some(IsolationLevel::RepeatableRead);
                let options = TransactionOptions { isolation_level, ..TransactionOptions::default() };
                Inner::Postgres(pool.begin_with_options(options).await?)
            }
        };
        Ok(Statements(inner))
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
        .map_sqlx_postgres_opts(|postgres| postgres.statement_cache_capacity(512));
    sea_orm::Database::connect(options).await.map_err(does_not_open)
}

#[allow(clippy::needless_pass_by_value)] // used as `map_err(does_not_open)`
fn does_not_open(error: DbErr) -> Problem {
    Problem::new(Code::Unavailable, format!("the database does not open: {}", without_password(&error.to_string())))
}

#[async_trait::async_trait]
impl ConnectionTrait for Reader {
    fn get_database_backend(&self) -> DbBackend {
        match &self.0 {
            Store::Sqlite(_) => DbBackend::Sqlite,
            Store::Postgres(_) => DbBackend::Postgres,
        }
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        match &self.0 {
            Store::Sqlite(pool) => pool.execute(&statement).await,
            Store::Postgres(pool) => pool.execute_raw(statement).await,
        }
    }

    async fn execute_unprepared(&self, text: &str) -> Result<ExecResult, DbErr> {
        match &self.0 {
            Store::Sqlite(pool) => pool.execute_unprepared(text).await,
            Store::Postgres(pool) => pool.execute_unprepared(text).await,
        }
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        match &self.0 {
            Store::Sqlite(pool) => pool.query_one(&statement).await,
            Store::Postgres(pool) => pool.query_one_raw(statement).await,
        }
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        match &self.0 {
            Store::Sqlite(pool) => pool.query_all(&statement).await,
            Store::Postgres(pool) => pool.query_all_raw(statement).await,
        }
    }
}

/// A change with its events: all of it is committed, or none.
pub struct Transaction {
    inner: Statements,
    later: Vec<Write>,
    events: Vec<NewEvent>,
    head: watch::Sender<u64>,
}

/// A statement that gives no rows, with its values.
pub type Write = (String, Vec<sea_orm::Value>);

impl Deref for Transaction {
    type Target = Statements;
    fn deref(&self) -> &Statements {
        &self.inner
    }
}

/// What carries out the statements of a change.
pub struct Statements(Inner);

enum Inner {
    Sqlite(sqlite::Change),
    Postgres(DatabaseTransaction),
}

#[async_trait::async_trait]
impl ConnectionTrait for Statements {
    fn get_database_backend(&self) -> DbBackend {
        match &self.0 {
            Inner::Sqlite(_) => DbBackend::Sqlite,
            Inner::Postgres(_) => DbBackend::Postgres,
        }
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        match &self.0 {
            Inner::Sqlite(change) => change.execute(&statement),
            Inner::Postgres(transaction) => transaction.execute_raw(statement).await,
        }
    }

    async fn execute_unprepared(&self, text: &str) -> Result<ExecResult, DbErr> {
        match &self.0 {
            Inner::Sqlite(change) => change.execute_unprepared(text),
            Inner::Postgres(transaction) => transaction.execute_unprepared(text).await,
        }
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        match &self.0 {
            Inner::Sqlite(change) => Ok(change.query(&statement)?.into_iter().next()),
            Inner::Postgres(transaction) => transaction.query_one_raw(statement).await,
        }
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        match &self.0 {
            Inner::Sqlite(change) => change.query(&statement),
            Inner::Postgres(transaction) => transaction.query_all_raw(statement).await,
        }
    }
}

impl Transaction {
    /// Adds statements that give no rows: they are carried out in this order by [`Transaction::commit`]. What is read
    /// before the commit sees nothing of them; what they break, the commit reports.
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
            self.later.extend(crate::outbox::append(&self.events, self.inner.get_database_backend()));
        }
        write_all(&self.inner, self.later).await?;
        crash_point("before");
        match self.inner.0 {
            Inner::Sqlite(change) => change.commit()?,
            Inner::Postgres(transaction) => transaction.commit().await?,
        }
        crash_point("after");
        if tells {
            self.head.send_modify(|commits| *commits += 1);
        }
        Ok(())
    }
}

/// Carries out statements one after the other; an error ends it.
async fn write_all(statements: &Statements, writes: Vec<Write>) -> Result<(), DbErr> {
    match &statements.0 {
        Inner::Sqlite(change) => {
            for (text, values) in writes {
                change.write(&text, &values)?;
            }
        }
        Inner::Postgres(transaction) => {
            for (text, values) in together(writes) {
                transaction.execute_raw(sql(DbBackend::Postgres, &text, values)).await?;
            }
        }
    }
    Ok(())
}

/// Makes one statement of plain inserts that follow each other: a statement is a way to PostgreSQL and back, which takes
/// longer than most of them do. Changes of rows stay apart: of two changes of one row in a statement only one happens.
fn together(writes: Vec<Write>) -> Vec<Write> {
    const PARAMETERS_MOST: usize = 60_000; // of 65,535
    let plain = |text: &str| text.starts_with("INSERT INTO ") && !text.contains(" ON CONFLICT ");
    let mut runs: Vec<(Vec<String>, Vec<sea_orm::Value>)> = Vec::with_capacity(writes.len());
    for (text, values) in writes {
        match runs.last_mut() {
            Some((texts, held)) if plain(&text) && plain(&texts[0]) && held.len() + values.len() <= PARAMETERS_MOST => {
                texts.push(text);
                held.extend(values);
            }
            _ => runs.push((vec![text], values)),
        }
    }
    runs.into_iter().map(|(texts, values)| (one_statement(&texts), values)).collect()
}

fn one_statement(texts: &[String]) -> String {
    match texts {
        [] => String::new(),
        [one] => one.clone(),
        [parts @ .., last] => {
            let parts = parts.iter().enumerate().map(|(n, text)| format!("part{n} AS ({text})"));
            format!("WITH {} {last}", parts.collect::<Vec<_>>().join(", "))
        }
    }
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
        _ if is_full(&error) => {
            tracing::error!(error = %without_password(&text), "the disk of the database is full");
            Problem::disk_full("the disk of the database")
        }
        DbErr::ConnectionAcquire(_) | DbErr::Conn(_) => {
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
    statements: &Statements,
    table: &str,
    columns: &[&str],
    rows: Vec<Vec<sea_orm::Value>>,
) -> Result<(), DbErr> {
    write_all(statements, inserts(table, columns, rows)).await
}

/// `?, ?, …` for an `IN (…)` list.
pub fn places(count: usize) -> String {
    vec!["?"; count].join(", ")
}

/// Whether a statement failed because the disk has no room: SQLITE_FULL, or SQLSTATE 53100.
fn is_full(error: &DbErr) -> bool {
    match error {
        DbErr::Conn(RuntimeErr::Internal(text)) => text.contains("database or disk is full"),
        DbErr::Exec(RuntimeErr::SqlxError(cause)) | DbErr::Query(RuntimeErr::SqlxError(cause)) => {
            cause.as_database_error().is_some_and(|error| error.code().as_deref() == Some("53100"))
        }
        _ => false,
    }
}

/// Whether a statement failed because there is already such a row.
pub fn is_duplicate(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::UniqueConstraintViolation(_)))
        || of_sqlite(error).is_some_and(|text| text.starts_with("UNIQUE constraint failed"))
}

/// Whether a statement failed because a row it names is missing, or is still needed.
pub fn is_reference(error: &DbErr) -> bool {
    matches!(error.sql_err(), Some(SqlErr::ForeignKeyConstraintViolation(_)))
        || of_sqlite(error).is_some_and(|text| text.starts_with("FOREIGN KEY constraint failed"))
}

/// SQLite's own words for what a change broke.
fn of_sqlite(error: &DbErr) -> Option<&str> {
    match error {
        DbErr::Exec(RuntimeErr::Internal(text)) => Some(text),
        _ => None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_inserts_that_follow_each_other_are_one_statement() {
        let write = |text: &str, n: i64| (text.to_owned(), vec![sea_orm::Value::from(n)]);
        let joined = together(vec![
            write("INSERT INTO a (x) VALUES (?)", 1),
            write("INSERT INTO b (x) VALUES (?)", 2),
            write("INSERT INTO c (x) VALUES (?)", 3),
            write("UPDATE a SET x = ?", 4),
            write("UPDATE a SET x = ?", 5),
            write("INSERT INTO d (x) VALUES (?) ON CONFLICT DO NOTHING", 6),
            write("INSERT INTO e (x) VALUES (?)", 7),
        ]);
        let texts: Vec<&str> = joined.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(
            texts,
            [
                "WITH part0 AS (INSERT INTO a (x) VALUES (?)), part1 AS (INSERT INTO b (x) VALUES (?)) \
                 INSERT INTO c (x) VALUES (?)",
                "UPDATE a SET x = ?",
                "UPDATE a SET x = ?",
                "INSERT INTO d (x) VALUES (?) ON CONFLICT DO NOTHING",
                "INSERT INTO e (x) VALUES (?)",
            ]
        );
        let values: Vec<usize> = joined.iter().map(|(_, values)| values.len()).collect();
        assert_eq!(values, [3, 1, 1, 1, 1], "values go with their statements");
    }
}
