//! Who is in which project.

use sea_orm::{ConnectionTrait, DbErr, FromQueryResult};
use uuid::Uuid;
use yiqiu_base::database::sql;

use super::share;
use crate::model::{Member, ProjectId, UserId};

#[derive(FromQueryResult)]
struct Row {
    user_id: Uuid,
    user_name: String,
    role: String,
    created_ms: i64,
}

impl TryFrom<Row> for Member {
    type Error = DbErr;
    fn try_from(row: Row) -> Result<Self, DbErr> {
        let Row { user_id, user_name, role, created_ms } = row;
        Ok(Self { user: user_id.into(), user_name, role: super::role(&role)?, created_ms })
    }
}

const COLUMNS: &str = "SELECT m.user_id, u.name AS user_name, m.role, m.created_ms \
                       FROM members m JOIN users u ON u.id = m.user_id WHERE m.project_id = ?";

/// One, if the user is in the project; held until the transaction ends.
pub(crate) async fn member_hold(
    connection: &impl ConnectionTrait,
    project: ProjectId,
    user: UserId,
) -> Result<Option<Member>, DbErr> {
    let backend = connection.get_database_backend();
    let statement = sql(
        backend,
        &format!("{COLUMNS} AND m.user_id = ?{}", share(backend)),
        [project.uuid().into(), user.uuid().into()],
    );
    Row::find_by_statement(statement).one(connection).await?.map(TryInto::try_into).transpose()
}

/// By the names of the users, after a name.
pub(crate) async fn member_list(
    connection: &impl ConnectionTrait,
    project: ProjectId,
    after: &str,
    limit: u64,
) -> Result<Vec<Member>, DbErr> {
    let statement = sql(
        connection.get_database_backend(),
        &format!("{COLUMNS} AND u.name > ? ORDER BY u.name LIMIT ?"),
        [project.uuid().into(), after.into(), i64::try_from(limit).unwrap_or(i64::MAX).into()],
    );
    Row::find_by_statement(statement).all(connection).await?.into_iter().map(TryInto::try_into).collect()
}

/// A new one; the same user twice fails.
pub(crate) async fn member_insert(
    connection: &impl ConnectionTrait,
    project: ProjectId,
    member: &Member,
) -> Result<(), DbErr> {
    let Member { user, user_name: _, role, created_ms } = member;
    let statement = sql(
        connection.get_database_backend(),
        "INSERT INTO members (project_id, user_id, role, created_ms) VALUES (?, ?, ?, ?)",
        [project.uuid().into(), user.uuid().into(), role.as_str().into(), (*created_ms).into()],
    );
    connection.execute_raw(statement).await.map(|_| ())
}

/// Takes it away; whether it was there.
pub(crate) async fn member_delete(
    connection: &impl ConnectionTrait,
    project: ProjectId,
    user: UserId,
) -> Result<bool, DbErr> {
    let statement = sql(
        connection.get_database_backend(),
        "DELETE FROM members WHERE project_id = ? AND user_id = ?",
        [project.uuid().into(), user.uuid().into()],
    );
    Ok(connection.execute_raw(statement).await?.rows_affected() == 1)
}
