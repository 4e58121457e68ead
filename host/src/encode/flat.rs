//! The manual's flat JSON.

use serde::Serialize;
use serde_json::value::RawValue;

use super::stamp::{Stamp, stamp};
use super::{Wire, base, json};
use crate::model::{MessageKind, Outgoing};

#[derive(Serialize)]
struct Flat<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    message_type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_schema: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scheduled_at: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timestamp: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<Stamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<&'a str>,
}

pub(super) fn wire(message: &Outgoing, payload: &RawValue) -> Wire {
    let task = message.kind == MessageKind::Task;
    // JSON is what a reader expects; only something more special is worth a member.
    let content_type = message
        .content_type
        .as_deref()
        .filter(|t| *t != "application/json");
    let schema = message.schema.as_deref();
    let body = json(&Flat {
        id: &message.id,
        message_type: &message.message_type,
        source: message.source.as_deref(),
        subject: message.subject.as_deref(),
        payload: task.then_some(payload),
        data: (!task).then_some(payload),
        content_type: content_type.filter(|_| task),
        data_content_type: content_type.filter(|_| !task),
        schema: schema.filter(|_| task),
        data_schema: schema.filter(|_| !task),
        priority: message.priority,
        created_at: task.then(|| stamp(message.time_ms)),
        scheduled_at: message.not_before_ms.map(stamp),
        timestamp: (!task).then(|| stamp(message.time_ms)),
        deadline: message.deadline_ms.map(stamp),
        correlation_id: message.correlation_id.as_deref(),
        reply_to: message.reply_to.as_deref(),
    });
    Wire {
        body: Some(body),
        ..base(message, Some("application/json".to_owned()))
    }
}
