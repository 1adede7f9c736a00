//! Tokens. The hash of a secret goes in here and never comes out.

use sea_orm::{ConnectionTrait, DbBackend, DbErr, FromQueryResult, Value};
use uuid::Uuid;
use yiqiu_base::{clock::Ms, database::sql, principal::Role};

use super::{count, name_or_id};
use crate::model::{ProjectId, Token, TokenId, UserId};

#[derive(FromQueryResult)]
struct Row {
    id: Uuid,
    name: String,
    user_id: Uuid,
    user_name: String,
    role: String,
    project_id: Option<Uuid>,
    project_name: Option<String>,
    created_ms: i64,
    expires_ms: i64,
    revoked_ms: Option<i64>,
    parent_id: Option<Uuid>,
}

impl TryFrom<Row> for Token {
    type Error = DbErr;
    fn try_from(row: Row) -> Result<Self, DbErr> {
        let Row {
            id,
            name,
            user_id,
            user_name,
            role,
            project_id,
            project_name,
            created_ms,
            expires_ms,
            revoked_ms,
            parent_id,
        } = row;
        Ok(Self {
            id: id.into(),
            name,
            user: user_id.into(),
            user_name,
            role: super::role(&role)?,
            project: project_id.map(Into::into),
            project_name,
            created_ms,
            expires_ms,
            revoked_ms,
            parent: parent_id.map(Into::into),
        })
    }
}

const COLUMNS: &str = "SELECT t.id, t.name, t.user_id, u.name AS user_name, t.role, t.project_id, \
                       p.name AS project_name, t.created_ms, t.expires_ms, t.revoked_ms, t.parent_id \
                       FROM tokens t JOIN users u ON u.id = t.user_id LEFT JOIN projects p ON p.id = t.project_id";

/// Whose tokens are meant: everyone's, or those of one user for one project in the role tenant.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Scope {
    All,
    Own(UserId, ProjectId),
}

impl Scope {
    fn condition(self) -> (&'static str, Vec<Value>) {
        match self {
            Scope::All => ("1 = 1", Vec::new()),
            Scope::Own(user, project) => (
                "t.user_id = ? AND t.project_id = ? AND t.role = 'tenant'",
                vec![user.uuid().into(), project.uuid().into()],
            ),
        }
    }
}

/// What stands behind a token at this moment.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) token: Token,
    /// Whether the user is ops.
    pub(crate) ops: bool,
    /// Whether the user is in the token's project.
    pub(crate) member: bool,
    /// Whether the token's project is living.
    pub(crate) living: bool,
}

/// The token of a hash, with what stands behind it.
pub(crate) async fn token_by_hash(connection: &impl ConnectionTrait, hash: &str) -> Result<Option<Standing>, DbErr> {
    let text = "SELECT t.id, t.name, t.user_id, u.name AS user_name, t.role, t.project_id, p.name AS project_name, \
                t.created_ms, t.expires_ms, t.revoked_ms, t.parent_id, u.ops, m.user_id AS member_id, \
                p.deleted_ms AS project_deleted_ms \
                FROM tokens t JOIN users u ON u.id = t.user_id LEFT JOIN projects p ON p.id = t.project_id \
                LEFT JOIN members m ON m.project_id = t.project_id AND m.user_id = t.user_id WHERE t.hash = ?";
    let statement = sql(connection.get_database_backend(), text, [hash.into()]);
    let Some(row) = connection.query_one_raw(statement).await? else { return Ok(None) };
    Ok(Some(Standing {
        token: Row::from_query_result(&row, "")?.try_into()?,
        ops: row.try_get("", "ops")?,
        member: row.try_get::<Option<uuid::Uuid>>("", "member_id")?.is_some(),
        living: row.try_get::<Option<String>>("", "project_name")?.is_some()
            && row.try_get::<Option<i64>>("", "project_deleted_ms")?.is_none(),
    }))
}

/// Two at most of a scope by name or id, good ones first: names are unique for one user only, and of several that bore
/// a name one after another the newest is meant.
pub(crate) async fn token_find(
    connection: &impl ConnectionTrait,
    scope: Scope,
    text: &str,
    now: Ms,
) -> Result<Vec<Token>, DbErr> {
    let (condition, mut values) = scope.condition();
    values.extend(name_or_id(text));
    values.push(now.into());
    let text = format!(
        "{COLUMNS} WHERE {condition} AND (t.name = ? AND NOT EXISTS (SELECT 1 FROM tokens later \
         WHERE later.user_id = t.user_id AND later.name = t.name AND later.id > t.id) OR t.id = ?) \
         ORDER BY CASE WHEN t.revoked_ms IS NULL AND t.expires_ms > ? THEN 0 ELSE 1 END, t.id LIMIT 2"
    );
    all(connection, &text, values).await
}

