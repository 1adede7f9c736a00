//! Hosts.

use std::collections::BTreeMap;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};
use yiqiu_base::{
    NodeType, Principal, Problem, Size,
    http::{Body, IdempotencyKey, IfMatch, Page, Paging, Params, Tagged},
    size::Dimension,
};

use super::view::HostView;
use crate::{
    model::{HostChange, HostModel, HostState, Limit},
    service::{
        Service,
        host::{HostQuery, HostRequest},
    },
    store::{HostOrder, HostSort},
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
    /// Free labels by key; `null` takes one away. At most 64 on a host.
    #[serde(default)]
    labels: BTreeMap<String, Option<String>>,
    /// The pool it is to be in, by name or id; `null`: none.
    #[serde(default, deserialize_with = "said")]
    #[schema(value_type = Option<String>)]
    pool: Option<Option<String>>,
}

/// Tells `null` from what is left out.
fn said<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
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

/// Which hosts, and in which order.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct HostsQuery {
    /// `next` of the page before; nothing for the first.
    cursor: Option<String>,
    /// How many at most: 1 to 1000, 100 if not said.
    limit: Option<u32>,
    /// In this state.
    state: Option<HostState>,
    /// In this region, by name or id.
    region: Option<String>,
    /// In this zone, by name or id.
    zone: Option<String>,
    /// In this rack, by name or id.
    rack: Option<String>,
    /// In this pool, by name or id.
    pool: Option<String>,
    /// Cut like this.
    node_type: Option<NodeType>,
    /// With all of these labels: `key=value,other-key`, at most 16.
    label: Option<String>,
    /// With all of these features: the same.
    feature: Option<String>,
    /// With at least this much free.
    free_cpu_millicores: Option<i64>,
    /// With at least this much free.
    free_memory_bytes: Option<i64>,
    /// With at least this much free.
    free_disk_bytes: Option<i64>,
    /// With at least this much free.
    free_disk_iops: Option<i64>,
    /// By what they are ordered: their names, if not said. Equal ones are in the order of names.
    sort: Option<HostSort>,
    /// The greatest first.
    #[serde(default)]
    descending: bool,
}

pub(super) async fn shown(service: &Service, who: &Principal, host: HostModel) -> Result<HostView, Problem> {
    let around = service.surroundings(who, &[host.id]).await?;
    Ok(HostView::of(host, &around))
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
    let generation = host.generation;
    let view = HostWithToken { host: shown(&service, &who, host).await?, join_token: token.reveal().to_owned() };
    Ok(Tagged(StatusCode::CREATED, generation, view))
}

/// List hosts
///
/// Those that pass every filter. A page goes on where the one before ended, also where what hosts are ordered by
/// changes meanwhile: a host that moves to a later place comes again, one that moves to an earlier place may not come.
/// In the order of names none does.
#[utoipa::path(get, path = "/v1/hosts", tag = "resources", params(HostsQuery),
    responses((status = 200, body = Page<HostView>), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(service): State<Service>,
    who: Principal,
    Params(query): Params<HostsQuery>,
) -> Result<Json<Page<HostView>>, Problem> {
    let HostsQuery { cursor, limit, state, region, zone, rack, pool, node_type, label, feature, .. } = &query;
    let free = |amount: Option<i64>| amount.unwrap_or(0);
    let asked = HostQuery {
        state: *state,
        region: region.clone(),
        zone: zone.clone(),
        rack: rack.clone(),
        pool: pool.clone(),
        node_type: *node_type,
        label: label.clone(),
        feature: feature.clone(),
        free: Size {
            cpu_millicores: free(query.free_cpu_millicores),
            memory_bytes: free(query.free_memory_bytes),
            disk_bytes: free(query.free_disk_bytes),
            disk_iops: free(query.free_disk_iops),
        },
    };
    let order = HostOrder { by: query.sort.unwrap_or(HostSort::Name), descending: query.descending };
    let paging = Paging { cursor: cursor.clone(), limit: *limit };
    let page = service.host_list(&who, &asked, order, &paging).await?;
    let ids: Vec<_> = page.items.iter().map(|host| host.id).collect();
    let around = service.surroundings(&who, &ids).await?;
    Ok(Json(page.map(|host| HostView::of(host, &around))))
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
    Ok(Tagged(StatusCode::OK, host.generation, shown(&service, &who, host).await?))
}

/// Change a host
///
/// Limits, overcommit, labels, its pool. A limit above what the machine says is refused, and so is what would take from
/// under claims what they hold.
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
    let HostPatch { limit, overcommit, labels, pool } = patch;
    let change = HostChange { limit, overcommit, labels, pool: None };
    let pool = pool.as_ref().map(Option::as_deref);
    let host = service.host_change(&who, &host, change, pool, seen.map(|s| s.0)).await?;
    Ok(Tagged(StatusCode::OK, host.generation, shown(&service, &who, host).await?))
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
    Ok(Tagged(StatusCode::OK, host.generation, shown(&service, &who, host).await?))
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
    let generation = host.generation;
    let view = HostWithToken { host: shown(&service, &who, host).await?, join_token: token.reveal().to_owned() };
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
