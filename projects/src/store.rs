//! The rows of Projects, and nothing else: every function is one statement or a few, inside the caller's transaction
//! where it changes something. No decision is made here.

use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use uuid::Uuid;
use yiqiu_base::{
    Code, Problem,
    clock::Ms,
    database::{Transaction, is_duplicate, problem},
    idempotency::{self, Key},
    principal::Role,
};

use crate::model::LineId;

pub(crate) mod binding;
pub(crate) mod member;
pub(crate) mod project;
pub(crate) mod segment;
pub(crate) mod source;
pub(crate) mod token;
pub(crate) mod usage;
pub(crate) mod user;

/// Rows in one statement, so that its parameters stay below what SQLite takes.
const CHUNK: usize = 500;

/// Holds the row against changes until the transaction ends. SQLite has one writer anyway, and no such words.
fn share(backend: DbBackend) -> &'static str {
    if backend == DbBackend::Postgres { " FOR SHARE" } else { "" }
}

/// Holds the row for a change. As [`share`].
fn exclusive(backend: DbBackend) -> &'static str {
    if backend == DbBackend::Postgres { " FOR UPDATE" } else { "" }
}

/// What `WHERE (name = ? OR id = ?)` takes: names never look like ids, so at most one of the two can hit.
fn name_or_id(text: &str) -> [sea_orm::Value; 2] {
    [text.into(), Uuid::try_parse(text).ok().into()]
}

fn role(text: &str) -> Result<Role, DbErr> {
    Role::parse(text).map_err(|problem: Problem| DbErr::Type(problem.detail))
}

/// `n` times `row`, with commas: what stands behind VALUES.
fn places(row: &str, n: usize) -> String {
    vec![row; n].join(", ")
}

/// What `line_id > ? AND line_id <= ?` takes.
fn within(after: Option<LineId>, up_to: Option<LineId>) -> [sea_orm::Value; 2] {
    [after.map_or(Uuid::nil(), LineId::uuid).into(), up_to.map_or(Uuid::max(), LineId::uuid).into()]
}

async fn count(connection: &impl ConnectionTrait, statement: sea_orm::Statement) -> Result<i64, DbErr> {
    let row = connection.query_one_raw(statement).await?;
    row.map_or(Ok(0), |row| row.try_get("", "n"))
}

/// What the same request made before.
pub(crate) async fn kept(connection: &impl ConnectionTrait, key: Option<&Key>) -> Result<Option<String>, Problem> {
    let Some(key) = key else { return Ok(None) };
    let kept = idempotency::kept(connection, &[key]).await.map_err(problem)?;
    kept.first().map(|kept| kept.replay(key).map(str::to_owned)).transpose()
}

/// Keeps what this request made.
pub(crate) async fn keep(change: &Transaction, key: Option<&Key>, id: String, now: Ms) -> Result<(), Problem> {
    let Some(key) = key else { return Ok(()) };
    idempotency::keep(&**change, &[(key, id)], now).await.map_err(|error| taken(error, "request", &key.key))
}

/// A failed insert: `already_exists` where there is one of that name.
pub(crate) fn taken(error: DbErr, noun: &str, name: &str) -> Problem {
    if is_duplicate(&error) { exists(noun, name) } else { problem(error) }
}

/// `already_exists`.
pub(crate) fn exists(noun: &str, name: &str) -> Problem {
    Problem::new(Code::AlreadyExists, format!("there is already a {noun} `{}`", yiqiu_base::name::shown(name)))
}
