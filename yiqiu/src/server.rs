//! One port for everything that a process serves: the HTTP API and gRPC, health, metrics, documentation.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
    serve::ListenerExt,
};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use yiqiu_base::{
    Code, Problem,
    database::Database,
    http::{Gate, edge, request_id},
    reconcile::Loops,
    telemetry,
};

use crate::openapi;

/// How long requests that are under way may take to end once the process was asked to stop.
const STOP_MOST: Duration = Duration::from_secs(10);

/// What a process serves.
pub struct Site {
    /// The HTTP API of its roles.
    pub api: OpenApiRouter,
    /// Their gRPC services, and that of the agents.
    pub grpc: Routes,
    /// Who may.
    pub gate: Gate,
    /// The database of each role.
    pub databases: BTreeMap<&'static str, Database>,
    /// The loops that run here.
    pub loops: Loops,
    /// Where each tier is served; `None`: here.
    pub endpoints: BTreeMap<&'static str, Option<String>>,
}

#[derive(Clone)]
struct Health {
    databases: BTreeMap<&'static str, Database>,
    loops: Loops,
}

impl Site {
    /// Everything behind one router.
    pub fn router(self, metrics: Option<PrometheusHandle>) -> anyhow::Result<Router> {
        let Site { api, grpc, gate, databases, loops, endpoints } = self;
        let (api, description) = api.split_for_parts();
        let endpoints = json!(endpoints);
        let documents = openapi::router(&description, &endpoints)?;
        let open = Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz))
            .with_state(Health { databases, loops })
            .route(
                "/metrics",
                get(move || async move { metrics.as_ref().map_or_else(String::new, PrometheusHandle::render) }),
            )
            .route("/v1/endpoints", get(move || async move { Json(endpoints) }))
            .merge(documents)
            .layer(axum::middleware::from_fn(request_id));
        Ok(edge(api, gate)
            .merge(open)
            .merge(grpc.into_axum_router())
            .fallback(nothing_there)
            .layer(CatchPanicLayer::custom(|_| Problem::internal("a handler panicked").into_response())))
    }
}

/// The metrics of this process, and what keeps them tidy.
pub fn metrics(stop: CancellationToken) -> Option<PrometheusHandle> {
    let handle = telemetry::metrics()?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        while stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(5))).await.is_some() {
            upkeep.run_upkeep();
        }
    });
    Some(handle)
}

/// Takes the port. `in use` is the usual reason why not, so it is told by name.
pub async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{address} cannot be listened on (--listen)"))
}

/// Serves until `stop`, and then until what is under way has ended, or the deadline is over.
pub async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) -> anyhow::Result<()> {
    // Answers are small: do not hold them back to fill a packet.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    tokio::select! {
        served = serving.into_future() => served.context("the server failed"),
        () = async { stop.cancelled().await; tokio::time::sleep(STOP_MOST).await } => {
            tracing::warn!("some requests did not end in {} s and are cut off", STOP_MOST.as_secs());
            Ok(())
        }
    }
}

async fn readyz(State(Health { databases, loops }): State<Health>) -> Response {
    let mut ready = true;
    let mut shown = BTreeMap::new();
    for (role, database) in databases {
        let said = match tokio::time::timeout(Duration::from_secs(5), database.ping()).await {
            Ok(Ok(())) => "ready".to_owned(),
            Ok(Err(problem)) => problem.to_string(),
            Err(_) => "does not answer within 5 s".to_owned(),
        };
        ready &= said == "ready";
        shown.insert(role, said);
    }
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let document: Value = json!({"ready": ready, "databases": shown, "loops": loops.status()});
    (status, Json(document)).into_response()
}

async fn nothing_there(headers: HeaderMap, uri: axum::http::Uri) -> Response {
    let grpc = headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return tonic::Status::unimplemented("this process does not serve that role").into_http();
    }
    Problem::new(Code::NotFound, format!("there is nothing at {}: /docs lists what there is", uri.path()))
        .into_response()
}

/// Ends when the process is asked to: SIGTERM, or SIGINT from a terminal.
pub async fn asked_to_stop() -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
