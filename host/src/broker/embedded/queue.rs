//! One queue in memory: who holds which task, and reading claimed tasks back from the table.

use std::collections::HashSet;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Notify;

use super::ready::{self, Ready, Scan};
use super::{guard, row, sql, unsql};
use crate::broker::Destination;
use crate::model::raw::Properties;
use crate::model::{Headers, MessageKind, Origin, RawMessage};

/// Acknowledged tasks whose deletion is not committed yet. More, and claims wait: it bounds memory, and what has to be
/// flagged as redelivered after a crash.
pub const ACK_BACKLOG: usize = 2_048;
/// From this many crashes on, a delivery is named in the log: it may be what kills the host.
const SUSPICIOUS_CRASHES: u32 = 3;

pub struct Queue {
    pub no: u16,
    pub name: Arc<str>,
    pub max_priority: u8,
    pub ttl: Option<Duration>,
    /// Notified when something may have become ready.
    pub ready: Notify,
    /// Written by the writer thread only: the last sequence issued.
    pub sequence: AtomicU64,
    /// Written by the writer thread only: rows in `task` and `delayed`.
    pub rows: AtomicI64,
    /// Windows of all live sources together.
    pub window: AtomicUsize,
    held: AtomicUsize,
    acking: AtomicUsize,
    /// Keys up to which tasks may have run before an unclean stop.
    suspects: Vec<Suspect>,
    claims: Mutex<Claims>,
}

/// After `crashes` unclean stops, tasks of this level up to `key_to` were possibly running.
#[derive(Debug, Clone, Copy)]
pub struct Suspect {
    pub level: usize,
    pub key_to: u64,
    pub crashes: u32,
}

struct Claims {
    ready: Ready,
    /// Begun and not acknowledged, by a living delivery or by one that was given back.
    ran: HashSet<u64>,
    /// Handed out before and given back.
    returned: HashSet<u64>,
}

impl Queue {
    pub fn new(no: u16, want: &Destination, sequence: u64, rows: i64, suspects: Vec<Suspect>) -> Self {
        Self {
            no,
            name: Arc::clone(&want.name),
            max_priority: want.max_priority.min(15),
            ttl: want.ttl,
            ready: Notify::new(),
            sequence: AtomicU64::new(sequence),
            rows: AtomicI64::new(rows),
            window: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            acking: AtomicUsize::new(0),
            suspects,
            claims: Mutex::new(Claims {
                ready: Ready::new(no),
                ran: HashSet::new(),
                returned: HashSet::new(),
            }),
        }
    }

    /// Committed tasks, ascending per priority.
    pub fn append(&self, keys: &[u64]) {
        let mut claims = guard(&self.claims);
        for key in keys {
            claims.ready.append(*key);
        }
        drop(claims);
        self.ready.notify_waiters();
    }

    pub fn may_have(&self) -> bool {
        self.acking.load(Ordering::Relaxed) < ACK_BACKLOG && guard(&self.claims).ready.may_have()
    }

    /// Takes up to `max` keys; true in the pair means: may have run before.
    pub fn claim(&self, db: &Connection, max: usize) -> rusqlite::Result<Vec<(u64, bool)>> {
        if self.acking.load(Ordering::Relaxed) >= ACK_BACKLOG {
            return Ok(Vec::new());
        }
        let mut keys = Vec::new();
        loop {
            let scan = guard(&self.claims).ready.take(max - keys.len(), &mut keys);
            let Some(scan) = scan else { break };
            let found = scan_keys(db, scan);
            let mut claims = guard(&self.claims);
            claims.ready.scanned(scan, found.as_deref().ok());
            if let Err(error) = found {
                keys.into_iter().for_each(|key| claims.ready.put_back(key));
                return Err(error);
            }
            drop(claims);
            // Others may have found nothing while this scan was under way.
            self.ready.notify_waiters();
        }
        self.held.fetch_add(keys.len(), Ordering::Relaxed);
        let claims = guard(&self.claims);
        let flag = |key: u64| {
            let again = claims.ran.contains(&key) || claims.returned.contains(&key);
            (key, again || self.crashes(key) > 0)
        };
        Ok(keys.into_iter().map(flag).collect())
    }

    /// How many unclean stops may have happened while this task was running.
    pub fn crashes(&self, key: u64) -> u32 {
        let level = ready::level_of(key);
        let crashes = |s: &Suspect| {
            if s.level == level && key <= s.key_to {
                s.crashes
            } else {
                0
            }
        };
        self.suspects.iter().map(crashes).sum()
    }

