//! What has to become of each shape.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::client::Sent;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Handled,
    /// Class and code of the dead letter.
    Dead(&'static str, &'static str),
}

/// Panics on a shape that nobody thought about.
pub fn fate(shape: &str) -> Fate {
    let malformed = |code| Fate::Dead("malformed", code);
    match shape {
        "flat"
        | "flat-named-outside-too"
        | "flat-type-outside-too"
        | "flat-other-member"
        | "helixagent"
        | "helixagent-without-headers"
        | "raw-properties"
        | "raw-type-id"
        | "raw-message-type-message-id"
        | "cloudevents-binary"
        | "cloudevents-binary-underscore"
        | "cloudevents-binary-colon"
        | "cloudevents-structured"
        | "cloudevents-structured-base64" => Fate::Handled,
        "no-json" | "no-type" | "null-without-type" => malformed("type.missing"),
        "cut-off" => malformed("json.syntax"),
        "not-utf8" => malformed("utf8.invalid"),
        "type-is-a-list" => malformed("type.type"),
        "id-is-a-number" => malformed("id.type"),
        "headers-are-text" => malformed("headers.type"),
        "priority-is-a-word" => malformed("priority.type"),
        "time-is-a-word" => malformed("timestamp.type"),
        "type-twice" => malformed("json.duplicate"),
        "base64-outside" | "base64-inside" | "cloudevent-base64" => malformed("base64.invalid"),
        "cloudevent-without-source" | "cloudevent-id-is-a-number" => malformed("cloudevents.attribute"),
        "cloudevent-of-version-2" => malformed("cloudevents.version"),
        "cloudevents-batch" => malformed("cloudevents.batch"),
        "deadline-long-past" => Fate::Dead("expired", "deadline"),
        "of-no-route" => Fate::Dead("unrouted", "unrouted"),
        other => panic!("no expectation for {other}"),
    }
}

/// The key of an event: the record's own, but of HelixAgent's the one inside (its record key is the id).
fn key(message: &Sent) -> Value {
    let event = !message.id.starts_with("pika");
    match message.shape.as_str() {
        "helixagent" | "helixagent-without-headers" if event => json!("inner-key"),
        "flat-named-outside-too" | "cloudevents-binary" if event => json!("k-1"),
        _ => Value::Null,
    }
}

fn source(message: &Sent) -> Value {
    let event = !message.id.starts_with("pika");
    match message.shape.as_str() {
        shape if shape.starts_with("cloudevents") && event => json!("/interop"),
        shape if shape.starts_with("helixagent") && event => json!("debate"),
        // A task has no source.
        _ => Value::Null,
    }
}

/// The handler saw id, type, payload and trace context as they were sent. The payload is an order that names the topic of
/// the report, so that there is a report shows that it was read; its size shows that it was not written anew.
pub fn handled(message: &Sent, report: Option<&Value>) -> Result<(), String> {
    let event = report.ok_or_else(|| format!("{}: no handler saw it", message.id))?;
    let (seen, found) = (&event["data"], &event["data"]["found"]);
    let trace = |shape: &str| {
        ["raw", "helixagent", "flat-named"]
            .iter()
            .any(|start| shape.starts_with(start))
    };
    let headers = found["headers"].as_array().cloned().unwrap_or_default();
    let wanted = [
        ("type", json!(message.message_type), &seen["type"]),
        ("attempt", json!(1), &seen["attempt"]),
        ("destination", json!(message.to), &found["destination"]),
        ("payload", json!(message.payload_bytes), &found["payload_bytes"]),
        ("traceparent", message.traceparent.clone(), &found["traceparent"]),
        ("key", key(message), &found["key"]),
        ("source", source(message), &found["source"]),
        (
            "interop-id",
            json!(true),
            &json!(headers.contains(&json!(["interop-id", message.id]))),
        ),
        (
            "trace id",
            json!(trace(&message.shape)),
            &json!(names_trace(&headers)),
        ),
    ];
    for (what, wanted, is) in wanted {
        if wanted != *is {
            return Err(format!("{}: {what} is {is}, not {wanted}: {event}", message.id));
        }
    }
    Ok(())
}

/// The origin's own trace id, in the spelling of its generation.
fn names_trace(headers: &[Value]) -> bool {
    headers.contains(&json!(["trace-id", "tr-1"])) || headers.contains(&json!(["trace_id", "tr-1"]))
}

/// The dead letter says why, and keeps the message byte for byte.
pub fn dead(message: &Sent, letter: Option<&Value>, class: &str, code: &str) -> Result<(), String> {
    let letter = letter.ok_or_else(|| format!("{}: no dead letter", message.id))?;
    let original = &letter["original"];
    let body = match (&original["body"], &original["body_base64"]) {
        (Value::String(text), _) => Some(text.clone().into_bytes()),
        (_, Value::String(encoded)) => STANDARD.decode(encoded).ok(),
        _ => None,
    };
    let same = letter["class"] == class && letter["code"] == code && letter["destination"] == *message.to;
    if same && body == message.body && original["tombstone"] == json!(message.body.is_none()) {
        return Ok(());
    }
    Err(format!(
        "{}: not {class} {code} with its body, but {letter}",
        message.id
    ))
}
