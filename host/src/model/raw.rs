//! A message as the broker handed it over, before anybody has looked into it.

use bytes::Bytes;

use super::{Headers, Origin, UnixMs, header};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawMessage {
    pub origin: Origin,
    /// None is a Kafka null value (a tombstone), which is not the same as an empty body.
    pub body: Option<Bytes>,
    pub key: Option<Bytes>,
    /// Kafka headers, AMQP `headers` table (numbers and booleans as their text, tables as JSON), in order.
    pub headers: Headers,
    /// What AMQP carries as basic properties; all none on Kafka.
    pub props: Properties,
    /// The broker's time of the record, when it has one.
    pub timestamp_ms: Option<UnixMs>,
    /// An earlier delivery may have run.
    pub redelivered: bool,
}

/// AMQP basic properties; the embedded broker stores the same ones.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    pub content_type: Option<String>,
    pub message_type: Option<String>,
    pub message_id: Option<String>,
    pub correlation_id: Option<String>,
    pub reply_to: Option<String>,
    pub priority: Option<u8>,
    /// A point in time after which the message is worthless.
    pub expires_ms: Option<UnixMs>,
}

impl RawMessage {
    /// How often it was sent again after it was a dead letter; 0 when no header says so.
    pub fn reprocessed(&self) -> u32 {
        let said = self.headers.text(header::REPROCESSED);
        said.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    /// Bytes that limits count: body, key and headers.
    pub fn size(&self) -> usize {
        self.body.as_ref().map_or(0, Bytes::len)
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.headers.size()
    }
}
