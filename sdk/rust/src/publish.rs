//! Sending tasks and events. Nothing leaves the host before the handler returned `Ok` for the message it belongs to.
//!
//! ```no_run
//! # use helix_sdk::prelude::*;
//! # fn handle(context: &Context) -> Handled {
//! publish::task("notification").queue("helixagent.tasks.notifications").priority(3).json(&"disk full")?.send()?;
//! publish::event("user.deleted").topic("users").key("42").tombstone().send()?;
//! # Ok(()) }
//! ```

mod error;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

pub use error::PublishError;

use crate::context::Context;
use crate::host::{self, Scope};
use crate::record::HeaderList;

/// Starts a task of this type; without [`queue`](NewTask::queue) it goes where the topology sends the type.
pub fn task(message_type: impl Into<String>) -> NewTask {
    NewTask {
        message_type: message_type.into(),
        ..NewTask::default()
    }
}

/// Starts an event of this type; without [`topic`](NewEvent::topic) it goes where the topology sends the type.
pub fn event(message_type: impl Into<String>) -> NewEvent {
    NewEvent {
        message_type: message_type.into(),
        ..NewEvent::default()
    }
}

/// A task to publish. The host fills id, time and trace context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "nothing is published before send()"]
pub struct NewTask {
    pub message_type: String,
    pub queue: Option<String>,
    pub payload: Vec<u8>,
    pub content_type: Option<String>,
    pub schema: Option<String>,
    pub priority: Option<u8>,
    pub key: Option<Vec<u8>>,
    pub delay_ms: Option<u64>,
    pub deadline_ms: Option<u64>,
    pub correlation_id: Option<String>,
    pub reply_to: Option<String>,
    pub headers: HeaderList,
    pub input: Option<u32>,
}

/// An event to publish. The host fills id, time, source and trace context.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "nothing is published before send()"]
pub struct NewEvent {
    pub message_type: String,
    pub topic: Option<String>,
    pub subject: Option<String>,
    pub data: Vec<u8>,
    pub tombstone: bool,
    pub content_type: Option<String>,
    pub schema: Option<String>,
    pub key: Option<Vec<u8>>,
    pub correlation_id: Option<String>,
    pub headers: HeaderList,
    pub input: Option<u32>,
}

/// The setters that both have; `$body` is the field that holds the body.
macro_rules! common {
    ($body:ident) => {
        /// The body as JSON, with its media type.
        pub fn json<T: Serialize + ?Sized>(mut self, value: &T) -> Result<Self, PublishError> {
            self.$body = serde_json::to_vec(value)
                .map_err(|error| PublishError::Invalid(format!("the body is no JSON: {error}")))?;
            self.content_type = Some("application/json".to_owned());
            Ok(self)
        }

        /// The body as bytes.
        pub fn bytes(mut self, body: impl Into<Vec<u8>>) -> Self {
            self.$body = body.into();
            self
        }

        /// Media type of the body; `application/octet-stream` when nothing says otherwise.
        pub fn content_type(mut self, media_type: impl Into<String>) -> Self {
            self.content_type = Some(media_type.into());
            self
        }

        /// Where the body's schema is, a URI.
        pub fn schema(mut self, uri: impl Into<String>) -> Self {
            self.schema = Some(uri.into());
            self
        }

        /// Messages with one key keep their order, where the route or the broker keeps one.
        pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
            self.key = Some(key.into());
            self
        }

        /// None = that of the message being handled.
        pub fn correlation_id(mut self, id: impl Into<String>) -> Self {
            self.correlation_id = Some(id.into());
            self
        }

        /// One more header. Names that start with `helix-` are dropped by the host.
        pub fn header(mut self, name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
            self.headers.push((name.into(), value.into()));
            self
        }

        /// In a batch handler: the event this belongs to. It is sent if that event's result is `Ok`.
        pub fn input(mut self, context: &Context<'_>) -> Self {
            self.input = context.input();
            self
        }
    };
}

impl NewTask {
    common!(payload);

    /// The queue. Must be granted to the plugin.
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = Some(queue.into());
        self
    }

    /// 0 (lowest) to 10.
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Deliver not before so long after it was sent.
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay_ms = Some(millis(delay));
        self
    }

    /// Worthless after this time.
    pub fn deadline(mut self, deadline: SystemTime) -> Self {
        self.deadline_ms = Some(millis(deadline.duration_since(UNIX_EPOCH).unwrap_or_default()));
        self
    }

    /// The queue that an answer is wanted in.
    pub fn reply_to(mut self, queue: impl Into<String>) -> Self {
        self.reply_to = Some(queue.into());
        self
    }

    /// Hands it to the host; the id it will have.
    pub fn send(mut self) -> Result<String, PublishError> {
        self.input = owner(self.input)?;
        host::publish_task(self)
    }
}

impl NewEvent {
    common!(data);

    /// The topic. Must be granted to the plugin.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// What it is about, within the source.
    pub fn subject(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// No value at all (Kafka null: "delete this key"). Needs a key.
    pub fn tombstone(mut self) -> Self {
        self.tombstone = true;
        self.data.clear();
        self
    }

    /// Hands it to the host; the id it will have.
    pub fn send(mut self) -> Result<String, PublishError> {
        self.input = owner(self.input)?;
        host::publish_event(self)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whom the message belongs to: what the sender said, else the event at hand. The host would refuse one of a batch that
/// belongs to nobody; said here, the author learns what to write.
fn owner(said: Option<u32>) -> Result<Option<u32>, PublishError> {
    match (said, host::scope()) {
        (Some(input), _) | (None, Scope::Input(input)) => Ok(Some(input)),
        (None, Scope::Single) => Ok(None),
        (None, Scope::Batch) => Err(PublishError::Invalid(
            "in a batch the host must know which event this belongs to: add .input(&event), or use Batch::each".into(),
        )),
    }
}
