//! The rows of Projects, and nothing else: every function is one statement or a few, inside the caller's transaction
//! where it changes something. No decision is made here.

use sea_orm::{ConnectionTrait, DbBackend, DbErr};
use uuid::Uuid;
use yiqiu_base::{Problem, principal::Role};

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

async fn count(connection: &impl ConnectionTrait, statement: sea_orm::Statement) -> Result<i64, DbErr> {
    let row = connection.query_one_raw(statement).await?;
    row.map_or(Ok(0), |row| row.try_get("", "n"))
}
