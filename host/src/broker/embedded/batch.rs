//! One transaction: publishes first, then our group's positions, then acknowledgements, then delayed tasks that are due.
//!
//! Nothing in memory changes before COMMIT has returned; [`Effects`] is what changes then.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::{Connection, params};

use super::inbox::{Entry, Job, Target};
use super::log::Topic;
use super::queue::Queue;
use super::{ready, sql, unsql};
use crate::broker::Confirmed;
use crate::model::UnixMs;

/// Delayed tasks moved per commit.
pub const BATCH_DUE: usize = 256;

#[derive(Default)]
pub struct Effects {
    /// One per job, one inside per entry.
    pub confirms: Vec<Vec<Confirmed>>,
    pub queues: HashMap<u16, QueueEffect>,
    pub logs: HashMap<u32, LogEffect>,
    /// The highest number given to a delayed task.
    pub delayed_seq: u64,
    /// The earliest delayed task that this batch added.
    pub delayed_due: Option<UnixMs>,
    /// Delayed tasks that became ready.
    pub moved: usize,
}

pub struct QueueEffect {
    pub queue: Arc<Queue>,
    pub sequence: u64,
    pub rows: i64,
    pub appended: Vec<u64>,
    pub acked: usize,
}

pub struct LogEffect {
    topic: Arc<Topic>,
    index: u32,
    end: u64,
    last_ms: u64,
}

pub struct Context<'a> {
    pub db: &'a Connection,
    pub group: &'a str,
    pub now: UnixMs,
    pub queues: &'a HashMap<u16, Arc<Queue>>,
}

impl Context<'_> {
    /// Runs everything between BEGIN and COMMIT.
    pub fn run(
        &self,
        jobs: &[Job],
        acks: &mut [u64],
        offsets: &HashMap<u32, u64>,
        delayed_seq: u64,
        due: bool,
    ) -> rusqlite::Result<Effects> {
        let mut effects = Effects {
            delayed_seq,
            ..Effects::default()
        };
        for job in jobs {
            let confirms: Result<_, _> = job.entries.iter().map(|e| self.insert(e, &mut effects)).collect();
            effects.confirms.push(confirms?);
        }
        self.positions(offsets)?;
        self.delete(acks, &mut effects)?;
        if due {
            self.move_due(&mut effects)?;
        }
        self.counters(&effects)?;
        Ok(effects)
    }

    fn insert(&self, entry: &Entry, effects: &mut Effects) -> rusqlite::Result<Confirmed> {
        match &entry.target {
            Target::Partition(topic, index) => self.append(topic, *index, entry, effects),
            Target::Queue(queue) => match entry.not_before {
                Some(due) => self.delay(queue, due, entry, effects),
                None => self.enqueue(queue, entry, effects),
            },
        }
    }

    fn enqueue(
        &self,
        queue: &Arc<Queue>,
        entry: &Entry,
        effects: &mut Effects,
    ) -> rusqlite::Result<Confirmed> {
        let effect = effects.queue(queue);
        effect.sequence += 1;
        effect.rows += 1;
        let key = ready::key(queue.no, entry.priority, effect.sequence);
        effect.appended.push(key);
        let m = &entry.stored;
        self.db
            .prepare_cached(
                "INSERT INTO task(key, enq, exp, id, mkey, hdr, body) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            )?
            .execute(params![
                sql(key),
                sql(self.now),
                m.expires_ms.map(sql),
                m.id,
                m.key.as_deref(),
                m.hdr,
                m.body.as_deref()
            ])?;
        Ok(Confirmed {
            partition: None,
            offset: Some(effect.sequence),
        })
    }

    fn delay(
        &self,
        queue: &Arc<Queue>,
        due: UnixMs,
        entry: &Entry,
        effects: &mut Effects,
    ) -> rusqlite::Result<Confirmed> {
        effects.queue(queue).rows += 1;
        effects.delayed_seq += 1;
        effects.delayed_due = Some(effects.delayed_due.map_or(due, |other| other.min(due)));
        let m = &entry.stored;
        self.db
            .prepare_cached(
                "INSERT INTO delayed(due, seq, queue, priority, enq, exp, id, mkey, hdr, body)
                 VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            )?
            .execute(params![
                sql(due),
                sql(effects.delayed_seq),
                queue.no,
                entry.priority,
                sql(self.now),
                m.expires_ms.map(sql),
                m.id,
                m.key.as_deref(),
                m.hdr,
                m.body.as_deref()
            ])?;
        Ok(Confirmed {
            partition: None,
            offset: None,
        })
    }

    fn append(
        &self,
        topic: &Arc<Topic>,
        index: u32,
        entry: &Entry,
        effects: &mut Effects,
    ) -> rusqlite::Result<Confirmed> {
        let Some(partition) = topic.at(index) else {
            return Err(rusqlite::Error::InvalidQuery);
        };
        let log = effects.logs.entry(partition.no).or_insert_with(|| LogEffect {
            topic: Arc::clone(topic),
            index,
            end: partition.end.load(Ordering::Relaxed),
            last_ms: partition.last_ms.load(Ordering::Relaxed),
        });
        let offset = log.end;
        log.end += 1;
        log.last_ms = log.last_ms.max(self.now);
        let m = &entry.stored;
        self.db.prepare_cached(&partition.insert)?.execute(params![
            sql(offset),
            sql(log.last_ms),
            m.id,
            m.key.as_deref(),
            m.hdr,
            m.body.as_deref()
        ])?;
        Ok(Confirmed {
            partition: Some(index),
            offset: Some(offset),
        })
    }

    fn positions(&self, offsets: &HashMap<u32, u64>) -> rusqlite::Result<()> {
        for (partition, position) in offsets {
            self.db
                .prepare_cached(
                    "INSERT INTO offsets(grp, part, off) VALUES(?1, ?2, ?3)
                     ON CONFLICT DO UPDATE SET off = excluded.off",
                )?
                .execute(params![self.group, partition, sql(*position)])?;
        }
        Ok(())
    }

    /// Neighbouring keys go in one statement: tasks are mostly finished in the order they were claimed.
    fn delete(&self, acks: &mut [u64], effects: &mut Effects) -> rusqlite::Result<()> {
        acks.sort_unstable();
        let mut delete = self
            .db
            .prepare_cached("DELETE FROM task WHERE key BETWEEN ?1 AND ?2")?;
        for run in acks.chunk_by(|a, b| a + 1 == *b) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else {
                continue;
            };
            let rows = delete.execute([sql(*first), sql(*last)])?;
            if let Some(queue) = self.queues.get(&ready::queue_of(*first)) {
                let effect = effects.queue(queue);
                effect.acked += run.len();
                effect.rows -= i64::try_from(rows).unwrap_or(0);
            }
        }
        Ok(())
    }

    fn move_due(&self, effects: &mut Effects) -> rusqlite::Result<()> {
        let mut select = self.db.prepare_cached(
            "SELECT due, seq, queue, priority FROM delayed WHERE due <= ?1 ORDER BY due, seq LIMIT ?2",
        )?;
        let limit = i64::try_from(BATCH_DUE).unwrap_or(i64::MAX);
        let due: Vec<(i64, i64, u16, u8)> = select
            .query_map([sql(self.now), limit], |r| {
                Ok((r.get(0)?, r.get(1)?, r.get(2)?, r.get(3)?))
            })?
            .collect::<Result<_, _>>()?;
        let mut copy = self.db.prepare_cached(
            "INSERT INTO task(key, enq, exp, id, mkey, hdr, body)
             SELECT ?3, enq, exp, id, mkey, hdr, body FROM delayed WHERE due = ?1 AND seq = ?2",
        )?;
        let mut delete = self
            .db
            .prepare_cached("DELETE FROM delayed WHERE due = ?1 AND seq = ?2")?;
        for (due, seq, queue, priority) in due {
            let Some(queue) = self.queues.get(&queue) else {
                continue;
            };
            let effect = effects.queue(queue);
            effect.sequence += 1;
            let key = ready::key(queue.no, priority, effect.sequence);
            copy.execute([due, seq, sql(key)])?;
            delete.execute([due, seq])?;
            effect.appended.push(key);
            effects.moved += 1;
        }
        Ok(())
    }

    fn counters(&self, effects: &Effects) -> rusqlite::Result<()> {
        for effect in effects.queues.values() {
            self.db
                .prepare_cached("UPDATE queue SET sequence = ?2, depth = ?3 WHERE no = ?1")?
                .execute(params![effect.queue.no, sql(effect.sequence), effect.rows])?;
        }
        for (number, log) in &effects.logs {
            self.db
                .prepare_cached("UPDATE partition SET next_off = ?2 WHERE no = ?1")?
                .execute(params![number, sql(log.end)])?;
        }
        Ok(())
    }
}