/// Whether a user has a good one of this name. To be asked while the user's row is held.
pub(crate) async fn token_name_taken(
    connection: &impl ConnectionTrait,
    user: UserId,
    name: &str,
    now: Ms,
) -> Result<bool, DbErr> {
    let text =
        "SELECT COUNT(*) AS n FROM tokens WHERE user_id = ? AND name = ? AND revoked_ms IS NULL AND expires_ms > ?";
    let values = [user.uuid().into(), name.into(), now.into()];
    Ok(count(connection, sql(connection.get_database_backend(), text, values)).await? > 0)
}

/// One by id, held against being revoked until the transaction ends.
pub(crate) async fn token_hold(connection: &impl ConnectionTrait, id: TokenId) -> Result<Option<Token>, DbErr> {
    let held = if connection.get_database_backend() == DbBackend::Postgres { " FOR SHARE OF t" } else { "" };
    let found = all(connection, &format!("{COLUMNS} WHERE t.id = ?{held}"), vec![id.uuid().into()]).await?;
    Ok(found.into_iter().next())
}

/// Those that were made with one, and are not revoked.
pub(crate) async fn token_children(connection: &impl ConnectionTrait, id: TokenId) -> Result<Vec<Token>, DbErr> {
    let text = format!("{COLUMNS} WHERE t.parent_id = ? AND t.revoked_ms IS NULL ORDER BY t.id");
    all(connection, &text, vec![id.uuid().into()]).await
}

/// Those of a scope, oldest first, after an id.
pub(crate) async fn token_list(
    connection: &impl ConnectionTrait,
    scope: Scope,
    after: Option<TokenId>,
    limit: u64,
) -> Result<Vec<Token>, DbErr> {
    let (condition, mut values) = scope.condition();
    values.push(after.map_or(Uuid::nil(), TokenId::uuid).into());
    values.push(i64::try_from(limit).unwrap_or(i64::MAX).into());
    all(connection, &format!("{COLUMNS} WHERE {condition} AND t.id > ? ORDER BY t.id LIMIT ?"), values).await
}

/// The good ones of a user for a project.
pub(crate) async fn token_active_of(
    connection: &impl ConnectionTrait,
    user: UserId,
    project: ProjectId,
    now: Ms,
) -> Result<Vec<Token>, DbErr> {
    let text =
        format!("{COLUMNS} WHERE t.user_id = ? AND t.project_id = ? AND t.revoked_ms IS NULL AND t.expires_ms > ?");
    all(connection, &text, vec![user.uuid().into(), project.uuid().into(), now.into()]).await
}

async fn all(connection: &impl ConnectionTrait, text: &str, values: Vec<Value>) -> Result<Vec<Token>, DbErr> {
    let statement = sql(connection.get_database_backend(), text, values);
    Row::find_by_statement(statement).all(connection).await?.into_iter().map(TryInto::try_into).collect()
}

/// A new one; a hash that is there already fails.
pub(crate) async fn token_insert(connection: &impl ConnectionTrait, token: &Token, hash: &str) -> Result<(), DbErr> {
    let Token {
        id,
        name,
        user,
        user_name: _,
        role,
        project,
        project_name: _,
        created_ms,
        expires_ms,
        revoked_ms,
        parent,
    } = token;
    let statement = sql(
        connection.get_database_backend(),
        "INSERT INTO tokens (id, hash, name, user_id, role, project_id, created_ms, expires_ms, revoked_ms, parent_id) \
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [
            id.uuid().into(),
            hash.into(),
            name.as_str().into(),
            user.uuid().into(),
            role.as_str().into(),
            project.map(ProjectId::uuid).into(),
            (*created_ms).into(),
            (*expires_ms).into(),
            (*revoked_ms).into(),
            parent.map(TokenId::uuid).into(),
        ],
    );
    connection.execute_raw(statement).await.map(|_| ())
}

/// Takes one back; whether it was not taken back before.
pub(crate) async fn token_revoke(connection: &impl ConnectionTrait, id: TokenId, now: Ms) -> Result<bool, DbErr> {
    let text = "UPDATE tokens SET revoked_ms = ? WHERE id = ? AND revoked_ms IS NULL";
    let statement = sql(connection.get_database_backend(), text, [now.into(), id.uuid().into()]);
    Ok(connection.execute_raw(statement).await?.rows_affected() == 1)
}

/// How many good tokens of the role ops there are.
pub(crate) async fn token_ops_count(connection: &impl ConnectionTrait, now: Ms) -> Result<i64, DbErr> {
    let text = "SELECT COUNT(*) AS n FROM tokens t JOIN users u ON u.id = t.user_id \
                WHERE t.role = ? AND u.ops AND t.revoked_ms IS NULL AND t.expires_ms > ?";
    let values = [Role::Ops.as_str().into(), now.into()];
    count(connection, sql(connection.get_database_backend(), text, values)).await
}
