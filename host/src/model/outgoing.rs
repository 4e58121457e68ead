//! A message on its way to a broker, before it has a wire shape.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Headers, MessageKind, TraceContext, UnixMs};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub kind: MessageKind,
    /// Queue or topic.
    pub destination: Arc<str>,
    /// The same in every attempt to publish, so that a double is recognisable.
    pub id: String,
    pub message_type: String,
    pub payload: Bytes,
    /// No value at all (Kafka null).
    pub tombstone: bool,
    pub content_type: Option<String>,
    pub schema: Option<String>,
    pub source: Option<String>,
    pub subject: Option<String>,
    pub priority: Option<u8>,
    pub key: Option<Bytes>,
    pub time_ms: UnixMs,
    /// Deliver not before this point in time.
    pub not_before_ms: Option<UnixMs>,
    pub deadline_ms: Option<UnixMs>,
    pub correlation_id: Option<String>,
    pub reply_to: Option<String>,
    pub trace: Option<TraceContext>,
    /// Includes the `helix-*` stamps of the host.
    pub headers: Headers,
}

/// How a message is laid out for those who read it from the broker. All of them are accepted on input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum WireFormat {
    /// The manual's flat JSON: `{"id", "type", "payload" | "data", …}`. A payload that is not JSON goes out as `raw`.
    #[default]
    Flat,
    /// The payload as it is; id and type in AMQP properties or Kafka headers.
    Raw,
    /// HelixAgent's envelope with base64 inside base64.
    Legacy,
    /// CloudEvents 1.0, attributes in headers.
    CloudeventsBinary,
    /// CloudEvents 1.0, one JSON document.
    CloudeventsStructured,
}
