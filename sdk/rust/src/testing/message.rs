//! A message, built by hand.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::record::{EventMessage, TaskMessage};
use crate::rt::Kind;

/// The start of a task of this type: id `test-1`, queue `test`, first of four attempts.
pub fn task(message_type: impl Into<String>) -> Message {
    Message::new(Kind::Task, message_type.into())
}

/// The start of an event of this type: id `test-1`, topic `test`, first of four attempts.
pub fn event(message_type: impl Into<String>) -> Message {
    Message::new(Kind::Event, message_type.into())
}

/// A task or event to run a handler on. Setters that do not belong to its kind do nothing.
#[derive(Debug, Clone)]
#[must_use = "give it to run()"]
pub struct Message {
    pub(crate) kind: Kind,
    pub(crate) task: TaskMessage,
    pub(crate) event: EventMessage,
}

macro_rules! both {
    ($($(#[$doc:meta])* $name:ident: $type:ty => $field:ident = $value:expr;)+) => {
        $(
            $(#[$doc])*
            pub fn $name(mut self, $name: $type) -> Self {
                self.task.$field = $value;
                self.event.$field = self.task.$field.clone();
                self
            }
        )+
    };
}

impl Message {
    fn new(kind: Kind, message_type: String) -> Self {
        let task = TaskMessage {
            id: "test-1".into(),
            message_type: message_type.clone(),
            queue: "test".into(),
            time_ms: 1_700_000_000_000,
            attempt: 1,
            max_attempts: 4,
            ..TaskMessage::default()
        };
        let event = EventMessage {
            id: "test-1".into(),
            message_type,
            topic: "test".into(),
            time_ms: 1_700_000_000_000,
            attempt: 1,
            max_attempts: 4,
            partition: Some(0),
            offset: Some(0),
            ..EventMessage::default()
        };
        Self { kind, task, event }
    }

    both! {
        id: impl Into<String> => id = id.into();
        key: impl Into<Vec<u8>> => key = Some(key.into());
        attempt: u32 => attempt = attempt;
        /// 0 = never gives up.
        max_attempts: u32 => max_attempts = max_attempts;
        redelivered: bool => redelivered = redelivered;
        reprocessed: u32 => reprocessed = reprocessed;
        replay: impl Into<String> => replay = Some(replay.into());
        correlation_id: impl Into<String> => correlation_id = Some(correlation_id.into());
        traceparent: impl Into<String> => traceparent = Some(traceparent.into());
        content_type: impl Into<String> => content_type = Some(content_type.into());
        schema: impl Into<String> => schema = Some(schema.into());
    }

    /// The body as bytes.
    pub fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        self.task.payload = payload.into();
        self.event.data = self.task.payload.clone();
        self
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When the value cannot be written as JSON.
    #[allow(clippy::panic, reason = "a test that cannot build its message has failed")]
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Self {
        match serde_json::to_vec(value) {
            Ok(body) => self.payload(body).content_type("application/json"),
            Err(error) => panic!("this value is no JSON: {error}"),
        }
    }

    pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.task.headers.push((name.into(), value.into()));
        self.event.headers.clone_from(&self.task.headers);
        self
    }

    /// Tasks: the queue it came from.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.task.queue = queue.into();
        self
    }

    /// Tasks: the queue an answer is expected in.
    pub fn reply_to(mut self, queue: impl Into<String>) -> Self {
        self.task.reply_to = Some(queue.into());
        self
    }

    /// Tasks: 0 to 10.
    pub fn priority(mut self, priority: u8) -> Self {
        self.task.priority = priority;
        self
    }

    /// Tasks: worthless after this time.
    pub fn deadline(mut self, deadline: SystemTime) -> Self {
        let since: Duration = deadline.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.task.deadline_ms = u64::try_from(since.as_millis()).ok();
        self
    }

    /// Events: the topic it came from.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.event.topic = topic.into();
        self
    }

    /// Events: where in the topic.
    pub fn at(mut self, partition: u32, offset: u64) -> Self {
        self.event.partition = Some(partition);
        self.event.offset = Some(offset);
        self
    }

    /// Events: who says so.
    pub fn source(mut self, source: impl Into<String>) -> Self {
        self.event.source = Some(source.into());
        self
    }

    /// Events: what it is about.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.event.subject = Some(subject.into());
        self
    }

    /// Events: a record without a value.
    pub fn tombstone(mut self) -> Self {
        self.event.tombstone = true;
        self.event.data.clear();
        self
    }
}
