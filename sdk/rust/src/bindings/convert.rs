//! Generated records to ours and back; every field is moved, none copied.

use super::task::helix::messaging::{fetch as wit_fetch, publisher};
use super::wit;
use crate::failure::{Failure, Handled, Verdict};
use crate::fetch::{FetchError, Request, Response};
use crate::publish::{NewEvent, NewTask, PublishError};
use crate::record::{EventMessage, TaskMessage};

macro_rules! moved {
    ($from:path => $to:path { $($field:ident),+ $(,)? }) => {
        impl From<$from> for $to {
            fn from(value: $from) -> Self {
                // Both sides are taken apart, so a field added to one alone does not compile.
                let $from { $($field),+ } = value;
                Self { $($field),+ }
            }
        }
    };
}

moved!(wit::Task => TaskMessage {
    id, message_type, queue, payload, content_type, schema, priority, key, time_ms, deadline_ms, attempt, max_attempts,
    redelivered, reprocessed, replay, correlation_id, reply_to, traceparent, tracestate, headers,
});
moved!(wit::Event => EventMessage {
    id, message_type, source, subject, data, tombstone, content_type, schema, time_ms, key, topic, partition, offset,
    attempt, max_attempts, redelivered, reprocessed, replay, correlation_id, traceparent, tracestate, headers,
});
moved!(NewTask => wit::NewTask {
    message_type, queue, payload, content_type, schema, priority, key, delay_ms, deadline_ms, correlation_id, reply_to,
    headers, input,
});
moved!(NewEvent => wit::NewEvent {
    message_type, topic, subject, data, tombstone, content_type, schema, key, correlation_id, headers, input,
});
moved!(Request => wit_fetch::Request { method, url, headers, body, timeout_ms });
moved!(wit_fetch::Response => Response { status, headers, body });

impl From<publisher::PublishError> for PublishError {
    fn from(error: publisher::PublishError) -> Self {
        match error {
            publisher::PublishError::Denied(what) => Self::Denied(what),
            publisher::PublishError::UnknownTarget(what) => Self::UnknownTarget(what),
            publisher::PublishError::Invalid(what) => Self::Invalid(what),
            publisher::PublishError::TooLarge(limit) => Self::TooLarge(limit),
            publisher::PublishError::TooMany(limit) => Self::TooMany(limit),
            publisher::PublishError::Unavailable(what) => Self::Unavailable(what),
            publisher::PublishError::Other(what) => Self::Other(what),
        }
    }
}

impl From<wit_fetch::FetchError> for FetchError {
    fn from(error: wit_fetch::FetchError) -> Self {
        match error {
            wit_fetch::FetchError::Denied(what) => Self::Denied(what),
            wit_fetch::FetchError::Invalid(what) => Self::Invalid(what),
            wit_fetch::FetchError::Timeout => Self::Timeout,
            wit_fetch::FetchError::Connection(what) => Self::Connection(what),
            wit_fetch::FetchError::TooLarge(limit) => Self::TooLarge(limit),
            wit_fetch::FetchError::Other(what) => Self::Other(what),
        }
    }
}

pub(crate) fn publish_task(task: NewTask) -> Result<String, PublishError> {
    publisher::publish_task(&task.into()).map_err(Into::into)
}

pub(crate) fn publish_event(event: NewEvent) -> Result<String, PublishError> {
    publisher::publish_event(&event.into()).map_err(Into::into)
}

pub(crate) fn fetch(request: Request) -> Result<Response, FetchError> {
    wit_fetch::send(&request.into())
        .map(Into::into)
        .map_err(Into::into)
}

pub(super) fn handled(result: Handled) -> Result<(), wit::Failure> {
    result.map_err(
        |Failure {
             verdict,
             reason,
             code,
         }| {
            let code = code.map(Into::into);
            match verdict {
                Verdict::Retry { after } => wit::Failure::Retry(wit::Retry {
                    reason,
                    code,
                    after_ms: after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
                }),
                Verdict::Reject => wit::Failure::Reject(wit::Reject { reason, code }),
            }
        },
    )
}
