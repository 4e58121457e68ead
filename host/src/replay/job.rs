//! A replay's state: what to read next, what of it to send, and what is done once that is confirmed. Pure.
//!
//! Stretches are read one after another, each in the order of its offsets. Nothing advances before the results of a batch
//! are in, so what [`Job::progress`] says can be written down and carried on from at any time.

use std::sync::Arc;

use super::filter::matches;
use super::pace;
use super::seen::Seen;
use crate::broker::{PublishError, Replica};
use crate::decode;
use crate::model::ids::positional_id;
use crate::model::replay::{Failed, Fate, Plan, Progress, Sample};
use crate::model::{Envelope, RawMessage, Replay, UnixMs, header};

#[cfg(test)]
mod tests;

/// Of a dry run.
const SAMPLES: usize = 10;
/// Of what a route gave up on, the last ones; all of it is in the dead letters.
const FAILURES: usize = 10;

pub(super) struct Job {
    id: Arc<str>,
    plan: Plan,
    progress: Progress,
    batch: usize,
    seen: Option<Seen>,
}

/// Up to `max` messages from `from` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Read {
    /// Which stretch.
    index: usize,
    pub partition: u32,
    pub from: u64,
    pub max: usize,
}

/// What came of a read: copies to send, and what else it comes to.
#[derive(Debug)]
pub(super) struct Batch {
    read: Read,
    /// The stretch goes on here.
    next: u64,
    pub send: Vec<Replica>,
    /// Offsets of those that came and are not sent.
    skipped: Vec<u64>,
    missing: u64,
    last_id: Option<String>,
    last_offset: Option<u64>,
    samples: Vec<Sample>,
    /// Of a dry run: would be sent.
    matching: u64,
}

/// A message that was looked into.
struct Known {
    raw: RawMessage,
    id: Arc<str>,
    envelope: Option<Envelope>,
}

impl Job {
    pub(super) fn new(replay: Replay) -> Self {
        let options = &replay.plan.options;
        Self {
            id: replay.id.into(),
            batch: pace::batch_size(options),
            seen: options.skip_duplicates.then(Seen::default),
            plan: replay.plan,
            progress: replay.progress,
        }
    }

    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    pub(super) fn progress_mut(&mut self) -> &mut Progress {
        &mut self.progress
    }

    /// None: everything is done.
    pub(super) fn next(&self) -> Option<Read> {
        self.from(0, None)
    }

    /// What comes after a batch that is still under way.
    pub(super) fn after(&self, batch: &Batch) -> Option<Read> {
        self.from(batch.read.index, Some(batch.next))
    }

    fn from(&self, first: usize, at: Option<u64>) -> Option<Read> {
        let stretches = self.plan.stretches.iter().zip(&self.progress.next).enumerate();
        stretches.skip(first).find_map(|(index, (stretch, &next))| {
            let from = at.filter(|_| index == first).unwrap_or(next);
            let left = stretch.to.checked_sub(from).filter(|&left| left > 0)?;
            Some(Read {
                index,
                partition: stretch.partition,
                from,
                max: usize::try_from(left).unwrap_or(usize::MAX).min(self.batch),
            })
        })
    }

    /// `messages` is what the broker gave for `read`, in order; fewer than asked for are not the end, none at all is.
    pub(super) fn sift(&mut self, read: Read, messages: Vec<RawMessage>, now: UnixMs) -> Batch {
        let end = self
            .plan
            .stretches
            .get(read.index)
            .map_or(0, |stretch| stretch.to);
        let (mut next, mut came) = (read.from, 0);
        let mut batch = Batch {
            read,
            next,
            send: Vec::with_capacity(messages.len()),
            skipped: Vec::new(),
            missing: 0,
            last_id: None,
            last_offset: None,
            samples: Vec::new(),
            matching: 0,
        };
        let nothing = messages.is_empty();
        for raw in messages {
            let offset = raw.origin.offset.unwrap_or(next);
            if offset < next {
                continue;
            }
            if offset >= end {
                next = end;
                break;
            }
            (next, came) = (offset + 1, came + 1);
            self.look(&mut batch, raw, offset, now);
        }
        batch.next = if nothing { end } else { next };
        batch.missing = (batch.next - read.from).saturating_sub(came);
        batch
    }

    fn look(&mut self, batch: &mut Batch, raw: RawMessage, offset: u64, now: UnixMs) {
        let known = self.know(raw, offset, batch.read.partition, now);
        batch.last_offset = Some(offset);
        batch.last_id = Some(known.id.to_string());
        let in_time = known.raw.timestamp_ms.is_none_or(|at| {
            self.plan.from_ms.is_none_or(|from| at >= from) && self.plan.to_ms.is_none_or(|to| at < to)
        });
        let wanted = in_time && matches(&self.plan.filter, known.envelope.as_ref());
        if !wanted || self.seen.as_mut().is_some_and(|seen| !seen.first(&known.id)) {
            batch.skipped.push(offset);
            return;
        }
        if !self.plan.options.dry_run {
            batch.send.push(self.replica(known.raw));
            return;
        }
        batch.matching += 1;
        if self.progress.samples.len() + batch.samples.len() < SAMPLES {
            batch.samples.push(Sample {
                id: known.id.to_string(),
                message_type: known.envelope.map(|envelope| envelope.message_type),
                partition: batch.read.partition,
                offset,
                time_ms: known.raw.timestamp_ms,
            });
        }
    }

