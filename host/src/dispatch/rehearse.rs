//! What would become of a message if it were sent again now and another version ran it: limits, decoding, route, calls and
//! verdicts are those of the real way. Nothing is settled, published, counted or written.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Dispatcher;
use super::intake::over_limit;
use super::item::fallback_id;
use super::run::invocation;
use crate::config::valid::{Route, Unrouted};
use crate::decode;
use crate::guest::{Completion, Version};
use crate::model::clock::duration_ms;
use crate::model::{Envelope, Failure, FailureClass, MessageKind, Outcome, Outgoing, RawMessage, Verdict};
use crate::retry;

/// Waits between attempts cost nothing here, calls do: a route that tries more often than this is not followed to its end.
const MOST_ATTEMPTS: u32 = 20;
/// In the middle of the jitter.
const NO_CHANCE: f64 = 0.5;

/// How it would end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Acknowledged, with its output.
    Done,
    /// Acknowledged unseen: no route takes it, and `unrouted = "ignore"`.
    Ignored,
    /// A dead letter again.
    Dead { class: FailureClass, failure: Failure },
    /// Its route has another plugin, of this name.
    OtherPlugin(Arc<str>),
    /// Nobody can tell, and why.
    Open(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Performance {
    pub end: End,
    /// Calls that were made.
    pub attempts: u32,
    /// What would be published, by target.
    pub outputs: BTreeMap<Arc<str>, u64>,
}

impl Performance {
    fn unseen(end: End) -> Self {
        Self {
            end,
            attempts: 0,
            outputs: BTreeMap::new(),
        }
    }

    fn dead(class: FailureClass, failure: Failure) -> Self {
        Self::unseen(End::Dead { class, failure })
    }
}

/// The version that shall take the part of a plugin.
#[derive(Clone)]
pub struct Part {
    pub plugin: Arc<str>,
    pub version: Arc<dyn Version>,
}

impl Dispatcher {
    /// `route`: of an event that would be parked for it; a task finds its own. All calls together end within `limit`.
    pub async fn rehearse(
        &self,
        mut raw: RawMessage,
        route: Option<&str>,
        part: &Part,
        limit: Duration,
    ) -> Performance {
        let context = &self.shared.context;
        let now = context.clock.now_ms();
        if raw.origin.kind == MessageKind::Task {
            // It comes from its queue, as a new delivery.
            raw.redelivered = false;
            if let Some((class, why)) = over_limit(&raw, &context.limits) {
                return Performance::dead(class, Failure::coded(why.code, why.reason));
            }
        }
        let envelope = match decode::decode_or(&raw, || fallback_id(&raw), now) {
            Ok(envelope) => envelope,
            Err(why) => {
                return Performance::dead(FailureClass::Malformed, Failure::coded(why.code, why.reason));
            }
        };
        let found = match route {
            Some(name) => self.shared.runners.load().get(name).map(|r| r.route.load_full()),
            None => self
                .shared
                .routes
                .current()
                .lookup(&envelope.origin, &envelope.message_type)
                .cloned(),
        };
        match found {
            Some(route) if route.plugin == part.plugin => {
                Run {
                    route: &route,
                    envelope: &envelope,
                    version: &*part.version,
                    now,
                    until: Instant::now() + limit,
                }
                .to_its_end()
                .await
            }
            Some(route) => Performance::unseen(End::OtherPlugin(Arc::clone(&route.plugin))),
            None => Performance::unseen(match **context.unrouted.load() {
                Unrouted::Ignore => End::Ignored,
                Unrouted::DeadLetter => End::Dead {
                    class: FailureClass::Unrouted,
                    failure: Failure::coded(
                        "unrouted",
                        format!("no route takes type `{}`", envelope.message_type),
                    ),
                },
            }),
        }
    }
}

struct Run<'a> {
    route: &'a Route,
    envelope: &'a Envelope,
    version: &'a dyn Version,
    /// When the first attempt starts, Unix ms.
    now: u64,
    until: Instant,
}

impl Run<'_> {
    /// Attempt after attempt, as the route's policy has them, without the waits.
    async fn to_its_end(&self) -> Performance {
        let mut attempt = 1;
        // Waits that a real message would have behind it: its deadline may pass in them.
        let mut waited: u64 = 0;
        loop {
            let at = self.now.saturating_add(waited);
            if let Some(deadline) = self.envelope.deadline_ms.filter(|deadline| *deadline <= at) {
                let late = at.saturating_sub(deadline);
                let failure = Failure::coded(
                    "deadline",
                    format!("its deadline passed {late} ms before it could run"),
                );
                return Self::end(
                    End::Dead {
                        class: FailureClass::Expired,
                        failure,
                    },
                    attempt - 1,
                );
            }
            let mut call = invocation(self.route, self.envelope, attempt);
            let left = self.until.saturating_duration_since(Instant::now());
            let hurried = left < call.timeout;
            call.timeout = call.timeout.min(left);
            let completion = self.version.call(&[call]).await.pop();
            let Some(Completion {
                outcome,
                outputs,
                withheld,
                ..
            }) = completion
            else {
                return Self::end(End::Open("the handler gave no result".to_owned()), attempt);
            };
            if let Some(place) = withheld {
                let why = format!("needs fetch host {place}: requests are not carried out in a rehearsal");
                return Self::end(End::Open(why), attempt);
            }
            if hurried && matches!(outcome, Outcome::Timeout { .. }) {
                let why = format!(
                    "attempt {attempt} took longer than the rehearsal has time for; the route allows {:?} for each",
                    self.route.timeout
                );
                return Self::end(End::Open(why), attempt);
            }
            match retry::decide(&outcome, attempt, &self.route.retry, NO_CHANCE) {
                Verdict::Acknowledge => return Self::done(&outputs, attempt),
                Verdict::DeadLetter { class, failure } => {
                    return Self::end(End::Dead { class, failure }, attempt);
                }
                Verdict::RetryAfter { .. } if attempt >= MOST_ATTEMPTS => {
                    let why = format!("still retrying after {MOST_ATTEMPTS} attempts");
                    return Self::end(End::Open(why), attempt);
                }
                Verdict::RetryAfter { delay, .. } => waited = waited.saturating_add(duration_ms(delay)),
            }
            attempt += 1;
        }
    }

    fn done(outputs: &[Outgoing], attempts: u32) -> Performance {
        let mut performance = Self::end(End::Done, attempts);
        for output in outputs {
            *performance
                .outputs
                .entry(Arc::clone(&output.destination))
                .or_default() += 1;
        }
        performance
    }

    fn end(end: End, attempts: u32) -> Performance {
        Performance {
            attempts,
            ..Performance::unseen(end)
        }
    }
}
