//! SQLite store: one file, group-committed. One process at a time owns it.
//!
//! WAL: reads never wait for the writer.

mod engine;
#[path = "../sql/mod.rs"]
#[allow(
    clippy::duplicate_mod,
    reason = "one source of statements, compiled for each engine"
)]
mod sql;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection};

use super::Error;
use crate::model::Clock;

pub use self::sql::Store as SqliteStore;

/// How long a statement waits for a lock. Only a backup or a person with a shell ever holds one.
const BUSY: Duration = Duration::from_secs(5);
const READERS: u32 = 4;
/// Whose leases are in the file: one host owns it, whatever it is called.
const HOST: &str = "here";
/// The write-ahead log is cut back to this after a checkpoint.
const WAL_BYTES: &str = "67108864";
/// Pages in the log at which it is carried over into the file: 16 MiB. A large transaction has 600 pages, and carrying over costs
/// two fsyncs; at SQLite's own 1000 that is every other one.
const CHECKPOINT: &str = "4000";
/// KiB of pages that the one connection that writes keeps: with SQLite's own 2,000 what a large transaction has changed goes into
/// the log before its end, in part more than once.
const CACHE: &str = "-16384";

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
        let writing = options
            .clone()
            .pragma("wal_autocheckpoint", CHECKPOINT)
            .pragma("cache_size", CACHE);
        let writing = match max_pages {
            Some(pages) => writing.pragma("max_page_count", pages.to_string()),
            None => writing,
        };
        let mut connection = SqliteConnection::connect_with(&writing)
            .await
            .map_err(|e| cannot(e.to_string()))?;
        // After a sync that failed, what it should have written reads back from memory, but no later sync writes it, and
        // commits behind such a hole are lost with it. So everything is carried over, and the log begins anew.
        sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)")
            .execute(&mut connection)
            .await
            .map_err(|e| cannot(e.to_string()))?;
        sql::migrate(&mut connection).await.map_err(cannot)?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.pragma("query_only", "ON"))
            .await
            .map_err(|e| cannot(e.to_string()))?;
        Ok(Self::start(
            engine::Link::new(connection),
            readers,
            clock,
            HOST.into(),
        ))
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
