//! Is it alive, is it ready, what is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use serde::Serialize;

use super::Api;
use crate::broker;

/// 200 as long as the process serves requests.
pub(super) async fn alive() -> Json<Alive> {
    Json(Alive {
        status: Health::Healthy,
    })
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct Alive {
    status: Health,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Health {
    Healthy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Status {
    Ready,
    /// Works, somebody should look.
    Degraded,
    Unready,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "Health")]
pub(super) struct Report {
    status: Status,
    brokers: BTreeMap<String, broker::Health>,
    /// What is wrong, one line each, most urgent first.
    reasons: Vec<String>,
    /// Retries parked in the store; none when it does not answer.
    retries_pending: Option<u64>,
    version: &'static str,
}

/// 200 when messages flow, 503 when they do not, with the reasons.
pub(super) async fn ready(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let report = report(&api).await;
    let status = if report.status == Status::Unready {
        StatusCode::SERVICE_UNAVAILABLE
    } else {
        StatusCode::OK
    };
    (status, Json(report))
}

/// The same report, always 200.
pub(super) async fn detail(State(api): State<Arc<Api>>) -> Json<Report> {
    Json(report(&api).await)
}

pub(super) async fn metrics(State(api): State<Arc<Api>>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        api.metrics.encode(),
    )
}

async fn report(api: &Api) -> Report {
    let brokers: BTreeMap<String, broker::Health> = api
        .brokers
        .iter()
        .map(|(name, broker)| (name.to_string(), broker.health()))
        .collect();
    let mut unready = Vec::new();
    let mut degraded = Vec::new();
    if api.stopping.is_cancelled() {
        unready.push("the host is draining".to_owned());
    }
    for (name, health) in &brokers {
        match health {
            broker::Health::Up => {}
            broker::Health::Degraded { reason } => degraded.push(format!("broker `{name}`: {reason}")),
            broker::Health::Down { reason } => unready.push(format!("broker `{name}`: {reason}")),
        }
    }
    let retries_pending = match api.retries.count().await {
        Ok(count) => Some(count),
        Err(error) => {
            unready.push(error.to_string());
            None
        }
    };
    unready.extend(api.dispatcher.waiting_for_plugins());
    for plugin in api.plugins.list() {
        if let Some(why) = plugin.stale {
            degraded.push(match plugin.digest {
                Some(_) => format!(
                    "plugin `{}` is STALE, the last good version serves: {why}",
                    plugin.name
                ),
                None => format!("plugin `{}` was refused, its messages wait: {why}", plugin.name),
            });
        }
    }
    if let Some(why) = api.stale_config.load_full() {
        degraded.push(format!(
            "the configuration on disk was refused, the last good one serves: {why}"
        ));
    }
    let status = match (unready.is_empty(), degraded.is_empty()) {
        (false, _) => Status::Unready,
        (true, false) => Status::Degraded,
        (true, true) => Status::Ready,
    };
    unready.append(&mut degraded);
    Report {
        status,
        brokers,
        reasons: unready,
        retries_pending,
        version: env!("CARGO_PKG_VERSION"),
    }
}
