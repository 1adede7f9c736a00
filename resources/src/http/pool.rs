//! Pools.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;
use utoipa::ToSchema;
use yiqiu_base::{
    Principal, Problem,
    http::{Body, IdempotencyKey, IfMatch, Page, Paging, Params, Tagged},
};

use super::view::PoolView;
use crate::{model::PoolModel, service::Service};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPool {
    /// 1 to 63 of a-z, 0-9 and -.
    name: String,
    /// What it is for, at most 200 characters.
    #[serde(default)]
    description: String,
}

/// What changes of a pool. What is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PoolPatch {
    /// 1 to 63 of a-z, 0-9 and -.
    name: Option<String>,
    /// What it is for, at most 200 characters.
    description: Option<String>,
}

async fn shown(service: &Service, who: &Principal, pool: PoolModel) -> Result<Tagged<PoolView>, Problem> {
    let sum = service.pool_sums(who, &[pool.id]).await?.remove(&pool.id).unwrap_or_default();
    Ok(Tagged(StatusCode::OK, pool.generation, PoolView::of(pool, sum)))
}

/// Add a pool
///
/// A group of hosts under a name. A host is in one pool at most; for groups that overlap there are labels.
#[utoipa::path(post, path = "/v1/pools", tag = "resources", request_body = NewPool,
    responses((status = 201, body = PoolView), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    State(service): State<Service>,
    who: Principal,
    key: IdempotencyKey,
    Body(new): Body<NewPool>,
) -> Result<Tagged<PoolView>, Problem> {
    let NewPool { name, description } = new;
    let pool = service.pool_create(&who, &name, &description, key.0.as_deref()).await?;
    let Tagged(_, generation, view) = shown(&service, &who, pool).await?;
    Ok(Tagged(StatusCode::CREATED, generation, view))
}

/// List pools
#[utoipa::path(get, path = "/v1/pools", tag = "resources", params(Paging),
    responses((status = 200, body = Page<PoolView>), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(service): State<Service>,
    who: Principal,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<PoolView>>, Problem> {
    let pools = service.pool_list(&who, &paging).await?;
    let ids: Vec<_> = pools.items.iter().map(|pool| pool.id).collect();
    let mut sums = service.pool_sums(&who, &ids).await?;
    Ok(Json(pools.map(|pool| {
        let sum = sums.remove(&pool.id).unwrap_or_default();
        PoolView::of(pool, sum)
    })))
}

/// Show a pool
#[utoipa::path(get, path = "/v1/pools/{pool}", tag = "resources", params(("pool", description = "name or id")),
    responses((status = 200, body = PoolView), (status = "4XX", body = Problem)))]
pub(super) async fn get(
    State(service): State<Service>,
    who: Principal,
    Path(pool): Path<String>,
) -> Result<Tagged<PoolView>, Problem> {
    let pool = service.pool_get(&who, &pool).await?;
    shown(&service, &who, pool).await
}

/// Change a pool
#[utoipa::path(patch, path = "/v1/pools/{pool}", tag = "resources", request_body = PoolPatch,
    params(("pool", description = "name or id"), ("If-Match" = Option<String>, Header, description = "generation")),
    responses((status = 200, body = PoolView), (status = "4XX", body = Problem)))]
pub(super) async fn change(
    State(service): State<Service>,
    who: Principal,
    Path(pool): Path<String>,
    seen: Option<IfMatch>,
    Body(patch): Body<PoolPatch>,
) -> Result<Tagged<PoolView>, Problem> {
    let PoolPatch { name, description } = patch;
    let pool = service.pool_change(&who, &pool, name, description, seen.map(|s| s.0)).await?;
    shown(&service, &who, pool).await
}

/// Delete a pool that has no hosts
#[utoipa::path(delete, path = "/v1/pools/{pool}", tag = "resources", params(("pool", description = "name or id")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(service): State<Service>,
    who: Principal,
    Path(pool): Path<String>,
) -> Result<StatusCode, Problem> {
    service.pool_delete(&who, &pool).await.map(|()| StatusCode::NO_CONTENT)
}
