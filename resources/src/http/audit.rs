//! Audits, what they found, and what is decided about orphans.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use yiqiu_base::{
    Id, Principal, Problem,
    http::{Body, IdempotencyKey, Page, Paging, Params},
};

use crate::{
    model::{AuditHost, AuditModel, Finding},
    service::{Service, Settle},
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewAudit {
    /// Only this host, by name or id; every host if not said.
    host: Option<String>,
}

/// An audit with what it found.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct AuditView {
    #[serde(flatten)]
    audit: AuditModel,
    /// Whether nothing is amiss and every host was asked; false while it runs.
    clean: bool,
    /// What it found.
    findings: Page<Finding>,
}

/// What ops decided.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Decision {
    /// `adopt`: it becomes the node that it says it is, whose claim stands. `remove`: it is taken away.
    settle: Settle,
    /// Why; kept in the event.
    #[serde(default)]
    why: String,
}

/// Audit now
///
/// Compares every claim with what the hosts themselves say. It goes on when this answers: ask for it by its id until it
/// is `done`.
#[utoipa::path(post, path = "/v1/audits", tag = "resources", request_body = NewAudit,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key again begins no other")),
    responses((status = 202, body = AuditModel), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    State(service): State<Service>,
    who: Principal,
    IdempotencyKey(key): IdempotencyKey,
    Body(NewAudit { host }): Body<NewAudit>,
) -> Result<(StatusCode, Json<AuditModel>), Problem> {
    let audit = service.audit_create(&who, host.as_deref(), key.as_deref()).await?;
    Ok((StatusCode::ACCEPTED, Json(audit)))
}

/// List audits
///
/// Newest first; the newest 200 are kept.
#[utoipa::path(get, path = "/v1/audits", tag = "resources", params(Paging),
    responses((status = 200, body = Page<AuditModel>), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(service): State<Service>,
    who: Principal,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<AuditModel>>, Problem> {
    service.audit_list(&who, &paging).await.map(Json)
}

/// Show an audit
///
/// With what it found so far, a page of it.
#[utoipa::path(get, path = "/v1/audits/{audit}", tag = "resources",
    params(("audit", description = "id, or `latest` for the newest of every host that ended"), Paging),
    responses((status = 200, body = AuditView), (status = "4XX", body = Problem)))]
pub(super) async fn get(
    State(service): State<Service>,
    who: Principal,
    Path(audit): Path<String>,
    Params(paging): Params<Paging>,
) -> Result<Json<AuditView>, Problem> {
    let audit = service.audit_get(&who, &audit).await?;
    let findings = service.finding_list(&who, audit.id, &paging).await?;
    let clean = audit.state == crate::model::AuditState::Done && audit.tally.is_clean();
    Ok(Json(AuditView { audit, clean, findings }))
}

/// Show what an audit says of each host
///
/// With the overhead of its cut, as measured and as estimated.
#[utoipa::path(get, path = "/v1/audits/{audit}/hosts", tag = "resources",
    params(("audit", description = "id, or `latest`"), Paging),
    responses((status = 200, body = Page<AuditHost>), (status = "4XX", body = Problem)))]
pub(super) async fn hosts(
    State(service): State<Service>,
    who: Principal,
    Path(audit): Path<String>,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<AuditHost>>, Problem> {
    let audit = service.audit_get(&who, &audit).await?;
    service.audit_hosts(&who, audit.id, &paging).await.map(Json)
}

/// Settle an orphan
///
/// Adopts or removes what nobody claims. Nothing of the kind is ever done without this.
#[utoipa::path(post, path = "/v1/findings/{finding}/settle", tag = "resources", request_body = Decision,
    params(("finding", description = "id")),
    responses((status = 200, body = Finding), (status = "4XX", body = Problem)))]
pub(super) async fn settle(
    State(service): State<Service>,
    who: Principal,
    Path(finding): Path<String>,
    Body(Decision { settle, why }): Body<Decision>,
) -> Result<Json<Finding>, Problem> {
    service.orphan_settle(&who, Id::parse(&finding)?, settle, &why).await.map(Json)
}
