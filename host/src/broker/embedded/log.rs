//! One topic in memory: where each partition begins and ends, how far our group has read, and reading the log.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Notify;

use super::ledger::Ledger;
use super::queue::row_message;
use super::{guard, sql, unsql};
use crate::model::{MessageKind, Origin, RawMessage};

pub struct Topic {
    pub name: Arc<str>,
    pub retention: Option<Duration>,
    pub partitions: Vec<Partition>,
    /// Notified when something may have become readable.
    pub ready: Notify,
    /// Windows of all live sources together.
    pub window: AtomicUsize,
    /// Round robin of messages without a key.
    pub turn: AtomicU32,
    cursors: Mutex<Cursors>,
}

pub struct Partition {
    /// Unique over all topics; names the table.
    pub no: u32,
    pub first: AtomicU64,
    /// The next offset that will be written.
    pub end: AtomicU64,
    /// Our group's position on disk.
    pub committed: AtomicU64,
    /// The time of the newest record: record times never go back.
    pub last_ms: AtomicU64,
    /// Offsets below may have run before an unclean stop.
    pub suspect: u64,
    pub insert: String,
}

struct Cursors {
    partitions: Vec<Cursor>,
    /// Which partition comes first in the next claim.
    turn: usize,
    /// The most offsets a partition may be read ahead of what is committed.
    span: u64,
}

struct Cursor {
    ledger: Ledger,
    /// Given back; delivered before anything new, lowest first.
    waiting: BTreeSet<u64>,
    ran: HashSet<u64>,
    returned: HashSet<u64>,
}

/// (partition index, offset, may have run before)
pub type Claim = (u32, u64, bool);

impl Partition {
    pub fn new(no: u32, first: u64, end: u64, committed: u64, last_ms: u64, suspect: u64) -> Self {
        Self {
            no,
            first: AtomicU64::new(first),
            end: AtomicU64::new(end),
            committed: AtomicU64::new(committed),
            last_ms: AtomicU64::new(last_ms),
            suspect,
            insert: format!(
                "INSERT INTO log_{no}(off, ts, id, mkey, hdr, body) VALUES(?1, ?2, ?3, ?4, ?5, ?6)"
            ),
        }
    }
}

impl Topic {
    pub fn new(name: Arc<str>, retention: Option<Duration>, partitions: Vec<Partition>) -> Self {
        let cursor = |p: &Partition| Cursor {
            ledger: Ledger::new(
                p.committed
                    .load(Ordering::Relaxed)
                    .max(p.first.load(Ordering::Relaxed)),
            ),
            waiting: BTreeSet::new(),
            ran: HashSet::new(),
            returned: HashSet::new(),
        };
        let cursors = partitions.iter().map(cursor).collect();
        Self {
            name,
            retention,
            partitions,
            ready: Notify::new(),
            window: AtomicUsize::new(0),
            turn: AtomicU32::new(0),
            cursors: Mutex::new(Cursors {
                partitions: cursors,
                turn: 0,
                span: 0,
            }),
        }
    }

    /// How far a partition may be read ahead with this window: enough that a commit of 20 ms costs no throughput.
    pub fn span_for(window: usize) -> u64 {
        u64::try_from(window)
            .unwrap_or(u64::MAX)
            .saturating_mul(4)
            .max(4_096)
    }

    pub fn allow_span(&self, span: u64) {
        let mut cursors = guard(&self.cursors);
        cursors.span = cursors.span.max(span);
    }

    pub fn may_have(&self) -> bool {
        let cursors = guard(&self.cursors);
        let span = cursors.span;
        cursors
            .partitions
            .iter()
            .zip(&self.partitions)
            .any(|(c, p)| !c.waiting.is_empty() || c.ledger.next() < p.readable_to(span))
    }

    pub fn claim(&self, max: usize) -> Vec<Claim> {
        let mut cursors = guard(&self.cursors);
        let (count, span, turn) = (self.partitions.len(), cursors.span, cursors.turn);
        cursors.turn = (turn + 1) % count.max(1);
        let mut out = Vec::new();
        for step in 0..count {
            let index = (turn + step) % count;
            let (Some(partition), Some(cursor)) =
                (self.partitions.get(index), cursors.partitions.get_mut(index))
            else {
                continue;
            };
            cursor.skip_to(partition.first.load(Ordering::Acquire));
            let end = partition.readable_to(span);
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            while out.len() < max {
                let offset = match cursor.waiting.pop_first() {
                    Some(offset) => offset,
                    None if cursor.ledger.next() < end => cursor.ledger.start(),
                    None => break,
                };
                let again = offset < partition.suspect
                    || cursor.ran.contains(&offset)
                    || cursor.returned.contains(&offset);
                out.push((index, offset, again));
            }
        }
        out
    }

    pub fn begin(&self, partition: u32, offset: u64) {
        if let Some(cursor) = guard(&self.cursors).at(partition) {
            cursor.ran.insert(offset);
        }
    }

