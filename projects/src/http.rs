//! HTTP/JSON: parse, one call of the service, view.

mod people;
mod tokens;
mod usage;

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use yiqiu_base::{
    Principal, Problem,
    http::{EventPage, EventsQuery, Params},
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

/// Events of Projects
///
/// In the order of commits; for ops.
#[utoipa::path(get, path = "/v1/events/projects", tag = "projects", params(EventsQuery),
    responses((status = 200, body = EventPage), (status = "4XX", body = Problem)))]
async fn events(
    State(service): State<Service>,
    who: Principal,
    Params(query): Params<EventsQuery>,
) -> Result<Json<EventPage>, Problem> {
    service.events(&who, query.after, query.limit(), query.wait()).await.map(|read| Json(read.into()))
}
