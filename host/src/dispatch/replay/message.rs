//! One message of a replay at a route: what it is, one attempt, and its dead letter.

use std::sync::Arc;
use std::time::Duration;

use super::super::intake::over_limit;
use super::super::item::fallback_id;
use super::super::letter::{self, Known};
use super::super::run::{LOG_LINES, invocation};
use super::super::settle::{self, PublishFailure};
use super::Scene;
use crate::decode;
use crate::guest::Completion;
use crate::model::ids::replayed_id;
use crate::model::replay::{Failed, Fate};
use crate::model::{
    Attempt, DeadLetter, Envelope, Failure, FailureClass, Outcome, Outgoing, RawMessage, UnixMs, Verdict,
};
use crate::retry;

/// In the progress of its replay; the letter has all of it.
const REASON: usize = 300;

pub(super) struct Message {
    pub envelope: Envelope,
    raw: RawMessage,
    /// The attempt that is due: 1 for the first.
    attempt: u32,
    history: Vec<Attempt>,
    first_failure_ms: Option<UnixMs>,
}

/// What one attempt came to.
pub(super) enum Turned {
    Ended(Fate),
    /// Given up on; the letter is to be written.
    Buried(Box<DeadLetter>),
    /// Once more, after so long.
    Again(Duration),
}

impl Scene<'_> {
    /// `Err`: no handler will see it.
    pub(super) fn message(&self, mut raw: RawMessage) -> Result<Message, Box<DeadLetter>> {
        let now = self.context.clock.now_ms();
        // A message of a stream is what the route handles.
        raw.origin.kind = self.route.kind;
        let unseen = |raw: &RawMessage, class, why: &decode::Malformed| {
            let mut letter = letter::of_raw(raw.clone(), class, why, now);
            letter.id = replayed_id(raw, &self.order.replay);
            letter.route = Some(self.route.name.to_string());
            Err(Box::new(letter))
        };
        if let Some((class, why)) = over_limit(&raw, &self.context.limits) {
            return unseen(&raw, class, &why);
        }
        match decode::decode_or(&raw, || fallback_id(&raw), now) {
            Err(why) => unseen(&raw, FailureClass::Malformed, &why),
            Ok(envelope) => Ok(Message {
                envelope,
                raw,
                attempt: 1,
                history: Vec::new(),
                first_failure_ms: None,
            }),
        }
    }

    /// One attempt, with its effects.
    pub(super) async fn run(&self, message: &mut Message) -> Turned {
        let started = self.context.clock.now_ms();
        if let Some(deadline) = message
            .envelope
            .deadline_ms
            .filter(|deadline| *deadline <= started)
        {
            let late = started.saturating_sub(deadline);
            let reason = format!("its deadline passed {late} ms before it could run");
            return self.give_up(
                message,
                FailureClass::Expired,
                &Failure::coded("deadline", reason),
            );
        }
        // One that serves since the last message; when there is none any more, the last one.
        let serving = match &self.order.part {
            Some(part) => Some(Arc::clone(part)),
            None => self.runner.version(),
        };
        let version = serving.unwrap_or_else(|| Arc::clone(&self.version));
        let call = invocation(&self.route, &message.envelope, message.attempt);
        let Some(completion) = version.call(&[call]).await.pop() else {
            let failure = Failure::coded("trap.results", "no result for this message");
            return self.give_up(message, FailureClass::Exhausted, &failure);
        };
        let Completion {
            outcome,
            outputs,
            withheld,
            mut log,
            duration,
        } = completion;
        if outcome == Outcome::Done {
            return self.done(message, outputs).await;
        }
        if let Some(place) = withheld {
            // Nothing is wrong with the message, and trying again would end the same way.
            let reason = format!(
                "its handler wanted to reach {place}, which is not carried out in a replay without side effects"
            );
            return Turned::Ended(Fate::Failed(Failed {
                class: "withheld".to_owned(),
                code: None,
                reason,
                letter: None,
                ..message.place()
            }));
        }
        let verdict = retry::decide(
            &outcome,
            message.attempt,
            &self.route.retry,
            (self.context.random)(),
        );
        log.drain(..log.len().saturating_sub(LOG_LINES));
        message.history.push(Attempt {
            number: message.attempt,
            started_ms: started,
            duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
            outcome,
            digest: Some(version.digest().to_string()),
            log,
        });
        message
            .first_failure_ms
            .get_or_insert(self.context.clock.now_ms());
        match verdict {
            Verdict::Acknowledge => self.done(message, outputs).await,
            Verdict::RetryAfter { delay, .. } => {
                message.attempt = message.attempt.saturating_add(1);
                Turned::Again(delay)
            }
            Verdict::DeadLetter { class, failure } => self.give_up(message, class, &failure),
        }
    }

    /// Without side effects the output is checked, as ever, and goes nowhere.
    async fn done(&self, message: &Message, outputs: Vec<Outgoing>) -> Turned {
        if outputs.is_empty() || self.order.part.is_some() {
            return Turned::Ended(Fate::Done);
        }
        match settle::publish(self.context, outputs).await {
            Ok(()) => Turned::Ended(Fate::Done),
            Err(PublishFailure::Permanent(failure)) => self.give_up(message, FailureClass::Refused, &failure),
            // The host's time is over; whoever drives this is told so before it looks at the answer.
            Err(PublishFailure::GivenUp) => std::future::pending().await,
        }
    }

    fn give_up(&self, message: &Message, class: FailureClass, failure: &Failure) -> Turned {
        let known = Known {
            id: replayed_id(&message.raw, &self.order.replay),
            raw: &message.raw,
            envelope: &message.envelope,
            attempts: &message.history,
            first_failure_ms: message.first_failure_ms,
        };
        let now = self.context.clock.now_ms();
        let letter = letter::of_known(known, Some(&*self.route), class, failure, now);
        Turned::Buried(Box::new(letter))
    }

    /// On disk when it returns. None: the drain limit came first.
    pub(super) async fn bury(&self, letter: DeadLetter) -> Option<Fate> {
        let rows = settle::persist(self.context, "write a dead letter", || {
            self.context.letters.enter(vec![letter.clone()])
        })
        .await?;
        let row = rows.into_iter().next().unwrap_or_else(|| letter.id.clone());
        settle::count_letter(self.context, &letter, &row);
        let origin = &letter.raw.origin;
        Some(Fate::Failed(Failed {
            partition: origin.partition.unwrap_or_default(),
            offset: origin.offset.unwrap_or_default(),
            id: letter.message_id,
            class: letter.class.as_str().to_owned(),
            code: letter.code,
            reason: letter.reason.chars().take(REASON).collect(),
            letter: Some(row),
        }))
    }
}

impl Message {
    fn place(&self) -> Failed {
        Failed {
            partition: self.raw.origin.partition.unwrap_or_default(),
            offset: self.raw.origin.offset.unwrap_or_default(),
            id: Some(self.envelope.id.clone()),
            class: String::new(),
            code: None,
            reason: String::new(),
            letter: None,
        }
    }
}
