//! Dead letters as the API shows them.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use serde::{Deserialize, Serialize};

use super::{Api, Problem};
use crate::model::{FailureClass, LetterState};
use crate::store::{LetterFilter, Page};

pub use crate::dlq::view::Letter;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    /// 1 to 1000.
    limit: Option<usize>,
    offset: Option<usize>,
    /// `next` of the page before; stays right while letters come and go.
    cursor: Option<String>,
    route: Option<String>,
    r#type: Option<String>,
    class: Option<FailureClass>,
    state: Option<LetterState>,
    /// Found in reason, code, message id or destination.
    text: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct Listing {
    /// All that match, not just this page.
    count: u64,
    messages: Vec<Letter>,
    next: Option<String>,
}

const DEFAULT_LIMIT: usize = 50;
const MAX_LIMIT: usize = 1000;

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Json<Listing>, Problem> {
    let Query(parameters) = parameters.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let filter = LetterFilter {
        route: parameters.route,
        message_type: parameters.r#type,
        class: parameters.class,
        state: parameters.state,
        open: false,
        text: parameters.text,
    };
    let page = Page {
        limit: parameters.limit.unwrap_or(DEFAULT_LIMIT).clamp(1, MAX_LIMIT),
        offset: parameters.offset.unwrap_or_default(),
        cursor: parameters.cursor,
    };
    let found = api.letters.list(&filter, &page).await?;
    let messages = found.letters.iter().map(Letter::summary).collect();
    Ok(Json(Listing {
        count: found.count,
        messages,
        next: found.next,
    }))
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<Json<Letter>, Problem> {
    let letter = api.letters.get(&id).await?;
    letter.map(|letter| Json(Letter::whole(&letter))).ok_or_else(|| {
        Problem::not_found(format!(
            "no dead letter `{id}`; `helix dlq ls` shows what there is"
        ))
    })
}
