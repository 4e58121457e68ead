//! Which offsets of which partitions are finished, and how far a commit may go. Pure: no clock, no I/O.
//!
//! Only *received* offsets are tracked, so holes in the log (compaction, transaction markers) need no thought. What may
//! be committed is the last offset of the finished prefix plus one. Each assignment of a partition has an epoch of its
//! own; a token of another epoch changes nothing.

use std::collections::{BTreeMap, VecDeque};

use crate::broker::Token;
use crate::planted::{self, Bug};

#[cfg(test)]
mod tests;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Handed out, not begun.
    Received,
    Running,
    Done,
    /// Given back; to be read again.
    Released,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    offset: u64,
    state: State,
}

/// One assignment of one partition.
#[derive(Debug)]
struct Lane {
    epoch: u64,
    /// False while the partition is being revoked: nothing begins any more, what runs may finish.
    open: bool,
    /// Ascending offsets; the front one is never `Done`.
    entries: VecDeque<Entry>,
    /// The next offset the broker may hand us; moves back when released offsets are read again.
    cursor: Option<u64>,
    /// One past the finished prefix. None until something of this assignment is finished.
    prefix: Option<u64>,
    /// The last prefix given to a commit.
    sent: Option<u64>,
}

/// What became of a received offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receive {
    Deliver(Token),
    /// Read again because of a neighbour; it is finished or in flight already.
    Known,
    /// The log went back by itself (truncated or created anew): everything before is forgotten, this is delivered.
    Restarted(Token),
    /// Not assigned to us.
    Foreign,
}

/// A partition that has to be read again from an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rewind {
    pub partition: u32,
    pub offset: u64,
    cursor: Option<u64>,
}

/// All partitions of one source.
#[derive(Debug, Default)]
pub struct Ledger {
    last_epoch: u64,
    lanes: BTreeMap<u32, Lane>,
    tracked: usize,
    finished: usize,
}

impl Ledger {
    /// A partition became ours; its old life, if any, is forgotten.
    pub fn assign(&mut self, partition: u32) -> u64 {
        self.forget(partition);
        self.last_epoch += 1;
        let lane = Lane {
            epoch: self.last_epoch,
            open: true,
            entries: VecDeque::new(),
            cursor: None,
            prefix: None,
            sent: None,
        };
        self.lanes.insert(partition, lane);
        self.last_epoch
    }

    /// A partition is no longer ours; every token of it is void from here on.
    pub fn forget(&mut self, partition: u32) {
        if let Some(lane) = self.lanes.remove(&partition) {
            self.tracked -= lane.entries.len();
        }
    }

    /// Nothing of this partition begins any more; what runs may still finish.
    pub fn freeze(&mut self, partition: u32) {
        if let Some(lane) = self.lanes.get_mut(&partition) {
            lane.open = false;
        }
    }

