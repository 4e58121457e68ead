//! SQLite store: retries and dead letters in one file, group-committed.
//!
//! All changes go through one [`writer`], which commits everything that waits in one transaction; reads have a small pool of
//! their own (WAL: they never wait for the writer). One process at a time owns the file.

mod change;
mod codec;
mod enter;
mod failure;
mod letters;
mod op;
mod retries;
mod schema;
#[cfg(test)]
mod tests;
mod trail;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};
use tokio::sync::{mpsc, oneshot};

use self::failure::failed;
use self::op::{Done, Op};
use self::writer::Request;
use super::Error;
use crate::model::Clock;

/// How long a statement waits for a lock. Only a backup or a person with a shell ever holds one.
const BUSY: Duration = Duration::from_secs(5);
const READERS: u32 = 4;
/// Changes that may wait for the writer; further callers wait in line.
const QUEUE: usize = 1024;
/// The write-ahead log is cut back to this after a checkpoint.
const WAL_BYTES: &str = "67108864";

/// Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct SqliteStore {
    inner: Arc<Inner>,
}

struct Inner {
    writer: mpsc::Sender<Request>,
    readers: SqlitePool,
    clock: Arc<dyn Clock>,
    commits: Arc<AtomicU64>,
}

impl SqliteStore {
    /// Opens or creates the file (and the folders above it), brings its schema up to date and starts the writer on the
    /// current Tokio runtime. The file is readable by its owner only.
    pub async fn open(path: &Path, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        Self::open_bounded(path, clock, None).await
    }

    /// As [`SqliteStore::open`]; the file never gets larger than `max_pages` pages of 4 KiB, after that changes fail with
    /// [`Error::Full`].
    pub async fn open_bounded(
        path: &Path,
        clock: Arc<dyn Clock>,
        max_pages: Option<u32>,
    ) -> Result<Self, Error> {
        let cannot = |reason: String| Error::Open {
            path: path.display().to_string(),
            reason,
        };
        create_private(path).map_err(|e| cannot(e.to_string()))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY)
            .pragma("journal_size_limit", WAL_BYTES)
            .disable_statement_logging();
        let bounded = match max_pages {
            Some(pages) => options.clone().pragma("max_page_count", pages.to_string()),
            None => options.clone(),
        };
        let mut connection = SqliteConnection::connect_with(&bounded)
            .await
            .map_err(|e| cannot(e.to_string()))?;
        // After a sync that failed, what it should have written reads back from memory, but no later sync writes it, and
        // commits behind such a hole are lost with it. So everything is carried over, and the log begins anew.
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut connection)
            .await
            .map_err(|e| cannot(e.to_string()))?;
        schema::migrate(&mut connection).await.map_err(cannot)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.pragma("query_only", "ON"))
            .await
            .map_err(|e| cannot(e.to_string()))?;
        let (writer, requests) = mpsc::channel(QUEUE);
        let commits = Arc::new(AtomicU64::new(0));
        tokio::spawn(writer::run(
            connection,
            requests,
            Arc::clone(&commits),
            Arc::clone(&clock),
        ));
        Ok(Self {
            inner: Arc::new(Inner {
                writer,
                readers,
                clock,
                commits,
            }),
        })
    }

    /// Commits what waits, then closes the file. Changes after that fail.
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

    fn readers(&self) -> &SqlitePool {
        &self.inner.readers
    }
}

/// SQLite gives the write-ahead log the permissions of the file; both hold payloads.
fn create_private(path: &Path) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map(drop)
}

/// SQLite's integers are signed; a time beyond them is "never".
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
