//! Hosts out of service and back, and what is left on them.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yiqiu_base::{
    Id, NodeState, Power, Principal, Problem, Size,
    http::{Body, IfMatch, Paging, Params, Tagged},
    id::{Host, Line, Node, RContract},
};

use super::{host::shown, view::HostView};
use crate::{
    model::{HostState, HostWish},
    service::{Service, drain::Drain},
    store::{DrainLeft, Holder},
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewWish {
    wish: HostWish,
    /// Why, at most 200 characters: holders are told.
    #[serde(default)]
    why: String,
}

/// A host with what ops should know beside it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HostWished {
    host: HostView,
    /// Sentences: what was asked for is done all the same.
    warnings: Vec<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DrainStop {
    /// Nodes by their ids, at most 1000.
    nodes: Vec<Id<Node>>,
    /// Why, at most 200 characters: holders are told.
    #[serde(default)]
    why: String,
}

/// What is left on a host.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Drain)]
pub(super) struct DrainView {
    host_id: Id<Host>,
    host: String,
    state: HostState,
    wish: HostWish,
    /// Who wished that.
    by: String,
    /// Why.
    why: String,
    /// Since when; 0 if nobody ever wished anything of it.
    since_ms: i64,
    /// How many nodes are left in all.
    nodes: i64,
    /// Whose they are; whoever has most first.
    holders: Vec<HolderView>,
    /// A page of them, in the order of their making.
    left: Vec<LeftView>,
    /// The cursor of the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// How many nodes of one owner are left on a host.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DrainHolder)]
pub(super) struct HolderView {
    owner: String,
    nodes: i64,
}

/// A node that is left on a host.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DrainLeft)]
pub(super) struct LeftView {
    node_id: Id<Node>,
    name: String,
    owner: String,
    rcontract_id: Id<RContract>,
    rcontract: String,
    line_id: Id<Line>,
    size: Size,
    /// Wished.
    power: Power,
    /// Seen.
    state: NodeState,
    /// Its contract is being released: it goes.
    removed: bool,
    /// Ops stopped it for the drain: it stays off here.
    stopped: bool,
}

impl From<DrainLeft> for LeftView {
    fn from(left: DrainLeft) -> Self {
        let DrainLeft { node_id, name, line_id, rcontract_id, rcontract, owner, size, power, state, removed, stopped } =
            left;
        Self { node_id, name, owner, rcontract_id, rcontract, line_id, size, power, state, removed, stopped }
    }
}

impl From<Drain> for DrainView {
    fn from(drain: Drain) -> Self {
        let Drain { host, wished, holders, left } = drain;
        let state = host.state();
        let holder = |Holder { owner, nodes }| HolderView { owner, nodes };
        Self {
            host_id: host.id,
            host: host.name,
            state,
            wish: host.wish,
            by: wished.by,
            why: wished.why,
            since_ms: wished.since_ms,
            nodes: host.nodes,
            holders: holders.into_iter().map(holder).collect(),
            left: left.items.into_iter().map(LeftView::from).collect(),
            next: left.next,
        }
    }
}

/// Take a host out of service, or back
///
/// `draining`: it takes no new claims, and the holder of every line is told by an event. `maintenance` and `retired`:
/// only of a host that carries nothing; a retired one does not come back, and its agent is refused. `in_service`: takes
/// a drain back, or ends a maintenance. The same wish again changes nothing.
#[utoipa::path(put, path = "/v1/hosts/{host}/wish", tag = "resources", request_body = NewWish,
    params(("host", description = "name or id"), ("If-Match" = Option<String>, Header, description = "generation")),
    responses((status = 200, body = HostWished), (status = "4XX", body = Problem)))]
pub(super) async fn wish(
    State(service): State<Service>,
    who: Principal,
    Path(host): Path<String>,
    seen: Option<IfMatch>,
    Body(new): Body<NewWish>,
) -> Result<Tagged<HostWished>, Problem> {
    let NewWish { wish, why } = new;
    let (host, warnings) = service.host_wish(&who, &host, wish, &why, seen.map(|s| s.0)).await?;
    let generation = host.generation;
    Ok(Tagged(StatusCode::OK, generation, HostWished { host: shown(&service, &who, host).await?, warnings }))
}

/// Show what is left on a host
///
/// Of a host that is not drained it says what a drain would have to move.
#[utoipa::path(get, path = "/v1/hosts/{host}/drain", tag = "resources", params(("host", description = "name or id"), Paging),
    responses((status = 200, body = DrainView), (status = "4XX", body = Problem)))]
pub(super) async fn status(
    State(service): State<Service>,
    who: Principal,
    Path(host): Path<String>,
    Params(paging): Params<Paging>,
) -> Result<Json<DrainView>, Problem> {
    Ok(Json(service.drain_get(&who, &host, &paging).await?.into()))
}

/// Stop nodes of a host that is draining
///
/// All that are named, or none. They stay off there, with their claims, until their contracts are released or the drain
/// is taken back. Their holders are told.
#[utoipa::path(post, path = "/v1/hosts/{host}/drain/stop", tag = "resources", request_body = DrainStop,
    params(("host", description = "name or id")),
    responses((status = 202, body = DrainView), (status = "4XX", body = Problem)))]
pub(super) async fn stop(
    State(service): State<Service>,
    who: Principal,
    Path(host): Path<String>,
    Body(stop): Body<DrainStop>,
) -> Result<(StatusCode, Json<DrainView>), Problem> {
    let DrainStop { nodes, why } = stop;
    service.drain_stop(&who, &host, &nodes, &why).await?;
    let drain = service.drain_get(&who, &host, &Paging::default()).await?;
    Ok((StatusCode::ACCEPTED, Json(drain.into())))
}
