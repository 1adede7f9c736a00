//! Images.

use axum::{
    Json,
    body::Body as RawBody,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;
use utoipa::ToSchema;
use yiqiu_base::{
    Principal, Problem,
    http::{Body, IdempotencyKey, Page, Paging, Params, Tagged},
};

use crate::{model::ImageModel, service::Service};

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewImage {
    /// 1 to 63 of a-z, 0-9 and -.
    name: String,
    /// SHA-256 of the tar, 64 lower-case hexadecimal digits.
    sha256: String,
    /// Bytes of the tar.
    bytes: i64,
}

/// Add an image
///
/// Names it and says what its content will be; then send the content.
#[utoipa::path(post, path = "/v1/images", tag = "resources", request_body = NewImage,
    responses((status = 201, body = ImageModel), (status = "4XX", body = Problem)))]
pub(super) async fn create(
    State(service): State<Service>,
    who: Principal,
    key: IdempotencyKey,
    Body(new): Body<NewImage>,
) -> Result<Tagged<ImageModel>, Problem> {
    let image = service.image_create(&who, &new.name, &new.sha256, new.bytes, key.0.as_deref()).await?;
    Ok(Tagged(StatusCode::CREATED, image.generation, image))
}

/// Send the content of an image
///
/// A root file system as an uncompressed tar. Refused as a whole if it is not what was said.
#[utoipa::path(put, path = "/v1/images/{image}/content", tag = "resources",
    params(("image", description = "name or id")), request_body(content = Vec<u8>, content_type = "application/x-tar"),
    responses((status = 200, body = ImageModel), (status = "4XX", body = Problem)))]
pub(super) async fn fill(
    State(service): State<Service>,
    who: Principal,
    Path(image): Path<String>,
    content: RawBody,
) -> Result<Tagged<ImageModel>, Problem> {
    let image = service.image_fill(&who, &image, content.into_data_stream()).await?;
    Ok(Tagged(StatusCode::OK, image.generation, image))
}

/// List images
#[utoipa::path(get, path = "/v1/images", tag = "resources", params(Paging),
    responses((status = 200, body = Page<ImageModel>), (status = "4XX", body = Problem)))]
pub(super) async fn list(
    State(service): State<Service>,
    who: Principal,
    Params(paging): Params<Paging>,
) -> Result<Json<Page<ImageModel>>, Problem> {
    service.image_list(&who, &paging).await.map(Json)
}

/// Show an image
#[utoipa::path(get, path = "/v1/images/{image}", tag = "resources", params(("image", description = "name or id")),
    responses((status = 200, body = ImageModel), (status = "4XX", body = Problem)))]
pub(super) async fn get(
    State(service): State<Service>,
    who: Principal,
    Path(image): Path<String>,
) -> Result<Tagged<ImageModel>, Problem> {
    let image = service.image_get(&who, &image).await?;
    Ok(Tagged(StatusCode::OK, image.generation, image))
}

/// Delete an image that no node starts from
#[utoipa::path(delete, path = "/v1/images/{image}", tag = "resources", params(("image", description = "name or id")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(super) async fn delete(
    State(service): State<Service>,
    who: Principal,
    Path(image): Path<String>,
) -> Result<StatusCode, Problem> {
    service.image_delete(&who, &image).await.map(|()| StatusCode::NO_CONTENT)
}