impl Effects {
    fn queue(&mut self, queue: &Arc<Queue>) -> &mut QueueEffect {
        self.queues.entry(queue.no).or_insert_with(|| QueueEffect {
            queue: Arc::clone(queue),
            sequence: queue.sequence.load(Ordering::Relaxed),
            rows: queue.rows.load(Ordering::Relaxed),
            appended: Vec::new(),
            acked: 0,
        })
    }

    /// The commit is on disk: let readers see it.
    pub fn publish(&self) {
        for effect in self.queues.values() {
            effect.queue.sequence.store(effect.sequence, Ordering::Relaxed);
            effect.queue.rows.store(effect.rows, Ordering::Relaxed);
            if effect.acked > 0 {
                effect.queue.deleted(effect.acked);
            }
            if !effect.appended.is_empty() {
                effect.queue.append(&effect.appended);
            }
        }
        for log in self.logs.values() {
            if let Some(partition) = log.topic.at(log.index) {
                partition.last_ms.store(log.last_ms, Ordering::Relaxed);
                partition.end.store(log.end, Ordering::Release);
            }
            log.topic.ready.notify_waiters();
        }
    }
}

/// When the next delayed task is due.
pub fn next_due(db: &Connection) -> rusqlite::Result<Option<UnixMs>> {
    let due: Option<i64> = db
        .prepare_cached("SELECT min(due) FROM delayed")?
        .query_row([], |r| r.get(0))?;
    Ok(due.map(unsql))
}

pub fn last_delayed(db: &Connection) -> rusqlite::Result<u64> {
    let seq: Option<i64> = db.query_row("SELECT max(seq) FROM delayed", [], |r| r.get(0))?;
    Ok(seq.map_or(0, unsql))
}
