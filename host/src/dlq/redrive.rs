//! Sends one letter again, or discards it. Of several who want the same letter one gets it, the others a conflict.
//!
//! claimed (`retrying`, on disk) → sent (confirmed by its broker, or parked for its route) → `reprocessed`. A crash before
//! the confirm brings the letter back when its lease ends; a crash after it does so too, and that is a duplicate, never a loss.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::parked::Policy;
use super::plan::{self, Plan, Refusal};
use crate::broker::{PublishError, Publisher};
use crate::model::{Clock, DeadLetter, Ids, LetterState, RawMessage};
use crate::store::{Change, Changed, DeadLetters, HeldKeys, Note, Parked};
use crate::telemetry::Metrics;
use crate::telemetry::logs::printable;
use crate::telemetry::metrics::DLQ;

/// How long a claim holds: longer than everything below together.
const LEASE: Duration = Duration::from_secs(120);
/// For the broker's confirm. Shorter than an HTTP request may take.
const CONFIRM: Duration = Duration::from_secs(40);
/// The last change is tried again after these, while the store has a bad time.
const PAUSES_MS: [u64; 7] = [20, 100, 300, 1_000, 2_000, 4_000, 8_000];

/// The routes of this host, as far as sending again needs them.
pub trait Routes: Send + Sync {
    fn has(&self, route: &str) -> bool;
    fn policy(&self, route: &str) -> Policy;
    /// A message was parked that is due.
    fn parked(&self);
}

pub struct Redrive {
    pub letters: Arc<dyn DeadLetters>,
    pub held: Arc<dyn HeldKeys>,
    pub publishers: HashMap<Arc<str>, Arc<dyn Publisher>>,
    pub routes: Arc<dyn Routes>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub metrics: Arc<Metrics>,
}

/// Why it was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refused {
    #[error("no such letter")]
    Unknown,
    /// It is in that state, so this cannot be done with it.
    #[error("the letter is {}", .0.as_str())]
    Conflict(LetterState),
    /// There is nothing to release.
    #[error("no key waits behind the letter")]
    HoldsNothing,
    /// Nothing was sent.
    #[error("{0}")]
    Refusal(#[from] Refusal),
    #[error(
        "its broker `{0}` is not configured any more; configure it again, or discard the letter with a reason"
    )]
    NoBroker(Arc<str>),
    /// The broker does not take it; nothing was sent.
    #[error("its broker does not take it: {0}")]
    Target(PublishError),
    /// Not now.
    #[error("{0}; the letter is dead again")]
    Away(PublishError),
    /// Sent, and the store could not write that down.
    #[error(
        "it was sent, but that could not be recorded: {0}; the letter will show as dead again, though it was sent"
    )]
    Unrecorded(crate::store::Error),
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

impl Redrive {
    /// Sends it again; the state of the letter afterwards. Goes on when the caller goes away.
    ///
    /// # Errors
    /// Says why not, and the letter is what it was; see [`Refused`].
    pub async fn reprocess(self: &Arc<Self>, id: &str, actor: &str) -> Result<LetterState, Refused> {
        let (redrive, id, actor) = (Arc::clone(self), id.to_owned(), actor.to_owned());
        let work = tokio::spawn(async move { redrive.send_again(&id, &actor).await });
        work.await.unwrap_or_else(|error| {
            let stopped = crate::store::Error::Storage(error.to_string());
            Err(Refused::Store(stopped))
        })
    }

    /// # Errors
    /// There is none, or it is not `dead`.
    pub async fn discard(
        &self,
        id: &str,
        actor: &str,
        reason: Option<String>,
    ) -> Result<LetterState, Refused> {
        let note = note(actor, "discard", reason);
        match self.letters.change(id, Change::Discard, note).await? {
            Changed::Done(letter) => {
                tracing::info!(letter = %id, actor = %printable(actor), "dead letter discarded");
                self.routes.parked();
                Ok(letter.state)
            }
            Changed::Conflict(state) => Err(Refused::Conflict(state)),
            Changed::Unknown => Err(Refused::Unknown),
        }
    }

    /// The key that waits behind it goes on without it; the state of the letter afterwards, `dead` as before.
    ///
    /// # Errors
    /// There is none, it is not `dead`, or nothing waits behind it.
    pub async fn release(
        &self,
        id: &str,
        actor: &str,
        reason: Option<String>,
    ) -> Result<LetterState, Refused> {
        let note = note(actor, "release", reason);
        match self.letters.change(id, Change::Release, note).await? {
            Changed::Done(letter) => {
                tracing::info!(letter = %id, actor = %printable(actor), "the key behind a dead letter goes on without it");
                self.routes.parked();
                Ok(letter.state)
            }
            Changed::Conflict(LetterState::Dead) => Err(Refused::HoldsNothing),
            Changed::Conflict(state) => Err(Refused::Conflict(state)),
            Changed::Unknown => Err(Refused::Unknown),
        }
    }

