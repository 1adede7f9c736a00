//! Logs, metrics and the id that a request keeps through every tier and into the agent's log.

use std::{future::Future, io::IsTerminal};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

tokio::task_local! {
    static REQUEST_ID: String;
}

/// The HTTP header and gRPC metadata key of the request id.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// The id of the request that this task serves; empty outside of one.
pub fn request_id() -> String {
    REQUEST_ID.try_with(Clone::clone).unwrap_or_default()
}

/// Runs a future as part of a request.
pub async fn with_request_id<F: Future>(id: String, future: F) -> F::Output {
    REQUEST_ID.scope(id, future).await
}

/// A request id from outside if it is fit for logs (at most 64 of letters, digits, `-`, `_` and `.`), else a fresh one.
pub fn request_id_or_new(given: Option<&str>) -> String {
    match given {
        Some(id)
            if (1..=64).contains(&id.len())
                && id.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) =>
        {
            id.to_owned()
        }
        _ => uuid::Uuid::new_v4().simple().to_string(),
    }
}

/// Logs to standard error: for people on a terminal, one JSON object a line elsewhere. `YIQIU_LOG` filters, such as
/// `info,yiqiu_resources=debug`.
pub fn logs() {
    let filter = EnvFilter::try_from_env("YIQIU_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,sqlx=warn,h2=warn,sea_orm_migration=warn"));
    let registry = tracing_subscriber::registry().with(filter);
    let tty = std::io::stderr().is_terminal();
    let done = if tty {
        registry.with(fmt::layer().with_writer(std::io::stderr).with_target(false)).try_init()
    } else {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
    };
    drop(done); // a second call, as in tests, changes nothing
}

/// Installs the metrics of this process and returns what renders them for Prometheus; `None` if they are installed.
pub fn metrics() -> Option<PrometheusHandle> {
    PrometheusBuilder::new().install_recorder().ok()
}
