//! Users, projects and who is in them.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yiqiu_base::{
    Principal, Problem,
    http::{Body, IdempotencyKey, Page, Paging, Params},
    principal::Role,
};

use crate::{
    Service,
    model::{Member, Project, ProjectId, User, UserId},
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewUser {
    /// 1 to 63 of a-z, 0-9 and -; unique.
    name: String,
    /// `ops` for one who may hold tokens of that role; `tenant` if not said.
    #[serde(default = "tenant")]
    role: Role,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewProject {
    /// 1 to 63 of a-z, 0-9 and -; unique.
    name: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewMember {
    /// The user, by name or id.
    user: String,
    /// What it may do there: `tenant`.
    #[serde(default = "tenant")]
    role: Role,
}

fn tenant() -> Role {
    Role::Tenant
}

/// Someone who may hold tokens.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UserView {
    id: UserId,
    name: String,
    /// The greatest role that its tokens may have.
    role: Role,
    /// Milliseconds since 1970.
    created_ms: i64,
}

impl From<User> for UserView {
    fn from(user: User) -> Self {
        let User { id, name, ops, created_ms } = user;
        Self { id, name, role: if ops { Role::Ops } else { Role::Tenant }, created_ms }
    }
}

/// Whom a bill is for.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ProjectView {
    id: ProjectId,
    name: String,
    /// `active`, or `deleted` in reports of the past.
    state: &'static str,
    /// Milliseconds since 1970.
    created_ms: i64,
    /// Milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted_ms: Option<i64>,
}

impl From<Project> for ProjectView {
    fn from(project: Project) -> Self {
        let Project { id, name, created_ms, deleted_ms } = project;
        let state = if deleted_ms.is_some() { "deleted" } else { "active" };
        Self { id, name, state, created_ms, deleted_ms }
    }
}

/// A user in a project.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MemberView {
    /// The name of the user.
    user: String,
    user_id: UserId,
    /// What it may do there.
    role: Role,
    /// Since when, in milliseconds since 1970.
    created_ms: i64,
}

impl From<Member> for MemberView {
    fn from(member: Member) -> Self {
        let Member { user, user_name, role, created_ms } = member;
        Self { user: user_name, user_id: user, role, created_ms }
    }
}

/// Add a user
///
/// For ops.
#[utoipa::path(post, path = "/v1/users", tag = "projects", request_body = NewUser,
    params(("Idempotency-Key" = Option<String>, Header, description = "the same key again makes nothing new")),
    responses((status = 201, body = UserView), (status = "4XX", body = Problem)))]
pub(super) async fn user_create(
    State(service): State<Service>,
    who: Principal,
    IdempotencyKey(key): IdempotencyKey,
    Body(NewUser { name, role }): Body<NewUser>,
) -> Result<(StatusCode, Json<UserView>), Problem> {
    let user = service.user_create(&who, key.as_deref(), &name, role).await?;
    Ok((StatusCode::CREATED, Json(user.into())))
}

/// List users
///
/// For ops.
#[utoipa::path(get, path = "/v1/users", tag = "projects", params(Paging),
    responses((status = 200, body = Page<UserView>), (status = "4XX", body = Problem)))]
pub(super) async fn user_list(
    State(service): State<Service>,
    who: Principal,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<UserView>>, Problem> {
    let after = paging.cursor.as_deref().unwrap_or_default();
    let users = service.user_list(&who, after, paging.limit()).await?;
    Ok(Json(Page::of(users, &paging, |user| user.name.clone()).map(Into::into)))
}

/// Show a user
///
/// For ops.
#[utoipa::path(get, path = "/v1/users/{user}", tag = "projects", params(("user", description = "name or id")),
    responses((status = 200, body = UserView), (status = "4XX", body = Problem)))]
pub(super) async fn user_get(
    State(service): State<Service>,
    who: Principal,
    Path(user): Path<String>,
) -> Result<Json<UserView>, Problem> {
    service.user_get(&who, &user).await.map(|user| Json(user.into()))
}

/// Delete a user
///
/// For ops. Refused as `in_use` while it is in a project or has a good token.
#[utoipa::path(delete, path = "/v1/users/{user}", tag = "projects", params(("user", description = "name or id")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn user_delete(
    State(service): State<Service>,
    who: Principal,
    Path(user): Path<String>,
) -> Result<StatusCode, Problem> {
    service.user_delete(&who, &user).await.map(|()| StatusCode::NO_CONTENT)
}

