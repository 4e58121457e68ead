//! Events that are read again, at a route: limits, decoding, lanes, rate, calls, retries and dead letters are those of the live
//! way. They run beside live messages and never in front of them, and no broker waits for an acknowledgement.
//!
//! A message has ended when nothing about it is left to do: what its handler published is confirmed, or its dead letter is on
//! disk. Its retries wait in memory; a crash begins with the batch anew.

mod message;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{Semaphore, watch};
use tokio_util::sync::CancellationToken;

use self::message::{Message, Turned};
use super::Dispatcher;
use super::context::Context;
use super::item::Item;
use super::lanes::LaneKey;
use super::runner::Runner;
use crate::config::valid::Route;
use crate::guest::Version;
use crate::model::RawMessage;
use crate::model::replay::Fate;

/// Live messages of its key hold it up: first and longest pause before it looks again.
const BUSY: Duration = Duration::from_millis(5);
const LONGEST_BUSY: Duration = Duration::from_millis(250);
/// So long held up, people are told.
const LONG: Duration = Duration::from_secs(3);

/// What all messages of a batch have in common.
pub struct Order {
    pub route: Arc<str>,
    /// The id of the replay.
    pub replay: Arc<str>,
    /// Runs the messages with its effects withheld; none: the version that serves, with all its effects.
    pub part: Option<Arc<dyn Version>>,
    /// Begin nothing more.
    pub stop: CancellationToken,
    /// What messages wait for, as long as they do.
    pub notice: watch::Sender<Option<Arc<str>>>,
}

impl Dispatcher {
    /// Until each message has ended. None: it has not, because of `stop` or because the host drains.
    ///
    /// # Errors
    /// The route is not there, or nobody serves it; nothing has begun.
    pub async fn replay(&self, order: &Order, batch: Vec<RawMessage>) -> Result<Vec<Option<Fate>>, String> {
        let runner = self.shared.runners.load().get(&order.route).cloned();
        let Some(runner) = runner else {
            return Err(format!(
                "this host has no route `{}`; add it again, or cancel the replay",
                order.route
            ));
        };
        // A route that is changed or taken away meanwhile ends the batch as it was.
        let route = runner.route.load_full();
        let version = match &order.part {
            Some(part) => Arc::clone(part),
            None => runner.version().ok_or_else(|| {
                runner
                    .lacks_plugin()
                    .unwrap_or_else(|| "its plugin is not loaded".to_owned())
            })?,
        };
        let scene = Scene {
            context: &self.shared.context,
            room: Semaphore::new(share(route.concurrency)),
            runner,
            route,
            version,
            order,
        };
        Ok(scene.all(batch).await)
    }
}

/// Of a route's concurrency, so that live messages have at least as much.
fn share(concurrency: usize) -> usize {
    (concurrency / 2).max(1)
}

/// One batch at one route.
struct Scene<'a> {
    context: &'a Arc<Context>,
    runner: Arc<Runner>,
    route: Arc<Route>,
    /// At the beginning.
    version: Arc<dyn Version>,
    room: Semaphore,
    order: &'a Order,
}

/// Keeps a lane from live messages as long as one that is read again runs in it.
struct Claim<'a> {
    runner: &'a Runner,
    key: &'a LaneKey,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.runner.finish(std::slice::from_ref(self.key));
    }
}