    pub fn partitions(&self) -> impl Iterator<Item = u32> + '_ {
        self.lanes.keys().copied()
    }

    /// Offsets held here: in flight, or finished behind one that is not.
    pub fn tracked(&self) -> usize {
        self.tracked
    }

    /// Finished since the last [`Ledger::commits`].
    pub fn finished(&self) -> usize {
        self.finished
    }

    /// Handlers that are running in these partitions.
    pub fn running(&self, partitions: &[u32]) -> usize {
        partitions
            .iter()
            .filter_map(|p| self.lanes.get(p))
            .flat_map(|lane| &lane.entries)
            .filter(|e| e.state == State::Running)
            .count()
    }

    /// The broker handed us an offset.
    pub fn receive(&mut self, partition: u32, offset: u64) -> Receive {
        let Some(lane) = self.lanes.get_mut(&partition) else {
            return Receive::Foreign;
        };
        if lane.cursor.is_some_and(|cursor| offset < cursor) {
            self.assign(partition);
            return match self.receive(partition, offset) {
                Receive::Deliver(token) => Receive::Restarted(token),
                other => other,
            };
        }
        let from = lane.cursor.replace(offset + 1).unwrap_or(offset);
        let token = Token {
            epoch: lane.epoch,
            lane: partition,
            position: offset,
        };
        // Nearly always: nothing from the cursor on is in the books, so there is nothing to look for.
        if lane.entries.back().is_none_or(|last| last.offset < from) {
            if lane.prefix.is_some_and(|prefix| offset < prefix) {
                return Receive::Known;
            }
            lane.entries.push_back(Entry {
                offset,
                state: State::Received,
            });
            self.tracked += 1;
            return Receive::Deliver(token);
        }
        let first = lane.entries.partition_point(|e| e.offset < from);
        let at = lane.entries.partition_point(|e| e.offset < offset);
        // Read again and not found: retention or compaction has removed them meanwhile.
        for gone in lane.entries.range_mut(first..at) {
            if gone.state == State::Released {
                gone.state = State::Done;
            }
        }
        let outcome = match lane.entries.get_mut(at) {
            Some(entry) if entry.offset == offset && entry.state == State::Released => {
                entry.state = State::Received;
                Receive::Deliver(token)
            }
            Some(entry) if entry.offset == offset => Receive::Known,
            // It was finished and has left the books.
            _ if lane.prefix.is_some_and(|prefix| offset < prefix) => Receive::Known,
            _ => {
                lane.entries.insert(
                    at,
                    Entry {
                        offset,
                        state: State::Received,
                    },
                );
                self.tracked += 1;
                Receive::Deliver(token)
            }
        };
        self.tracked -= lane.settle_prefix();
        outcome
    }

    /// False: the delivery is no longer ours, or runs already.
    pub fn begin(&mut self, token: Token) -> bool {
        let Some(lane) = self.lane(token).filter(|lane| lane.open) else {
            return false;
        };
        match lane.entry(token.position) {
            Some(entry) if entry.state == State::Received => {
                entry.state = State::Running;
                true
            }
            _ => false,
        }
    }

    /// It ran and waits for its retry: a revocation does not wait for it, and it may begin again.
    pub fn rest(&mut self, token: Token) {
        if let Some(entry) = self.lane(token).and_then(|lane| lane.entry(token.position))
            && entry.state == State::Running
        {
            entry.state = State::Received;
        }
    }

    pub fn ack(&mut self, token: Token) {
        let Some(lane) = self.lane(token) else { return };
        if let Some(entry) = lane.entry(token.position)
            && matches!(entry.state, State::Received | State::Running)
        {
            entry.state = State::Done;
            let left = lane.settle_prefix();
            if planted::is(Bug::CommitMaximum) {
                lane.prefix = lane.prefix.max(Some(token.position + 1));
            }
            self.tracked -= left;
            self.finished += 1;
        }
    }

    pub fn release(&mut self, token: Token) {
        if let Some(entry) = self.lane(token).and_then(|lane| lane.entry(token.position))
            && matches!(entry.state, State::Received | State::Running)
        {
            entry.state = State::Released;
        }
    }

    /// Partitions that have to be read again because something was released; the caller seeks now, on the thread that
    /// polls, and says so when it did not work.
    pub fn rewinds(&mut self) -> Vec<Rewind> {
        let mut out = Vec::new();
        for (&partition, lane) in self.lanes.iter_mut().filter(|(_, lane)| lane.open) {
            let released = lane.entries.iter().find(|e| e.state == State::Released);
            if let Some(offset) = released.map(|e| e.offset)
                && lane.cursor.is_some_and(|cursor| offset < cursor)
            {
                out.push(Rewind {
                    partition,
                    offset,
                    cursor: lane.cursor,
                });
                lane.cursor = Some(offset);
            }
        }
        out
    }

    /// The seek was refused: reading goes on where it was, the next [`Ledger::rewinds`] asks again.
    pub fn rewind_failed(&mut self, rewind: Rewind) {
        if let Some(lane) = self.lanes.get_mut(&rewind.partition)
            && lane.cursor == Some(rewind.offset)
        {
            lane.cursor = rewind.cursor;
        }
    }

    /// What there is to commit beyond the last time: (partition, next offset to read).
    pub fn commits(&mut self) -> Vec<(u32, u64)> {
        self.finished = 0;
        let mut out = Vec::new();
        for (&partition, lane) in &mut self.lanes {
            if let Some(prefix) = lane.prefix
                && lane.sent != Some(prefix)
            {
                lane.sent = Some(prefix);
                out.push((partition, prefix));
            }
        }
        out
    }

    /// How far these partitions may be committed, sent before or not.
    pub fn prefixes(&self, partitions: &[u32]) -> Vec<(u32, u64)> {
        partitions
            .iter()
            .filter_map(|&p| Some((p, self.lanes.get(&p)?.prefix?)))
            .collect()
    }

    /// A commit did not arrive: the next one says everything again.
    pub fn commit_failed(&mut self) {
        for lane in self.lanes.values_mut() {
            lane.sent = None;
        }
    }

    fn lane(&mut self, token: Token) -> Option<&mut Lane> {
        self.lanes
            .get_mut(&token.lane)
            .filter(|lane| lane.epoch == token.epoch || planted::is(Bug::NoFence))
    }
}

impl Lane {
    fn entry(&mut self, offset: u64) -> Option<&mut Entry> {
        // Logs have few holes: mostly it stands where the distance from the front says.
        let dense = usize::try_from(offset.checked_sub(self.entries.front()?.offset)?).ok()?;
        let at = match self.entries.get(dense) {
            Some(entry) if entry.offset == offset => dense,
            _ => self.entries.binary_search_by_key(&offset, |e| e.offset).ok()?,
        };
        self.entries.get_mut(at)
    }

    /// Moves the finished prefix out of the books; returns how many left.
    fn settle_prefix(&mut self) -> usize {
        let mut left = 0;
        while self.entries.front().is_some_and(|e| e.state == State::Done)
            && let Some(entry) = self.entries.pop_front()
        {
            self.prefix = Some(entry.offset + 1);
            left += 1;
        }
        left
    }
}
