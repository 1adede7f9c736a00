//! Regions, zones and racks.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;
use utoipa::ToSchema;
use yiqiu_base::{
    Principal, Problem,
    http::{Body, IdempotencyKey, Page, Paging, Params, Tagged},
};

use crate::{
    model::{RackModel, RegionModel, ZoneModel},
    service::Service,
};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRegion {
    /// 1 to 63 of a-z, 0-9 and -.
    name: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewZone {
    /// 1 to 63 of a-z, 0-9 and -.
    name: String,
    /// Its region, by name or id.
    region: String,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRack {
    /// 1 to 63 of a-z, 0-9 and -.
    name: String,
    /// Its zone, by name or id.
    zone: String,
    /// How many units it has: 1 to 100, 42 if not said.
    #[serde(default = "usual_units")]
    units: i64,
}

fn usual_units() -> i64 {
    42
}

/// Add a region
#[utoipa::path(post, path = "/v1/regions", tag = "resources", request_body = NewRegion,
    responses((status = 201, body = RegionModel), (status = "4XX", body = Problem)))]
pub(super) async fn region_create(
    State(service): State<Service>,
    who: Principal,
    key: IdempotencyKey,
    Body(new): Body<NewRegion>,
) -> Result<Tagged<RegionModel>, Problem> {
    let region = service.region_create(&who, &new.name, key.0.as_deref()).await?;
    Ok(Tagged(StatusCode::CREATED, region.generation, region))
}

/// List regions
#[utoipa::path(get, path = "/v1/regions", tag = "resources", params(Paging),
    responses((status = 200, body = Page<RegionModel>), (status = "4XX", body = Problem)))]
pub(super) async fn region_list(
    State(service): State<Service>,
    who: Principal,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<RegionModel>>, Problem> {
    service.region_list(&who, &paging).await.map(Json)
}

/// Show a region
#[utoipa::path(get, path = "/v1/regions/{region}", tag = "resources", params(("region", description = "name or id")),
    responses((status = 200, body = RegionModel), (status = "4XX", body = Problem)))]
pub(super) async fn region_get(
    State(service): State<Service>,
    who: Principal,
    Path(region): Path<String>,
) -> Result<Tagged<RegionModel>, Problem> {
    let region = service.region_get(&who, &region).await?;
    Ok(Tagged(StatusCode::OK, region.generation, region))
}

/// Delete an empty region
#[utoipa::path(delete, path = "/v1/regions/{region}", tag = "resources", params(("region", description = "name or id")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn region_delete(
    State(service): State<Service>,
    who: Principal,
    Path(region): Path<String>,
) -> Result<StatusCode, Problem> {
    service.region_delete(&who, &region).await.map(|()| StatusCode::NO_CONTENT)
}

/// Add a zone
#[utoipa::path(post, path = "/v1/zones", tag = "resources", request_body = NewZone,
    responses((status = 201, body = ZoneModel), (status = "4XX", body = Problem)))]
pub(super) async fn zone_create(
    State(service): State<Service>,
    who: Principal,
    key: IdempotencyKey,
    Body(new): Body<NewZone>,
) -> Result<Tagged<ZoneModel>, Problem> {
    let zone = service.zone_create(&who, &new.name, &new.region, key.0.as_deref()).await?;
    Ok(Tagged(StatusCode::CREATED, zone.generation, zone))
}

/// List zones
#[utoipa::path(get, path = "/v1/zones", tag = "resources", params(Paging),
    responses((status = 200, body = Page<ZoneModel>), (status = "4XX", body = Problem)))]
pub(super) async fn zone_list(
    State(service): State<Service>,
    who: Principal,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<ZoneModel>>, Problem> {
    service.zone_list(&who, &paging).await.map(Json)
}

/// Show a zone
#[utoipa::path(get, path = "/v1/zones/{zone}", tag = "resources", params(("zone", description = "name or id")),
    responses((status = 200, body = ZoneModel), (status = "4XX", body = Problem)))]
pub(super) async fn zone_get(
    State(service): State<Service>,
    who: Principal,
    Path(zone): Path<String>,
) -> Result<Tagged<ZoneModel>, Problem> {
    let zone = service.zone_get(&who, &zone).await?;
    Ok(Tagged(StatusCode::OK, zone.generation, zone))
}

/// Delete an empty zone
#[utoipa::path(delete, path = "/v1/zones/{zone}", tag = "resources", params(("zone", description = "name or id")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn zone_delete(
    State(service): State<Service>,
    who: Principal,
    Path(zone): Path<String>,
) -> Result<StatusCode, Problem> {
    service.zone_delete(&who, &zone).await.map(|()| StatusCode::NO_CONTENT)
}

/// Add a rack
#[utoipa::path(post, path = "/v1/racks", tag = "resources", request_body = NewRack,
    responses((status = 201, body = RackModel), (status = "4XX", body = Problem)))]
pub(super) async fn rack_create(
    State(service): State<Service>,
    who: Principal,
    key: IdempotencyKey,
    Body(new): Body<NewRack>,
) -> Result<Tagged<RackModel>, Problem> {
    let rack = service.rack_create(&who, &new.name, &new.zone, new.units, key.0.as_deref()).await?;
    Ok(Tagged(StatusCode::CREATED, rack.generation, rack))
}

/// List racks
#[utoipa::path(get, path = "/v1/racks", tag = "resources", params(Paging),
    responses((status = 200, body = Page<RackModel>), (status = "4XX", body = Problem)))]
pub(super) async fn rack_list(
    State(service): State<Service>,
    who: Principal,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<RackModel>>, Problem> {
    service.rack_list(&who, &paging).await.map(Json)
}

/// Show a rack
#[utoipa::path(get, path = "/v1/racks/{rack}", tag = "resources", params(("rack", description = "name or id")),
    responses((status = 200, body = RackModel), (status = "4XX", body = Problem)))]
pub(super) async fn rack_get(
    State(service): State<Service>,
    who: Principal,
    Path(rack): Path<String>,
) -> Result<Tagged<RackModel>, Problem> {
    let rack = service.rack_get(&who, &rack).await?;
    Ok(Tagged(StatusCode::OK, rack.generation, rack))
}

/// Delete an empty rack
#[utoipa::path(delete, path = "/v1/racks/{rack}", tag = "resources", params(("rack", description = "name or id")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn rack_delete(
    State(service): State<Service>,
    who: Principal,
    Path(rack): Path<String>,
) -> Result<StatusCode, Problem> {
    service.rack_delete(&who, &rack).await.map(|()| StatusCode::NO_CONTENT)
}
