//! Sends dead letters again without being asked (`[dlq.auto]`).
//!
//! Which letter goes next, when, and what becomes of one that cannot be mended is decided in [`policy`]; how far the host is
//! with each letter is in the store, with the letter. Sending is [`Redrive`]'s. While the store is away it waits; a broker
//! that is away costs no letter an attempt.

mod doors;
pub mod policy;

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::doors::Doors;
use self::policy::{Decision, decide, policies};
use super::redrive::{Behalf, Redrive, Refused, Unasked};
use super::runner::lane;
use crate::broker::PublishError;
use crate::config::valid::DlqAuto;
use crate::model::{DeadLetter, LetterState, MessageKind};
use crate::store::{AutoLetters, Candidate, Decided, Error, Progress, Step, Turn};
use crate::telemetry::metrics::DLQ;

/// Stands in the trail.
pub const ACTOR: &str = "dlq.auto";
/// Letters that are looked at together, unless more may go at once.
const PAGE: usize = 200;
/// Letters of other policies that are made candidates again in one transaction.
const RECONSIDERED: usize = 500;

/// What is known of brokers without asking them.
pub trait Reach: Send + Sync {
    /// False: nothing can be sent there now.
    fn is_up(&self, broker: &str) -> bool;
}

pub struct Auto {
    pub letters: Arc<dyn AutoLetters>,
    pub redrive: Arc<Redrive>,
    pub reach: Arc<dyn Reach>,
    /// None: switched off.
    pub settings: watch::Receiver<Option<Arc<DlqAuto>>>,
    /// Cancelled first of all when the host stops: brokers are still there to finish what is under way.
    pub stop: CancellationToken,
    /// Cancelled here when nothing is under way any more.
    pub idle: CancellationToken,
}

impl Auto {
    /// Runs until `stop`, then until what is under way has ended.
    ///
    /// # Errors
    /// Never: a store that cannot be asked is asked again.
    pub async fn run(mut self) -> Result<(), String> {
        let _idle = self.idle.clone().drop_guard();
        let mut rounds = Rounds::default();
        while !self.stop.is_cancelled() {
            let settings = self.settings.borrow_and_update().clone();
            let pause = match &settings {
                None => None,
                Some(settings) => {
                    let round = rounds.round(&self, settings).await;
                    if rounds.told(round) {
                        continue;
                    }
                    Some(settings.poll_interval)
                }
            };
            let paused = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = paused => {}
                // An error: the host is gone, and stops this one.
                Ok(()) = self.settings.changed() => {}
            }
        }
        Ok(())
    }
}

/// A letter that is to be sent.
struct Chosen {
    seen: Progress,
    next: Progress,
    letter: DeadLetter,
}

type Landed = (Chosen, Result<LetterState, Refused>);

/// What is remembered from one round to the next.
#[derive(Default)]
struct Rounds {
    doors: Doors,
    /// Letters that were left alone under others are candidates again.
    policies: Option<String>,
    /// The store is away, and that was said.
    away: bool,
}

impl Rounds {
    /// True: more is to be decided at once.
    fn told(&mut self, round: Result<bool, Error>) -> bool {
        match round {
            Ok(more) => {
                if std::mem::take(&mut self.away) {
                    tracing::info!("the store answers; dead letters are sent again by themselves");
                }
                more
            }
            Err(error) => {
                if !std::mem::replace(&mut self.away, true) {
                    tracing::warn!(%error, "sending dead letters again by itself waits for the store");
                }
                false
            }
        }
    }

    async fn round(&mut self, auto: &Auto, settings: &DlqAuto) -> Result<bool, Error> {
        let policies = policies(settings);
        if self.policies.as_ref() != Some(&policies) {
            while auto.letters.reconsider(&policies, RECONSIDERED).await? >= RECONSIDERED as u64 {
                if auto.stop.is_cancelled() {
                    return Ok(false);
                }
            }
            self.policies = Some(policies.clone());
        }
        let now = auto.redrive.clock.now_ms();
        let most = PAGE.max(settings.batch_size);
        let candidates = auto.letters.candidates(&settings.classes, now, most).await?;
        let full = candidates.len() >= most;
        let mut decided = Vec::new();
        let mut chosen = Vec::new();
        for letter in candidates {
            match decide(settings, &policies, &letter, now) {
                Decision::Send(next) if chosen.len() < settings.batch_size => chosen.push((letter, next)),
                Decision::Send(_) => {}
                Decision::Settle(step) => decided.push(Decided {
                    seen: letter.progress,
                    letter: letter.id,
                    step,
                }),
            }
        }
        settle(auto, decided).await?;
        // Whatever was settled is out of the way of those behind it.
        let more = full && chosen.is_empty();
        self.send(auto, settings, chosen).await?;
        Ok(more)
    }

    async fn send(
        &mut self,
        auto: &Auto,
        settings: &DlqAuto,
        candidates: Vec<(Candidate, Progress)>,
    ) -> Result<(), Error> {
        let mut decided = Vec::new();
        let mut chosen = Vec::new();
        for (candidate, next) in candidates {
            match self.load(auto, &candidate, next).await {
                Ok(letter) => chosen.push(letter),
                Err(None) => {}
                Err(Some(progress)) => decided.push(Decided {
                    letter: candidate.id,
                    seen: candidate.progress,
                    step: Step::Set(progress),
                }),
            }
        }
        let mut flights = JoinSet::new();
        for lane in lanes(chosen) {
            flights.spawn(fly(
                Arc::clone(&auto.redrive),
                lane,
                settings.processing_timeout,
                auto.stop.clone(),
            ));
        }
        let mut lost = None;
        while let Some(flown) = flights.join_next().await {
            let landed = match flown {
                Ok(landed) => landed,
                Err(error) => {
                    tracing::error!(%error, "sending dead letters by itself broke; they are dead again when their leases end");
                    continue;
                }
            };
            for (letter, result) in landed {
                match self.land(auto, letter, result) {
                    Ok(step) => decided.extend(step),
                    Err(error) => lost = Some(error),
                }
            }
        }
        settle(auto, decided).await?;
        lost.map_or(Ok(()), Err)
    }