impl Scene<'_> {
    async fn all(&self, batch: Vec<RawMessage>) -> Vec<Option<Fate>> {
        let mut fates: Vec<Option<Fate>> = batch.iter().map(|_| None).collect();
        let mut lanes: HashMap<LaneKey, VecDeque<(usize, Message)>> = HashMap::new();
        let mut queues = Vec::new();
        for (place, raw) in batch.into_iter().enumerate() {
            match self.message(raw) {
                Err(letter) => {
                    if let (Some(fate), false) = (fates.get_mut(place), self.order.stop.is_cancelled()) {
                        *fate = self.bury(*letter).await;
                    }
                }
                Ok(message) => match Item::lane(&self.route, &message.envelope) {
                    Some(lane) => lanes.entry(lane).or_default().push_back((place, message)),
                    None => queues.push((None, VecDeque::from([(place, message)]))),
                },
            }
        }
        queues.extend(lanes.into_iter().map(|(lane, queue)| (Some(lane), queue)));
        // One task: they share one core, so that live messages keep the others.
        let mut running: FuturesUnordered<_> = queues
            .into_iter()
            .map(|(lane, queue)| self.queue(lane, queue))
            .collect();
        while let Some(ended) = running.next().await {
            for (place, ending) in ended {
                if let Some(fate) = fates.get_mut(place) {
                    *fate = Some(ending);
                }
            }
        }
        fates
    }

    /// Messages of one lane, one after another, each to its end.
    async fn queue(&self, lane: Option<LaneKey>, queue: VecDeque<(usize, Message)>) -> Vec<(usize, Fate)> {
        let mut ended = Vec::with_capacity(queue.len());
        for (place, message) in queue {
            match self.to_its_end(lane.as_ref(), message).await {
                Some(fate) => ended.push((place, fate)),
                None => break,
            }
        }
        ended
    }

    /// Attempt after attempt. None: it was told to stop first.
    async fn to_its_end(&self, lane: Option<&LaneKey>, mut message: Message) -> Option<Fate> {
        loop {
            let turned = {
                let (_place, _claim) = self.turn(lane).await?;
                self.unless_stopping(self.runner.pace(1)).await?;
                let turned = self.busy(self.run(&mut message)).await?;
                match turned {
                    Turned::Ended(fate) => return Some(fate),
                    Turned::Buried(letter) => return self.busy(self.bury(*letter)).await.flatten(),
                    Turned::Again(delay) => delay,
                }
            };
            self.unless_stopping(tokio::time::sleep(turned)).await?;
        }
    }

    /// A place among those that may run at a time, and the lane, when a handler with effects might meet a live one in it.
    async fn turn<'a>(
        &'a self,
        lane: Option<&'a LaneKey>,
    ) -> Option<(tokio::sync::SemaphorePermit<'a>, Option<Claim<'a>>)> {
        let lane = lane.filter(|_| self.order.part.is_none());
        let began = self.context.clock.instant();
        let (mut pause, mut said) = (BUSY, false);
        loop {
            let place = self.unless_stopping(self.room.acquire()).await?.ok()?;
            let Some(key) = lane else {
                return Some((place, None));
            };
            if self.runner.claim(key) {
                if said {
                    self.order.notice.send_replace(None);
                }
                let runner = &*self.runner;
                return Some((place, Some(Claim { runner, key })));
            }
            // Others do not wait for it.
            drop(place);
            let waited = self.context.clock.instant().saturating_duration_since(began);
            if !said && waited >= LONG {
                said = true;
                let text = format!(
                    "a message waits for others of its key at route `{}`: they run, wait for a retry, or are parked (`helix dlq parked`)",
                    self.route.name
                );
                self.order.notice.send_replace(Some(text.into()));
            }
            self.unless_stopping(tokio::time::sleep(pause)).await?;
            pause = (pause * 2).min(LONGEST_BUSY);
        }
    }

    async fn unless_stopping<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.order.stop.cancelled() => None,
            () = self.context.stop.cancelled() => None,
            done = work => Some(done),
        }
    }

    /// A drain waits for it, to its limit.
    async fn busy<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let _counted = Counted::new(self.context);
        tokio::select! {
            biased;
            () = self.context.abort.cancelled() => None,
            done = work => Some(done),
        }
    }
}

/// One message between "the handler is about to run" and its end.
struct Counted<'a>(&'a Context);

impl<'a> Counted<'a> {
    fn new(context: &'a Context) -> Self {
        context.busy.enter(1);
        Self(context)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.busy.leave(1);
    }
}