    /// Decoded only where somebody asks: a filter, duplicates, samples.
    fn know(&self, raw: RawMessage, offset: u64, partition: u32, now: UnixMs) -> Known {
        let named = || positional_id(&raw.origin.destination, partition, offset);
        let asked = self.seen.is_some() || self.plan.options.dry_run || !self.plan.filter.is_empty();
        let envelope = asked.then(|| decode::decode(&raw, &named(), now).ok()).flatten();
        let id = match &envelope {
            Some(envelope) => envelope.id.as_str().into(),
            None => raw.headers.text("id").map_or_else(named, Into::into),
        };
        Known { raw, id, envelope }
    }

    /// The message as it is, with the host's marks.
    fn replica(&self, mut raw: RawMessage) -> Replica {
        let origin = raw.origin.to_string();
        let denied = self.plan.route.as_ref().is_some_and(|route| !route.side_effects);
        for (name, value) in [
            (header::REPLAY, Some(self.id.to_string())),
            (header::REPLAY_EFFECTS, denied.then(|| "denied".to_owned())),
            (header::REPLAY_ORIGIN, Some(origin)),
            (header::REPLAY_TIME, raw.timestamp_ms.map(|at| at.to_string())),
        ] {
            raw.headers.remove(name);
            if let Some(value) = value {
                raw.headers.push(name, value);
            }
        }
        let partition = self.partition(&raw);
        Replica { raw, partition }
    }

    /// Where the copy goes: into the partition of the same number when there are as many, so that every order stays; else by
    /// its key, and without one all of a partition together.
    fn partition(&self, raw: &RawMessage) -> Option<u32> {
        let (source, targets) = (raw.origin.partition?, self.plan.target_partitions?);
        if !self.plan.options.preserve_order {
            return None;
        }
        if targets == self.plan.partitions {
            return Some(source);
        }
        raw.key.is_none().then(|| source % targets.max(1))
    }

    /// All of the batch is settled: `refused` are those that the target does not take.
    pub(super) fn settled(&mut self, batch: Batch, refused: &[PublishError]) {
        let progress = &mut self.progress;
        let failed = refused.len() as u64;
        progress.replayed += (batch.send.len() as u64).saturating_sub(failed) + batch.matching;
        progress.failed += failed;
        progress.skipped += batch.skipped();
        progress.missing += batch.missing;
        progress.samples.extend(batch.samples);
        progress.current_offset = batch.last_offset.or(progress.current_offset);
        if batch.last_id.is_some() {
            progress.last_id = batch.last_id;
        }
        if let Some(next) = progress.next.get_mut(batch.read.index) {
            *next = batch.next;
        }
        if let Some(error) = refused.last() {
            progress.error = Some(format!("{failed} refused by the target, the last one: {error}"));
        }
    }

    /// A route had the batch. All of it is settled when each message has its fate; else what lies before the first that has
    /// none, and the rest is handed over again. `last`: nothing is, so everything that has ended counts.
    pub(super) fn handed(&mut self, mut batch: Batch, fates: Vec<Option<Fate>>, last: bool) -> Handed {
        let offset = |replica: &Replica| replica.raw.origin.offset.unwrap_or_default();
        let open = batch.send.iter().zip(&fates).find(|(_, fate)| fate.is_none());
        let mut handed = Handed {
            ended: open.is_none(),
            ..Handed::default()
        };
        if let Some((replica, _)) = open {
            let cut = offset(replica);
            let came = batch.send.iter().filter(|replica| offset(replica) < cut).count();
            batch.skipped.retain(|&offset| offset < cut);
            let known = (came + batch.skipped.len()) as u64;
            batch.missing = cut.saturating_sub(batch.read.from).saturating_sub(known);
            batch.next = cut;
            batch.last_offset = cut.checked_sub(1).filter(|&offset| offset >= batch.read.from);
            batch.last_id = None;
        }
        let (next, progress) = (batch.next, &mut self.progress);
        let counted = batch
            .send
            .iter()
            .zip(fates)
            .filter_map(|(replica, fate)| (last || offset(replica) < next).then_some(fate).flatten());
        for fate in counted {
            match fate {
                Fate::Done => handed.done += 1,
                Fate::Failed(failed) => {
                    handed.failed += 1;
                    progress.failures.push(failed);
                }
            }
        }
        let surplus = progress.failures.len().saturating_sub(FAILURES);
        progress.failures.drain(..surplus);
        progress.error = progress.failures.last().map(said);
        handed.skipped = batch.skipped();
        batch.send.clear();
        self.settled(batch, &[]);
        self.progress.replayed += handed.done;
        self.progress.failed += handed.failed;
        handed
    }
}

/// What of a batch is settled that a route had.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Handed {
    /// All of it.
    pub ended: bool,
    pub done: u64,
    pub failed: u64,
    pub skipped: u64,
}

fn said(failed: &Failed) -> String {
    let id = failed.id.as_deref().unwrap_or("a message without an id");
    format!("the last that failed, {id}: {}: {}", failed.class, failed.reason)
}

impl Batch {
    pub(super) fn skipped(&self) -> u64 {
        self.skipped.len() as u64
    }
}
