//! The file of the embedded broker, read while a host writes it: SQLite lets another process read a WAL.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use rusqlite::{Connection, OpenFlags};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::COMMITS_EVERY;
use crate::history::{History, What};
use crate::message::Stream;

fn open(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(file, flags)?;
    db.busy_timeout(Duration::from_millis(200))?;
    Ok(db)
}

/// Our group's positions by partition.
fn positions(file: &Path, topic: &str) -> rusqlite::Result<Vec<(i64, i64)>> {
    let db = open(file)?;
    let mut select = db.prepare(
        "SELECT p.part, o.off FROM offsets o JOIN partition p ON p.no = o.part WHERE p.topic = ?1",
    )?;
    let rows = select.query_map([topic], |row| Ok((row.get(0)?, row.get(1)?)))?;
    rows.collect()
}

pub fn commits(
    file: PathBuf,
    topic: String,
    history: &Arc<History>,
    tasks: &mut JoinSet<()>,
    stop: &CancellationToken,
) {
    let (history, stop) = (Arc::clone(history), stop.clone());
    tasks.spawn(async move {
        while stop
            .run_until_cancelled(tokio::time::sleep(COMMITS_EVERY))
            .await
            .is_some()
        {
            // A file that is being opened or is locked for a moment is looked at the next time.
            for (partition, offset) in positions(&file, &topic).unwrap_or_default() {
                history.add(What::Committed {
                    stream: Stream::EmbeddedEvents,
                    partition,
                    offset,
                });
            }
        }
    });
}

/// Tasks that are there, or events that are not committed.
pub fn depth(file: &Path, stream: Stream, name: &str) -> Option<i64> {
    let db = open(file).ok()?;
    if stream.is_keyed() {
        db.query_row(
            "SELECT coalesce(sum(p.next_off - coalesce(o.off, p.first_off)), 0) FROM partition p
             LEFT JOIN offsets o ON o.part = p.no WHERE p.topic = ?1",
            [name],
            |row| row.get(0),
        )
        .ok()
    } else {
        db.query_row("SELECT depth FROM queue WHERE name = ?1", [name], |row| {
            row.get(0)
        })
        .ok()
    }
}

/// # Errors
/// When the file cannot be read.
pub fn outputs(file: &Path, topic: &str, history: &History) -> Result<()> {
    let db = open(file)?;
    let mut select = db.prepare("SELECT no FROM partition WHERE topic = ?1")?;
    let numbers: Vec<i64> = select
        .query_map([topic], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for number in numbers {
        let mut select = db.prepare(&format!("SELECT body FROM log_{number} ORDER BY off"))?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let body: Vec<u8> = row.get(0)?;
            super::output(&body, history);
        }
    }
    Ok(())
}

/// Holds the write lock of a database for as long as the answer lives.
///
/// # Errors
/// When the file cannot be opened or is locked by somebody else for too long.
pub fn lock(file: &Path) -> Result<Connection> {
    let db = Connection::open(file)?;
    db.busy_timeout(Duration::from_secs(5))?;
    db.execute_batch("BEGIN IMMEDIATE")?;
    Ok(db)
}
