//! HTTP/JSON: parse, one call of the service, view.

mod people;
mod tokens;
mod usage;

use axum::{Json, extract::State, response::Response};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use yiqiu_base::{
    Principal, Problem,
    ledger::Comparison,
    principal::Role,
    watch::{EventPage, EventsQuery, Watch},
};

use crate::{Service, model::Whoami};

/// The routes of Projects, with their OpenAPI description.
pub fn router(service: Service) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(people::user_create, people::user_list))
        .routes(routes!(people::user_get, people::user_delete))
        .routes(routes!(people::project_create, people::project_list))
        .routes(routes!(people::project_get, people::project_delete))
        .routes(routes!(people::member_add, people::member_list))
        .routes(routes!(people::member_remove))
        .routes(routes!(tokens::token_create, tokens::token_list))
        .routes(routes!(tokens::token_get, tokens::token_revoke))
        .routes(routes!(usage::usage_report))
        .routes(routes!(ledger_get, ledger_compare))
        .routes(routes!(whoami))
        .routes(routes!(events))
        .with_state(service)
}

/// Who asks.
#[derive(Debug, Serialize, ToSchema)]
struct WhoamiView {
    /// Such as `user:alice`.
    subject: String,
    /// What the credential may do.
    role: Role,
    /// The project it acts for.
    #[serde(skip_serializing_if = "Option::is_none")]
    project: Option<people::ProjectView>,
    /// The owner label that contracts made with it carry; empty for none.
    owner: String,
    /// When this proof of who it is ends, in milliseconds since 1970. It is renewed as long as the token is good.
    expires_ms: i64,
}

impl From<Whoami> for WhoamiView {
    fn from(me: Whoami) -> Self {
        let Whoami { subject, role, owner, project, expires_ms } = me;
        Self { subject, role, project: project.map(Into::into), owner, expires_ms }
    }
}

/// Who am I
#[utoipa::path(get, path = "/v1/whoami", tag = "projects",
    responses((status = 200, body = WhoamiView), (status = "4XX", body = Problem)))]
async fn whoami(State(service): State<Service>, who: Principal) -> Result<Json<WhoamiView>, Problem> {
    service.whoami(&who).await.map(|me| Json(me.into()))
}

/// Show what differs between the ledgers
///
/// What the newest comparison of Projects with Resources and Components said: each open segment and each binding is here
/// as it is there, and what is metered is on somebody's bill. For ops.
#[utoipa::path(get, path = "/v1/ledgers/projects", tag = "projects",
    responses((status = 200, body = Comparison), (status = "4XX", body = Problem)))]
async fn ledger_get(State(service): State<Service>, who: Principal) -> Result<Json<Comparison>, Problem> {
    service.ledger_last(&who).map(Json)
}

/// Compare the ledgers now
///
/// It repairs nothing. What differs is looked at twice, so that what is only on its way is not told. For ops.
#[utoipa::path(post, path = "/v1/ledgers/projects", tag = "projects",
    responses((status = 200, body = Comparison), (status = "4XX", body = Problem)))]
async fn ledger_compare(State(service): State<Service>, who: Principal) -> Result<Json<Comparison>, Problem> {
    service.ledger_compare(&who).await.map(Json)
}

/// Events of Projects
///
/// In the order of commits, as a page, or as a stream of server-sent events for `Accept: text/event-stream`: `id` is the
/// position, `event` the kind, `data` the event; first comes `epoch`, and again when the history changes. For ops.
#[utoipa::path(get, path = "/v1/events/projects", tag = "projects",
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
