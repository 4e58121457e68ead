//! Takes messages from the queue of dead letters into the store: written down first, acknowledged then. While the store is
//! away they stay with their broker, as many as the window has in hand.
//!
//! Several hosts may consume the queue. A message that is delivered again gets no second letter: its id and bytes name the
//! letter. One whose producer gave no id is named by the host, and recognised by its bytes and deaths.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio_util::sync::CancellationToken;

use super::{Found, Place, came_before, read};
use crate::broker::{self, Broker, Delivery, Receipt, Source, Subscription, ack_all};
use crate::dlq::export;
use crate::model::{Clock, Ids, MessageKind};
use crate::store::{DeadLetters, Error, LetterFilter, Page};
use crate::telemetry::Metrics;

/// Messages in hand. Each may be as large as the broker allows, and nobody waits for them.
const WINDOW: usize = 64;
/// A queue that is not there may be made later.
const ABSENT: Duration = Duration::from_secs(10);
const LEAVE: Duration = Duration::from_secs(5);
/// Names of messages without an id that were found again since the host started. Beyond them a second letter is made.
const REMEMBERED: usize = 10_000;

pub struct Intake {
    pub broker: Arc<dyn Broker>,
    pub place: Place,
    pub letters: Arc<dyn DeadLetters>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<dyn Ids>,
    pub metrics: Arc<Metrics>,
    pub stop: CancellationToken,
    /// Nothing is in hand any more.
    pub idle: CancellationToken,
}

fn waits() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
        .build()
}

impl Intake {
    /// Runs until `stop`.
    ///
    /// # Errors
    /// Never: a broker or a store that cannot be reached is tried again.
    pub async fn run(self) -> Result<(), String> {
        let stop = self.stop.clone();
        let mut waits = waits();
        let mut absent = false;
        let mut again = HashSet::new();
        while !stop.is_cancelled() {
            let opened = stop.run_until_cancelled(self.open()).await;
            let wait = match opened {
                None => break,
                Some(Ok(source)) => {
                    absent = false;
                    waits = self::waits();
                    tracing::info!(broker = %self.broker.name(), queue = %self.place.queue, "dead letters of the broker are adopted");
                    self.pull(source, &mut again).await;
                    // Left by itself only when the consumer failed.
                    Duration::from_secs(1)
                }
                Some(Err(broker::Error::UnknownDestination(_))) => {
                    if !std::mem::replace(&mut absent, true) {
                        tracing::info!(broker = %self.broker.name(), queue = %self.place.queue, "there is no queue of dead letters to adopt from; it is looked for again");
                    }
                    ABSENT
                }
                Some(Err(error)) => {
                    // Who cannot be reached is said by the broker's link.
                    tracing::debug!(broker = %self.broker.name(), queue = %self.place.queue, %error, "cannot adopt dead letters; trying again");
                    waits.next().unwrap_or_default()
                }
            };
            let _ = stop.run_until_cancelled(tokio::time::sleep(wait)).await;
        }
        self.idle.cancel();
        Ok(())
    }

    /// Only looks: nothing is created for it.
    async fn open(&self) -> Result<Box<dyn Source>, broker::Error> {
        self.broker
            .topology()
            .depth(MessageKind::Task, &self.place.queue)
            .await?;
        self.broker
            .subscribe(Subscription {
                kind: MessageKind::Task,
                destination: Arc::clone(&self.place.queue),
                window: WINDOW,
            })
            .await
    }

    async fn pull(&self, mut source: Box<dyn Source>, again: &mut HashSet<String>) {
        loop {
            let received = self.stop.run_until_cancelled(source.recv(WINDOW)).await;
            match received {
                Some(Ok(deliveries)) if !deliveries.is_empty() => self.take(deliveries, again).await,
                _ => break,
            }
        }
        source.pause().await;
        if let Err(error) = source.close(LEAVE).await {
            tracing::debug!(queue = %self.place.queue, %error, "a queue of dead letters was not left in order");
        }
    }

