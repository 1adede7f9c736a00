//! HTTP/JSON: parse, one call of the service, view.

mod audit;
mod contract;
mod drain;
mod elevation;
mod host;
mod image;
mod node;
mod place;
mod pool;
mod stream;
mod view;

use axum::{Json, extract::State, response::Response};
use utoipa_axum::{router::OpenApiRouter, routes};
use yiqiu_base::{
    Principal, Problem,
    watch::{EventPage, EventsQuery, Watch},
};

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
        .routes(routes!(elevation::get))
        .routes(routes!(pool::create, pool::list))
        .routes(routes!(pool::get, pool::change, pool::delete))
        .routes(routes!(host::create, host::list))
        .routes(routes!(host::get, host::change, host::delete))
        .routes(routes!(host::place))
        .routes(routes!(drain::wish))
        .routes(routes!(drain::status))
        .routes(routes!(drain::stop))
        .routes(routes!(host::join_token))
        .routes(routes!(image::create, image::list))
        .routes(routes!(image::get, image::delete))
        .routes(routes!(image::fill))
        .routes(routes!(contract::create, contract::list))
        .routes(routes!(contract::get, contract::amend, contract::release))
        .routes(routes!(contract::renew))
        .routes(routes!(contract::history))
        .routes(routes!(node::list))
        .routes(routes!(node::get))
        .routes(routes!(node::power))
        .routes(routes!(node::reboot))
        .routes(routes!(stream::logs))
        .routes(routes!(stream::exec))
        .routes(routes!(audit::create, audit::list))
        .routes(routes!(audit::get))
        .routes(routes!(audit::hosts))
        .routes(routes!(audit::settle))
        .routes(routes!(events))
        .routes(routes!(books))
        .with_state(service)
}

/// Events of Resources
///
/// In the order of commits, as a page, or as a stream of server-sent events for `Accept: text/event-stream`: `id` is the
/// position, `event` the kind, `data` the event; first comes `epoch`, and again when the history changes. Ops read all of them, tenants those of their own contracts.
#[utoipa::path(get, path = "/v1/events/resources", tag = "resources",
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

/// Check the books
///
/// Whether claims stay within capacity and every claim has one open meter segment, checked now.
#[utoipa::path(get, path = "/v1/resources/books", tag = "resources",
    responses((status = 200, body = Books), (status = "4XX", body = Problem)))]
async fn books(State(service): State<Service>, who: Principal) -> Result<Json<Books>, Problem> {
    service.books(&who).await.map(Json)
}
