//! The one task that makes changes: everything that waits goes into one transaction, one fsync.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use super::engine::{self, Connection, Link, bounded};
use super::op::{Done, Lanes, Op};
use super::tally::Tally;
use super::text::stored;
use super::{auto, enter, exports, jobs, members, trail};
use crate::model::{Clock, DeadLetter, UnixMs};
use crate::store::{Change, Error, Note};

/// Changes in one transaction, so that the first of them does not wait for ever for its commit.
const BATCH: usize = 256;

pub(super) type Reply = oneshot::Sender<Result<Done, Error>>;

pub(super) enum Request {
    Change(Op, Reply),
    Close(oneshot::Sender<()>),
}

pub(super) struct Writer {
    link: Link,
    commits: Arc<AtomicU64>,
    clock: Arc<dyn Clock>,
    exports: Arc<exports::Wanted>,
    /// Undo claims of which nobody knows whether they were committed: their callers were told that they failed.
    doubtful: Vec<Op>,
}

impl Writer {
    pub(super) fn new(
        link: Link,
        commits: Arc<AtomicU64>,
        clock: Arc<dyn Clock>,
        exports: Arc<exports::Wanted>,
    ) -> Self {
        Self {
            link,
            commits,
            clock,
            exports,
            doubtful: Vec::new(),
        }
    }

