//! Tokens.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yiqiu_base::{
    Principal, Problem,
    clock::Ms,
    http::{Body, IdempotencyKey, Page, Paging, Params},
    principal::Role,
};

use crate::{
    Service,
    lifecycle::TokenState,
    model::{NewToken, ProjectId, Token, TokenId, TokenRequest, UserId},
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenBody {
    /// 1 to 63 of a-z, 0-9 and -, unique among the good tokens of its user; made up if not said.
    name: Option<String>,
    /// Whose it is, by name or id; your own if not said.
    user: Option<String>,
    /// What it may do; if not said, `tenant` with a project and `ops` without.
    role: Option<Role>,
    /// The project that it acts for, by name or id; always set for tenants.
    project: Option<String>,
    /// How long it holds, in milliseconds: at most 365 days, 90 days if neither this nor `expires_ms` is there.
    ttl_ms: Option<i64>,
    /// Until when it holds, in milliseconds since 1970.
    expires_ms: Option<i64>,
}

impl From<TokenBody> for TokenRequest {
    fn from(body: TokenBody) -> Self {
        let TokenBody { name, user, role, project, ttl_ms, expires_ms } = body;
        Self { name, user, role, project, ttl_ms, expires_ms }
    }
}

/// A credential of a user, without its secret.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TokenView {
    id: TokenId,
    name: String,
    /// The name of whose it is.
    user: String,
    user_id: UserId,
    role: Role,
    /// The name of the project that it acts for.
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    project_id: Option<ProjectId>,
    state: TokenState,
    /// Milliseconds since 1970.
    created_ms: i64,
    /// From when on it is refused, in milliseconds since 1970.
    expires_ms: i64,
    /// Milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_ms: Option<i64>,
}

impl TokenView {
    fn of(token: Token, now: Ms) -> Self {
        let state = token.state(now);
        let Token {
            id,
            name,
            user,
            user_name,
            role,
            project,
            project_name,
            created_ms,
            expires_ms,
            revoked_ms,
            parent: _,
        } = token;
        Self {
            id,
            name,
            user: user_name,
            user_id: user,
            role,
            project: project_name,
            project_id: project,
            state,
            created_ms,
            expires_ms,
            revoked_ms,
        }
    }
}

/// A new token.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NewTokenView {
    #[serde(flatten)]
    token: TokenView,
    /// The token as it is sent in `Authorization: Bearer …`. It is in this answer only: a repetition of the request
    /// under the same Idempotency-Key answers without it, for it is not kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// Make a token
///
/// Ops make any; a tenant makes tokens of the role tenant for itself, in its own project. Such a token ends with the one
/// that it was made with at the latest, and is revoked with it. The secret is shown once: who lost the answer revokes
/// the token and makes another.
#[utoipa::path(post, path = "/v1/tokens", tag = "projects", request_body = TokenBody,
    params(("Idempotency-Key" = Option<String>, Header,
        description = "the same key again makes nothing new, and shows no secret")),
    responses((status = 201, body = NewTokenView), (status = 200, body = NewTokenView,
        description = "made by the same request before: without the secret"), (status = "4XX", body = Problem)))]
pub(super) async fn token_create(
    State(service): State<Service>,
    who: Principal,
    IdempotencyKey(key): IdempotencyKey,
    Body(body): Body<TokenBody>,
) -> Result<(StatusCode, Json<NewTokenView>), Problem> {
    let NewToken { token, secret } = service.token_create(&who, key.as_deref(), body.into()).await?;
    let status = if secret.is_some() { StatusCode::CREATED } else { StatusCode::OK };
    let secret = secret.map(|secret| secret.reveal().to_owned());
    Ok((status, Json(NewTokenView { token: TokenView::of(token, service.now()), secret })))
}

/// List tokens
///
/// Oldest first: all for ops, its own for a tenant. Secrets are never shown again.
#[utoipa::path(get, path = "/v1/tokens", tag = "projects", params(Paging),
    responses((status = 200, body = Page<TokenView>), (status = "4XX", body = Problem)))]
pub(super) async fn token_list(
    State(service): State<Service>,
    who: Principal,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<TokenView>>, Problem> {
    let after = paging.cursor.as_deref().map(TokenId::parse).transpose()?;
    let tokens = service.token_list(&who, after, paging.limit()).await?;
    let now = service.now();
    Ok(Json(Page::of(tokens, &paging, |token| token.id.to_string()).map(|token| TokenView::of(token, now))))
}

/// Show a token
#[utoipa::path(get, path = "/v1/tokens/{token}", tag = "projects", params(("token", description = "name or id")),
    responses((status = 200, body = TokenView), (status = "4XX", body = Problem)))]
pub(super) async fn token_get(
    State(service): State<Service>,
    who: Principal,
    Path(token): Path<String>,
) -> Result<Json<TokenView>, Problem> {
    let token = service.token_get(&who, &token).await?;
    Ok(Json(TokenView::of(token, service.now())))
}

/// Revoke a token
///
/// And every token that was made with it. It may work for up to a minute more where it was used just before.
#[utoipa::path(delete, path = "/v1/tokens/{token}", tag = "projects", params(("token", description = "name or id")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn token_revoke(
    State(service): State<Service>,
    who: Principal,
    Path(token): Path<String>,
) -> Result<StatusCode, Problem> {
    service.token_revoke(&who, &token).await.map(|()| StatusCode::NO_CONTENT)
}
