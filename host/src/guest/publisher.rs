//! The import `publisher`: takes messages, checks and stamps them, and holds them until the handler is done.

use bytes::Bytes;

use super::bindings::helix::messaging::messages::{NewEvent, NewTask};
use super::bindings::helix::messaging::publisher::{Host, PublishError};
use super::grants;
use super::sandbox::Sandbox;
use crate::model::header::HOST_PREFIX;
use crate::model::{Headers, MessageKind, Outgoing, ids};

const MAX_PRIORITY: u8 = 10;
const MAX_HEADERS: usize = 256;
/// An AMQP short string; Kafka allows more, and one contract serves both.
const MAX_NAME: usize = 255;
const OCTETS: &str = "application/octet-stream";

/// What tasks and events have in common, so that both take one way.
struct New {
    kind: MessageKind,
    target: Option<String>,
    input: Option<u32>,
    headers: Vec<(String, Vec<u8>)>,
    message: Outgoing,
}

impl Host for Sandbox {
    fn publish_task(&mut self, task: NewTask) -> Result<String, PublishError> {
        if let Some(priority) = task.priority.filter(|&p| p > MAX_PRIORITY) {
            return Err(PublishError::Invalid(format!(
                "priority is {priority}, the highest is {MAX_PRIORITY}"
            )));
        }
        let now = self.services.clock.now_ms();
        let message = Outgoing {
            message_type: task.message_type,
            payload: Bytes::from(task.payload),
            content_type: Some(task.content_type.unwrap_or_else(|| OCTETS.into())),
            schema: task.schema,
            priority: task.priority,
            key: task.key.map(Bytes::from),
            not_before_ms: task
                .delay_ms
                .filter(|&ms| ms > 0)
                .map(|ms| now.saturating_add(ms)),
            deadline_ms: task.deadline_ms,
            correlation_id: task.correlation_id,
            reply_to: task.reply_to,
            ..blank(MessageKind::Task, now)
        };
        self.stage(New {
            kind: MessageKind::Task,
            target: task.queue,
            input: task.input,
            headers: task.headers,
            message,
        })
    }

    fn publish_event(&mut self, event: NewEvent) -> Result<String, PublishError> {
        if event.tombstone && !event.data.is_empty() {
            return Err(PublishError::Invalid("data of a tombstone must be empty".into()));
        }
        if event.tombstone && event.key.is_none() {
            return Err(PublishError::Invalid(
                "a tombstone needs a key: it says what is deleted".into(),
            ));
        }
        let content_type = event
            .content_type
            .or_else(|| (!event.tombstone).then(|| OCTETS.into()));
        let message = Outgoing {
            message_type: event.message_type,
            payload: Bytes::from(event.data),
            tombstone: event.tombstone,
            content_type,
            schema: event.schema,
            subject: event.subject,
            key: event.key.map(Bytes::from),
            correlation_id: event.correlation_id,
            ..blank(MessageKind::Event, self.services.clock.now_ms())
        };
        self.stage(New {
            kind: MessageKind::Event,
            target: event.topic,
            input: event.input,
            headers: event.headers,
            message,
        })
    }
}

