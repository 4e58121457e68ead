//! Dead letters as the API shows them, sends them again, and discards them.

mod groups;
mod jobs;
pub(super) mod parameters;

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

use self::parameters::{Words, filter, limit, number, take, words};
use super::named::Named;
use super::{Api, Caller, Problem};
use crate::broker::PublishError;
use crate::dlq::view::{Outcome, Unasked};
use crate::dlq::{Behalf, Refused};
use crate::error;
use crate::model::LetterState;
use crate::model::outcome::REASON_LIMIT;
use crate::store::Page;

pub(super) use self::groups::list as groups;
pub(super) use self::jobs::{Asked as NewJob, Who, cancel, create, list as jobs, results, show as job};
pub use crate::dlq::view::Letter;

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "DeadLetterList")]
pub(super) struct Listing {
    /// All that match, not just this page.
    count: u64,
    /// There are more: `count` is of those that were looked at.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    at_least: bool,
    messages: Vec<Letter>,
    next: Option<String>,
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    query: Result<Query<Words>, QueryRejection>,
) -> Result<Json<Listing>, Problem> {
    let mut words = words(query)?;
    let page = Page {
        limit: limit(&mut words)?,
        offset: number(&mut words, "offset")?.unwrap_or_default(),
        cursor: take(&mut words, "cursor"),
    };
    let filter = filter(&words, &api)?;
    let found = api.letters.list(&filter, &page).await?;
    let mut messages: Vec<Letter> = found.letters.iter().map(Letter::summary).collect();
    let ids: Vec<String> = messages.iter().map(|letter| letter.id.clone()).collect();
    // In the order of the ids.
    let known = api.auto.progress(&ids).await?;
    for letter in &mut messages {
        letter.auto = known
            .binary_search_by(|(id, ..)| id.cmp(&letter.id))
            .ok()
            .and_then(|at| known.get(at))
            .map(|(_, progress, mark)| Unasked::new(*progress, *mark));
    }
    Ok(Json(Listing {
        count: found.count,
        at_least: found.at_least,
        messages,
        next: found.next,
    }))
}

pub(super) async fn show(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Named(id): Named,
) -> Result<Json<Letter>, Problem> {
    let letter = api.letters.get(&id).await?.ok_or_else(|| unknown(&id))?;
    let trail = api.letters.trail(&id).await?;
    let held = api.held.held_by(&id).await?;
    let auto = api.auto.progress(std::slice::from_ref(&id)).await?;
    let mut shown = Letter {
        auto: auto
            .first()
            .map(|(_, progress, mark)| Unasked::new(*progress, *mark)),
        waiting: held.map(|held| held.waiting),
        ..Letter::whole(&letter, trail)
    };
    if !caller.payloads {
        shown.withhold();
    }
    Ok(Json(shown))
}

/// Who asks and why, in the query or in a JSON body.
#[derive(Debug, Default, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Because {
    /// A name for the trail. Where the host asks for tokens, the name of the token stands before it.
    actor: Option<String>,
    reason: Option<String>,
}

pub(super) const MAX_ACTOR: usize = 128;

impl Because {
    /// The body where it says something, else the query.
    pub(super) fn read(query: Result<Query<Self>, QueryRejection>, body: &Bytes) -> Result<Self, Problem> {
        let Query(query) = query.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
        let said: Self = if body.is_empty() {
            Self::default()
        } else {
            serde_json::from_slice(body)
                .map_err(|error| Problem::bad_request(format!("the body is not understood: {error}")))?
        };
        Self {
            actor: said.actor.or(query.actor),
            reason: said.reason.or(query.reason),
        }
        .checked()
    }

    /// Not too long, and not empty.
    fn checked(self) -> Result<Self, Problem> {
        let text = |name: &str, text: Option<String>, most: usize| match text {
            Some(text) if text.len() > most => Err(Problem::bad_request(format!(
                "`{name}` has {} bytes, at most {most} are kept",
                text.len()
            ))),
            text => Ok(text.filter(|text| !text.trim().is_empty())),
        };
        Ok(Self {
            actor: text("actor", self.actor, MAX_ACTOR)?,
            reason: text("reason", self.reason, REASON_LIMIT)?,
        })
    }

    pub(super) fn behalf(self, caller: &Caller) -> Behalf {
        Behalf {
            why: self.reason,
            ..Behalf::of(&caller.actor(self.actor.as_deref()))
        }
    }
}

pub(super) async fn reprocess(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Named(id): Named,
    query: Result<Query<Because>, QueryRejection>,
    body: Bytes,
) -> Result<(StatusCode, Json<Outcome>), Problem> {
    let because = Because::read(query, &body)?;
    messaging(&api)?;
    let done = api
        .redrive
        .reprocess(&id, &caller.actor(because.actor.as_deref()))
        .await;
    let state = done.map_err(|refused| problem(&id, refused))?;
    // On its way, not handled yet.
    Ok((StatusCode::ACCEPTED, Json(outcome(id, state))))
}

pub(super) async fn discard(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Named(id): Named,
    query: Result<Query<Because>, QueryRejection>,
    body: Bytes,
) -> Result<Json<Outcome>, Problem> {
    let because = Because::read(query, &body)?;
    let done = api.redrive.discard(&id, &because.behalf(&caller)).await;
    let state = done.map_err(|refused| problem(&id, refused))?;
    Ok(Json(outcome(id, state)))
}

fn messaging(api: &Api) -> Result<(), Problem> {
    if api.messaging {
        return Ok(());
    }
    Err(Problem::unavailable(
        "messaging is switched off (MESSAGING_ENABLED=false)",
    ))
}

pub(super) fn outcome(id: String, state: LetterState) -> Outcome {
    Outcome {
        id,
        status: state.as_str().to_owned(),
    }
}

pub(super) fn unknown(id: &str) -> Problem {
    Problem::not_found(format!(
        "no dead letter `{id}`; `helix dlq ls` shows what there is"
    ))
}

pub(super) fn problem(id: &str, refused: Refused) -> Problem {
    let dead = LetterState::Dead.as_str();
    match refused {
        Refused::Unknown => unknown(id),
        Refused::Conflict(state) => Problem::conflict(
            state.as_str(),
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
        Refused::Edit(fault) => Problem::unprocessable(error::HTTP_BAD_REQUEST, fault.to_string()),
        Refused::Unrecorded(_) | Refused::Stopped | Refused::Ended => {
            Problem::unavailable(refused.to_string())
        }
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
            "its time was over before it ran, or before anybody dealt with it; publish a new message if it is needed after all"
        }
    }
}
