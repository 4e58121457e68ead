//! Sends one letter again, or discards it. Of several who want the same letter one gets it, the others a conflict.
//!
//! claimed (`retrying`, on disk) → sent (confirmed by its broker, or parked for its route) → `reprocessed`. A crash before
//! the confirm brings the letter back when its lease ends; a crash after it does so too, and that is a duplicate, never a loss.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::parked::Policy;
use super::plan::{self, Plan, Refusal};
use crate::broker::{PublishError, Publisher};
use crate::model::{Clock, DeadLetter, Ids, LetterState, RawMessage};
use crate::planted::{self, Bug};
use crate::store::{AutoLetters, Change, Changed, DeadLetters, HeldKeys, Jobs, Member, Note, Parked, Turn};
use crate::telemetry::Metrics;
use crate::telemetry::logs::printable;
use crate::telemetry::metrics::DLQ;

/// How long a claim holds: longer than everything below together.
pub(super) const LEASE: Duration = Duration::from_secs(120);
/// For the broker's confirm. Shorter than an HTTP request may take.
const CONFIRM: Duration = Duration::from_secs(40);
/// What a claim holds longer than a confirm may take: for what comes before and after it.
const AROUND: Duration = Duration::from_secs(80);
/// For the confirm of what is under way when the host stops.
const HURRY: Duration = Duration::from_secs(5);
/// A letter that was sent again that often and failed each time is sent by neither a job nor the host itself: it would go
/// round for ever.
pub(super) const GUARD: u32 = 10;
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
    pub jobs: Arc<dyn Jobs>,
    pub auto: Arc<dyn AutoLetters>,
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
    /// The changed message cannot be sent, and why.
    #[error(transparent)]
    Edit(#[from] super::edit::Fault),
    /// Sent, and the store could not write that down.
    #[error(
        "it was sent, but that could not be recorded: {0}; the letter will show as dead again, though it was sent"
    )]
    Unrecorded(crate::store::Error),
    /// Nothing was sent.
    #[error("the job was cancelled, or another host has it")]
    Stopped,
    /// Nothing was sent.
    #[error("the letter has its result in this job")]
    Ended,
    #[error(transparent)]
    Store(#[from] crate::store::Error),
}

impl Refused {
    /// The letter after a change, or why there was none.
    pub(super) fn unless_done(changed: Changed) -> Result<Box<DeadLetter>, Self> {
        Err(match changed {
            Changed::Done(letter) => return Ok(letter),
            Changed::Conflict(state) => Self::Conflict(state),
            Changed::Unknown => Self::Unknown,
            Changed::Stopped => Self::Stopped,
            Changed::Ended => Self::Ended,
        })
    }
}

/// For whom a letter is sent or discarded.
#[derive(Debug, Clone)]
pub struct Behalf {
    /// Stands in the trail.
    pub actor: String,
    pub why: Option<String>,
    /// The letter's place in the job that does it.
    pub member: Option<Member>,
    /// Nobody asked: the host does it by itself.
    pub unasked: Option<Unasked>,
}

/// What the host is bound by when it sends a letter by itself.
#[derive(Debug, Clone)]
pub struct Unasked {
    pub turn: Turn,
    /// For the broker's confirm.
    pub confirm: Duration,
    /// The host stops: what is under way is not waited for much longer.
    pub stop: CancellationToken,
}

impl Behalf {
    pub fn of(actor: &str) -> Self {
        Self {
            actor: actor.to_owned(),
            why: None,
            member: None,
            unasked: None,
        }
    }

    pub(super) fn note(&self, action: &'static str, reason: Option<String>) -> Note {
        Note {
            actor: self.actor.clone(),
            action: action.into(),
            reason,
        }
    }
}

impl Redrive {
    /// Sends it again; the state of the letter afterwards. Goes on when the caller goes away.
    ///
    /// # Errors
    /// Says why not, and the letter is what it was; see [`Refused`].
    pub async fn reprocess(self: &Arc<Self>, id: &str, actor: &str) -> Result<LetterState, Refused> {
        let (redrive, id, behalf) = (Arc::clone(self), id.to_owned(), Behalf::of(actor));
        let work = tokio::spawn(async move {
            let letter = redrive.letters.get(&id).await?.ok_or(Refused::Unknown)?;
            redrive.send_again(&letter, true, &behalf).await
        });
        work.await.unwrap_or_else(|error| {
            let stopped = crate::store::Error::Storage(error.to_string());
            Err(Refused::Store(stopped))
        })
    }

