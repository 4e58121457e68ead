//! `POST /v1/messaging/tasks/{queue}` and `/events/{topic}`: 202 only when the broker has the message on its disk.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use base64::Engine;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::named::Named;
use super::{Api, Problem};
use crate::broker::PublishError;
use crate::model::{Headers, MessageKind, Outgoing, TraceContext, header};

/// The message to publish. One of `payload`, `data` (the same thing by its two names) and `payload_base64` is given.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Message", transform = data_too)]
pub(super) struct Request<'a> {
    r#type: String,
    /// Made by the host when it is missing.
    id: Option<String>,
    #[serde(borrow, alias = "data")]
    #[schemars(with = "Option<serde_json::Value>")]
    payload: Option<&'a RawValue>,
    payload_base64: Option<String>,
    content_type: Option<String>,
    schema: Option<String>,
    source: Option<String>,
    subject: Option<String>,
    /// 0 to 10.
    #[schemars(range(max = 10))]
    priority: Option<u8>,
    key: Option<String>,
    /// Deliver not before so many milliseconds from now.
    delay_ms: Option<u64>,
    /// Unix time in milliseconds after which it is worthless.
    deadline_ms: Option<u64>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    traceparent: Option<String>,
    tracestate: Option<String>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
}

/// `data` is another name of `payload`.
fn data_too(schema: &mut schemars::Schema) {
    let properties = schema
        .get_mut("properties")
        .and_then(serde_json::Value::as_object_mut);
    if let Some(properties) = properties {
        let data = serde_json::json!({ "description": "The same as `payload`." });
        properties.insert("data".to_owned(), data);
    }
}

/// What 202 says.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct Accepted {
    id: String,
    broker: Arc<str>,
    destination: Arc<str>,
    partition: Option<u32>,
    offset: Option<u64>,
}

type Reply = Result<(StatusCode, Json<Accepted>), Problem>;

pub(super) async fn task(State(api): State<Arc<Api>>, Named(queue): Named, body: Bytes) -> Reply {
    publish(&api, MessageKind::Task, &queue, &body).await
}

pub(super) async fn event(State(api): State<Arc<Api>>, Named(topic): Named, body: Bytes) -> Reply {
    publish(&api, MessageKind::Event, &topic, &body).await
}

async fn publish(api: &Api, kind: MessageKind, destination: &str, body: &[u8]) -> Reply {
    if !api.messaging {
        return Err(Problem::unavailable(
            "messaging is switched off (MESSAGING_ENABLED=false)",
        ));
    }
    let request: Request<'_> = serde_json::from_slice(body).map_err(|error| {
        Problem::bad_request(format!("the body is not a message: {error}; see docs/http.md"))
    })?;
    let message = outgoing(api, kind, destination, request)?;
    let id = message.id.clone();
    let target = Arc::clone(&message.destination);
    let (broker, publisher) = api.targets.of(kind);
    let confirmed = publisher
        .publish(vec![message])
        .await
        .pop()
        .unwrap_or_else(|| Err(PublishError::Unavailable("no answer".to_owned())))
        .map_err(|error| refused(kind, &error))?;
    api.metrics
        .published
        .with_label_values(&[&**broker, &*target])
        .inc();
    let accepted = Accepted {
        id,
        broker: Arc::clone(broker),
        destination: target,
        partition: confirmed.partition,
        offset: confirmed.offset,
    };
    Ok((StatusCode::ACCEPTED, Json(accepted)))
}

fn outgoing(
    api: &Api,
    kind: MessageKind,
    destination: &str,
    request: Request<'_>,
) -> Result<Outgoing, Problem> {
    if request.r#type.is_empty() {
        return Err(Problem::bad_request("`type` is empty"));
    }
    if request.priority.is_some_and(|p| p > 10) {
        return Err(Problem::bad_request("`priority` is 0 to 10"));
    }
    let (payload, json) = match (request.payload, request.payload_base64) {
        (Some(_), Some(_)) => {
            return Err(Problem::bad_request(
                "give `payload` or `payload_base64`, not both",
            ));
        }
        (Some(json), None) => (Bytes::copy_from_slice(json.get().as_bytes()), true),
        (None, Some(text)) => {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|error| Problem::bad_request(format!("`payload_base64`: {error}")))?;
            (bytes.into(), false)
        }
        (None, None) => return Err(Problem::bad_request("`payload` is missing")),
    };
    let size = payload.len() + request.key.as_ref().map_or(0, String::len);
    if size > api.message_limit {
        return Err(Problem::too_large(format!(
            "the message has {size} bytes; limits.message_size is {}",
            api.message_limit
        )));
    }
    let now = api.clock.now_ms();
    let headers: Headers = request
        .headers
        .into_iter()
        .filter(|(name, _)| !name.to_ascii_lowercase().starts_with(header::HOST_PREFIX))
        .collect();
    Ok(Outgoing {
        kind,
        destination: destination.into(),
        id: request
            .id
            .filter(|id| !id.is_empty())
            .unwrap_or_else(|| api.ids.next()),
        message_type: request.r#type,
        payload,
        tombstone: false,
        content_type: request
            .content_type
            .or_else(|| json.then(|| "application/json".to_owned())),
        schema: request.schema,
        source: request.source,
        subject: request.subject,
        priority: request.priority,
        key: request.key.map(|key| key.into_bytes().into()),
        time_ms: now,
        not_before_ms: request.delay_ms.map(|delay| now.saturating_add(delay)),
        deadline_ms: request.deadline_ms,
        correlation_id: request.correlation_id,
        reply_to: request.reply_to,
        trace: request.traceparent.map(|traceparent| TraceContext {
            traceparent,
            tracestate: request.tracestate,
        }),
        headers,
    })
}

fn refused(kind: MessageKind, error: &PublishError) -> Problem {
    match error {
        PublishError::UnknownTarget(name) => {
            let what = if kind == MessageKind::Task {
                "queue"
            } else {
                "topic"
            };
            Problem::not_found(format!(
                "no {what} named `{name}`; `helix topology apply` creates what the topology file names"
            ))
        }
        PublishError::TooLarge { limit } => {
            Problem::too_large(format!("the broker takes at most {limit} bytes"))
        }
        PublishError::Invalid(reason) => Problem::bad_request(reason.clone()),
        PublishError::Full(reason) => Problem::full(reason.clone()),
        PublishError::Unavailable(_) | PublishError::Unknown(_) => {
            Problem::unavailable(format!("{error}; send it again with the same id"))
        }
    }
}
