//! The HTTP API: publishing, dead letters, replays, plugins, health, metrics. Paths are the manual's; errors are problem+json.

pub mod audit;
mod auth;
mod body;
mod dlq;
mod edit;
mod gate;
mod health;
mod named;
pub mod openapi;
mod outage;
mod page;
mod parked;
mod plugins;
mod problem;
mod publish;
mod rehearse;
mod replay;
mod routes;
mod serve;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::Response;
use tokio_util::sync::CancellationToken;

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
    let mut router = Router::new();
    for route in routes::all() {
        let handler = match route.role {
            None => route.handler,
            Some(role) => {
                let door = auth::Door::new(&api, role, route.brings);
                route.handler.route_layer(from_fn_with_state(door, auth::pass))
            }
        };
        router = router.route(route.path, handler);
    }
    router
        .fallback(problem::no_such_path)
        .method_not_allowed_fallback(problem::no_such_method)
        // A body has been read, within its own limit, before anybody sees it.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn(in_time))
        .with_state(api)
}

async fn in_time(request: Request, next: Next) -> Response {
    let answer = tokio::time::timeout(REQUEST_LIMIT, next.run(request)).await;
    answer.unwrap_or_else(|_| {
        let limit = REQUEST_LIMIT.as_secs();
        Problem::too_slow(format!(
            "it took longer than {limit} s; it may have been done in part"
        ))
        .into()
    })
}

/// Serves until `stop`, then lets requests under way finish.
///
/// # Errors
/// Never: a listener that fails is asked again.
pub async fn serve(
    listener: tokio::net::TcpListener,
    api: Arc<Api>,
    stop: CancellationToken,
) -> Result<(), String> {
    serve::serve(listener, router(api), stop).await
}

/// Another address than loopback needs a token: the API shows payloads and publishes.
pub fn may_bind(address: SocketAddr, tokens: &Tokens) -> bool {
    address.ip().is_loopback() || !tokens.is_empty()
}
