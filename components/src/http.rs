//! HTTP/JSON: parse, one call of the service, view.

mod view;

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};
use yiqiu_base::{
    Principal, Problem,
    http::{Body, IdempotencyKey, IfMatch, Page, Paging, Params, Tagged},
    ledger::Comparison,
    watch::{EventPage, EventsQuery, Watch},
};

use self::view::{
    CContractAsk, CContractView, ComponentView, DryRunView, ItemsView, NoPlacement, PlacementView, PowerAsk,
};
use crate::{
    model::{ComponentTypeInfo, State as Life},
    service::Service,
};

/// The routes of Components, with their OpenAPI description.
pub fn router(service: Service) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(component_type_list))
        .routes(routes!(ccontract_create, ccontract_list))
        .routes(routes!(ccontract_get, ccontract_release))
        .routes(routes!(component_list))
        .routes(routes!(component_get))
        .routes(routes!(component_power))
        .routes(routes!(ledger_get, ledger_compare))
        .routes(routes!(events))
        .with_state(service)
}

/// List the component types
///
/// What kinds of components there are, and what each promises now.
#[utoipa::path(get, path = "/v1/component-types", tag = "components",
    responses((status = 200, body = ItemsView<ComponentTypeInfo>), (status = "4XX", body = Problem)))]
async fn component_type_list(State(service): State<Service>, _who: Principal) -> Json<ItemsView<ComponentTypeInfo>> {
    Json(ItemsView { items: service.component_types() })
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct CreateQuery {
    /// Only say where the components would go.
    #[serde(default)]
    dry_run: bool,
}

/// Make a ccontract
///
/// Chooses a host for each component and claims them all, or none. `placing` in the answer (202) says that Resources
/// could not be asked yet; it will be. With `dry_run=true` only the choice is told (200). Where nothing fits, the
/// problem's `data` is a `PlacementExplanation`.
#[utoipa::path(post, path = "/v1/ccontracts", tag = "components", params(CreateQuery,
    ("Idempotency-Key" = Option<String>, Header, description = "The same key again answers as the first time")),
    request_body = CContractAsk,
    responses((status = 200, body = DryRunView), (status = 201, body = CContractView),
        (status = 202, body = CContractView), (status = 409, body = NoPlacement), (status = "4XX", body = Problem)))]
async fn ccontract_create(
    State(service): State<Service>,
    who: Principal,
    Params(query): Params<CreateQuery>,
    IdempotencyKey(key): IdempotencyKey,
    Body(ask): Body<CContractAsk>,
) -> Result<Response, Problem> {
    let ask = ask.into();
    if query.dry_run {
        let placements = service.dry_run(&who, &ask).await?.into_iter().map(PlacementView::from).collect();
        return Ok(Json(DryRunView { placements }).into_response());
    }
    let whole = service.create(&who, ask, key.as_deref()).await?;
    let status = if whole.contract.state == Life::Placing { StatusCode::ACCEPTED } else { StatusCode::CREATED };
    Ok(Tagged(status, whole.contract.generation, CContractView::whole(whole)).into_response())
}

/// List ccontracts
///
/// Those that are not released, in the order of names: a tenant's own, or everyone's for ops.
#[utoipa::path(get, path = "/v1/ccontracts", tag = "components", params(Paging),
    responses((status = 200, body = Page<CContractView>), (status = "4XX", body = Problem)))]
async fn ccontract_list(
    State(service): State<Service>,
    who: Principal,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<CContractView>>, Problem> {
    Ok(Json(service.list(&who, &paging).await?.map(CContractView::alone)))
}

/// Show a ccontract
///
/// With its components. A released one is shown by its id only.
#[utoipa::path(get, path = "/v1/ccontracts/{ccontract}", tag = "components",
    params(("ccontract" = String, Path, description = "Name or id")),
    responses((status = 200, body = CContractView), (status = "4XX", body = Problem)))]
async fn ccontract_get(
    State(service): State<Service>,
    who: Principal,
    Path(name): Path<String>,
) -> Result<Tagged<CContractView>, Problem> {
    let whole = service.find(&who, &name).await?;
    Ok(Tagged(StatusCode::OK, whole.contract.generation, CContractView::whole(whole)))
}

/// Release a ccontract
///
/// Its components are stopped and removed, and what they reserve is free again once it is `released` (until then 202).
/// Releasing it again is the same as once.
#[utoipa::path(delete, path = "/v1/ccontracts/{ccontract}", tag = "components",
    params(("ccontract" = String, Path, description = "Name or id")),
    responses((status = 200, body = CContractView), (status = 202, body = CContractView),
        (status = "4XX", body = Problem)))]
