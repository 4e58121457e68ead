//! The host of unit tests: takes what is published, answers fetches as told. One per thread, while a run lasts.

use std::cell::RefCell;

use super::message::Message;
use super::report::{BatchReport, Report};
use crate::context::Context;
use crate::failure::Handled;
use crate::fetch::{FetchError, Request, Response};
use crate::host::{Scope, within};
use crate::publish::{NewEvent, NewTask, PublishError};
use crate::rt::{BatchHandler, Handler, Kind};

type OnFetch = Box<dyn FnMut(&Request) -> Result<Response, FetchError>>;
type OnPublish = Box<dyn FnMut(&str) -> Result<(), PublishError>>;

thread_local! {
    static RUNNING: RefCell<Option<TestHost>> = const { RefCell::new(None) };
}

/// A host for one run: grants every publish and refuses every fetch, unless told otherwise.
pub fn host() -> TestHost {
    TestHost {
        on_fetch: Box::new(|request| {
            Err(FetchError::Denied(format!(
                "{}: no on_fetch in this test",
                request.url
            )))
        }),
        on_publish: Box::new(|_| Ok(())),
        tasks: Vec::new(),
        events: Vec::new(),
        requests: Vec::new(),
    }
}

/// See [`host`].
#[must_use = "call run()"]
pub struct TestHost {
    on_fetch: OnFetch,
    on_publish: OnPublish,
    tasks: Vec<NewTask>,
    events: Vec<NewEvent>,
    requests: Vec<Request>,
}

impl TestHost {
    /// Answers requests.
    pub fn on_fetch(self, answer: impl FnMut(&Request) -> Result<Response, FetchError> + 'static) -> Self {
        Self {
            on_fetch: Box::new(answer),
            ..self
        }
    }

    /// Takes or refuses what is published; it is given the queue or topic, or the message type where none was named.
    pub fn on_publish(self, decide: impl FnMut(&str) -> Result<(), PublishError> + 'static) -> Self {
        Self {
            on_publish: Box::new(decide),
            ..self
        }
    }

    /// Runs a handler on one message.
    ///
    /// # Panics
    /// When the handler is for the other kind of message.
    pub fn run<H: Handler>(self, message: Message) -> Report {
        assert_eq!(
            H::KIND,
            message.kind,
            "the handler is for the other kind of message"
        );
        self.call(message, H::call)
    }

    /// Runs a part of a handler on one message, for what lies behind a setting or a match.
    #[allow(
        clippy::needless_pass_by_value,
        reason = "reads as the other two: call(task(…), …)"
    )]
    pub fn call(self, message: Message, work: impl FnOnce(&Context<'_>) -> Handled) -> Report {
        let (result, host) = self.during(Scope::Single, || match message.kind {
            Kind::Task => work(&Context::task(&message.task)),
            Kind::Event => work(&Context::event(&message.event)),
        });
        let published = host.tasks.len() + host.events.len();
        let done = result.is_ok();
        Report {
            result,
            tasks: if done { host.tasks } else { Vec::new() },
            events: if done { host.events } else { Vec::new() },
            discarded: if done { 0 } else { published },
            requests: host.requests,
        }
    }

    /// Runs a batch handler on these events.
    ///
    /// # Panics
    /// When one of them is a task, or the handler returns a wrong number of results.
    pub fn run_batch<H: BatchHandler>(self, messages: impl IntoIterator<Item = Message>) -> BatchReport {
        let messages: Vec<Message> = messages.into_iter().collect();
        assert!(
            messages.iter().all(|message| message.kind == Kind::Event),
            "a batch handler takes events"
        );
        let (results, host) = self.during(Scope::Batch, || {
            let contexts: Vec<Context<'_>> = messages
                .iter()
                .zip(0..)
                .map(|(message, place)| Context::event(&message.event).at(place))
                .collect();
            H::call(&contexts)
        });
        let published = host.tasks.len() + host.events.len();
        let tasks: Vec<_> = host
            .tasks
            .into_iter()
            .filter(|task| sent(&results, task.input))
            .collect();
        let events: Vec<_> = host
            .events
            .into_iter()
            .filter(|event| sent(&results, event.input))
            .collect();
        let discarded = published - tasks.len() - events.len();
        BatchReport {
            results,
            tasks,
            events,
            discarded,
            requests: host.requests,
        }
    }

    fn during<T>(self, scope: Scope, work: impl FnOnce() -> T) -> (T, Self) {
        /// A panicking handler must not leave its host to the next test on this thread.
        struct Remove;
        impl Drop for Remove {
            fn drop(&mut self) {
                RUNNING.take();
            }
        }
        RUNNING.replace(Some(self));
        let remove = Remove;
        let outcome = within(scope, work);
        let host = RUNNING.take().unwrap_or_else(host);
        drop(remove);
        (outcome, host)
    }
}

fn sent(results: &[Handled], input: Option<u32>) -> bool {
    input
        .and_then(|input| results.get(input as usize))
        .is_some_and(Result::is_ok)
}

pub(crate) fn publish_task(task: NewTask) -> Result<String, PublishError> {
    with(|host| {
        if task.priority.is_some_and(|priority| priority > 10) {
            return Err(PublishError::Invalid("priority is above 10".into()));
        }
        (host.on_publish)(task.queue.as_deref().unwrap_or(&task.message_type))?;
        host.tasks.push(task);
        Ok(host.next_id())
    })
    .unwrap_or_else(|| Err(PublishError::Other(OUTSIDE.into())))
}

pub(crate) fn publish_event(event: NewEvent) -> Result<String, PublishError> {
    with(|host| {
        if event.tombstone && (event.key.is_none() || !event.data.is_empty()) {
            return Err(PublishError::Invalid("a tombstone has a key and no data".into()));
        }
        (host.on_publish)(event.topic.as_deref().unwrap_or(&event.message_type))?;
        host.events.push(event);
        Ok(host.next_id())
    })
    .unwrap_or_else(|| Err(PublishError::Other(OUTSIDE.into())))
}

pub(crate) fn fetch(request: Request) -> Result<Response, FetchError> {
    with(|host| {
        let answer = (host.on_fetch)(&request);
        host.requests.push(request);
        answer
    })
    .unwrap_or_else(|| Err(FetchError::Other(OUTSIDE.into())))
}

const OUTSIDE: &str = "there is no host here: run the handler by helix_sdk::testing::run";

impl TestHost {
    fn next_id(&self) -> String {
        format!("test/{}", self.tasks.len() + self.events.len() - 1)
    }
}

fn with<T>(work: impl FnOnce(&mut TestHost) -> T) -> Option<T> {
    RUNNING.with_borrow_mut(|running| running.as_mut().map(work))
}