    /// # Errors
    /// There is none, or it is not `dead`.
    pub async fn discard(&self, id: &str, behalf: &Behalf) -> Result<LetterState, Refused> {
        let note = behalf.note("discard", behalf.why.clone());
        let letter = Refused::unless_done(self.change(behalf, id, Change::Discard, note).await?)?;
        if behalf.member.is_none() {
            tracing::info!(letter = %id, actor = %printable(&behalf.actor), "dead letter discarded");
        }
        // Its key may go on now.
        self.routes.parked();
        Ok(letter.state)
    }

    /// The key that waits behind it goes on without it; the state of the letter afterwards, `dead` as before.
    ///
    /// # Errors
    /// There is none, it is not `dead`, or nothing waits behind it.
    pub async fn release(&self, id: &str, behalf: &Behalf) -> Result<LetterState, Refused> {
        let note = behalf.note("release", behalf.why.clone());
        let letter = match self.change(behalf, id, Change::Release, note).await? {
            Changed::Conflict(LetterState::Dead) => return Err(Refused::HoldsNothing),
            changed => Refused::unless_done(changed)?,
        };
        tracing::info!(letter = %id, actor = %printable(&behalf.actor), "the key behind a dead letter goes on without it");
        self.routes.parked();
        Ok(letter.state)
    }

    /// Sends a letter as it was when it was read. To be awaited to its end. `may_hold`: a key may have waited behind it then.
    ///
    /// # Errors
    /// As [`Redrive::reprocess`].
    pub async fn send_again(
        &self,
        read: &DeadLetter,
        may_hold: bool,
        behalf: &Behalf,
    ) -> Result<LetterState, Refused> {
        // What cannot be sent is not claimed first: its trail would say that somebody had tried.
        if read.state != LetterState::Dead {
            return Err(Refused::Conflict(read.state));
        }
        let planned = self.plan(read, may_hold).await?;
        let id = &read.id;
        let holder = self.ids.next();
        let note = behalf.note("reprocess", behalf.why.clone());
        let letter = match self.claim(behalf, id, holder.clone(), note).await? {
            Changed::Conflict(_) if planted::is(Bug::RedriveWithoutCompareAndSet) => Box::new(read.clone()),
            changed => Refused::unless_done(changed)?,
        };
        // As it is now: somebody may have had it in between, so that it was sent again once more, or its key went on without it.
        let fits = !matches!(planned, Target::Held(_)) && has_not_failed_since(&letter, read);
        let target = if fits {
            Ok(planned)
        } else {
            self.plan(&letter, true).await
        };
        let sent = match target {
            Ok(Target::Queue(publisher, raw)) if planted::is(Bug::LetterRemovedBeforeConfirm) => {
                let ended = self.sent(id, behalf, Change::Sent { holder, park: None }).await;
                tokio::time::sleep(planted::PAUSE).await;
                return publish(&*publisher, *raw, None).await.and(ended);
            }
            Ok(Target::Queue(publisher, raw)) => {
                let sent = publish(&*publisher, *raw, behalf.unasked.as_ref()).await;
                sent.map(|()| Change::Sent {
                    holder: holder.clone(),
                    park: None,
                })
            }
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
            Ok(change) => self.sent(id, behalf, change).await,
            Err(refused) => {
                self.give_back(id, behalf, holder, &refused).await;
                Err(refused)
            }
        }
    }

    async fn claim(
        &self,
        behalf: &Behalf,
        id: &str,
        holder: String,
        note: Note,
    ) -> Result<Changed, crate::store::Error> {
        let Some(unasked) = &behalf.unasked else {
            let claim = Change::Claim { holder, lease: LEASE };
            return self.change(behalf, id, claim, note).await;
        };
        let lease = LEASE.max(unasked.confirm.saturating_add(AROUND));
        self.auto.claim_turn(id, &unasked.turn, holder, lease, note).await
    }

    async fn change(
        &self,
        behalf: &Behalf,
        id: &str,
        change: Change,
        note: Note,
    ) -> Result<Changed, crate::store::Error> {
        match &behalf.member {
            Some(member) => self.jobs.change_member(member, id, change, note).await,
            None => self.letters.change(id, change, note).await,
        }
    }

