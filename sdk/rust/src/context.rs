//! What a handler may know about the message at hand and its delivery.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::packed::View;
use crate::record::{EventMessage, TaskMessage};

/// The message at hand: its fields, and what the host knows about its delivery. Borrowed, nothing is copied.
#[derive(Debug, Clone, Copy)]
pub struct Context<'m> {
    message: Message<'m>,
    input: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
enum Message<'m> {
    Task(&'m TaskMessage),
    Event(&'m EventMessage),
    Packed(View<'m>),
}

macro_rules! field {
    ($self:ident, $name:ident) => {
        match $self.message {
            Message::Task(message) => message.$name,
            Message::Event(message) => message.$name,
            Message::Packed(view) => view.$name(),
        }
    };
    ($self:ident, ref $name:ident) => {
        match $self.message {
            Message::Task(message) => message.$name.as_deref(),
            Message::Event(message) => message.$name.as_deref(),
            Message::Packed(view) => view.$name(),
        }
    };
    ($self:ident, event $name:ident) => {
        match $self.message {
            Message::Task(_) => None,
            Message::Event(message) => message.$name.as_deref(),
            Message::Packed(view) => view.$name(),
        }
    };
}

impl<'m> Context<'m> {
    pub(crate) fn task(message: &'m TaskMessage) -> Self {
        Self {
            message: Message::Task(message),
            input: None,
        }
    }

    pub(crate) fn event(message: &'m EventMessage) -> Self {
        Self {
            message: Message::Event(message),
            input: None,
        }
    }

    pub(crate) fn packed(view: View<'m>, input: u32) -> Self {
        Self {
            message: Message::Packed(view),
            input: Some(input),
        }
    }

    /// Its place in a batch.
    pub(crate) fn at(self, input: u32) -> Self {
        Self {
            input: Some(input),
            ..self
        }
    }

    pub(crate) fn input(&self) -> Option<u32> {
        self.input
    }

    /// The same in every attempt: the key for making effects idempotent.
    pub fn id(&self) -> &'m str {
        match self.message {
            Message::Task(message) => &message.id,
            Message::Event(message) => &message.id,
            Message::Packed(view) => view.id(),
        }
    }

    /// What it is, the word routes select by: `llm.request`.
    pub fn message_type(&self) -> &'m str {
        match self.message {
            Message::Task(message) => &message.message_type,
            Message::Event(message) => &message.message_type,
            Message::Packed(view) => view.message_type(),
        }
    }

    /// The body, unchanged. Empty for a tombstone.
    pub fn payload(&self) -> &'m [u8] {
        match self.message {
            Message::Task(message) => &message.payload,
            Message::Event(message) => &message.data,
            Message::Packed(view) => view.data(),
        }
    }

    /// The queue or topic it came from.
    pub fn destination(&self) -> &'m str {
        match self.message {
            Message::Task(message) => &message.queue,
            Message::Event(message) => &message.topic,
            Message::Packed(view) => view.topic(),
        }
    }

    /// 1 for the first delivery to a handler, then one more for each retry.
    pub fn attempt(&self) -> u32 {
        field!(self, attempt)
    }

    /// The route gives up after this attempt; 0 = never.
    pub fn max_attempts(&self) -> u32 {
        field!(self, max_attempts)
    }

    /// True on the last chance to compensate: a retry from here is a dead letter.
    pub fn is_last_attempt(&self) -> bool {
        let max = self.max_attempts();
        max != 0 && self.attempt() >= max
    }

    /// True when an earlier delivery may have run without its outcome being recorded (a crash, a lost connection).
    pub fn redelivered(&self) -> bool {
        field!(self, redelivered)
    }

    /// How many times it was sent again from the dead letter queue.
    pub fn reprocessed(&self) -> u32 {
        field!(self, reprocessed)
    }

    /// The id of the replay that brought it; none in normal delivery.
    pub fn replay(&self) -> Option<&'m str> {
        field!(self, ref replay)
    }

    /// Ties a request to its reply, or the messages of one conversation together.
    pub fn correlation_id(&self) -> Option<&'m str> {
        field!(self, ref correlation_id)
    }

    /// W3C trace context of this delivery. The host passes it on by itself with everything published or fetched.
    pub fn traceparent(&self) -> Option<&'m str> {
        field!(self, ref traceparent)
    }

    /// W3C trace state; none without [`traceparent`](Self::traceparent).
    pub fn tracestate(&self) -> Option<&'m str> {
        field!(self, ref tracestate)
    }

    /// Messages with one key run one after another on routes that ask for `order = "key"`.
    pub fn key(&self) -> Option<&'m [u8]> {
        field!(self, ref key)
    }

    /// Media type of the payload.
    pub fn content_type(&self) -> Option<&'m str> {
        field!(self, ref content_type)
    }

    /// Where the payload's schema is, a URI.
    pub fn schema(&self) -> Option<&'m str> {
        field!(self, ref schema)
    }

    /// When it was published (task) or happened (event).
    pub fn time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(field!(self, time_ms))
    }

    /// Worthless after this time: the host expires it instead of delivering it. Events have none.
    pub fn deadline(&self) -> Option<SystemTime> {
        match self.message {
            Message::Task(message) => message
                .deadline_ms
                .map(|ms| UNIX_EPOCH + Duration::from_millis(ms)),
            _ => None,
        }
    }

    /// The queue that an answer is expected in. Tasks only.
    pub fn reply_to(&self) -> Option<&'m str> {
        match self.message {
            Message::Task(message) => message.reply_to.as_deref(),
            _ => None,
        }
    }

    /// 0 (lowest) to 10. 0 for events.
    pub fn priority(&self) -> u8 {
        match self.message {
            Message::Task(message) => message.priority,
            _ => 0,
        }
    }

    /// Who says so. Events only.
    pub fn source(&self) -> Option<&'m str> {
        field!(self, event source)
    }

    /// What it is about, within the source. Events only.
    pub fn subject(&self) -> Option<&'m str> {
        field!(self, event subject)
    }

    /// Partition of the topic; none where the broker has no partitions.
    pub fn partition(&self) -> Option<u32> {
        match self.message {
            Message::Task(_) => None,
            Message::Event(message) => message.partition,
            Message::Packed(view) => view.partition(),
        }
    }

    /// Offset in the partition; none where the broker has no offsets.
    pub fn offset(&self) -> Option<u64> {
        match self.message {
            Message::Task(_) => None,
            Message::Event(message) => message.offset,
            Message::Packed(view) => view.offset(),
        }
    }

    /// True when the record had no value at all (Kafka null: "delete this key"), which is not the same as an empty one.
    pub fn tombstone(&self) -> bool {
        match self.message {
            Message::Task(_) => false,
            Message::Event(message) => message.tombstone,
            Message::Packed(view) => view.tombstone(),
        }
    }

    /// The headers that the route passes on (`headers = […]`), in their order.
    pub fn headers(&self) -> Headers<'m> {
        Headers(match self.message {
            Message::Task(message) => Source::List(message.headers.iter()),
            Message::Event(message) => Source::List(message.headers.iter()),
            Message::Packed(view) => Source::Packed(view.headers()),
        })
    }

    /// The first header of that name, compared without case.
    pub fn header(&self, name: &str) -> Option<&'m [u8]> {
        self.headers()
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    /// The same as text; none when it is absent or not UTF-8.
    pub fn header_str(&self, name: &str) -> Option<&'m str> {
        self.header(name)
            .and_then(|value| std::str::from_utf8(value).ok())
    }
}

/// Name and value of each header.
#[derive(Debug, Clone)]
pub struct Headers<'m>(Source<'m>);

#[derive(Debug, Clone)]
enum Source<'m> {
    List(std::slice::Iter<'m, (String, Vec<u8>)>),
    Packed(crate::packed::HeaderViews<'m>),
}

impl<'m> Iterator for Headers<'m> {
    type Item = (&'m str, &'m [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Source::List(list) => list.next().map(|(name, value)| (name.as_str(), value.as_slice())),
            Source::Packed(views) => views.next(),
        }
    }
}