impl Sandbox {
    fn stage(&mut self, new: New) -> Result<String, PublishError> {
        let New {
            kind,
            target,
            input,
            headers,
            mut message,
        } = new;
        check_text("message-type", &message.message_type)?;
        let destination = match target {
            Some(name) => name.into(),
            None => self
                .services
                .targets
                .resolve(kind, &message.message_type)
                .ok_or_else(|| {
                    PublishError::UnknownTarget(format!(
                        "the topology sends type `{}` nowhere; name a target",
                        message.message_type
                    ))
                })?,
        };
        // Refused before it is looked up: what exists is none of its business.
        if let Some(denial) = grants::publish(&self.plugin, kind, &destination) {
            self.call.denied.record(&denial);
            return Err(PublishError::Denied(denial.text));
        }
        if !self.services.targets.exists(kind, &destination) {
            return Err(PublishError::UnknownTarget(format!(
                "there is no {} `{destination}`",
                place(kind)
            )));
        }
        message.headers = stamp(headers)?;

        let place = self.place(input)?;
        let limit = self.plugin.output_bytes;
        let size =
            message.payload.len() + message.key.as_ref().map_or(0, Bytes::len) + message.headers.size();
        if size > self.services.max_message_bytes {
            return Err(PublishError::TooLarge(self.services.max_message_bytes as u64));
        }
        // Held until the handler is done, as the body is.
        let held = (size + texts(&message)) as u64;
        let outputs = self.plugin.outputs;
        let Some(input) = self.call.inputs.get_mut(place) else {
            return Err(PublishError::Other("no message is being handled".into()));
        };
        if input.outputs >= outputs {
            return Err(PublishError::TooMany(outputs));
        }
        if input.bytes.saturating_add(held) > limit {
            return Err(PublishError::TooLarge(limit));
        }
        let id = ids::output_id(&input.id, input.outputs as usize);
        input.outputs += 1;
        input.bytes += held;

        message.correlation_id = message.correlation_id.or_else(|| input.correlation_id.clone());
        message.trace = input.trace.clone();
        message.source = Some(format!("helix/{}", self.plugin.name));
        message.headers.push("helix-source", self.plugin.name.clone());
        message.headers.push("helix-plugin", self.digest.to_string());
        message.headers.push("helix-input-id", input.id.clone());
        message.destination = destination;
        message.id.clone_from(&id);
        self.call.staged.push((place, message));
        Ok(id)
    }

    /// Which message of the batch an output belongs to.
    fn place(&self, input: Option<u32>) -> Result<usize, PublishError> {
        if !self.call.batch {
            return Ok(0);
        }
        let Some(place) = input else {
            return Err(PublishError::Invalid(
                "`input` is required in a batch: the place of the message this belongs to".into(),
            ));
        };
        let place = place as usize;
        if place < self.call.inputs.len() {
            Ok(place)
        } else {
            Err(PublishError::Invalid(format!(
                "`input` is {place}, the batch has {} messages",
                self.call.inputs.len()
            )))
        }
    }
}

/// Bytes of the texts that may have any length.
fn texts(message: &Outgoing) -> usize {
    let Outgoing {
        content_type,
        schema,
        subject,
        correlation_id,
        reply_to,
        ..
    } = message;
    [schema, subject, correlation_id, reply_to]
        .into_iter()
        .flatten()
        .map(String::len)
        .sum::<usize>()
        + content_type
            .as_ref()
            .filter(|given| *given != OCTETS)
            .map_or(0, String::len)
}

fn place(kind: MessageKind) -> &'static str {
    match kind {
        MessageKind::Task => "queue",
        MessageKind::Event => "topic",
    }
}

fn stamp(headers: Vec<(String, Vec<u8>)>) -> Result<Headers, PublishError> {
    let mut kept = Headers::new();
    for (name, value) in headers {
        check_text("header name", &name)?;
        if name
            .get(..HOST_PREFIX.len())
            .is_some_and(|p| p.eq_ignore_ascii_case(HOST_PREFIX))
        {
            continue;
        }
        kept.push(name, value);
    }
    if kept.len() > MAX_HEADERS {
        return Err(PublishError::Invalid(format!(
            "{} headers, the most is {MAX_HEADERS}",
            kept.len()
        )));
    }
    Ok(kept)
}

fn check_text(what: &str, text: &str) -> Result<(), PublishError> {
    let wrong = if text.is_empty() {
        "is empty"
    } else if text.len() > MAX_NAME {
        "is longer than 255 bytes"
    } else if text.chars().any(char::is_control) {
        "has a control character"
    } else {
        return Ok(());
    };
    Err(PublishError::Invalid(format!("{what} {wrong}")))
}

fn blank(kind: MessageKind, time_ms: u64) -> Outgoing {
    Outgoing {
        kind,
        destination: "".into(),
        id: String::new(),
        message_type: String::new(),
        payload: Bytes::new(),
        tombstone: false,
        content_type: None,
        schema: None,
        source: None,
        subject: None,
        priority: None,
        key: None,
        time_ms,
        not_before_ms: None,
        deadline_ms: None,
        correlation_id: None,
        reply_to: None,
        trace: None,
        headers: Headers::new(),
    }
}
