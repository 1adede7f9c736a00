//! RContracts.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use yiqiu_base::{
    Id, NodeType, Power, Principal, Problem, Size,
    http::{Body, IdempotencyKey, IfMatch, Page, Paging, Params, Tagged},
    id::{Line, RContract},
};

use super::view::ContractView;
use crate::{
    model::{ContractModel, Entry, Forecast, LineChange, Port, Runtime, Variable},
    service::{AmendRequest, ContractRequest, LineRequest, Service},
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewContract {
    /// Minted by the caller; asking again with it is the same as asking once.
    id: Option<Id<RContract>>,
    /// 1 to 63 of a-z, 0-9 and -.
    name: String,
    /// All of them are claimed, or none.
    lines: Vec<NewLine>,
    /// When its nodes start, in milliseconds since 1970; left out: at once. Its lines are claimed now in any case.
    starts_ms: Option<i64>,
    /// When it ends and its nodes are switched off; left out: never.
    ends_ms: Option<i64>,
    /// How long after its end it still holds everything and can be renewed; left out: as the server is set up.
    grace_ms: Option<i64>,
    /// Why, for its history: one line.
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Renew {
    /// The new end, in milliseconds since 1970; `null`: none.
    #[serde(deserialize_with = "Option::deserialize")]
    ends_ms: Option<i64>,
    /// Why, for its history: one line.
    #[serde(default)]
    reason: String,
}

/// What is to change: all of it, or nothing. What is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Amend {
    /// Another name of the contract.
    name: Option<String>,
    /// Lines that come.
    #[serde(default)]
    add: Vec<NewLine>,
    /// Lines that go, by name or id.
    #[serde(default)]
    remove: Vec<String>,
    /// Lines that stay under another size or name.
    #[serde(default)]
    change: Vec<LineChange>,
    /// Why, for its history: one line.
    #[serde(default)]
    reason: String,
}

/// Why something is done.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Reason {
    /// For the history: one line.
    #[serde(default)]
    reason: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewLine {
    /// Minted by the caller.
    id: Option<Id<Line>>,
    /// Unique in the contract.
    name: String,
    /// The host, by name or id.
    host: String,
    /// What the host has to be cut as; left out: whatever it is.
    node_type: Option<NodeType>,
    /// The image, by name or id; a container needs one.
    image: Option<String>,
    /// What to run; left out: what the image says.
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    environment: Vec<Variable>,
    #[serde(default)]
    ports: Vec<Port>,
    /// How much of the host; left out: the whole of a host cut as `bm`.
    size: Option<Size>,
    /// How it runs: limits, mounts, how it is stopped, how it is told to be well.
    #[serde(default)]
    runtime: Runtime,
    /// `on` (if left out) or `off`.
    power: Option<Power>,
    /// Give back cpu and memory while it is off. Powering it on claims them again, and is refused where its host has no
    /// room for it any more.
    #[serde(default)]
    release_while_off: bool,
}

/// Whether to claim.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DryRun {
    /// Say what would be decided, and claim nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Which contracts to list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ContractQuery {
    /// `next` of the page before.
    cursor: Option<String>,
    /// At most so many.
    limit: Option<u32>,
    /// Also those that hold nothing any more.
    #[serde(default)]
    released: bool,
}

/// Claim nodes on named hosts
///
/// Every line or none. When this answers, the claim is on disk.
#[utoipa::path(post, path = "/v1/rcontracts", tag = "resources", request_body = NewContract, params(DryRun),
    responses((status = 201, body = ContractView), (status = 200, body = Forecast, description = "dry run"),
        (status = "4XX", body = Problem)))]
pub(super) async fn create(
    State(service): State<Service>,
    who: Principal,
    key: IdempotencyKey,
    Params(query): Params<DryRun>,
    Body(new): Body<NewContract>,
) -> Result<Response, Problem> {
    let request = ContractRequest::from(new);
    if query.dry_run {
        return Ok(Json(service.contract_dry_run(&who, &request).await?).into_response());
    }
    let made = service.contract_lease(&who, &request, key.0.as_deref()).await?;
    let (generation, view) = ContractView::of(made);
    Ok(Tagged(StatusCode::CREATED, generation, view).into_response())
}

impl From<NewContract> for ContractRequest {
    fn from(new: NewContract) -> Self {
        let NewContract { id, name, lines, starts_ms, ends_ms, grace_ms, reason } = new;
        let lines = lines.into_iter().map(LineRequest::from).collect();
        Self { id, name, lines, starts_ms, ends_ms, grace_ms, reason }
    }
}

impl From<NewLine> for LineRequest {
    fn from(line: NewLine) -> Self {
        let NewLine {
            id,
            name,
            host,
            node_type,
            image,
            command,
            environment,
            ports,
            size,
            runtime,
            power,
            release_while_off,
        } = line;
        Self { id, name, host, node_type, image, command, environment, ports, size, runtime, power, release_while_off }
    }
}

