//! Sends a changed copy of a dead letter in its place, where the configuration allows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, State};
use axum::http::StatusCode;
use base64::Engine;
use serde::{Deserialize, Serialize};

use super::dlq::{MAX_ACTOR, problem};
use super::named::Named;
use super::{Api, Caller, Problem};
use crate::dlq::edit::Edit;
use crate::model::outcome::REASON_LIMIT;

#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Edit")]
pub(super) struct Request {
    body: Option<String>,
    body_base64: Option<String>,
    /// A value sets, null removes; headers that are not named stay.
    #[serde(default)]
    headers: BTreeMap<String, Option<String>>,
    content_type: Option<String>,
    actor: Option<String>,
    reason: Option<String>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[schemars(rename = "Edited")]
pub(super) struct Answer {
    id: String,
    /// The state of the letter now.
    status: &'static str,
    /// Of the copy.
    message_id: String,
}

pub(super) async fn edit(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Caller>,
    Named(id): Named,
    body: Bytes,
) -> Result<(StatusCode, Json<Answer>), Problem> {
    if !api.dlq_edit.load(Ordering::Relaxed) {
        return Err(Problem::switched_off(
            "editing dead letters is switched off; `[dlq] edit = true` in helix.toml switches it on",
        ));
    }
    if !api.messaging {
        return Err(Problem::unavailable(
            "messaging is switched off (MESSAGING_ENABLED=false)",
        ));
    }
    let request: Request = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("the body is not understood: {error}")))?;
    let actor = request.actor.filter(|actor| !actor.trim().is_empty());
    let reason = request.reason.filter(|reason| !reason.trim().is_empty());
    let reason = reason
        .ok_or_else(|| Problem::bad_request("`reason` is missing: it stays in the trail of the letter"))?;
    for (name, text, most) in [
        ("actor", actor.as_deref().unwrap_or_default(), MAX_ACTOR),
        ("reason", &reason, REASON_LIMIT),
    ] {
        if text.len() > most {
            return Err(Problem::bad_request(format!(
                "`{name}` has {} bytes, at most {most} are kept",
                text.len()
            )));
        }
    }
    let edit = Edit {
        body: new_body(request.body, request.body_base64)?,
        headers: request.headers.into_iter().collect(),
        content_type: request.content_type,
    };
    let size = edit.body.as_ref().map_or(0, Bytes::len);
    if size > api.message_limit {
        return Err(Problem::too_large(format!(
            "the message has {size} bytes; limits.message_size is {}",
            api.message_limit
        )));
    }
    let done = api
        .redrive
        .edit(&id, &caller.actor(actor.as_deref()), reason, edit)
        .await;
    let edited = done.map_err(|refused| problem(&id, refused))?;
    let answer = Answer {
        id,
        status: edited.state.as_str(),
        message_id: edited.message_id,
    };
    // On its way, not handled yet.
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

fn new_body(text: Option<String>, encoded: Option<String>) -> Result<Option<Bytes>, Problem> {
    match (text, encoded) {
        (Some(_), Some(_)) => Err(Problem::bad_request("give `body` or `body_base64`, not both")),
        (Some(text), None) => Ok(Some(text.into())),
        (None, Some(encoded)) => base64::engine::general_purpose::STANDARD
            .decode(encoded)
            .map(|bytes| Some(bytes.into()))
            .map_err(|error| Problem::bad_request(format!("`body_base64`: {error}"))),
        (None, None) => Ok(None),
    }
}
