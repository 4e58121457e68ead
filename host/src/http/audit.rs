//! `GET /v1/messaging/audit`: who did what, and what was refused.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::page::Limits;
use super::{Api, Problem};
use crate::dlq::view::time;
use crate::model::{Clock, UnixMs};
use crate::store::{Audit, AuditEntry};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    /// 1 to 1000, 100 unless set.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<u64>,
}

/// A page of the audit table, newest first.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "AuditList")]
pub(super) struct Listing {
    entries: Vec<Entry>,
    /// `cursor` of the next page; null on the last.
    next: Option<u64>,
}

/// One request that changed something, or that was refused.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "AuditEntry")]
pub(super) struct Entry {
    #[schemars(extend("format" = "date-time"))]
    time: String,
    /// The name of the token; `http` where the host asks for none, `?` when nobody was recognised.
    actor: String,
    role: String,
    /// Method and path pattern.
    action: String,
    /// The path as it was asked for.
    target: String,
    /// The HTTP status of the answer.
    status: u16,
    /// Requests that the entry stands for: a flood of refusals shares one.
    count: u64,
}

impl From<AuditEntry> for Entry {
    fn from(entry: AuditEntry) -> Self {
        Self {
            time: time(entry.at_ms),
            actor: entry.actor,
            role: entry.role,
            action: entry.action,
            target: entry.target,
            status: entry.status,
            count: entry.count,
        }
    }
}

/// Rows are kept so long: a quarter, as auditors ask for.
const KEPT_MS: UnixMs = 90 * 24 * 60 * 60 * 1000;
const INTERVAL: Duration = Duration::from_secs(600);
/// Rows in one transaction, so that it is over soon.
const AT_ONCE: usize = 10_000;

/// Deletes what is older than 90 days, until `stop`.
///
/// # Errors
/// Never: a store that is away is asked again.
pub async fn forget(
    audit: Arc<dyn Audit>,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> Result<(), String> {
    loop {
        let before = clock.now_ms().saturating_sub(KEPT_MS);
        let gone = audit.forget(before, AT_ONCE).await;
        if gone.is_ok_and(|rows| rows >= AT_ONCE as u64) && !stop.is_cancelled() {
            continue;
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(INTERVAL) => {}
        }
    }
}

pub(super) const LIMITS: Limits = Limits {
    unless_set: 100,
    most: 1000,
};

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Json<Listing>, Problem> {
    let Query(parameters) = parameters.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let limit = LIMITS.of(parameters.limit)?;
    let page = api.audit.audit(parameters.cursor, limit).await?;
    Ok(Json(Listing {
        entries: page.entries.into_iter().map(Entry::from).collect(),
        next: page.next,
    }))
}
