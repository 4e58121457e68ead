//! One consumer of a queue or topic: claims within its window, reads on a blocking thread, settles in memory.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;

use super::inbox::Control;
use super::log::{Claim, Topic};
use super::queue::Queue;
use super::{Core, guard, ready, schema};
use crate::broker::{Delivery, Error, Receipt, Settle, Source, Subscription, Token};
use crate::model::{MessageKind, RawMessage};

/// One read hands out not much more than this.
pub const READ_BYTES: usize = 16 << 20;

#[derive(Clone)]
enum Feed {
    Queue(Arc<Queue>),
    Topic(Arc<Topic>),
}

impl Feed {
    fn ready(&self) -> &Notify {
        match self {
            Self::Queue(queue) => &queue.ready,
            Self::Topic(topic) => &topic.ready,
        }
    }

    fn may_have(&self) -> bool {
        match self {
            Self::Queue(queue) => queue.may_have(),
            Self::Topic(topic) => topic.may_have(),
        }
    }

    fn window(&self) -> &AtomicUsize {
        match self {
            Self::Queue(queue) => &queue.window,
            Self::Topic(topic) => &topic.window,
        }
    }

    /// Is this the message that was claimed at `position`?
    fn is_at(&self, raw: &RawMessage, position: u64) -> bool {
        let offset = match self {
            Self::Queue(_) => ready::sequence_of(position),
            Self::Topic(_) => position,
        };
        raw.origin.offset == Some(offset)
    }

    fn give_back(&self, (lane, position): (u32, u64), handed: bool) {
        match self {
            Self::Queue(queue) => queue.give_back(position, handed),
            Self::Topic(topic) => topic.give_back(lane, position, handed),
        }
    }
}

pub struct EmbeddedSource {
    core: Arc<Core>,
    feed: Feed,
    settle: Arc<SourceSettle>,
    db: Arc<Mutex<Connection>>,
    window: usize,
    /// A claim under way. It outlives a dropped `recv`.
    pending: Option<JoinHandle<Result<Vec<Delivery>, Error>>>,
    /// Claimed, not handed out yet.
    buffer: VecDeque<Delivery>,
    paused: bool,
}

impl EmbeddedSource {
    pub async fn open(core: Arc<Core>, subscription: Subscription) -> Result<Self, Error> {
        let name = &subscription.destination;
        let unknown = || Error::UnknownDestination(name.to_string());
        let window = subscription.window.max(1);
        let (reply, answer) = oneshot::channel();
        let feed = match subscription.kind {
            MessageKind::Task => Feed::Queue(core.queue(name).ok_or_else(unknown)?),
            MessageKind::Event => Feed::Topic(core.topic(name).ok_or_else(unknown)?),
        };
        let db = schema::open_reader(&core.file)?;
        let together = feed.window().fetch_add(window, Ordering::Relaxed) + window;
        // From here on `Drop` takes the window back.
        let source = Self {
            settle: Arc::new(SourceSettle {
                epoch: core.sources.fetch_add(1, Ordering::Relaxed),
                core: Arc::clone(&core),
                feed: feed.clone(),
                outstanding: Mutex::new(HashMap::new()),
                freed: Notify::new(),
            }),
            core,
            feed,
            db: Arc::new(Mutex::new(db)),
            window,
            pending: None,
            buffer: VecDeque::new(),
            paused: false,
        };
        match &source.feed {
            Feed::Queue(queue) => {
                source
                    .core
                    .ask(Control::WatchQueue(Arc::clone(queue), together, reply), answer)
                    .await?;
            }
            Feed::Topic(topic) => {
                let span = Topic::span_for(together);
                source
                    .core
                    .ask(Control::WatchTopic(Arc::clone(topic), span, reply), answer)
                    .await?;
                topic.allow_span(span);
            }
        }
        Ok(source)
    }

    fn hand_out(&mut self, max: usize) -> Vec<Delivery> {
        let count = max.max(1).min(self.buffer.len());
        let out: Vec<Delivery> = self.buffer.drain(..count).collect();
        self.settle.handed(&out);
        out
    }

