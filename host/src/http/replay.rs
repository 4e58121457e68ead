//! Replays as the API starts, shows and cancels them.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderName, StatusCode, header};
use serde::Deserialize;

use super::named::Named;
use super::page::Limits;
use super::{Api, Problem};
use crate::error;
use crate::replay::view::{Listing, View, rfc3339};
use crate::replay::{Refused, Request};
use crate::telemetry::logs::printable;

pub(super) const LIMITS: Limits = Limits {
    unless_set: 50,
    most: 1000,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    /// 1 to 1000.
    limit: Option<usize>,
}

type Created = (StatusCode, [(HeaderName, String); 1], Json<View>);

pub(super) async fn start(State(api): State<Arc<Api>>, body: Bytes) -> Result<Created, Problem> {
    let request: Request = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request(format!("the body is not understood: {error}")))?;
    if !api.messaging {
        return Err(Problem::unavailable(
            "messaging is switched off (MESSAGING_ENABLED=false)",
        ));
    }
    let replay = api.replays.submit(request).await.map_err(problem)?;
    let place = format!("/v1/messaging/replay/{}", segment(&replay.id));
    Ok((
        StatusCode::CREATED,
        [(header::LOCATION, place)],
        Json(View::whole(&replay)),
    ))
}

pub(super) async fn list(
    State(api): State<Arc<Api>>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Json<Listing>, Problem> {
    let Query(parameters) = parameters.map_err(|rejection| Problem::bad_request(rejection.body_text()))?;
    let limit = LIMITS.of(parameters.limit)?;
    let found = api.replays.list(limit).await.map_err(problem)?;
    let replays: Vec<View> = found.iter().map(View::summary).collect();
    Ok(Json(Listing {
        count: replays.len(),
        replays,
    }))
}

pub(super) async fn show(State(api): State<Arc<Api>>, Named(id): Named) -> Result<Json<View>, Problem> {
    let replay = api.replays.show(&id).await.map_err(problem)?;
    Ok(Json(View::whole(&replay)))
}

pub(super) async fn cancel(State(api): State<Arc<Api>>, Named(id): Named) -> Result<Json<View>, Problem> {
    let replay = api.replays.cancel(&id).await.map_err(problem)?;
    Ok(Json(View::whole(&replay)))
}

/// An id may hold what a path may not.
fn segment(id: &str) -> String {
    id.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn problem(refused: Refused) -> Problem {
    match refused {
        Refused::Field(fault) => {
            let detail = printable(&fault.to_string());
            Problem::unprocessable(error::REPLAY_REQUEST, detail).in_field(fault.field)
        }
        Refused::Gone {
            topic,
            partition,
            offset,
            time,
        } => {
            let time = time.map_or_else(String::new, |at| format!(", of {}", rfc3339(at)));
            Problem::unprocessable(
                error::REPLAY_GONE,
                format!(
                    "retention has deleted the beginning: the first that is left in partition {partition} of `{topic}` is offset \
                     {offset}{time}; begin later, or take what is left with options.allow_truncated"
                ),
            )
            .in_field("from_time")
        }
        Refused::UnknownTopic(topic) => Problem::not_found(format!(
            "no topic named `{}`; `helix topology plan` shows what there should be",
            printable(&topic)
        )),
        Refused::Unknown(id) => Problem::not_found(format!(
            "no replay `{}`; `helix replay ls` shows what there is",
            printable(&id)
        )),
        Refused::Taken(id) => Problem::conflict(
            "taken",
            format!(
                "there is a replay `{}` already; `helix replay show` tells how far it is, and without an `id` the host makes a \
                 new one",
                printable(&id)
            ),
        ),
        Refused::Ended(id, status) => Problem::conflict(
            status.as_str(),
            format!(
                "the replay `{}` is {} already; nothing is left to cancel",
                printable(&id),
                status.as_str()
            ),
        ),
        Refused::NoScan => Problem::unprocessable(
            error::REPLAY_REQUEST,
            "the broker of events cannot read a topic again; Kafka and the embedded broker can",
        )
        .in_field("topic"),
        Refused::Full(_) => Problem::unavailable(refused.to_string()),
        Refused::Broker(error) => {
            Problem::unavailable(format!("{error}. Nothing was started; try again later"))
        }
        Refused::Store(error) => error.into(),
    }
}