    /// Back only when all of them are written and acknowledged, or given back because the host stops.
    async fn take(&self, deliveries: Vec<Delivery>, again: &mut HashSet<String>) {
        let now = self.clock.now_ms();
        let mut receipts: Vec<Receipt> = Vec::with_capacity(deliveries.len());
        let mut found = Vec::with_capacity(deliveries.len());
        for Delivery { raw, receipt } in deliveries {
            let before = came_before(&raw);
            let mut one = read(raw, &self.place, now);
            // What was never delivered has no letter yet, also when it is like another one byte for byte.
            if let (Some(mark), false) = (&one.nameless, before) {
                let name = self.name(mark);
                one.name(name);
            }
            found.push(one);
            receipts.push(receipt);
        }
        let mut waits = waits();
        let mut said = false;
        loop {
            let written = self.stop.run_until_cancelled(self.write(&mut found, again)).await;
            let error = match written {
                Some(Ok(adopted)) => {
                    ack_all(receipts);
                    if adopted > 0 {
                        tracing::warn!(letters = adopted, queue = %self.place.queue, "dead letters of the broker were adopted; look at them with `helix dlq ls`");
                    }
                    return;
                }
                Some(Err(error)) => error,
                // Not known to be written: the receipts are dropped, and the broker delivers them again.
                None => return,
            };
            if !std::mem::replace(&mut said, true) {
                tracing::error!(%error, queue = %self.place.queue, "cannot write dead letters of the broker; they stay unacknowledged and are tried again. Repair the store (HX0401)");
            }
            let wait = tokio::time::sleep(waits.next().unwrap_or_default());
            if self.stop.run_until_cancelled(wait).await.is_none() {
                return;
            }
        }
    }

    /// How many letters there are of them. May be called again with the same ones.
    async fn write(&self, found: &mut [Found], again: &mut HashSet<String>) -> Result<usize, Error> {
        let mut letters = Vec::with_capacity(found.len());
        let mut labels = Vec::with_capacity(found.len());
        for one in found.iter_mut() {
            if let Some(mark) = one.nameless.clone() {
                let name = self.known(&mark, one, again).await?;
                one.name(name.unwrap_or_else(|| self.name(&mark)));
            }
            if self.is_copy(one).await? {
                tracing::debug!(letter = %one.letter().id, "a copy of a letter that is here already is not adopted");
                continue;
            }
            labels.push(one.label);
            letters.push(one.letter().clone());
        }
        let count = letters.len();
        if count > 0 {
            self.letters.enter(letters).await?;
        }
        for label in labels {
            self.metrics.dlq_adopted.with_label_values(&[label]).inc();
        }
        Ok(count)
    }

    fn name(&self, mark: &str) -> String {
        format!("{mark}{}", self.ids.next())
    }

    /// The name that it got when it was delivered before. None when there is no letter of it, or when there are several like
    /// it: then one too many is better than one too few.
    async fn known(
        &self,
        mark: &str,
        found: &Found,
        again: &mut HashSet<String>,
    ) -> Result<Option<String>, Error> {
        let died = found.letter().last_failure_ms;
        let filter = LetterFilter {
            destination: Some(found.letter().raw.origin.destination.to_string()),
            // Without a time of its death it has the one of its arrival, which is another one each time.
            since_ms: found.died.then_some(died),
            until_ms: found.died.then_some(died.saturating_add(1)),
            text: Some(mark.to_owned()),
            ..LetterFilter::default()
        };
        let page = Page {
            limit: 2,
            ..Page::default()
        };
        let like_it = self.letters.list(&filter, &page).await?.letters;
        let [letter] = like_it.as_slice() else {
            return Ok(None);
        };
        let name = letter.message_id.clone().filter(|name| name.starts_with(mark));
        // Found twice, it is two messages.
        Ok(name.filter(|name| again.len() < REMEMBERED && again.insert(name.clone())))
    }

    async fn is_copy(&self, found: &Found) -> Result<bool, Error> {
        let Some(copy) = &found.copy_of else {
            return Ok(false);
        };
        let letter = self.letters.get(&copy.letter).await?;
        Ok(letter.is_some_and(|letter| export::shape::original_of(&letter) == copy.original))
    }
}

#[cfg(test)]
mod tests;