    /// `commit` is called with (partition number, position) when the prefix moved, still under the lock so that positions
    /// cannot overtake each other.
    pub fn finish(&self, partition: u32, offset: u64, commit: impl FnOnce(u32, u64)) {
        let mut cursors = guard(&self.cursors);
        let Some(cursor) = cursors.at(partition) else {
            return;
        };
        cursor.ran.remove(&offset);
        cursor.returned.remove(&offset);
        if cursor.ledger.finish(offset)
            && let Some(number) = self.at(partition).map(|p| p.no)
        {
            commit(number, cursor.ledger.prefix());
        }
    }

    pub fn give_back(&self, partition: u32, offset: u64, handed: bool) {
        let mut cursors = guard(&self.cursors);
        if let Some(cursor) = cursors.at(partition) {
            if handed {
                cursor.returned.insert(offset);
            }
            // Below the prefix: retention took it meanwhile.
            if offset >= cursor.ledger.prefix() {
                cursor.waiting.insert(offset);
            }
        }
        drop(cursors);
        self.ready.notify_waiters();
    }

    /// True when something ran that a restart delivers again: never settled, or finished behind an offset that is not.
    pub fn has_unsettled_runs(&self) -> bool {
        let unsettled = |c: &Cursor| !c.ran.is_empty() || c.ledger.is_ahead();
        guard(&self.cursors).partitions.iter().any(unsettled)
    }

    /// Not yet finished by our group.
    pub fn depth(&self) -> u64 {
        let cursors = guard(&self.cursors);
        let lag = |(c, p): (&Cursor, &Partition)| {
            let from = c.ledger.prefix().max(p.first.load(Ordering::Acquire));
            p.end.load(Ordering::Acquire).saturating_sub(from)
        };
        cursors.partitions.iter().zip(&self.partitions).map(lag).sum()
    }

    pub fn at(&self, partition: u32) -> Option<&Partition> {
        self.partitions.get(usize::try_from(partition).ok()?)
    }

    fn origin(&self, broker: &Arc<str>, partition: u32, offset: u64) -> Origin {
        Origin {
            broker: Arc::clone(broker),
            kind: MessageKind::Event,
            destination: Arc::clone(&self.name),
            partition: Some(partition),
            offset: Some(offset),
        }
    }

    /// Up to `max` records from `from` on, but not much more than `bytes`.
    pub fn read(
        &self,
        db: &Connection,
        broker: &Arc<str>,
        partition: u32,
        from: u64,
        max: usize,
        bytes: usize,
    ) -> rusqlite::Result<Vec<RawMessage>> {
        let Some(number) = self.at(partition).map(|p| p.no) else {
            return Ok(Vec::new());
        };
        let mut select = db.prepare_cached(&format!(
            "SELECT off, ts, mkey, hdr, body FROM log_{number} WHERE off >= ?1 ORDER BY off LIMIT ?2"
        ))?;
        let mut rows = select.query([sql(from), i64::try_from(max).unwrap_or(i64::MAX)])?;
        let (mut out, mut size) = (Vec::new(), 0);
        while let Some(found) = rows.next()? {
            let origin = self.origin(broker, partition, unsql(found.get(0)?));
            let raw = row_message(found, origin, 1, 2)?;
            size += raw.size();
            out.push(raw);
            if size >= bytes {
                break;
            }
        }
        Ok(out)
    }

    /// The first offset whose record time is at or after `time`. Record times never go back, so halving finds it.
    pub fn offset_at(&self, db: &Connection, partition: u32, time: u64) -> rusqlite::Result<u64> {
        let Some(p) = self.at(partition) else { return Ok(0) };
        let mut select = db.prepare_cached(&format!("SELECT ts FROM log_{} WHERE off = ?1", p.no))?;
        let (mut low, mut high) = (p.first.load(Ordering::Acquire), p.end.load(Ordering::Acquire));
        while low < high {
            let middle = low + (high - low) / 2;
            let mut rows = select.query([sql(middle)])?;
            // A missing row was deleted by retention since we looked: it is older than everything that is left.
            let earlier = match rows.next()? {
                Some(found) => unsql(found.get(0)?) < time,
                None => true,
            };
            if earlier {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }
}

impl Partition {
    fn readable_to(&self, span: u64) -> u64 {
        let ahead = self
            .committed
            .load(Ordering::Acquire)
            .max(self.first.load(Ordering::Acquire));
        self.end.load(Ordering::Acquire).min(ahead.saturating_add(span))
    }
}

impl Cursors {
    fn at(&mut self, partition: u32) -> Option<&mut Cursor> {
        self.partitions.get_mut(usize::try_from(partition).ok()?)
    }
}

impl Cursor {
    fn skip_to(&mut self, first: u64) {
        if self.ledger.skip_to(first) {
            self.waiting = self.waiting.split_off(&first);
            self.ran.retain(|offset| *offset >= first);
            self.returned.retain(|offset| *offset >= first);
        }
    }
}