    async fn plan(&self, letter: &DeadLetter, may_hold: bool) -> Result<Target, Refused> {
        let now = self.clock.now_ms();
        let held = match may_hold {
            true => self.held.held_by(&letter.id).await?,
            false => None,
        };
        if let Some(held) = held {
            let row = plan::resume(letter, &held, |route| self.routes.has(route), now)?;
            return Ok(Target::Held(Box::new(row)));
        }
        self.target(plan::plan(letter, |route| self.routes.has(route), now)?)
    }

    pub(super) fn target(&self, plan: Plan) -> Result<Target, Refused> {
        match plan {
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
    async fn sent(&self, id: &str, behalf: &Behalf, change: Change) -> Result<LetterState, Refused> {
        let parks = !matches!(change, Change::Sent { park: None, .. });
        match self
            .persist(behalf, id, &change, &behalf.note("sent", None))
            .await
        {
            Ok(Changed::Done(letter)) => {
                self.metrics.dlq_reprocessed.with_label_values(&[DLQ]).inc();
                if parks {
                    self.routes.parked();
                }
                // A job says at its end how many it were.
                if behalf.member.is_none() {
                    tracing::info!(letter = %id, actor = %printable(&behalf.actor), "dead letter sent again");
                }
                Ok(letter.state)
            }
            // It is out; what is parked goes with the change, or not at all.
            Ok(Changed::Conflict(state)) if !parks => {
                self.metrics.dlq_reprocessed.with_label_values(&[DLQ]).inc();
                Ok(state)
            }
            Ok(changed) => Refused::unless_done(changed).map(|letter| letter.state),
            Err(error) if parks => Err(Refused::Store(error)),
            Err(error) => {
                tracing::error!(letter = %id, %error, "a dead letter was sent again, but that cannot be recorded: it will be dead again. Repair the store (HX0401)");
                Err(Refused::Unrecorded(error))
            }
        }
    }

    pub(super) async fn give_back(&self, id: &str, behalf: &Behalf, holder: String, why: &Refused) {
        let change = Change::GiveBack { holder };
        let note = behalf.note("not sent", Some(why.to_string()));
        if let Err(error) = self.persist(behalf, id, &change, &note).await {
            tracing::warn!(letter = %id, %error, "a dead letter that was not sent stays `retrying` until its lease ends");
        }
    }

    pub(super) async fn persist(
        &self,
        behalf: &Behalf,
        id: &str,
        change: &Change,
        note: &Note,
    ) -> Result<Changed, crate::store::Error> {
        for pause in PAUSES_MS {
            if let Ok(changed) = self.change(behalf, id, change.clone(), note.clone()).await {
                return Ok(changed);
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        self.change(behalf, id, change.clone(), note.clone()).await
    }
}

pub(super) enum Target {
    Queue(Arc<dyn Publisher>, Box<RawMessage>),
    Route(Box<Parked>),
    /// The row at the head of the lane that waits behind it.
    Held(Box<Parked>),
}

/// Then no key has begun to wait behind it either.
fn has_not_failed_since(letter: &DeadLetter, read: &DeadLetter) -> bool {
    (letter.reprocessed, letter.last_failure_ms) == (read.reprocessed, read.last_failure_ms)
}

pub(super) async fn publish(
    publisher: &dyn Publisher,
    raw: RawMessage,
    unasked: Option<&Unasked>,
) -> Result<(), Refused> {
    let confirm = unasked.map_or(CONFIRM, |unasked| unasked.confirm);
    let hurried = async {
        match unasked {
            Some(unasked) => unasked.stop.cancelled().await,
            None => std::future::pending().await,
        }
        tokio::time::sleep(HURRY).await;
    };
    let confirmed = tokio::select! {
        confirmed = tokio::time::timeout(confirm, publisher.put_back(raw)) => confirmed
            .unwrap_or_else(|_| Err(PublishError::Unknown(format!("none within {confirm:?}")))),
        () = hurried => Err(PublishError::Unknown("the host stops".to_owned())),
    };
    match confirmed {
        Ok(_) => Ok(()),
        Err(error) if error.is_transient() => Err(Refused::Away(error)),
        Err(error) => Err(Refused::Target(error)),
    }
}

#[cfg(test)]
mod tests;
