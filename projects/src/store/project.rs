//! Projects. A deleted one keeps its row and gives its name free.

use sea_orm::{ConnectionTrait, DbErr, FromQueryResult};
use uuid::Uuid;
use yiqiu_base::{clock::Ms, database::sql};

use super::{count, exclusive, name_or_id, share};
use crate::model::{Project, ProjectId};

#[derive(FromQueryResult)]
struct Row {
    id: Uuid,
    name: String,
    created_ms: i64,
    deleted_ms: Option<i64>,
}

impl From<Row> for Project {
    fn from(row: Row) -> Self {
        let Row { id, name, created_ms, deleted_ms } = row;
        Self { id: id.into(), name, created_ms, deleted_ms }
    }
}

const COLUMNS: &str = "SELECT id, name, created_ms, deleted_ms FROM projects";
const LIVING: &str = "(name = ? OR id = ?) AND deleted_ms IS NULL";

/// A living one by name or id.
pub(crate) async fn project_get(connection: &impl ConnectionTrait, text: &str) -> Result<Option<Project>, DbErr> {
    one(connection, &format!("{COLUMNS} WHERE {LIVING}"), text).await
}

/// A living one by name or id, which stays living until the transaction ends.
pub(crate) async fn project_hold(connection: &impl ConnectionTrait, text: &str) -> Result<Option<Project>, DbErr> {
    let lock = share(connection.get_database_backend());
    one(connection, &format!("{COLUMNS} WHERE {LIVING}{lock}"), text).await
}

/// A living one by name or id, held for a change.
pub(crate) async fn project_lock(connection: &impl ConnectionTrait, text: &str) -> Result<Option<Project>, DbErr> {
    let lock = exclusive(connection.get_database_backend());
    one(connection, &format!("{COLUMNS} WHERE {LIVING}{lock}"), text).await
}

/// A living one by name or id, or a deleted one by its id.
pub(crate) async fn project_ever(connection: &impl ConnectionTrait, text: &str) -> Result<Option<Project>, DbErr> {
    one(connection, &format!("{COLUMNS} WHERE (name = ? AND deleted_ms IS NULL) OR id = ?"), text).await
}

async fn one(connection: &impl ConnectionTrait, query: &str, text: &str) -> Result<Option<Project>, DbErr> {
    let statement = sql(connection.get_database_backend(), query, name_or_id(text));
    Ok(Row::find_by_statement(statement).one(connection).await?.map(Into::into))
}

/// The living ones by name, after a name.
pub(crate) async fn project_list(
    connection: &impl ConnectionTrait,
    after: &str,
    limit: u64,
) -> Result<Vec<Project>, DbErr> {
    let statement = sql(
        connection.get_database_backend(),
        &format!("{COLUMNS} WHERE name > ? AND deleted_ms IS NULL ORDER BY name LIMIT ?"),
        [after.into(), i64::try_from(limit).unwrap_or(i64::MAX).into()],
    );
    Ok(Row::find_by_statement(statement).all(connection).await?.into_iter().map(Into::into).collect())
}

/// Which of these ids are living projects.
pub(crate) async fn project_living(
    connection: &impl ConnectionTrait,
    ids: &[ProjectId],
) -> Result<Vec<ProjectId>, DbErr> {
    let mut living = Vec::new();
    for ids in ids.chunks(super::CHUNK) {
        let text = format!("{COLUMNS} WHERE id IN ({}) AND deleted_ms IS NULL", super::places("?", ids.len()));
        let values = ids.iter().map(|id| id.uuid().into());
        let rows = Row::find_by_statement(sql(connection.get_database_backend(), &text, values)).all(connection);
        living.extend(rows.await?.into_iter().map(|row| ProjectId::from(row.id)));
    }
    Ok(living)
}

/// A new one; a duplicate name fails.
pub(crate) async fn project_insert(connection: &impl ConnectionTrait, project: &Project) -> Result<(), DbErr> {
    let Project { id, name, created_ms, deleted_ms } = project;
    let statement = sql(
        connection.get_database_backend(),
        "INSERT INTO projects (id, name, created_ms, deleted_ms) VALUES (?, ?, ?, ?)",
        [id.uuid().into(), name.as_str().into(), (*created_ms).into(), (*deleted_ms).into()],
    );
    connection.execute_raw(statement).await.map(|_| ())
}

/// Marks it deleted.
pub(crate) async fn project_delete(connection: &impl ConnectionTrait, id: ProjectId, now: Ms) -> Result<(), DbErr> {
    let text = "UPDATE projects SET deleted_ms = ? WHERE id = ? AND deleted_ms IS NULL";
    let statement = sql(connection.get_database_backend(), text, [now.into(), id.uuid().into()]);
    connection.execute_raw(statement).await.map(|_| ())
}

/// How many members it has.
pub(crate) async fn project_members(connection: &impl ConnectionTrait, id: ProjectId) -> Result<i64, DbErr> {
    let text = "SELECT COUNT(*) AS n FROM members WHERE project_id = ?";
    count(connection, sql(connection.get_database_backend(), text, [id.uuid().into()])).await
}

/// How many good tokens act for it.
pub(crate) async fn project_tokens(connection: &impl ConnectionTrait, id: ProjectId, now: Ms) -> Result<i64, DbErr> {
    let text = "SELECT COUNT(*) AS n FROM tokens WHERE project_id = ? AND revoked_ms IS NULL AND expires_ms > ?";
    count(connection, sql(connection.get_database_backend(), text, [id.uuid().into(), now.into()])).await
}