/// List contracts
#[utoipa::path(get, path = "/v1/rcontracts", tag = "resources", params(ContractQuery),
    responses((status = 200, body = Page<ContractModel>), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(service): State<Service>,
    who: Principal,
    Params(query): Params<ContractQuery>,
) -> Result<Json<Page<ContractModel>>, Problem> {
    let ContractQuery { cursor, limit, released } = query;
    service.contract_list(&who, &Paging { cursor, limit }, None, released).await.map(Json)
}

/// Show a contract with its nodes
#[utoipa::path(get, path = "/v1/rcontracts/{rcontract}", tag = "resources",
    params(("rcontract", description = "name or id")),
    responses((status = 200, body = ContractView), (status = "4XX", body = Problem)))]
pub(super) async fn get(
    State(service): State<Service>,
    who: Principal,
    Path(contract): Path<String>,
) -> Result<Tagged<ContractView>, Problem> {
    let (generation, view) = ContractView::used(service.contract_get_used(&who, &contract).await?);
    Ok(Tagged(StatusCode::OK, generation, view))
}

/// Release a contract
///
/// Its nodes are stopped and removed; each claim ends when its node is verified gone.
#[utoipa::path(delete, path = "/v1/rcontracts/{rcontract}", tag = "resources",
    params(("rcontract", description = "name or id"), Reason),
    responses((status = 202, body = ContractModel), (status = "4XX", body = Problem)))]
pub(super) async fn release(
    State(service): State<Service>,
    who: Principal,
    Path(contract): Path<String>,
    Params(Reason { reason }): Params<Reason>,
) -> Result<Tagged<ContractModel>, Problem> {
    let contract = service.contract_release_for(&who, &contract, &reason).await?;
    Ok(Tagged(StatusCode::ACCEPTED, contract.generation, contract))
}

/// Amend a contract in place
///
/// Lines come, go, and change their size or name in one step, on all hosts: the old set or the new one. What grows is
/// claimed at once. What shrinks is given back when its host confirmed it, what goes when it is verified gone.
#[utoipa::path(patch, path = "/v1/rcontracts/{rcontract}", tag = "resources", request_body = Amend,
    params(("rcontract", description = "name or id"), DryRun),
    responses((status = 200, body = ContractView), (status = "4XX", body = Problem)))]
pub(super) async fn amend(
    State(service): State<Service>,
    who: Principal,
    Path(contract): Path<String>,
    Params(query): Params<DryRun>,
    key: IdempotencyKey,
    seen: Option<IfMatch>,
    Body(Amend { name, add, remove, change, reason }): Body<Amend>,
) -> Result<Response, Problem> {
    let add = add.into_iter().map(LineRequest::from).collect();
    let request = AmendRequest { name, add, remove, change, reason };
    let seen = seen.map(|IfMatch(generation)| generation);
    if query.dry_run {
        return Ok(Json(service.contract_amend_dry_run(&who, &contract, &request, seen).await?).into_response());
    }
    let amended = service.contract_amend(&who, &contract, &request, seen, key.0.as_deref()).await?;
    let (generation, view) = ContractView::of(amended);
    Ok(Tagged(StatusCode::OK, generation, view).into_response())
}

/// Move the end of a contract
///
/// In the grace after its end it is active again, and the nodes that the end switched off are powered on.
#[utoipa::path(post, path = "/v1/rcontracts/{rcontract}/renew", tag = "resources", request_body = Renew,
    params(("rcontract", description = "name or id")),
    responses((status = 200, body = ContractView), (status = "4XX", body = Problem)))]
pub(super) async fn renew(
    State(service): State<Service>,
    who: Principal,
    Path(contract): Path<String>,
    key: IdempotencyKey,
    seen: Option<IfMatch>,
    Body(Renew { ends_ms, reason }): Body<Renew>,
) -> Result<Tagged<ContractView>, Problem> {
    let seen = seen.map(|IfMatch(generation)| generation);
    let renewed = service.contract_renew(&who, &contract, ends_ms, &reason, seen, key.0.as_deref()).await?;
    let (generation, view) = ContractView::of(renewed);
    Ok(Tagged(StatusCode::OK, generation, view))
}

/// Show every change of a contract
///
/// Oldest first: when, who, why and what.
#[utoipa::path(get, path = "/v1/rcontracts/{rcontract}/history", tag = "resources",
    params(("rcontract", description = "name or id"), Paging),
    responses((status = 200, body = Page<Entry>), (status = "4XX", body = Problem)))]
pub(super) async fn history(
    State(service): State<Service>,
    who: Principal,
    Path(contract): Path<String>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<Entry>>, Problem> {
    service.contract_history(&who, &contract, &paging).await.map(Json)
}