    fn start(&mut self, max: usize) {
        let (core, feed) = (Arc::clone(&self.core), self.feed.clone());
        let (settle, db) = (Arc::clone(&self.settle), Arc::clone(&self.db));
        self.pending = Some(tokio::task::spawn_blocking(move || {
            let read = claim(&core, &feed, &settle, &guard(&db), max);
            read.map_err(|error| {
                schema::storage(
                    &core.file,
                    "reading failed",
                    schema::cause(&error),
                    "check the disk",
                )
            })
        }));
    }
}

#[async_trait]
impl Source for EmbeddedSource {
    async fn recv(&mut self, max: usize) -> Result<Vec<Delivery>, Error> {
        let (feed, settle) = (self.feed.clone(), Arc::clone(&self.settle));
        loop {
            if !self.buffer.is_empty() {
                return Ok(self.hand_out(max));
            }
            if let Some(pending) = &mut self.pending {
                let read = pending.await;
                self.pending = None;
                self.buffer
                    .extend(read.map_err(|error| Error::Other(error.to_string()))??);
                continue;
            }
            if self.paused || self.core.is_closed()? {
                return Ok(Vec::new());
            }
            // Registered before looking, so that nothing that happens in between is missed.
            let (mut ready, mut freed) = (
                std::pin::pin!(feed.ready().notified()),
                std::pin::pin!(settle.freed.notified()),
            );
            Notified::enable(ready.as_mut());
            Notified::enable(freed.as_mut());
            let room = self.window.saturating_sub(settle.outstanding());
            if room > 0 && feed.may_have() {
                self.start(room.min(max.max(1)));
            } else if !self.core.is_closed()? {
                tokio::select! { () = ready => {}, () = freed => {} }
            }
        }
    }

    async fn pause(&mut self) {
        self.paused = true;
        if let Some(pending) = self.pending.take() {
            // Dropping the deliveries makes them ready again.
            drop(pending.await);
        }
        self.buffer.clear();
    }

    async fn close(mut self: Box<Self>, limit: Duration) -> Result<(), Error> {
        self.pause().await;
        self.settle.release_all();
        let (reply, answer) = oneshot::channel();
        self.core.inbox.flush(reply);
        match tokio::time::timeout(limit, answer).await {
            Ok(Ok(())) => Ok(()),
            // The writer is gone: everything it had is written, or its error says why not.
            Ok(Err(_)) => self.core.is_closed().map(|_| ()),
            Err(_) => {
                let why = format!("acknowledgements of the last {limit:?} are not on disk yet");
                Err(Error::Storage(format!("{} {why}", crate::error::BROKER_STORAGE)))
            }
        }
    }
}

impl Drop for EmbeddedSource {
    fn drop(&mut self) {
        self.feed.window().fetch_sub(self.window, Ordering::Relaxed);
    }
}