    /// Ends when asked to, or when the last clone of the store is dropped; what waits is committed first.
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        let mut waiting = Vec::with_capacity(BATCH);
        let mut closers = Vec::new();
        while requests.recv_many(&mut waiting, BATCH).await > 0 {
            let mut batch = Vec::with_capacity(waiting.len());
            for request in waiting.drain(..) {
                match request {
                    Request::Change(op, reply) => batch.push((op, reply)),
                    Request::Close(closed) => {
                        requests.close();
                        closers.push(closed);
                    }
                }
            }
            self.commit(batch).await;
        }
        if let Err(error) = self.link.close().await {
            tracing::warn!(%error, "closing the store failed; nothing is lost, the next start recovers its log");
        }
        for closed in closers {
            // Whoever asked may have gone.
            let _ = closed.send(());
        }
    }

    async fn commit(&mut self, batch: Vec<(Op, Reply)>) {
        if batch.is_empty() {
            return;
        }
        let now = self.clock.now_ms();
        let (ops, replies): (Vec<Op>, Vec<Reply>) = batch.into_iter().unzip();
        let done = match self.settle_doubts(now).await {
            Ok(()) => self.together(&ops, now).await,
            Err(error) => Err(error),
        };
        let results = match done {
            Ok(done) => done.into_iter().map(Ok).collect(),
            // One of them failed and took the others along (SQLite may roll back everything by itself, for example when the
            // disk is full), so each gets a transaction of its own. Rare enough to pay an fsync each.
            Err(_) if ops.len() > 1 && self.link.works() => self.one_by_one(&ops, now).await,
            // Nobody answers: the others would only wait for the same.
            Err(error) => ops.iter().map(|_| Err(error.clone())).collect(),
        };
        for (reply, result) in replies.into_iter().zip(results) {
            if let Err(Ok(Done::Claimed(rows))) = reply.send(result) {
                self.let_go(&ops, rows.into_iter().map(|row| row.id), now).await;
            }
        }
    }

    async fn one_by_one(&mut self, ops: &[Op], now: UnixMs) -> Vec<Result<Done, Error>> {
        let mut results = Vec::with_capacity(ops.len());
        let mut gone = None;
        for op in ops {
            let result = match &gone {
                None => self.together(std::slice::from_ref(op), now).await,
                Some(error) => Err(Error::clone(error)),
            };
            if let (Err(error), false) = (&result, self.link.works()) {
                gone = Some(error.clone());
            }
            results.push(result.map(|done| done.into_iter().next().unwrap_or(Done::Nothing)));
        }
        results
    }

    /// The caller went away before it got its rows: nobody will run them under this lease.
    async fn let_go(&mut self, ops: &[Op], ids: impl Iterator<Item = String>, now: UnixMs) {
        let host = ops.iter().find_map(|op| match op {
            Op::Claim(claim) => Some(Arc::clone(&claim.host)),
            _ => None,
        });
        let Some(host) = host else { return };
        let releases: Vec<Op> = ids.map(|id| Op::Release(id, Arc::clone(&host))).collect();
        if let Err(error) = self.together(&releases, now).await {
            tracing::warn!(%error, rows = releases.len(), "claimed retries nobody waits for stay leased until that runs out");
        }
    }

    async fn settle_doubts(&mut self, now: UnixMs) -> Result<(), Error> {
        if self.doubtful.is_empty() {
            return Ok(());
        }
        let doubtful = std::mem::take(&mut self.doubtful);
        match self.together(&doubtful, now).await {
            Err(error) if !self.link.works() => {
                self.doubtful = doubtful;
                Err(error)
            }
            Err(error) => {
                tracing::warn!(%error, "leases that nobody uses stay until they run out");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    /// All or nothing. BEGIN and COMMIT are statements of our own: SQLite may roll back by itself (disk full, I/O error), after
    /// which sqlx's count of open transactions never gets right again.
    async fn together(&mut self, ops: &[Op], now: UnixMs) -> Result<Vec<Done>, Error> {
        let connection = self.link.begin().await?;
        let mut committing = false;
        let result = match apply(connection, ops, now, &self.exports).await {
            Ok(done) => {
                committing = true;
                bounded(engine::execute(connection, "COMMIT"))
                    .await
                    .map(|()| done)
            }
            Err(error) => Err(error),
        };
        match &result {
            Ok(_) => {
                self.commits.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {
                self.link.rollback().await;
                if committing && !self.link.works() {
                    self.doubtful.extend(ops.iter().filter_map(undo));
                }
            }
        }
        result
    }
}

/// What makes it not have happened, where doing it again does not.
fn undo(op: &Op) -> Option<Op> {
    match op {
        Op::Claim(claim) => Some(Op::Unclaim(Arc::clone(&claim.host), claim.ticket)),
        Op::Change(letter, Change::Claim { holder, .. }, _, host)
        | Op::Job(
            jobs::Op::Change(members::Wanted {
                letter,
                change: Change::Claim { holder, .. },
                ..
            }),
            host,
        )
        | Op::Auto(auto::Op::Claim { letter, holder, .. }, host) => {
            let holder = holder.clone();
            let note = Note {
                actor: trail::HOST.to_owned(),
                action: "not sent".into(),
                reason: Some("the store was lost while it was being claimed".to_owned()),
            };
            Some(Op::Change(
                letter.clone(),
                Change::GiveBack { holder },
                note,
                Arc::clone(host),
            ))
        }
        _ => None,
    }
}

async fn apply(
    connection: &mut Connection,
    ops: &[Op],
    now: UnixMs,
    exports: &exports::Wanted,
) -> Result<Vec<Done>, Error> {
    lock_lanes(connection, ops).await?;
    let mut done: Vec<Option<Done>> = ops.iter().map(|_| None).collect();
    let mut tally = Tally::default();
    for (at, op) in ops.iter().enumerate() {
        // Done already, together with one before it. None of them knows of another's end yet, so any order is theirs.
        if done.get(at).is_none_or(Option::is_some) {
            continue;
        }
        let rest = || ops.iter().enumerate().skip(at);
        let made: Vec<(usize, Done)> = match op {
            // Under a broad failure a batch is letters of many callers, and each question to a server far away costs its time.
            Op::Enter(_) => {
                let letters = rest().map_while(|(at, op)| match op {
                    Op::Enter(letters) => Some((at, letters)),
                    _ => None,
                });
                let all: Vec<(usize, &Vec<DeadLetter>)> = letters.collect();
                let flat: Vec<&DeadLetter> = all.iter().flat_map(|(_, letters)| *letters).collect();
                let mut ids = bounded(enter::enter_all(connection, &flat, now, &mut tally))
                    .await?
                    .into_iter();
                all.iter()
                    .map(|(at, letters)| (*at, Done::Entered(ids.by_ref().take(letters.len()).collect())))
                    .collect()
            }
            Op::Job(jobs::Op::Change(wanted), host) => {
                let others = rest().skip(1).filter_map(|(at, op)| match op {
                    Op::Job(jobs::Op::Change(other), of) if of == host => Some((at, other)),
                    _ => None,
                });
                let mut all = vec![(at, wanted)];
                all.extend(wanted.with_alike(others));
                let flat: Vec<&members::Wanted> = all.iter().map(|(_, wanted)| *wanted).collect();
                let changed = bounded(members::change_all(connection, &flat, host, now, &mut tally)).await?;
                let places = all.iter().map(|(at, _)| *at);
                places.zip(changed.into_iter().map(Done::Changed)).collect()
            }
            op => vec![(at, bounded(op.apply(connection, now, &mut tally)).await?)],
        };
        for (at, made) in made {
            if let Some(done) = done.get_mut(at) {
                *done = Some(made);
            }
        }
    }
    bounded(tally.write(connection, exports)).await?;
    Ok(done
        .into_iter()
        .map(|done| done.unwrap_or(Done::Nothing))
        .collect())
}

/// All at once and in an order that is the same everywhere: two hosts that lock them as they come would wait for each other.
async fn lock_lanes(connection: &mut Connection, ops: &[Op]) -> Result<(), Error> {
    let mut touched = Lanes::default();
    for op in ops {
        op.lanes(&mut touched);
    }
    let names: Vec<_> = touched
        .rows
        .iter()
        .filter_map(|row| Some((stored(&row.route), row.lane.as_deref()?)))
        .collect();
    let lanes: Vec<(&str, &[u8])> = names.iter().map(|(route, lane)| (&**route, *lane)).collect();
    let ids: Vec<_> = touched.ids.iter().map(|id| stored(id)).collect();
    let ids: Vec<&str> = ids.iter().map(|id| &**id).collect();
    let letters: Vec<_> = touched.letters.iter().map(|id| stored(id)).collect();
    let letters: Vec<&str> = letters.iter().map(|id| &**id).collect();
    if lanes.is_empty() && ids.is_empty() && letters.is_empty() {
        return Ok(());
    }
    bounded(engine::lock_lanes(connection, &lanes, &ids, &letters)).await
}
