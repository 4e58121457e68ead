//! The messages of the contract as plain structs: what `wit/messages.wit` calls task, event, new-task and new-event.

/// Name and value pairs, in order; names may repeat.
pub type HeaderList = Vec<(String, Vec<u8>)>;

/// A task as delivered. Field by field the record `task` of the WIT, where the meaning of each is written down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskMessage {
    pub id: String,
    pub message_type: String,
    pub queue: String,
    pub payload: Vec<u8>,
    pub content_type: Option<String>,
    pub schema: Option<String>,
    pub priority: u8,
    pub key: Option<Vec<u8>>,
    pub time_ms: u64,
    pub deadline_ms: Option<u64>,
    pub attempt: u32,
    pub max_attempts: u32,
    pub redelivered: bool,
    pub reprocessed: u32,
    pub replay: Option<String>,
    pub correlation_id: Option<String>,
    pub reply_to: Option<String>,
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
    pub headers: HeaderList,
}

/// An event as delivered. Field by field the record `event` of the WIT.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventMessage {
    pub id: String,
    pub message_type: String,
    pub source: Option<String>,
    pub subject: Option<String>,
    pub data: Vec<u8>,
    pub tombstone: bool,
    pub content_type: Option<String>,
    pub schema: Option<String>,
    pub time_ms: u64,
    pub key: Option<Vec<u8>>,
    pub topic: String,
    pub partition: Option<u32>,
    pub offset: Option<u64>,
    pub attempt: u32,
    pub max_attempts: u32,
    pub redelivered: bool,
    pub reprocessed: u32,
    pub replay: Option<String>,
    pub correlation_id: Option<String>,
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
    pub headers: HeaderList,
}