/// On a blocking thread. Receipts exist before the first read, so that an error gives every claim back.
fn claim(
    core: &Core,
    feed: &Feed,
    settle: &Arc<SourceSettle>,
    db: &Connection,
    max: usize,
) -> rusqlite::Result<Vec<Delivery>> {
    let claims: Vec<Claim> = match feed {
        Feed::Queue(queue) => queue
            .claim(db, max)?
            .into_iter()
            .map(|(key, again)| (0, key, again))
            .collect(),
        Feed::Topic(topic) => topic.claim(max),
    };
    settle.claimed(&claims);
    let shared: Arc<dyn Settle> = Arc::clone(settle) as Arc<dyn Settle>;
    let receipt = |(lane, position, _): &Claim| {
        Receipt::new(
            Arc::clone(&shared),
            Token {
                epoch: settle.epoch,
                lane: *lane,
                position: *position,
            },
        )
    };
    let mut receipts: VecDeque<Receipt> = claims.iter().map(receipt).collect();
    // One snapshot for the whole batch, and never longer than it.
    let snapshot = db.unchecked_transaction()?;
    let (mut out, mut bytes) = (Vec::with_capacity(claims.len()), 0);
    // Neighbouring offsets of a partition are one query.
    for run in claims.chunk_by(|a, b| a.0 == b.0 && a.1 + 1 == b.1) {
        let Some((lane, first, _)) = run.first() else {
            continue;
        };
        if bytes >= READ_BYTES {
            break;
        }
        let mut found: VecDeque<RawMessage> = match feed {
            Feed::Queue(queue) => {
                let mut rows = VecDeque::with_capacity(run.len());
                for (_, key, _) in run {
                    rows.extend(queue.read(&snapshot, &core.name, *key)?);
                }
                rows
            }
            Feed::Topic(topic) => topic
                .read(
                    &snapshot,
                    &core.name,
                    *lane,
                    *first,
                    run.len(),
                    READ_BYTES - bytes,
                )?
                .into(),
        };
        let before = bytes;
        bytes += found.iter().map(RawMessage::size).sum::<usize>();
        let cut_short = bytes >= READ_BYTES && bytes > before;
        for (_, position, again) in run {
            let Some(receipt) = receipts.pop_front() else {
                break;
            };
            match found.pop_front_if(|raw| feed.is_at(raw, *position)) {
                Some(raw) => out.push(Delivery {
                    raw: RawMessage {
                        redelivered: *again,
                        ..raw
                    },
                    receipt,
                }),
                // Not read this time: dropped, it is ready again.
                None if found.is_empty() && cut_short => {}
                // Retention was faster, or somebody changed the file.
                None => receipt.ack(),
            }
        }
    }
    Ok(out)
}

/// What this source holds. Settling something it does not hold (any more) changes nothing.
struct SourceSettle {
    core: Arc<Core>,
    /// Tells the sources of one process apart.
    epoch: u64,
    feed: Feed,
    /// (lane, position) → handed out.
    outstanding: Mutex<HashMap<(u32, u64), bool>>,
    freed: Notify,
}

impl SourceSettle {
    fn outstanding(&self) -> usize {
        guard(&self.outstanding).len()
    }

    fn claimed(&self, claims: &[Claim]) {
        guard(&self.outstanding).extend(
            claims
                .iter()
                .map(|(lane, position, _)| ((*lane, *position), false)),
        );
    }

    fn handed(&self, deliveries: &[Delivery]) {
        let mut outstanding = guard(&self.outstanding);
        for delivery in deliveries {
            let token = delivery.receipt.token();
            outstanding.insert((token.lane, token.position), true);
        }
    }

    fn remove(&self, token: Token) -> Option<bool> {
        let handed = guard(&self.outstanding).remove(&(token.lane, token.position));
        self.freed.notify_waiters();
        handed
    }

    fn release_all(&self) {
        let all = std::mem::take(&mut *guard(&self.outstanding));
        for (place, handed) in all {
            self.feed.give_back(place, handed);
        }
    }
}

impl Settle for SourceSettle {
    fn begin(&self, token: Token) -> bool {
        let outstanding = guard(&self.outstanding);
        if !outstanding.contains_key(&(token.lane, token.position)) {
            return false;
        }
        match &self.feed {
            Feed::Queue(queue) => queue.begin(token.position),
            Feed::Topic(topic) => topic.begin(token.lane, token.position),
        }
        true
    }

    fn ack(&self, token: Token) {
        if self.remove(token).is_none() {
            return;
        }
        let inbox = &self.core.inbox;
        match &self.feed {
            Feed::Queue(queue) => {
                queue.acked(token.position);
                inbox.ack(token.position);
            }
            Feed::Topic(topic) => topic.finish(token.lane, token.position, |n, to| inbox.commit(n, to)),
        }
    }

    fn release(&self, token: Token) {
        if let Some(handed) = self.remove(token) {
            self.feed.give_back((token.lane, token.position), handed);
        }
    }
}
