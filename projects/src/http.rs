//! HTTP/JSON: parse, one call of the service, view.

mod people;
mod tokens;
mod usage;

use std::time::Duration;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use yiqiu_base::{
    Principal, Problem,
    http::{Params, WAIT_MOST},
    outbox::Event,
    principal::Role,
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

/// One event of Projects. Secrets are never in it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ProjectsEventView)]
struct EventView {
    /// Its place in the order of commits.
    position: i64,
    /// Milliseconds since 1970.
    at_ms: i64,
    /// What happened: `user.created`, `user.deleted`, `project.created`, `project.deleted`, `member.added`,
    /// `member.removed`, `token.created`, `token.revoked`.
    kind: String,
    /// The owner label of the project it is about; empty where it is about none.
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

/// Events of Projects
///
/// In the order of commits; for ops.
#[utoipa::path(get, path = "/v1/events/projects", tag = "projects", params(EventsQuery),
    responses((status = 200, body = Vec<EventView>), (status = "4XX", body = Problem)))]
async fn events(
    State(service): State<Service>,
    who: Principal,
    Params(query): Params<EventsQuery>,
) -> Result<Json<Vec<EventView>>, Problem> {
    let wait = Duration::from_millis(query.wait_ms).min(WAIT_MOST);
    let events = service.events(&who, query.after, query.limit.unwrap_or(100), wait).await?;
    Ok(Json(events.into_iter().map(EventView::from).collect()))
}