/// Add a project
///
/// For ops.
#[utoipa::path(post, path = "/v1/projects", tag = "projects", request_body = NewProject,
    params(("Idempotency-Key" = Option<String>, Header, description = "the same key again makes nothing new")),
    responses((status = 201, body = ProjectView), (status = "4XX", body = Problem)))]
pub(super) async fn project_create(
    State(service): State<Service>,
    who: Principal,
    IdempotencyKey(key): IdempotencyKey,
    Body(NewProject { name }): Body<NewProject>,
) -> Result<(StatusCode, Json<ProjectView>), Problem> {
    let project = service.project_create(&who, key.as_deref(), &name).await?;
    Ok((StatusCode::CREATED, Json(project.into())))
}

/// List projects
///
/// All for ops, its own for a tenant.
#[utoipa::path(get, path = "/v1/projects", tag = "projects", params(Paging),
    responses((status = 200, body = Page<ProjectView>), (status = "4XX", body = Problem)))]
pub(super) async fn project_list(
    State(service): State<Service>,
    who: Principal,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<ProjectView>>, Problem> {
    let after = paging.cursor.as_deref().unwrap_or_default();
    let projects = service.project_list(&who, after, paging.limit()).await?;
    Ok(Json(Page::of(projects, &paging, |project| project.name.clone()).map(Into::into)))
}

/// Show a project
#[utoipa::path(get, path = "/v1/projects/{project}", tag = "projects",
    params(("project", description = "name or id")),
    responses((status = 200, body = ProjectView), (status = "4XX", body = Problem)))]
pub(super) async fn project_get(
    State(service): State<Service>,
    who: Principal,
    Path(project): Path<String>,
) -> Result<Json<ProjectView>, Problem> {
    service.project_get(&who, &project).await.map(|project| Json(project.into()))
}

/// Delete a project
///
/// For ops. Refused as `in_use` while it has members, good tokens, or claims that are still metered. Its usage can
/// still be reported, by its id.
#[utoipa::path(delete, path = "/v1/projects/{project}", tag = "projects",
    params(("project", description = "name or id")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn project_delete(
    State(service): State<Service>,
    who: Principal,
    Path(project): Path<String>,
) -> Result<StatusCode, Problem> {
    service.project_delete(&who, &project).await.map(|()| StatusCode::NO_CONTENT)
}

/// Put a user into a project
///
/// For ops.
#[utoipa::path(post, path = "/v1/projects/{project}/members", tag = "projects", request_body = NewMember,
    params(("project", description = "name or id"),
        ("Idempotency-Key" = Option<String>, Header, description = "the same key again makes nothing new")),
    responses((status = 201, body = MemberView), (status = "4XX", body = Problem)))]
pub(super) async fn member_add(
    State(service): State<Service>,
    who: Principal,
    Path(project): Path<String>,
    IdempotencyKey(key): IdempotencyKey,
    Body(NewMember { user, role }): Body<NewMember>,
) -> Result<(StatusCode, Json<MemberView>), Problem> {
    let member = service.member_add(&who, key.as_deref(), &project, &user, role).await?;
    Ok((StatusCode::CREATED, Json(member.into())))
}

/// List the members of a project
#[utoipa::path(get, path = "/v1/projects/{project}/members", tag = "projects",
    params(("project", description = "name or id"), Paging),
    responses((status = 200, body = Page<MemberView>), (status = "4XX", body = Problem)))]
pub(super) async fn member_list(
    State(service): State<Service>,
    who: Principal,
    Path(project): Path<String>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<MemberView>>, Problem> {
    let after = paging.cursor.as_deref().unwrap_or_default();
    let members = service.member_list(&who, &project, after, paging.limit()).await?;
    Ok(Json(Page::of(members, &paging, |member| member.user_name.clone()).map(Into::into)))
}

/// Take a user out of a project
///
/// For ops. Its tokens of the role tenant for that project are revoked with it.
#[utoipa::path(delete, path = "/v1/projects/{project}/members/{user}", tag = "projects",
    params(("project", description = "name or id"), ("user", description = "name or id")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn member_remove(
    State(service): State<Service>,
    who: Principal,
    Path((project, user)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    service.member_remove(&who, &project, &user).await.map(|()| StatusCode::NO_CONTENT)
}