async fn ccontract_release(
    State(service): State<Service>,
    who: Principal,
    Path(name): Path<String>,
) -> Result<Tagged<CContractView>, Problem> {
    let whole = service.release(&who, &name).await?;
    let status = if whole.contract.state == Life::Released { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(Tagged(status, whole.contract.generation, CContractView::whole(whole)))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ComponentsQuery {
    /// Only of this ccontract, by name or id.
    ccontract: Option<String>,
    /// `next` of the page before; nothing for the first.
    cursor: Option<String>,
    /// How many at most: 1 to 1000, 100 if not said.
    limit: Option<u32>,
}

/// List components
///
/// In the order of names: a tenant's own, or everyone's for ops.
#[utoipa::path(get, path = "/v1/components", tag = "components", params(ComponentsQuery),
    responses((status = 200, body = Page<ComponentView>), (status = "4XX", body = Problem)))]
async fn component_list(
    State(service): State<Service>,
    who: Principal,
    Params(query): Params<ComponentsQuery>,
) -> Result<Json<Page<ComponentView>>, Problem> {
    let ComponentsQuery { ccontract, cursor, limit } = query;
    let page = service.components(&who, ccontract.as_deref(), &Paging { cursor, limit }).await?;
    Ok(Json(page.map(|(contract, component)| ComponentView::of(&contract, component))))
}

/// Show a component
///
/// `preset` is what it reserves; `actual` is what Resources says of it now.
#[utoipa::path(get, path = "/v1/components/{component}", tag = "components",
    params(("component" = String, Path, description = "Name or id")),
    responses((status = 200, body = ComponentView), (status = "4XX", body = Problem)))]
async fn component_get(
    State(service): State<Service>,
    who: Principal,
    Path(name): Path<String>,
) -> Result<Tagged<ComponentView>, Problem> {
    let (whole, component) = service.component(&who, &name).await?;
    Ok(Tagged(StatusCode::OK, component.generation, ComponentView::of(&whole.contract, component)))
}

/// Power a component
///
/// `on` or `off`. Each request is a wish of its own: `on` starts again what failed. What it reserves stays reserved.
#[utoipa::path(post, path = "/v1/components/{component}/power", tag = "components",
    params(("component" = String, Path, description = "Name or id"),
        ("If-Match" = Option<String>, Header, description = "The generation that the caller has seen, such as \"3\""),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key again changes nothing")),
    request_body = PowerAsk,
    responses((status = 200, body = ComponentView), (status = 412, body = Problem), (status = "4XX", body = Problem)))]
async fn component_power(
    State(service): State<Service>,
    who: Principal,
    Path(name): Path<String>,
    if_match: Option<IfMatch>,
    IdempotencyKey(key): IdempotencyKey,
    Body(PowerAsk { power }): Body<PowerAsk>,
) -> Result<Tagged<ComponentView>, Problem> {
    let seen = if_match.map(|IfMatch(generation)| generation);
    let (whole, component) = service.power(&who, &name, power, seen, key.as_deref()).await?;
    Ok(Tagged(StatusCode::OK, component.generation, ComponentView::of(&whole.contract, component)))
}

/// Show what differs between the ledgers
///
/// What the newest comparison of Components with Resources said: each placed component has its line there, of its size,
/// on its host, and each line that Components owns is held by a component. For ops.
#[utoipa::path(get, path = "/v1/ledgers/components", tag = "components",
    responses((status = 200, body = Comparison), (status = "4XX", body = Problem)))]
async fn ledger_get(State(service): State<Service>, who: Principal) -> Result<Json<Comparison>, Problem> {
    service.ledger_last(&who).map(Json)
}

/// Compare the ledgers now
///
/// It repairs nothing. What differs is looked at twice, so that what is only on its way is not told. For ops.
#[utoipa::path(post, path = "/v1/ledgers/components", tag = "components",
    responses((status = 200, body = Comparison), (status = "4XX", body = Problem)))]
async fn ledger_compare(State(service): State<Service>, who: Principal) -> Result<Json<Comparison>, Problem> {
    service.ledger_compare(&who).await.map(Json)
}

/// Events of Components
///
/// In the order of commits, as a page, or as a stream of server-sent events for `Accept: text/event-stream`: `id` is the
/// position, `event` the kind, `data` the event; first comes `epoch`, and again when the history changes. Ops read all of them, tenants those of their own contracts.
#[utoipa::path(get, path = "/v1/events/components", tag = "components",
    params(EventsQuery, ("Last-Event-ID" = Option<i64>, Header, description = "Go on with the stream after this position")),
    responses((status = 200, content((EventPage = "application/json"), (String = "text/event-stream"))),
        (status = "4XX", body = Problem)))]
async fn events(State(service): State<Service>, watch: Watch) -> Result<Response, Problem> {
    let stop = service.environment().stop.clone();
    let read = move |who, after, limit, wait| {
        let service = service.clone();
        async move { service.events(&who, after, limit, wait).await }
    };
    watch.answer(stop, read).await
}