    /// Whole, where it can be sent now; else how far the host is with it.
    async fn load(
        &self,
        auto: &Auto,
        candidate: &Candidate,
        next: Progress,
    ) -> Result<Chosen, Option<Progress>> {
        let letter = match auto.redrive.letters.get(&candidate.id).await {
            Ok(Some(letter)) => letter,
            Ok(None) => return Err(None),
            // What somebody's hand made unreadable must not hold up the others. A store that is away says so next.
            Err(_) => return Err(Some(next)),
        };
        let (seen, now) = (candidate.progress, auto.redrive.clock.now_ms());
        // An event goes to its route, and needs no broker for that.
        if letter.raw.origin.kind == MessageKind::Task {
            let broker = &letter.raw.origin.broker;
            let shut = match self.doors.shut_until(broker, now) {
                None if !auto.reach.is_up(broker) => Some(next.due_ms.max(now.saturating_add(1_000))),
                shut => shut,
            };
            if let Some(due_ms) = shut {
                return Err(Some(Progress { due_ms, ..seen }));
            }
        }
        Ok(Chosen { seen, next, letter })
    }

    /// What is to be written down of it still. An error: the store is away.
    fn land(
        &mut self,
        auto: &Auto,
        chosen: Chosen,
        result: Result<LetterState, Refused>,
    ) -> Result<Option<Decided>, Error> {
        let metrics = &auto.redrive.metrics;
        let Chosen { seen, next, letter } = chosen;
        let broker = &letter.raw.origin.broker;
        let set = |seen, progress| Decided {
            letter: letter.id.clone(),
            seen,
            step: Step::Set(progress),
        };
        match result {
            Ok(_) => {
                metrics.dlq_auto_processed.with_label_values(&[DLQ]).inc();
                if next.attempts > 1 {
                    metrics.dlq_auto_retried.with_label_values(&[DLQ]).inc();
                }
                self.doors.took(broker);
                Ok(None)
            }
            // Somebody else has it, or had it.
            Err(Refused::Conflict(_) | Refused::Unknown | Refused::Stopped | Refused::Ended) => Ok(None),
            Err(Refused::Store(error)) => Err(error),
            // Certainly not sent, and not for a fault of its own: that is no attempt.
            Err(Refused::Away(PublishError::Unavailable(why))) => {
                metrics.dlq_auto_failed.with_label_values(&[DLQ]).inc();
                tracing::debug!(letter = %letter.id, %why, "a dead letter waits for its broker");
                let due_ms = self.doors.refused(broker, auto.redrive.clock.now_ms());
                Ok(Some(set(next, Progress { due_ms, ..seen })))
            }
            Err(refused) => {
                metrics.dlq_auto_failed.with_label_values(&[DLQ]).inc();
                tracing::info!(letter = %letter.id, why = %refused, attempt = next.attempts, "a dead letter was not sent again by itself");
                // Written with its claim already, where it got that far.
                Ok(Some(set(seen, next)))
            }
        }
    }
}

async fn settle(auto: &Auto, decided: Vec<Decided>) -> Result<(), Error> {
    let settled = auto.letters.settle(ACTOR, decided).await?;
    let metrics = &auto.redrive.metrics;
    metrics
        .dlq_auto_archived
        .with_label_values(&[DLQ])
        .inc_by(settled.archived);
    metrics
        .dlq_auto_discarded
        .with_label_values(&[DLQ])
        .inc_by(settled.discarded);
    if settled.archived + settled.discarded > 0 {
        tracing::info!(
            archived = settled.archived,
            discarded = settled.discarded,
            "the host is done with dead letters that it sent again in vain; `helix dlq ls --state all` shows them"
        );
    }
    if settled.discarded > 0 {
        // Their keys may go on now.
        auto.redrive.routes.parked();
    }
    Ok(())
}

/// What must go one after another, together.
fn lanes(chosen: Vec<Chosen>) -> Vec<Vec<Chosen>> {
    let mut lanes: Vec<Vec<Chosen>> = Vec::new();
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    for letter in chosen {
        let place = lane(&letter.letter).map(|lane| *places.entry(lane).or_insert(lanes.len()));
        match place.and_then(|place| lanes.get_mut(place)) {
            Some(lane) => lane.push(letter),
            None => lanes.push(vec![letter]),
        }
    }
    lanes
}

async fn fly(
    redrive: Arc<Redrive>,
    lane: Vec<Chosen>,
    confirm: std::time::Duration,
    stop: CancellationToken,
) -> Vec<Landed> {
    let mut landed = Vec::with_capacity(lane.len());
    for chosen in lane {
        if stop.is_cancelled() {
            break;
        }
        let turn = Turn {
            seen: chosen.seen,
            next: chosen.next,
        };
        let behalf = Behalf {
            why: Some(format!("attempt {} of the host itself", chosen.next.attempts)),
            unasked: Some(Unasked {
                turn,
                confirm,
                stop: stop.clone(),
            }),
            ..Behalf::of(ACTOR)
        };
        let result = redrive.send_again(&chosen.letter, true, &behalf).await;
        landed.push((chosen, result));
    }
    landed
}

#[cfg(test)]
mod tests;
