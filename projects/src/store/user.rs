//! Users.

use sea_orm::{ConnectionTrait, DbErr, FromQueryResult};
use uuid::Uuid;
use yiqiu_base::{clock::Ms, database::sql};

use super::{count, exclusive, name_or_id};
use crate::model::{User, UserId};

#[derive(FromQueryResult)]
struct Row {
    id: Uuid,
    name: String,
    ops: bool,
    created_ms: i64,
}

impl From<Row> for User {
    fn from(row: Row) -> Self {
        let Row { id, name, ops, created_ms } = row;
        Self { id: id.into(), name, ops, created_ms }
    }
}

const COLUMNS: &str = "SELECT id, name, ops, created_ms FROM users";

/// One by name or id.
pub(crate) async fn user_get(connection: &impl ConnectionTrait, name_or_uuid: &str) -> Result<Option<User>, DbErr> {
    let text = format!("{COLUMNS} WHERE name = ? OR id = ?");
    let statement = sql(connection.get_database_backend(), &text, name_or_id(name_or_uuid));
    Ok(Row::find_by_statement(statement).one(connection).await?.map(Into::into))
}

/// One by name or id, held for a change.
pub(crate) async fn user_lock(connection: &impl ConnectionTrait, name_or_uuid: &str) -> Result<Option<User>, DbErr> {
    let backend = connection.get_database_backend();
    let text = format!("{COLUMNS} WHERE name = ? OR id = ?{}", exclusive(backend));
    let statement = sql(backend, &text, name_or_id(name_or_uuid));
    Ok(Row::find_by_statement(statement).one(connection).await?.map(Into::into))
}

/// By name, after a name.
pub(crate) async fn user_list(connection: &impl ConnectionTrait, after: &str, limit: u64) -> Result<Vec<User>, DbErr> {
    let statement = sql(
        connection.get_database_backend(),
        &format!("{COLUMNS} WHERE name > ? ORDER BY name LIMIT ?"),
        [after.into(), i64::try_from(limit).unwrap_or(i64::MAX).into()],
    );
    Ok(Row::find_by_statement(statement).all(connection).await?.into_iter().map(Into::into).collect())
}

/// A new one; a duplicate name fails.
pub(crate) async fn user_insert(connection: &impl ConnectionTrait, user: &User) -> Result<(), DbErr> {
    let User { id, name, ops, created_ms } = user;
    let statement = sql(
        connection.get_database_backend(),
        "INSERT INTO users (id, name, ops, created_ms) VALUES (?, ?, ?, ?)",
        [id.uuid().into(), name.as_str().into(), (*ops).into(), (*created_ms).into()],
    );
    connection.execute_raw(statement).await.map(|_| ())
}

/// Takes it away with its tokens, none of which is good any more.
pub(crate) async fn user_delete(connection: &impl ConnectionTrait, id: UserId) -> Result<(), DbErr> {
    let backend = connection.get_database_backend();
    for text in ["DELETE FROM tokens WHERE user_id = ?", "DELETE FROM users WHERE id = ?"] {
        connection.execute_raw(sql(backend, text, [id.uuid().into()])).await?;
    }
    Ok(())
}

/// How many projects it is in.
pub(crate) async fn user_memberships(connection: &impl ConnectionTrait, id: UserId) -> Result<i64, DbErr> {
    let text = "SELECT COUNT(*) AS n FROM members WHERE user_id = ?";
    count(connection, sql(connection.get_database_backend(), text, [id.uuid().into()])).await
}

/// How many good tokens it has.
pub(crate) async fn user_tokens(connection: &impl ConnectionTrait, id: UserId, now: Ms) -> Result<i64, DbErr> {
    let text = "SELECT COUNT(*) AS n FROM tokens WHERE user_id = ? AND revoked_ms IS NULL AND expires_ms > ?";
    count(connection, sql(connection.get_database_backend(), text, [id.uuid().into(), now.into()])).await
}

/// When the oldest was made: since when this database knows of anyone.
pub(crate) async fn user_oldest_ms(connection: &impl ConnectionTrait) -> Result<Option<Ms>, DbErr> {
    let statement = sql(connection.get_database_backend(), "SELECT MIN(created_ms) AS n FROM users", []);
    let row = connection.query_one_raw(statement).await?;
    row.map_or(Ok(None), |row| row.try_get("", "n"))
}
