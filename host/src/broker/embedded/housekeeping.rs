//! The writer's work besides messages: retention, checkpoints, the clean flag, what a crash may leave running.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, params};

use super::log::{Partition, Topic};
use super::{sql, unsql};
use crate::model::UnixMs;
use crate::model::clock::duration_ms;

/// Pages in the WAL before it is carried over. 1,000 to 2,000 pages stall 8 to 15 ms; more stall rarer but longer.
const CHECKPOINT_PAGES: i64 = 1_000;
/// Records deleted per commit by retention.
const RETAIN_ROWS: i64 = 1_000;

/// Deletes records older than their topic's retention from the first partition that has such, in one commit. False: there
/// are none.
pub fn retain(db: &Connection, topics: &[Arc<Topic>], now: UnixMs) -> rusqlite::Result<bool> {
    for topic in topics {
        let Some(retention) = topic.retention else {
            continue;
        };
        let cutoff = sql(now.saturating_sub(duration_ms(retention)));
        for partition in &topic.partitions {
            if retain_partition(db, partition, cutoff)? {
                topic.ready.notify_waiters();
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn retain_partition(db: &Connection, partition: &Partition, cutoff: i64) -> rusqlite::Result<bool> {
    let (no, first) = (partition.no, partition.first.load(Ordering::Relaxed));
    if first >= partition.end.load(Ordering::Relaxed) {
        return Ok(false);
    }
    // Record times never go back within a partition, so what is too old is a prefix.
    let old = |rows: i64| -> rusqlite::Result<i64> {
        db.prepare_cached(&format!(
            "SELECT count(*) FROM (SELECT ts FROM log_{no} ORDER BY off LIMIT ?2) WHERE ts < ?1"
        ))?
        .query_row([cutoff, rows], |r| r.get(0))
    };
    if old(1)? == 0 {
        return Ok(false);
    }
    let first = first + unsql(old(RETAIN_ROWS)?);
    db.execute_batch("BEGIN IMMEDIATE")?;
    db.prepare_cached(&format!("DELETE FROM log_{no} WHERE off < ?1"))?
        .execute([sql(first)])?;
    db.prepare_cached("UPDATE partition SET first_off = ?2 WHERE no = ?1")?
        .execute(params![no, sql(first)])?;
    db.execute_batch("COMMIT")?;
    partition.first.store(first, Ordering::Release);
    Ok(true)
}

/// Carries the WAL over when it has grown enough. Between batches, so that the stall never lands inside one.
pub fn checkpoint(db: &Connection) -> rusqlite::Result<()> {
    let (log, done): (i64, i64) = db
        .prepare_cached("PRAGMA wal_checkpoint(NOOP)")?
        .query_row([], |r| Ok((r.get(1)?, r.get(2)?)))?;
    if log - done >= CHECKPOINT_PAGES {
        db.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?
            .query_row([], |_| Ok(()))?;
    }
    Ok(())
}

/// The last commit. `clean`: nothing that ran is unsettled, so the next start flags nothing as redelivered.
pub fn finish(db: &Connection, clean: bool) -> rusqlite::Result<()> {
    db.execute(
        "UPDATE meta SET value = ?1 WHERE name = 'clean'",
        [i64::from(clean)],
    )?;
    // Only tidiness: the WAL is read at the next start if this does not succeed.
    let _ = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    Ok(())
}

pub fn watch_queue(db: &Connection, queue: u16, window: usize) -> rusqlite::Result<()> {
    let window = i64::try_from(window).unwrap_or(i64::MAX);
    db.execute(
        "UPDATE queue SET window = max(window, ?2) WHERE no = ?1",
        params![queue, window],
    )?;
    Ok(())
}

/// A new group begins at the earliest record.
pub fn watch_topic(db: &Connection, group: &str, topic: &Topic, span: u64) -> rusqlite::Result<()> {
    db.execute_batch("BEGIN IMMEDIATE")?;
    for partition in &topic.partitions {
        db.execute(
            "INSERT INTO offsets(grp, part, off, span) VALUES(?1, ?2, ?3, ?4)
             ON CONFLICT DO UPDATE SET span = max(span, excluded.span)",
            params![
                group,
                partition.no,
                sql(partition.committed.load(Ordering::Relaxed)),
                sql(span)
            ],
        )?;
    }
    db.execute_batch("COMMIT")
}
