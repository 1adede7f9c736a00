//! HTTP/JSON: parse, one call of the service, view.

mod contract;
mod host;
mod image;
mod node;
mod place;
mod view;

use std::time::Duration;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use yiqiu_base::{Principal, Problem, http::Params, outbox::Event};

use crate::{service::Service, store::Books};

/// The routes of Resources, with their OpenAPI description.
pub fn router(service: Service) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(place::region_create, place::region_list))
        .routes(routes!(place::region_get, place::region_delete))
        .routes(routes!(place::zone_create, place::zone_list))
        .routes(routes!(place::zone_get, place::zone_delete))
        .routes(routes!(place::rack_create, place::rack_list))
        .routes(routes!(place::rack_get, place::rack_delete))
        .routes(routes!(host::create, host::list))
        .routes(routes!(host::get, host::delete))
        .routes(routes!(host::place))
        .routes(routes!(host::join_token))
        .routes(routes!(image::create, image::list))
        .routes(routes!(image::get, image::delete))
        .routes(routes!(image::fill))
        .routes(routes!(contract::create, contract::list))
        .routes(routes!(contract::get, contract::release))
        .routes(routes!(node::list))
        .routes(routes!(node::get))
        .routes(routes!(node::power))
        .routes(routes!(events))
        .routes(routes!(books))
        .with_state(service)
}

/// Which events to read.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct EventsQuery {
    /// Read what follows this position; 0 from the beginning.
    #[serde(default)]
    after: i64,
    /// At most so many: 1 to 1000, 100 if not said.
    limit: Option<u32>,
    /// Milliseconds to wait for a first one: at most 30000, none if not said.
    #[serde(default)]
    wait_ms: u64,
}

/// One event of the tier.
#[derive(Debug, Serialize, ToSchema)]
struct EventView {
    /// Its place in the order of commits.
    position: i64,
    /// Milliseconds since 1970.
    at_ms: i64,
    /// What happened.
    kind: String,
    /// Whose contract it is about; empty where it is nobody's.
    owner: String,
    /// The id of what it is about.
    subject: String,
    /// The request that led to it.
    request_id: String,
    /// What happened, in the shape that `kind` names.
    payload: serde_json::Value,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        let Event { position, at_ms, kind, owner, subject, request_id, payload } = event;
        let payload = serde_json::from_str(&payload).unwrap_or_default();
        Self { position, at_ms, kind, owner, subject, request_id, payload }
    }
}

/// Events of Resources
///
/// In the order of commits. Ops read all of them, tenants those of their own contracts.
#[utoipa::path(get, path = "/v1/events/resources", tag = "resources", params(EventsQuery),
    responses((status = 200, body = Vec<EventView>), (status = "4XX", body = Problem)))]
async fn events(
    State(service): State<Service>,
    who: Principal,
    Params(query): Params<EventsQuery>,
) -> Result<Json<Vec<EventView>>, Problem> {
    let wait = Duration::from_millis(query.wait_ms).min(yiqiu_base::http::WAIT_MOST);
    let events = service.events(&who, query.after, query.limit.unwrap_or(100), wait).await?;
    Ok(Json(events.into_iter().map(EventView::from).collect()))
}

/// Check the books
///
/// Whether claims stay within capacity and every claim has one open meter segment, checked now.
#[utoipa::path(get, path = "/v1/resources/books", tag = "resources",
    responses((status = 200, body = Books), (status = "4XX", body = Problem)))]
async fn books(State(service): State<Service>, who: Principal) -> Result<Json<Books>, Problem> {
    service.books(&who).await.map(Json)
}
