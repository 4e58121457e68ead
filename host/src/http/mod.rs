//! The HTTP API: publishing, dead letters, plugins, health, metrics. Paths are the manual's; errors are problem+json.

mod auth;
mod dlq;
mod health;
mod parked;
mod plugins;
mod problem;
mod publish;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{delete, get, post};
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutLayer;

pub use auth::Token;
pub use problem::Problem;

use crate::broker::Broker;
use crate::dispatch::{Dispatcher, Targets};
use crate::dlq::Redrive;
use crate::guest::Plugins;
use crate::model::{Clock, Ids};
use crate::store::{DeadLetters, HeldKeys, Retries};
use crate::telemetry::Metrics;

/// What the handlers of the API need.
pub struct Api {
    pub brokers: HashMap<Arc<str>, Arc<dyn Broker>>,
    pub targets: Targets,
    pub plugins: Arc<dyn Plugins>,
    pub letters: Arc<dyn DeadLetters>,
    pub held: Arc<dyn HeldKeys>,
    pub redrive: Arc<Redrive>,
    pub retries: Arc<dyn Retries>,
    pub dispatcher: Arc<Dispatcher>,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub token: Option<Token>,
    /// The last configuration that was refused, and why; none when the newest one serves.
    pub stale_config: Arc<arc_swap::ArcSwapOption<String>>,
    pub messaging: bool,
    /// Payload and envelope together.
    pub body_limit: usize,
    /// What intake would refuse is refused here already.
    pub message_limit: usize,
    /// Cancelled while draining: `/readyz` says 503.
    pub stopping: CancellationToken,
}

/// A request that takes longer than this is answered with 408; publishing has the brokers' own deadline below it.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

pub fn router(api: Arc<Api>) -> Router {
    let limit = api.body_limit;
    let private = Router::new()
        .route("/v1/messaging/tasks/{queue}", post(publish::task))
        .route("/v1/messaging/events/{topic}", post(publish::event))
        .route("/v1/messaging/dlq", get(dlq::list))
        .route("/v1/messaging/dlq/{id}", get(dlq::show).delete(dlq::discard))
        .route("/v1/messaging/dlq/{id}/reprocess", post(dlq::reprocess))
        .route("/v1/messaging/dlq/{id}/discard", delete(dlq::discard))
        .route("/v1/messaging/dlq/parked", get(parked::list))
        .route("/v1/messaging/dlq/{id}/release", post(parked::release))
        .route("/v1/messaging/plugins", get(plugins::list))
        .route_layer(axum::middleware::from_fn_with_state(
            Arc::clone(&api),
            auth::require,
        ))
        .layer(DefaultBodyLimit::max(limit));
    Router::new()
        .route("/health", get(health::alive))
        .route("/livez", get(health::alive))
        .route("/readyz", get(health::ready))
        .route("/v1/messaging/health", get(health::detail))
        .route("/metrics", get(health::metrics))
        .route("/v1/messaging/metrics", get(health::metrics))
        .merge(private)
        .fallback(problem::no_such_path)
        .layer(TimeoutLayer::with_status_code(
            axum::http::StatusCode::REQUEST_TIMEOUT,
            REQUEST_LIMIT,
        ))
        .with_state(api)
}

/// Serves until `stop`, then lets requests under way finish.
///
/// # Errors
/// When the socket fails.
pub async fn serve(
    listener: tokio::net::TcpListener,
    api: Arc<Api>,
    stop: CancellationToken,
) -> Result<(), String> {
    axum::serve(listener, router(api))
        .with_graceful_shutdown(async move { stop.cancelled().await })
        .await
        .map_err(|error| format!("serve HTTP: {error}"))
}

/// Another address than loopback needs a token: the API shows payloads and publishes.
pub fn may_bind(address: SocketAddr, token: Option<&Token>) -> bool {
    address.ip().is_loopback() || token.is_some()
}
