//! Nodes.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use utoipa::{IntoParams, ToSchema};
use yiqiu_base::{
    Id, Power, Principal, Problem,
    http::{Body, IdempotencyKey, IfMatch, Page, Paging, Params, Tagged},
    id::{Command, Node},
};

use super::view::NodeView;
use crate::{model::Wish, service::Service};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PowerWish {
    /// `on` or `off`.
    power: Power,
    /// Minted by the caller: the same id again changes nothing. An `Idempotency-Key` serves as well.
    command_id: Option<Id<Command>>,
    /// With `off`: milliseconds it may take to end before it is killed, at most 600000; left out: as its runtime says.
    grace_ms: Option<i64>,
}

#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RebootWish {
    /// Minted by the caller: the same id again changes nothing. An `Idempotency-Key` serves as well.
    command_id: Option<Id<Command>>,
    /// Milliseconds it may take to end before it is killed, at most 600000; left out: as its runtime says.
    grace_ms: Option<i64>,
}

/// Which nodes to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct NodeQuery {
    /// Only on this host, by name or id (ops).
    host: Option<String>,
    /// `next` of the page before.
    cursor: Option<String>,
    /// At most so many.
    limit: Option<u32>,
}

/// List nodes
#[utoipa::path(get, path = "/v1/nodes", tag = "resources", params(NodeQuery),
    responses((status = 200, body = Page<NodeView>), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(service): State<Service>,
    who: Principal,
    Params(query): Params<NodeQuery>,
) -> Result<Json<Page<NodeView>>, Problem> {
    let NodeQuery { host, cursor, limit } = query;
    let page = service.node_list(&who, host.as_deref(), &Paging { cursor, limit }).await?;
    Ok(Json(page.map(NodeView::from)))
}

/// Show a node
#[utoipa::path(get, path = "/v1/nodes/{node}", tag = "resources", params(("node", description = "id")),
    responses((status = 200, body = NodeView), (status = "4XX", body = Problem)))]
pub(super) async fn get(
    State(service): State<Service>,
    who: Principal,
    Path(node): Path<String>,
) -> Result<Tagged<NodeView>, Problem> {
    let node = service.node_get(&who, Id::<Node>::parse(&node)?).await?;
    Ok(Tagged(StatusCode::OK, node.generation, node.into()))
}

/// Switch a node on or off
///
/// On is carried out once: a node that dies later stays `failed` until the next request.
#[utoipa::path(post, path = "/v1/nodes/{node}/power", tag = "resources", request_body = PowerWish,
    params(("node", description = "id"), ("If-Match" = Option<String>, Header, description = "generation")),
    responses((status = 202, body = NodeView), (status = "4XX", body = Problem)))]
pub(super) async fn power(
    State(service): State<Service>,
    who: Principal,
    Path(node): Path<String>,
    seen: Option<IfMatch>,
    key: IdempotencyKey,
    Body(wish): Body<PowerWish>,
) -> Result<Tagged<NodeView>, Problem> {
    let id = Id::<Node>::parse(&node)?;
    let PowerWish { power, command_id, grace_ms } = wish;
    let command = command_id.or_else(|| key.0.map(|key| command_of(&who, id, &key)));
    let wish = Wish { grace_ms, ..power.into() };
    let node = service.node_power(&who, id, wish, command, seen.map(|s| s.0)).await?;
    Ok(Tagged(StatusCode::ACCEPTED, node.generation, node.into()))
}

/// Start a node again
///
/// It is stopped if it runs, and started: once for each request. A node that is wished off is refused.
#[utoipa::path(post, path = "/v1/nodes/{node}/reboot", tag = "resources", request_body = RebootWish,
    params(("node", description = "id"), ("If-Match" = Option<String>, Header, description = "generation")),
    responses((status = 202, body = NodeView), (status = "4XX", body = Problem)))]
pub(super) async fn reboot(
    State(service): State<Service>,
    who: Principal,
    Path(node): Path<String>,
    seen: Option<IfMatch>,
    key: IdempotencyKey,
    Body(wish): Body<RebootWish>,
) -> Result<Tagged<NodeView>, Problem> {
    let id = Id::<Node>::parse(&node)?;
    let RebootWish { command_id, grace_ms } = wish;
    let command = command_id.or_else(|| key.0.map(|key| command_of(&who, id, &key)));
    let node = service.node_power(&who, id, Wish::reboot(grace_ms), command, seen.map(|s| s.0)).await?;
    Ok(Tagged(StatusCode::ACCEPTED, node.generation, node.into()))
}

/// The command id that a key stands for: the same for the same asker, node and key.
fn command_of(who: &Principal, node: Id<Node>, key: &str) -> Id<Command> {
    let digest = Sha256::digest(format!("{} {} {node} {key}", who.subject, who.owner));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid().into()
}
