//! The HTTP API: publishing, dead letters, replays, plugins, health, metrics. Paths are the manual's; errors are problem+json.

pub mod audit;
mod auth;
mod dlq;
mod edit;
mod gate;
mod health;
mod parked;
mod plugins;
mod problem;
mod publish;
mod rehearse;
mod replay;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::{delete, get, post};
use tokio_util::sync::CancellationToken;
use tower_http::timeout::TimeoutLayer;

pub use auth::{Caller, Tokens};
pub use gate::Gate;
pub use problem::Problem;

use crate::broker::Broker;
use crate::dispatch::{Dispatcher, Targets};
use crate::dlq::Redrive;
use crate::dlq::rehearse::Turn;
use crate::guest::{Candidates, Plugins};
use crate::model::{Clock, Ids};
use crate::replay::Desk;
use crate::store::{Audit, AutoLetters, DeadLetters, HeldKeys, Jobs, Retries};
use crate::telemetry::Metrics;

/// What the handlers of the API need.
pub struct Api {
    pub brokers: HashMap<Arc<str>, Arc<dyn Broker>>,
    pub targets: Targets,
    pub plugins: Arc<dyn Plugins>,
    pub candidates: Arc<dyn Candidates>,
    pub letters: Arc<dyn DeadLetters>,
    pub auto: Arc<dyn AutoLetters>,
    pub held: Arc<dyn HeldKeys>,
    pub redrive: Arc<Redrive>,
    pub jobs: Arc<dyn Jobs>,
    /// Wakes whoever runs jobs.
    pub nudge: Arc<tokio::sync::Notify>,
    pub retries: Arc<dyn Retries>,
    pub replays: Arc<Desk>,
    pub dispatcher: Arc<Dispatcher>,
    pub metrics: Arc<Metrics>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    /// Replaced when the configuration is read again: a token that is taken out stops working at once.
    pub tokens: Arc<ArcSwap<Tokens>>,
    pub gate: Gate,
    pub audit: Arc<dyn Audit>,
    /// The last configuration that was refused, and why; none when the newest one serves.
    pub stale_config: Arc<arc_swap::ArcSwapOption<String>>,
    /// `[dlq] edit`, as it is now.
    pub dlq_edit: Arc<AtomicBool>,
    pub rehearsing: Turn,
    pub messaging: bool,
    /// Payload and envelope together.
    pub body_limit: usize,
    /// What intake would refuse is refused here already.
    pub message_limit: usize,
    /// Of a component that somebody brings.
    pub wasm_limit: usize,
    /// Cancelled while draining: `/readyz` says 503.
    pub stopping: CancellationToken,
}

/// A request that takes longer than this is answered with 408; publishing has the brokers' own deadline below it.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);

pub fn router(api: Arc<Api>) -> Router {
    let limit = api.body_limit;
    let viewer = Router::new()
        .route("/v1/messaging/dlq", get(dlq::list))
        .route("/v1/messaging/dlq/groups", get(dlq::groups))
        .route("/v1/messaging/dlq/jobs", get(dlq::jobs))
        .route("/v1/messaging/dlq/jobs/{id}", get(dlq::job))
        .route("/v1/messaging/dlq/jobs/{id}/results", get(dlq::results))
        .route("/v1/messaging/dlq/parked", get(parked::list))
        .route("/v1/messaging/dlq/{id}", get(dlq::show))
        .route("/v1/messaging/replay", get(replay::list))
        .route("/v1/messaging/replay/{id}", get(replay::show))
        .route("/v1/messaging/plugins", get(plugins::list))
        .route_layer(from_fn_with_state(Arc::clone(&api), auth::require_viewer));
    let operator = Router::new()
        .route("/v1/messaging/tasks/{queue}", post(publish::task))
        .route("/v1/messaging/events/{topic}", post(publish::event))
        .route("/v1/messaging/dlq/jobs", post(dlq::create))
        .route("/v1/messaging/dlq/jobs/{id}", delete(dlq::cancel))
        .route(
            "/v1/messaging/dlq/rehearse",
            post(rehearse::run).layer(DefaultBodyLimit::max(api.wasm_limit)),
        )
        .route("/v1/messaging/dlq/{id}", delete(dlq::discard))
        .route("/v1/messaging/dlq/{id}/reprocess", post(dlq::reprocess))
        .route("/v1/messaging/dlq/{id}/discard", delete(dlq::discard))
        .route("/v1/messaging/dlq/{id}/release", post(parked::release))
        .route("/v1/messaging/replay", post(replay::start))
        .route("/v1/messaging/replay/{id}", delete(replay::cancel))
        .route_layer(from_fn_with_state(Arc::clone(&api), auth::require_operator));
    let admin = Router::new()
        .route("/v1/messaging/dlq/{id}/edit", post(edit::edit))
        .route("/v1/messaging/audit", get(audit::list))
        .route_layer(from_fn_with_state(Arc::clone(&api), auth::require_admin));
    let private = viewer
        .merge(operator)
        .merge(admin)
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
pub fn may_bind(address: SocketAddr, tokens: &Tokens) -> bool {
    address.ip().is_loopback() || !tokens.is_empty()
}
