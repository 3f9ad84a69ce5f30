//! `/healthz`, `/readyz` and `/metrics` over HTTP.
//!
//! `/healthz` answers as long as the process can answer at all. `/readyz` is 200 or 503 with one line per
//! pending name; either has a line per notice, of what is wrong without holding readiness back. `/metrics` is the OpenMetrics text of one registry.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use parking_lot::Mutex;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::Readiness;

/// The metrics of a process: one registry that subsystems register into at start.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// A registry whose names all begin with `epic_`.
    pub fn new() -> Self {
        Self { registry: Arc::new(Mutex::new(Registry::with_prefix("epic"))) }
    }

    /// Lets a subsystem register what it counts.
    pub fn register<T>(&self, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(&mut self.registry.lock())
    }

    /// The OpenMetrics text of everything registered.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail; an encoder error would be a bug in a collector, shown as a short text.
        match encode(&mut text, &self.registry.lock()) {
            Ok(()) => text,
            Err(error) => format!("# metrics cannot be encoded: {error}\n"),
        }
    }
}

/// The administrative port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address} for health and metrics; is another process of EPIC running here?")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The listener broke.
    #[error("serving health and metrics ended")]
    Serve(#[source] std::io::Error),
}

/// The routes, for a server or for a test.
pub fn router(readiness: Readiness, metrics: Metrics) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz).with_state(readiness))
        .route("/metrics", get(exposition).with_state(metrics))
}

/// Serves until `shutdown` is cancelled.
pub async fn serve(
    address: SocketAddr,
    readiness: Readiness,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), ServeError> {
    let listener = TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })?;
    axum::serve(listener, router(readiness, metrics))
        .with_graceful_shutdown(async move { shutdown.cancelled().await })
        .await
        .map_err(ServeError::Serve)
}

async fn readyz(State(readiness): State<Readiness>) -> Response {
    let pending = readiness.pending();
    let notices = readiness.notices();
    let lines = pending.iter().chain(&notices).map(|(name, reason)| format!("{name}: {reason}\n"));
    let lines: String = lines.collect();
    if pending.is_empty() {
        return format!("ok\n{lines}").into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, lines).into_response()
}

async fn exposition(State(metrics): State<Metrics>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics.text()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::Request;
    use http_body_util::BodyExt;
    use prometheus_client::metrics::counter::Counter;
    use tower::ServiceExt;

    async fn get(router: Router, path: &str) -> (StatusCode, String) {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn readyz_names_what_is_pending() {
        let readiness = Readiness::new();
        let token = readiness.hold("endpoints");
        token.because("list is forbidden");
        let router = router(readiness, Metrics::new());
        let (status, body) = get(router.clone(), "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(body, "endpoints: list is forbidden\n");
        drop(token);
        assert_eq!(get(router, "/readyz").await.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn metrics_carry_the_prefix() {
        let metrics = Metrics::new();
        let counter = Counter::<u64>::default();
        metrics.register(|registry| registry.register("writes", "Writes.", counter.clone()));
        counter.inc();
        let (_, body) = get(router(Readiness::new(), metrics), "/metrics").await;
        assert!(body.contains("epic_writes_total 1"), "{body}");
    }
}
