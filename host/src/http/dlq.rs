//! Dead letters as the API shows them, sends them again, and discards them.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use super::{Api, Problem};
use crate::broker::PublishError;
use crate::dlq::Refused;
use crate::dlq::view::Outcome;
use crate::model::outcome::REASON_LIMIT;
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
    /// One of them, or all; without it those that nobody has dealt with yet.
    state: Option<Wanted>,
    /// Found in reason, code, message id or destination.
    text: Option<String>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    All,
    #[serde(untagged)]
    State(LetterState),
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
        state: match parameters.state {
            Some(Wanted::State(state)) => Some(state),
            Some(Wanted::All) | None => None,
        },
        open: parameters.state.is_none(),
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
    let letter = api.letters.get(&id).await?.ok_or_else(|| unknown(&id))?;
    let trail = api.letters.trail(&id).await?;
    let held = api.held.held_by(&id).await?;
    Ok(Json(Letter {
        waiting: held.map(|held| held.waiting),
        ..Letter::whole(&letter, trail)
    }))
}

/// Who asks and why, in the query or in a JSON body.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Because {
    /// A name for the trail, taken as it is said.
    actor: Option<String>,
    pub(super) reason: Option<String>,
}

const ACTOR: &str = "http";
const MAX_ACTOR: usize = 128;

impl Because {
    /// The body where it says something, else the query.
    pub(super) fn read(
        query: Result<Query<Self>, QueryRejection>,
        body: Result<Bytes, BytesRejection>,
    ) -> Result<Self, Problem> {
        let Query(query) = query.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        let body = body.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        let said: Self = if body.is_empty() {
            Self::default()
        } else {
            serde_json::from_slice(&body)
                .map_err(|error| Problem::bad_request(format!("the body is not understood: {error}")))?
        };
        let text = |name: &str, text: Option<String>, most: usize| match text {
            Some(text) if text.len() > most => Err(Problem::bad_request(format!(
                "`{name}` has {} bytes, at most {most} are kept",
                text.len()
            ))),
            text => Ok(text.filter(|text| !text.trim().is_empty())),
        };
        Ok(Self {
            actor: text("actor", said.actor.or(query.actor), MAX_ACTOR)?,
            reason: text("reason", said.reason.or(query.reason), REASON_LIMIT)?,
        })
    }

    pub(super) fn actor(&self) -> &str {
        self.actor.as_deref().unwrap_or(ACTOR)
    }
}

pub(super) async fn reprocess(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    query: Result<Query<Because>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Outcome>), Problem> {
    let because = Because::read(query, body)?;
    if !api.messaging {
        return Err(Problem::unavailable(
            "messaging is switched off (MESSAGING_ENABLED=false)",
        ));
    }
    let done = api.redrive.reprocess(&id, because.actor()).await;
    let state = done.map_err(|refused| problem(&id, refused))?;
    // On its way, not handled yet.
    Ok((StatusCode::ACCEPTED, Json(outcome(id, state))))
}

pub(super) async fn discard(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    query: Result<Query<Because>, QueryRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Outcome>, Problem> {
    let because = Because::read(query, body)?;
    let actor = because.actor().to_owned();
    let done = api.redrive.discard(&id, &actor, because.reason).await;
    let state = done.map_err(|refused| problem(&id, refused))?;
    Ok(Json(outcome(id, state)))
}

pub(super) fn outcome(id: String, state: LetterState) -> Outcome {
    Outcome {
        id,
        status: state.as_str().to_owned(),
    }
}

fn unknown(id: &str) -> Problem {
    Problem::not_found(format!(
        "no dead letter `{id}`; `helix dlq ls` shows what there is"
    ))
}

pub(super) fn problem(id: &str, refused: Refused) -> Problem {
    let dead = LetterState::Dead;
    match refused {
        Refused::Unknown => unknown(id),
        Refused::Conflict(state) => Problem::conflict(
            state,
            format!("the letter `{id}` is {}; {}", state.as_str(), next(state)),
        ),
        Refused::HoldsNothing => Problem::conflict(
            dead,
            format!("no key waits behind the letter `{id}`; `helix dlq parked` shows those that do"),
        ),
        Refused::Target(PublishError::UnknownTarget(name)) => Problem::conflict(
            dead,
            format!(
                "its queue `{name}` is gone, nothing was sent; create it again (`helix topology apply`), or discard the letter with a reason"
            ),
        ),
        Refused::Refusal(_) | Refused::NoBroker(_) | Refused::Target(_) => {
            Problem::conflict(dead, format!("the letter `{id}` cannot be sent again: {refused}"))
        }
        Refused::Away(PublishError::Full(_)) => Problem::full(refused.to_string()),
        Refused::Away(PublishError::Unknown(_)) => Problem::unavailable(format!(
            "{refused}. It may have been sent: its consumer can tell a second one by the message id"
        )),
        Refused::Away(_) => Problem::unavailable(format!("{refused}. Nothing was sent; try again later")),
        Refused::Unrecorded(_) => Problem::unavailable(refused.to_string()),
        Refused::Store(error) => error.into(),
    }
}

/// What somebody can do who finds a letter in that state.
fn next(state: LetterState) -> &'static str {
    match state {
        LetterState::Dead => "somebody else had it in between; look at it and try again",
        LetterState::Retrying => "somebody is sending it again right now",
        LetterState::Reprocessed => "it was sent again already; should it fail once more, it is dead again",
        LetterState::Discarded => "it was discarded; publish a new message if it is needed after all",
        LetterState::Expired => {
            "its time was over before it ran; publish a new message if it is needed after all"
        }
    }
}
