//! AMQP properties and headers ↔ our raw message. Pure.

use std::sync::Arc;

use bytes::Bytes;
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use serde_json::{Map, Value, json};

use crate::encode::Wire;
use crate::model::raw::Properties;
use crate::model::{Headers, MessageKind, Origin, RawMessage, UnixMs};

/// AMQP has no key: it travels in this header.
pub const KEY_HEADER: &str = "helix-key";
/// The deadline, milliseconds since 1970. Not AMQP's `expiration`, with which the broker would drop the message without a trace.
pub const EXPIRES_HEADER: &str = "helix-expires";

/// `now_ms` is what a relative expiration counts from when the message has no timestamp.
pub fn raw_message(
    broker: &Arc<str>,
    queue: &Arc<str>,
    properties: &BasicProperties,
    redelivered: bool,
    body: Vec<u8>,
    now_ms: UnixMs,
) -> RawMessage {
    let mut headers = properties.headers().as_ref().map(headers).unwrap_or_default();
    let key = headers.get(KEY_HEADER).cloned();
    headers.remove(KEY_HEADER);
    let stamped: Option<u64> = headers.text(EXPIRES_HEADER).and_then(|text| text.parse().ok());
    headers.remove(EXPIRES_HEADER);
    // Quorum queues count deliveries from 0; the header is absent on the first.
    let counted = headers.text("x-delivery-count").is_some_and(|count| count != "0");
    let timestamp_ms = properties.timestamp().map(|seconds| seconds.saturating_mul(1000));
    let relative: Option<u64> = text(properties.expiration()).and_then(|text| text.trim().parse().ok());
    RawMessage {
        origin: Origin {
            broker: Arc::clone(broker),
            kind: MessageKind::Task,
            destination: Arc::clone(queue),
            partition: None,
            offset: None,
        },
        body: Some(Bytes::from(body)),
        key,
        props: Properties {
            content_type: text(properties.content_type()),
            message_type: text(properties.kind()),
            message_id: text(properties.message_id()),
            correlation_id: text(properties.correlation_id()),
            reply_to: text(properties.reply_to()),
            priority: *properties.priority(),
            expires_ms: stamped
                .or_else(|| relative.map(|ms| timestamp_ms.unwrap_or(now_ms).saturating_add(ms))),
        },
        headers,
        timestamp_ms,
        redelivered: redelivered || counted,
    }
}

fn text(value: &Option<ShortString>) -> Option<String> {
    value
        .as_ref()
        .map(|s| s.as_str().to_owned())
        .filter(|s| !s.is_empty())
}

fn headers(table: &FieldTable) -> Headers {
    table
        .inner()
        .iter()
        .map(|(name, value)| (name.as_str(), header_value(value)))
        .collect()
}

fn header_value(value: &AMQPValue) -> Bytes {
    match value {
        AMQPValue::LongString(bytes) => Bytes::copy_from_slice(bytes.as_bytes()),
        AMQPValue::ByteArray(bytes) => Bytes::copy_from_slice(bytes.as_slice()),
        AMQPValue::ShortString(s) => Bytes::copy_from_slice(s.as_str().as_bytes()),
        AMQPValue::Void => Bytes::new(),
        other => Bytes::from(json_value(other).to_string()),
    }
}

/// Numbers and booleans print in JSON as the text we want; tables and arrays (`x-death`) stay JSON.
fn json_value(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(v) => json!(v),
        AMQPValue::ShortShortInt(v) => json!(v),
        AMQPValue::ShortShortUInt(v) => json!(v),
        AMQPValue::ShortInt(v) => json!(v),
        AMQPValue::ShortUInt(v) => json!(v),
        AMQPValue::LongInt(v) => json!(v),
        AMQPValue::LongUInt(v) => json!(v),
        AMQPValue::LongLongInt(v) => json!(v),
        AMQPValue::Timestamp(v) => json!(v),
        AMQPValue::Float(v) => json!(v),
        AMQPValue::Double(v) => json!(v),
        AMQPValue::DecimalValue(v) => json!(f64::from(v.value) / 10_f64.powi(i32::from(v.scale))),
        AMQPValue::ShortString(v) => json!(v.as_str()),
        AMQPValue::LongString(v) => json!(String::from_utf8_lossy(v.as_bytes())),
        AMQPValue::ByteArray(v) => json!(String::from_utf8_lossy(v.as_slice())),
        AMQPValue::FieldArray(items) => items.as_slice().iter().map(json_value).collect(),
        AMQPValue::FieldTable(table) => {
            let entries = table
                .inner()
                .iter()
                .map(|(name, v)| (name.as_str().to_owned(), json_value(v)));
            Value::Object(entries.collect::<Map<_, _>>())
        }
        AMQPValue::Void => Value::Null,
    }
}

/// Persistent, with everything the wire carries. The error says what does not fit into AMQP.
/// `header_limit`: bytes of a content header frame, which cannot be split.
pub fn properties(wire: &Wire, time_ms: UnixMs, header_limit: usize) -> Result<BasicProperties, String> {
    const PERSISTENT: u8 = 2;
    let mut table = FieldTable::default();
    let mut size = 64;
    let deadline = wire
        .props
        .expires_ms
        .map(|ms| (EXPIRES_HEADER, Bytes::from(ms.to_string())));
    let key = wire.key.clone().map(|key| (KEY_HEADER, key));
    let ours = wire.headers.iter().map(|(name, value)| (name, value.clone()));
    for (name, value) in key.into_iter().chain(deadline).chain(ours) {
        // An AMQP table has one value for a name; as everywhere, the first one counts.
        if table.contains_key(name) {
            continue;
        }
        size += name.len() + value.len() + 6;
        table.insert(
            short("a header name", name)?,
            AMQPValue::LongString(LongString::from(value.as_ref())),
        );
    }
    let mut properties = BasicProperties::default()
        .with_delivery_mode(PERSISTENT)
        .with_timestamp(time_ms / 1000);
    let props = &wire.props;
    if let Some(v) = &props.content_type {
        properties = properties.with_content_type(short("the content type", v)?);
    }
    if let Some(v) = &props.message_type {
        properties = properties.with_type(short("the message type", v)?);
    }
    if let Some(v) = &props.message_id {
        properties = properties.with_message_id(short("the message id", v)?);
    }
    if let Some(v) = &props.correlation_id {
        properties = properties.with_correlation_id(short("the correlation id", v)?);
    }
    if let Some(v) = &props.reply_to {
        properties = properties.with_reply_to(short("reply-to", v)?);
    }
    if let Some(v) = props.priority {
        properties = properties.with_priority(v);
    }
    let texts = [
        &props.content_type,
        &props.message_type,
        &props.message_id,
        &props.correlation_id,
        &props.reply_to,
    ];
    size += texts.into_iter().flatten().map(String::len).sum::<usize>();
    if size > header_limit {
        return Err(format!(
            "its headers take {size} bytes, an AMQP frame holds {header_limit}"
        ));
    }
    Ok(properties.with_headers(table))
}

/// AMQP short strings end at 255 bytes.
pub fn short(what: &str, value: &str) -> Result<ShortString, String> {
    ShortString::try_new(value).map_err(|_| format!("{what} has {} bytes, AMQP allows 255", value.len()))
}

#[cfg(test)]
mod tests;
