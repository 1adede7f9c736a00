//! Hosts.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yiqiu_base::{
    NodeType, Principal, Problem,
    http::{Body, IdempotencyKey, IfMatch, Page, Paging, Params, Tagged},
    size::Dimension,
};

use super::view::HostView;
use crate::{
    model::{HostChange, Limit},
    service::{Service, host::HostRequest},
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewHost {
    /// 1 to 63 of a-z, 0-9 and -.
    name: String,
    /// Where it stands: a rack by name or id. With `unit`, or neither: it can be placed later.
    rack: Option<String>,
    /// The unit, from 1.
    unit: Option<i64>,
    /// How it is cut: `vm`, `cm` or `bm`.
    node_type: Option<NodeType>,
    /// What ops lower its capacity to, whatever the machine will say; left out: the machine's word counts.
    #[serde(default)]
    limit: Limit,
}

/// What ops change of a host. What is left out stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HostPatch {
    /// What its capacity is lowered to, by dimension. Never more than the machine says; `null` lifts a limit.
    #[serde(default)]
    #[schema(value_type = HashMap<String, Option<i64>>)]
    limit: BTreeMap<Dimension, Option<i64>>,
    /// How much of its capacity may be promised, in thousandths by dimension: 1 to 100000, 1000 at first.
    #[serde(default)]
    #[schema(value_type = HashMap<String, i64>)]
    overcommit: BTreeMap<Dimension, i64>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct HostPlace {
    /// The rack, by name or id.
    rack: String,
    /// The unit, from 1.
    unit: i64,
    /// How it is cut: `vm`, `cm` or `bm`.
    node_type: NodeType,
}

/// A host with the token that its agent joins with.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HostWithToken {
    host: HostView,
    /// Works once, and for an hour. It is shown here only.
    join_token: String,
}

/// Add a host
///
/// Answers with a one-time join token: `yiqiu-agent --server URL --token-file FILE` on the machine makes it online.
#[utoipa::path(post, path = "/v1/hosts", tag = "resources", request_body = NewHost,
    responses((status = 201, body = HostWithToken), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    State(service): State<Service>,
    who: Principal,
    key: IdempotencyKey,
    Body(new): Body<NewHost>,
) -> Result<Tagged<HostWithToken>, Problem> {
    let NewHost { name, rack, unit, node_type, limit } = new;
    let request = HostRequest { name, rack, unit, node_type, limit };
    let (host, token) = service.host_create(&who, &request, key.0.as_deref()).await?;
    let (places, generation) = (service.places(&who).await?, host.generation);
    let view = HostWithToken { host: HostView::of(host, &places), join_token: token.reveal().to_owned() };
    Ok(Tagged(StatusCode::CREATED, generation, view))
}

/// List hosts
#[utoipa::path(get, path = "/v1/hosts", tag = "resources", params(Paging),
    responses((status = 200, body = Page<HostView>), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(service): State<Service>,
    who: Principal,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<HostView>>, Problem> {
    let places = service.places(&who).await?;
    Ok(Json(service.host_list(&who, &paging).await?.map(|host| HostView::of(host, &places))))
}

/// Show a host
#[utoipa::path(get, path = "/v1/hosts/{host}", tag = "resources", params(("host", description = "name or id")),
    responses((status = 200, body = HostView), (status = "4XX", body = Problem)))]
pub(super) async fn get(
    State(service): State<Service>,
    who: Principal,
    Path(host): Path<String>,
) -> Result<Tagged<HostView>, Problem> {
    let host = service.host_get(&who, &host).await?;
    Ok(Tagged(StatusCode::OK, host.generation, HostView::of(host, &service.places(&who).await?)))
}

/// Change a host
///
/// Limits, overcommit. A limit above what the machine says is refused, and so is what would take from under claims what
/// they hold.
#[utoipa::path(patch, path = "/v1/hosts/{host}", tag = "resources", request_body = HostPatch,
    params(("host", description = "name or id"), ("If-Match" = Option<String>, Header, description = "generation")),
    responses((status = 200, body = HostView), (status = "4XX", body = Problem)))]
pub(super) async fn change(
    State(service): State<Service>,
    who: Principal,
    Path(host): Path<String>,
    seen: Option<IfMatch>,
    Body(patch): Body<HostPatch>,
) -> Result<Tagged<HostView>, Problem> {
    let HostPatch { limit, overcommit } = patch;
    let change = HostChange { limit, overcommit };
    let host = service.host_change(&who, &host, &change, seen.map(|s| s.0)).await?;
    Ok(Tagged(StatusCode::OK, host.generation, HostView::of(host, &service.places(&who).await?)))
}

/// Place a host
///
/// Says in which rack and unit it stands and how it is cut. Refused where the machine has no driver for that cut, in
/// the driver's own words.
#[utoipa::path(put, path = "/v1/hosts/{host}/place", tag = "resources", request_body = HostPlace,
    params(("host", description = "name or id"), ("If-Match" = Option<String>, Header, description = "generation")),
    responses((status = 200, body = HostView), (status = "4XX", body = Problem)))]
pub(super) async fn place(
    State(service): State<Service>,
    who: Principal,
    Path(host): Path<String>,
    seen: Option<IfMatch>,
    Body(place): Body<HostPlace>,
) -> Result<Tagged<HostView>, Problem> {
    let HostPlace { rack, unit, node_type } = place;
    let host = service.host_place(&who, &host, &rack, unit, node_type, seen.map(|s| s.0)).await?;
    Ok(Tagged(StatusCode::OK, host.generation, HostView::of(host, &service.places(&who).await?)))
}

/// Another join token
#[utoipa::path(post, path = "/v1/hosts/{host}/join-token", tag = "resources",
    params(("host", description = "name or id")),
    responses((status = 201, body = HostWithToken), (status = "4XX", body = Problem)))]
pub(super) async fn join_token(
    State(service): State<Service>,
    who: Principal,
    Path(host): Path<String>,
) -> Result<Tagged<HostWithToken>, Problem> {
    let (host, token) = service.host_join_token(&who, &host).await?;
    let (places, generation) = (service.places(&who).await?, host.generation);
    let view = HostWithToken { host: HostView::of(host, &places), join_token: token.reveal().to_owned() };
    Ok(Tagged(StatusCode::CREATED, generation, view))
}

/// Delete a host that carries nothing
#[utoipa::path(delete, path = "/v1/hosts/{host}", tag = "resources", params(("host", description = "name or id")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(service): State<Service>,
    who: Principal,
    Path(host): Path<String>,
) -> Result<StatusCode, Problem> {
    service.host_delete(&who, &host).await.map(|()| StatusCode::NO_CONTENT)
}