    async fn send_again(&self, id: &str, actor: &str) -> Result<LetterState, Refused> {
        // What cannot be sent is not claimed first: its trail would say that somebody had tried.
        let letter = self.letters.get(id).await?.ok_or(Refused::Unknown)?;
        if letter.state != LetterState::Dead {
            return Err(Refused::Conflict(letter.state));
        }
        self.plan(&letter).await?;
        let holder = self.ids.next();
        let claim = Change::Claim {
            holder: holder.clone(),
            lease: LEASE,
        };
        let claimed = self.letters.change(id, claim, note(actor, "reprocess", None));
        let letter = match claimed.await? {
            Changed::Done(letter) => letter,
            Changed::Conflict(state) => return Err(Refused::Conflict(state)),
            Changed::Unknown => return Err(Refused::Unknown),
        };
        // As it is now: somebody may have had it in between, so that it was sent again once more.
        let sent = match self.plan(&letter).await {
            Ok(Target::Queue(publisher, raw)) => publish(&*publisher, *raw).await.map(|()| Change::Sent {
                holder: holder.clone(),
                park: None,
            }),
            Ok(Target::Route(parked)) => Ok(Change::Sent {
                holder: holder.clone(),
                park: Some(parked),
            }),
            Ok(Target::Held(row)) => Ok(Change::Resume {
                holder: holder.clone(),
                row,
            }),
            Err(refused) => Err(refused),
        };
        match sent {
            Ok(change) => self.sent(id, actor, change).await,
            Err(refused) => {
                self.give_back(id, actor, holder, &refused).await;
                Err(refused)
            }
        }
    }

    async fn plan(&self, letter: &DeadLetter) -> Result<Target, Refused> {
        if let Some(held) = self.held.held_by(&letter.id).await? {
            let now = self.clock.now_ms();
            let row = plan::resume(letter, &held, |route| self.routes.has(route), now)?;
            return Ok(Target::Held(Box::new(row)));
        }
        match plan::plan(letter, |route| self.routes.has(route), self.clock.now_ms())? {
            Plan::Route(parked) => Ok(Target::Route(parked)),
            Plan::Queue(raw) => {
                let broker = &raw.origin.broker;
                let publisher = self
                    .publishers
                    .get(broker)
                    .ok_or_else(|| Refused::NoBroker(Arc::clone(broker)))?;
                Ok(Target::Queue(Arc::clone(publisher), raw))
            }
        }
    }

    /// The state afterwards. Not `reprocessed` when the message was so quick that it has failed again already.
    async fn sent(&self, id: &str, actor: &str, change: Change) -> Result<LetterState, Refused> {
        let parks = !matches!(change, Change::Sent { park: None, .. });
        match self.persist(id, &change, &note(actor, "sent", None)).await {
            Ok(Changed::Done(letter)) => {
                self.metrics.dlq_reprocessed.with_label_values(&[DLQ]).inc();
                if parks {
                    self.routes.parked();
                }
                tracing::info!(letter = %id, actor = %printable(actor), "dead letter sent again");
                Ok(letter.state)
            }
            // Nothing was parked: what was to be sent is part of the change.
            Ok(Changed::Conflict(state)) if parks => Err(Refused::Conflict(state)),
            Ok(Changed::Conflict(state)) => {
                self.metrics.dlq_reprocessed.with_label_values(&[DLQ]).inc();
                Ok(state)
            }
            Ok(Changed::Unknown) => Err(Refused::Unknown),
            Err(error) if parks => Err(Refused::Store(error)),
            Err(error) => {
                tracing::error!(letter = %id, %error, "a dead letter was sent again, but that cannot be recorded: it will be dead again. Repair the store (HX0401)");
                Err(Refused::Unrecorded(error))
            }
        }
    }

    async fn give_back(&self, id: &str, actor: &str, holder: String, why: &Refused) {
        let change = Change::GiveBack { holder };
        let note = note(actor, "not sent", Some(why.to_string()));
        if let Err(error) = self.persist(id, &change, &note).await {
            tracing::warn!(letter = %id, %error, "a dead letter that was not sent stays `retrying` until its lease ends");
        }
    }

    async fn persist(&self, id: &str, change: &Change, note: &Note) -> Result<Changed, crate::store::Error> {
        for pause in PAUSES_MS {
            if let Ok(changed) = self.letters.change(id, change.clone(), note.clone()).await {
                return Ok(changed);
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.letters.change(id, change.clone(), note.clone()).await
    }
}

enum Target {
    Queue(Arc<dyn Publisher>, Box<RawMessage>),
    Route(Box<Parked>),
    /// The row at the head of the lane that waits behind it.
    Held(Box<Parked>),
}

async fn publish(publisher: &dyn Publisher, raw: RawMessage) -> Result<(), Refused> {
    let late = |_| Err(PublishError::Unknown(format!("none within {CONFIRM:?}")));
    let confirmed = tokio::time::timeout(CONFIRM, publisher.put_back(raw)).await;
    match confirmed.unwrap_or_else(late) {
        Ok(_) => Ok(()),
        Err(error) if error.is_transient() => Err(Refused::Away(error)),
        Err(error) => Err(Refused::Target(error)),
    }
}

fn note(actor: &str, action: &'static str, reason: Option<String>) -> Note {
    Note {
        actor: actor.to_owned(),
        action: action.into(),
        reason,
    }
}

#[cfg(test)]
mod tests;