    pub fn begin(&self, key: u64) {
        guard(&self.claims).ran.insert(key);
        let crashes = self.crashes(key);
        if crashes >= SUSPICIOUS_CRASHES {
            tracing::warn!(queue = %self.name, sequence = ready::sequence_of(key), crashes,
                "this task may have been running each time the host died");
        }
    }

    pub fn acked(&self, key: u64) {
        let mut claims = guard(&self.claims);
        claims.ran.remove(&key);
        claims.returned.remove(&key);
        drop(claims);
        self.acking.fetch_add(1, Ordering::Relaxed);
        self.held.fetch_sub(1, Ordering::Relaxed);
    }

    /// Ready again, in its place. `handed`: somebody outside saw it.
    pub fn give_back(&self, key: u64, handed: bool) {
        let mut claims = guard(&self.claims);
        if handed {
            claims.returned.insert(key);
        }
        claims.ready.put_back(key);
        drop(claims);
        self.held.fetch_sub(1, Ordering::Relaxed);
        self.ready.notify_waiters();
    }

    /// The deletion of `acks` acknowledged tasks is committed.
    pub fn deleted(&self, acks: usize) {
        self.acking.fetch_sub(acks, Ordering::Relaxed);
        self.ready.notify_waiters();
    }

    /// True when something ran and was never settled.
    pub fn has_unsettled_runs(&self) -> bool {
        !guard(&self.claims).ran.is_empty()
    }

    /// Tasks waiting, delayed ones included, claimed ones not.
    pub fn depth(&self) -> u64 {
        let rows = u64::try_from(self.rows.load(Ordering::Relaxed)).unwrap_or(0);
        let away = self.held.load(Ordering::Relaxed) + self.acking.load(Ordering::Relaxed);
        rows.saturating_sub(u64::try_from(away).unwrap_or(u64::MAX))
    }

    /// The task of a key; none when the row is gone.
    pub fn read(&self, db: &Connection, broker: &Arc<str>, key: u64) -> rusqlite::Result<Option<RawMessage>> {
        let mut select = db.prepare_cached("SELECT enq, exp, mkey, hdr, body FROM task WHERE key = ?1")?;
        let mut rows = select.query([sql(key)])?;
        let Some(found) = rows.next()? else {
            return Ok(None);
        };
        let origin = Origin {
            broker: Arc::clone(broker),
            kind: MessageKind::Task,
            destination: Arc::clone(&self.name),
            partition: None,
            offset: Some(ready::sequence_of(key)),
        };
        let mut raw = row_message(found, origin, 0, 2)?;
        raw.props.expires_ms = found.get::<_, Option<i64>>(1)?.map(unsql);
        Ok(Some(raw))
    }
}

fn scan_keys(db: &Connection, scan: Scan) -> rusqlite::Result<Vec<u64>> {
    let mut select =
        db.prepare_cached("SELECT key FROM task WHERE key > ?1 AND key <= ?2 ORDER BY key LIMIT ?3")?;
    let limit = i64::try_from(scan.limit).unwrap_or(i64::MAX);
    let rows = select.query_map([sql(scan.after), sql(scan.last), limit], |r| r.get::<_, i64>(0))?;
    rows.map(|key| key.map(unsql)).collect()
}

/// `time` is the column of the broker's time; `first` the column of `mkey`, followed by `hdr` and `body`.
pub fn row_message(
    found: &rusqlite::Row<'_>,
    origin: Origin,
    time: usize,
    first: usize,
) -> rusqlite::Result<RawMessage> {
    // A row whose header is damaged is delivered without it: what cannot be decoded becomes a dead letter, with its
    // body, instead of standing in the way of everything behind it.
    let (props, headers) = row::unpack(found.get_ref(first + 1)?.as_blob()?).unwrap_or_else(|| {
        tracing::warn!(%origin, "a row of the embedded broker has a damaged header");
        (Properties::default(), Headers::new())
    });
    Ok(RawMessage {
        origin,
        body: found.get::<_, Option<Vec<u8>>>(first + 2)?.map(Into::into),
        key: found.get::<_, Option<Vec<u8>>>(first)?.map(Into::into),
        headers,
        props,
        timestamp_ms: Some(unsql(found.get(time)?)),
        redelivered: false,
    })
}
