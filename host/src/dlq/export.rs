//! Gives a copy of each new letter to others: in a topic, in the manual's shape. A letter is pending from the transaction
//! that writes it until its broker has confirmed the copy; the oldest go first, a bounded batch at a time. A host that dies
//! between the confirm and the note of it sends that batch once more, under the same ids.

pub mod shape;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::broker::{PublishError, Publisher, Replica};
use crate::model::{Clock, MessageKind, Origin};
use crate::store::{DeadLetters, Error, Export, Exports};
use crate::telemetry::Metrics;

/// Letters claimed at a time.
const BATCH: usize = 64;
/// Bytes of their messages in hand; one letter may be larger.
const BYTES: usize = 4 << 20;
/// Longer than a publish may take. Who dies with a claim has it back at the next start, others after this.
const LEASE: Duration = Duration::from_secs(300);
/// How often it is looked whether something is pending.
const IDLE: Duration = Duration::from_millis(500);
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(15));

/// Where copies go. None: there are none of that kind.
#[derive(Debug, Clone, Default)]
pub struct Topics {
    pub tasks: Option<Arc<str>>,
    pub events: Option<Arc<str>>,
}

pub struct Exporter {
    pub topics: Topics,
    /// Of the broker of events, which has the topics.
    pub broker: Arc<str>,
    pub publisher: Arc<dyn Publisher>,
    pub letters: Arc<dyn DeadLetters>,
    pub exports: Arc<dyn Exports>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
    /// No batch is under way any more.
    pub idle: CancellationToken,
}

/// Letters of one kind, and how it goes with their topic.
struct Lane {
    kind: MessageKind,
    topic: Arc<str>,
    pauses: u32,
    /// Nothing is tried before.
    until: Option<Instant>,
    said: bool,
}

/// What became of claimed letters.
#[derive(Default)]
struct Batch {
    /// Need no copy any more.
    done: Vec<Export>,
    back: Vec<Export>,
    /// Why nothing more is tried now.
    trouble: Option<String>,
}

impl Exporter {
    /// Runs until `stop`.
    ///
    /// # Errors
    /// Never: a broker or a store that cannot be reached is tried again.
    pub async fn run(self) -> Result<(), String> {
        let kinds = [
            (MessageKind::Task, &self.topics.tasks),
            (MessageKind::Event, &self.topics.events),
        ];
        let mut lanes: Vec<Lane> = kinds
            .into_iter()
            .filter_map(|(kind, topic)| {
                Some(Lane {
                    kind,
                    topic: Arc::clone(topic.as_ref()?),
                    pauses: 0,
                    until: None,
                    said: false,
                })
            })
            .collect();
        while !self.stop.is_cancelled() {
            let mut sent = false;
            for lane in &mut lanes {
                sent |= self.step(lane).await;
            }
            if !sent {
                let _ = self.stop.run_until_cancelled(tokio::time::sleep(IDLE)).await;
            }
        }
        self.idle.cancel();
        Ok(())
    }

    /// One batch of one kind. False: there is nothing to do now.
    async fn step(&self, lane: &mut Lane) -> bool {
        let now = self.clock.instant();
        if self.stop.is_cancelled() || lane.until.is_some_and(|until| now < until) {
            return false;
        }
        let claimed = match self.exports.claim_exports(lane.kind, BATCH, LEASE).await {
            Ok(claimed) => claimed,
            Err(error) => {
                // The store says by itself that it is away.
                tracing::debug!(%error, "cannot look for letters to export");
                lane.pause(now);
                return false;
            }
        };
        if claimed.is_empty() {
            return false;
        }
        let batch = self.send(lane, claimed).await;
        let noted = self.note(&batch).await;
        match &batch.trouble {
            Some(why) => {
                if !std::mem::replace(&mut lane.said, true) {
                    tracing::warn!(topic = %lane.topic, broker = %self.broker, "letters wait for their export: {why}");
                }
                lane.pause(now);
                false
            }
            None if noted => {
                if std::mem::take(&mut lane.said) {
                    tracing::info!(topic = %lane.topic, "letters are exported again");
                }
                (lane.pauses, lane.until) = (0, None);
                true
            }
            None => {
                lane.pause(now);
                false
            }
        }
    }

