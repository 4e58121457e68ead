//! What both engines share: the statements, and the one task that makes all changes.
//!
//! This folder is compiled once for each engine, as a child of it: `super::engine` is what differs between them (types of
//! the driver, errors, and the few words of SQL that are not common). The SQL is the part that both understand: `$1` for
//! parameters, `IS NOT DISTINCT FROM`, `ON CONFLICT`, `RETURNING`, 64-bit integers only.
//!
//! All changes go through one [`writer`], which commits everything that waits in one transaction; reads have a small pool of
//! their own. Text is written by [`text::stored`], so that it is the same text in both.

mod audit;
mod auto;
mod change;
pub(super) mod codec;
mod enter;
mod exports;
pub(super) mod find;
mod groups;
mod held;
mod jobs;
mod keep;
mod letters;
mod matching;
mod members;
mod op;
mod prepare;
mod replays;
mod retries;
mod row;
mod schema;
mod tally;
mod text;
mod trail;
mod words;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use self::change::Over;
use self::op::{Done, Op};
use self::writer::{Request, Writer};
use super::engine::{self, Link, Pool};
use crate::model::Clock;
use crate::store::Error;

pub(super) use self::schema::migrate;

/// Changes that may wait for the writer; further callers wait in line.
const QUEUE: usize = 1024;

/// Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    writer: mpsc::Sender<Request>,
    readers: Pool,
    clock: Arc<dyn Clock>,
    commits: Arc<AtomicU64>,
    /// Whose leases are ours.
    host: Arc<str>,
    tickets: AtomicI64,
    /// Of which letters others shall have a copy.
    exports: Arc<exports::Wanted>,
}

impl Store {
    /// Starts the writer on the current Tokio runtime.
    pub(super) fn start(link: Link, readers: Pool, clock: Arc<dyn Clock>, host: Arc<str>) -> Self {
        let (writer, requests) = mpsc::channel(QUEUE);
        let commits = Arc::new(AtomicU64::new(0));
        let exports = Arc::new(exports::Wanted::default());
        let writing = Writer::new(
            link,
            Arc::clone(&commits),
            Arc::clone(&clock),
            Arc::clone(&exports),
        );
        tokio::spawn(writing.run(requests));
        Self {
            inner: Arc::new(Inner {
                writer,
                readers,
                clock,
                commits,
                host,
                tickets: AtomicI64::new(0),
                exports,
            }),
        }
    }

    /// Commits what waits, then closes the store. Changes after that fail.
    pub async fn close(&self) {
        let (reply, closed) = oneshot::channel();
        if self.inner.writer.send(Request::Close(reply)).await.is_ok() {
            // An error means that the writer is gone already, which is what was asked for.
            let _ = closed.await;
        }
        let closing = async {
            self.inner.readers.close().await;
            Ok(())
        };
        // A server that does not answer any more notices by itself.
        let _ = engine::bounded(closing).await;
    }

    /// Voids all leases of this host and tells how many there were; those of other hosts stay. For right after opening and right
    /// before closing, when nothing of this process acts on one: what was claimed is due again at once, letters that were being
    /// sent are dead again at once, instead of after their lease, and replays go on at once.
    pub async fn reclaim(&self) -> Result<u64, Error> {
        let rows = self.write(Op::Reclaim(self.host())).await?.count();
        Ok(rows + self.write(Op::Lapse(Over::Of(self.host()))).await?.count())
    }

    /// Transactions committed since opening.
    pub fn commits(&self) -> u64 {
        self.inner.commits.load(Ordering::Relaxed)
    }

    /// Waits until the change is on disk.
    async fn write(&self, op: Op) -> Result<Done, Error> {
        let closed = || Error::Storage("the store is closed".to_owned());
        let (reply, done) = oneshot::channel();
        self.inner
            .writer
            .send(Request::Change(op, reply))
            .await
            .map_err(|_| closed())?;
        done.await.map_err(|_| closed())?
    }

    /// What is asked there has to go through [`engine::answered`].
    fn readers(&self) -> &Pool {
        &self.inner.readers
    }

    fn host(&self) -> Arc<str> {
        Arc::clone(&self.inner.host)
    }

    /// None twice in one run of the host; what an earlier run had claimed was let go when it started.
    fn ticket(&self) -> i64 {
        self.inner.tickets.fetch_add(1, Ordering::Relaxed)
    }
}

/// Integers of SQL are signed; a time beyond them is "never".
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn small(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(if value < 0 { 0 } else { u32::MAX })
}
