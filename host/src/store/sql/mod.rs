//! What both engines share: the statements, and the one task that makes all changes.
//!
//! This folder is compiled once for each engine, as a child of it: `super::engine` is what differs between them (types of
//! the driver, errors, and the few words of SQL that are not common). The SQL is the part that both understand: `$1` for
//! parameters, `IS NOT DISTINCT FROM`, `ON CONFLICT`, `RETURNING`, 64-bit integers only.
//!
//! All changes go through one [`writer`], which commits everything that waits in one transaction; reads have a small pool of
//! their own.

mod change;
pub(super) mod codec;
mod enter;
mod held;
mod letters;
mod op;
mod retries;
mod row;
mod schema;
mod trail;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{mpsc, oneshot};

use self::op::{Done, Op};
use self::writer::Request;
use super::engine::{self, Connection, Pool};
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
}

impl Store {
    /// Starts the writer on the current Tokio runtime.
    pub(super) fn start(connection: Connection, readers: Pool, clock: Arc<dyn Clock>) -> Self {
        let (writer, requests) = mpsc::channel(QUEUE);
        let commits = Arc::new(AtomicU64::new(0));
        tokio::spawn(writer::run(
            connection,
            requests,
            Arc::clone(&commits),
            Arc::clone(&clock),
        ));
        Self {
            inner: Arc::new(Inner {
                writer,
                readers,
                clock,
                commits,
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
        self.inner.readers.close().await;
    }

    /// Voids all leases and tells how many there were. Right after opening, when no other process can hold one: what an
    /// earlier run of this host had claimed is due again at once, and letters it was sending are dead again at once, instead
    /// of after their lease.
    pub async fn reclaim(&self) -> Result<u64, Error> {
        let rows = self.write(Op::Reclaim).await?.count();
        Ok(rows + self.write(Op::Lapse(None)).await?.count())
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

    fn readers(&self) -> &Pool {
        &self.inner.readers
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