    async fn send(&self, lane: &Lane, claimed: Vec<Export>) -> Batch {
        let mut batch = Batch::default();
        let mut chunk: Vec<(Export, Replica)> = Vec::new();
        let mut bytes = 0;
        let mut unread = Vec::new();
        for export in claimed {
            if batch.trouble.is_some() || self.stop.is_cancelled() {
                batch.back.push(export);
                continue;
            }
            let letter = match self.letters.get(&export.letter).await {
                Ok(letter) => letter,
                Err(error) => {
                    unread.push((export, error));
                    continue;
                }
            };
            match letter {
                // A copy of a copy would be copied again, for ever, by two routes that fail. And what is gone is gone.
                Some(letter) if !self.holds_copies(&letter.raw.origin) => {
                    bytes += letter.raw.size();
                    chunk.push((export, shape::replica(&letter)));
                }
                _ => batch.done.push(export),
            }
            if bytes >= BYTES {
                self.publish(lane, &mut chunk, &mut batch).await;
                bytes = 0;
            }
        }
        self.publish(lane, &mut chunk, &mut batch).await;
        let store_works = !batch.done.is_empty() || !batch.back.is_empty();
        for (export, error) in unread {
            if store_works {
                // It must not hold up the others: it is looked at again when its claim has run out.
                tracing::error!(letter = %export.letter, %error, "a letter cannot be exported");
            } else {
                batch.trouble = Some(error.to_string());
                batch.back.push(export);
            }
        }
        batch
    }

    fn holds_copies(&self, origin: &Origin) -> bool {
        let topics = [&self.topics.tasks, &self.topics.events];
        origin.kind == MessageKind::Event
            && topics
                .into_iter()
                .flatten()
                .any(|topic| **topic == *origin.destination)
    }

    async fn publish(&self, lane: &Lane, chunk: &mut Vec<(Export, Replica)>, batch: &mut Batch) {
        if chunk.is_empty() {
            return;
        }
        let (exports, replicas): (Vec<Export>, Vec<Replica>) = chunk.drain(..).unzip();
        if batch.trouble.is_some() {
            batch.back.extend(exports);
            return;
        }
        let results = self.publisher.copy(&lane.topic, &replicas).await;
        let mut results = results.into_iter();
        let counted = |result: &str| {
            let labels = [&*lane.topic, result];
            self.metrics.dlq_exported.with_label_values(&labels).inc();
        };
        for export in exports {
            let missing = || Err(PublishError::Unknown("no answer".to_owned()));
            match results.next().unwrap_or_else(missing) {
                Ok(_) => {
                    counted("sent");
                    batch.done.push(export);
                }
                Err(PublishError::UnknownTarget(topic)) => {
                    batch.trouble = Some(format!(
                        "there is no topic `{topic}`; create it (`helix topology apply`), or set [dlq] export = false"
                    ));
                    batch.back.push(export);
                }
                Err(error) if error.is_transient() => {
                    batch.trouble = Some(error.to_string());
                    batch.back.push(export);
                }
                // It never will be: the letter itself is in the store.
                Err(error) => {
                    counted("refused");
                    tracing::warn!(letter = %export.letter, topic = %lane.topic, %error, "a letter cannot be exported; it stays here only");
                    batch.done.push(export);
                }
            }
        }
    }

    /// Tried until the store takes it or the host stops. True: it did.
    async fn note(&self, batch: &Batch) -> bool {
        let mut pause = BACK_OFF.0;
        loop {
            let noted: Result<(), Error> = async {
                self.exports.exported(batch.done.clone()).await?;
                self.exports.give_back_exports(batch.back.clone()).await
            }
            .await;
            let Err(error) = noted else { return true };
            tracing::debug!(%error, "cannot note which letters were exported; they may be sent twice");
            if self
                .stop
                .run_until_cancelled(tokio::time::sleep(pause))
                .await
                .is_none()
            {
                return false;
            }
            pause = pause.saturating_mul(2).min(BACK_OFF.1);
        }
    }
}

impl Lane {
    fn pause(&mut self, now: Instant) {
        let (first, most) = BACK_OFF;
        self.until = Some(now + first.saturating_mul(1 << self.pauses.min(16)).min(most));
        self.pauses += 1;
    }
}

#[cfg(test)]
mod tests;
