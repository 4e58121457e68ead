//! The decoded message, whatever shape it had on the wire.

use bytes::Bytes;

use super::{Headers, Origin, UnixMs};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The producer's id; made from the origin (topic, partition, offset) or by the host when there was none.
    pub id: String,
    /// The word routes select by.
    pub message_type: String,
    pub origin: Origin,
    /// Unwrapped payload, unchanged bytes. Empty for a tombstone.
    pub payload: Bytes,
    pub tombstone: bool,
    pub content_type: Option<String>,
    pub schema: Option<String>,
    pub source: Option<String>,
    pub subject: Option<String>,
    /// 0 to 10.
    pub priority: u8,
    pub key: Option<Bytes>,
    /// When it was published or happened; the record's own time when the producer did not say.
    pub time_ms: UnixMs,
    pub deadline_ms: Option<UnixMs>,
    pub correlation_id: Option<String>,
    pub reply_to: Option<String>,
    pub trace: Option<TraceContext>,
    pub headers: Headers,
    /// An earlier delivery may have run without its outcome being recorded.
    pub redelivered: bool,
    /// How many times it was sent again from the dead letter queue.
    pub reprocessed: u32,
    /// The id of the replay that brought it.
    pub replay: Option<String>,
}

/// W3C Trace Context, <https://www.w3.org/TR/trace-context/>.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    pub traceparent: String,
    pub tracestate: Option<String>,
}

impl TraceContext {
    /// The 32 hex digits of the trace id, when the header is well formed.
    pub fn trace_id(&self) -> Option<&str> {
        self.traceparent.split('-').nth(1).filter(|id| id.len() == 32)
    }
}
