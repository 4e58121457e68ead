//! Keys that wait behind a dead letter: listed, and released.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use serde::{Deserialize, Serialize};

use super::dlq::{Because, outcome, problem};
use super::named::Named;
use super::page::Limits;
use super::{Api, Caller, Problem};
use crate::dispatch::lane_name;
use crate::dlq::view::{Outcome, ParkedKey};
use crate::store::{HeldFilter, HeldKey};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    route: Option<String>,
    /// 1 to 1000.
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "ParkedKeyList")]
pub(super) struct Listing {
    /// All that match, not just this page.
    count: u64,
    keys: Vec<ParkedKey>,
    next: Option<String>,
}

pub(super) const LIMITS: Limits = Limits {
    unless_set: 50,
    most: 1000,
};

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Json<Listing>, Problem> {
    let Query(parameters) = parameters.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let filter = HeldFilter {
        route: parameters.route,
        until_ms: None,
        limit: LIMITS.of(parameters.limit)?,
        cursor: parameters.cursor,
    };
    let found = api.held.held(&filter).await?;
    let mut keys: Vec<ParkedKey> = found.keys.iter().map(shown).collect();
    if !caller.payloads {
        keys.iter_mut().for_each(ParkedKey::withhold);
    }
    Ok(Json(Listing {
        count: found.count,
        keys,
        next: found.next,
    }))
}

fn shown(held: &HeldKey) -> ParkedKey {
    match lane_name(&held.lane) {
        Some(name) => ParkedKey::new(held, Some(name.destination), name.key),
        None => ParkedKey::new(held, None, &held.lane),
    }
}

pub(super) async fn release(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Named(id): Named,
    query: Result<Query<Because>, QueryRejection>,
    body: Bytes,
) -> Result<Json<Outcome>, Problem> {
    let because = Because::read(query, &body)?;
    let behalf = because.behalf(&caller);
    let done = api.redrive.release(&id, &behalf).await;
    let state = done.map_err(|refused| problem(&id, refused))?;
    Ok(Json(outcome(id, state)))
}
