//! Which acknowledgements to send for what is finished on one channel: prefixes as one frame, stragglers one by one. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::broker::Token;

/// Finished deliveries of the window that make a flush worth its frame at once. The broker refills the window by what a frame
/// frees, and small refills cost it more than they bring: a quarter was measured best.
const QUARTER: usize = 4;
/// The longest a finished delivery waits for company.
pub const LINGER: Duration = Duration::from_millis(5);
/// The longest a finished delivery waits behind an unfinished one for a shared frame.
pub const STRAGGLER: Duration = Duration::from_millis(200);

/// One frame to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// `basic.ack multiple`: everything outstanding up to this tag.
    Prefix(u64),
    /// `basic.ack` of one.
    Single(u64),
    /// `basic.nack requeue`.
    Requeue(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Delivered; nobody works on it yet.
    Waiting,
    Running,
    Finished(Instant),
}

/// What is outstanding on one channel; never more entries than the prefetch window.
#[derive(Debug)]
pub struct Coalescer {
    epoch: u64,
    lane: u32,
    open: bool,
    window: usize,
    outstanding: BTreeMap<u64, State>,
    /// Finished since the last flush, and when the first of them was.
    fresh: usize,
    fresh_since: Option<Instant>,
    waiting: usize,
    finished: usize,
    requeue: Vec<u64>,
}

impl Coalescer {
    /// `epoch` and `lane` name the channel; tokens of any other are stale. `window` is its prefetch.
    pub fn new(epoch: u64, lane: u32, window: usize) -> Self {
        Self {
            epoch,
            lane,
            open: true,
            window,
            outstanding: BTreeMap::new(),
            fresh: 0,
            fresh_since: None,
            waiting: 0,
            finished: 0,
            requeue: Vec::new(),
        }
    }

    pub fn delivered(&mut self, tag: u64) -> Token {
        if self.open {
            self.outstanding.insert(tag, State::Waiting);
            self.waiting += 1;
        }
        Token {
            epoch: self.epoch,
            lane: self.lane,
            position: tag,
        }
    }

    /// What is known of it: none when it is stale or settled before.
    fn unsettled(&self, token: Token) -> Option<State> {
        let ours = token.epoch == self.epoch && token.lane == self.lane;
        let state = self.outstanding.get(&token.position).copied();
        state.filter(|state| ours && !matches!(state, State::Finished(_)))
    }

    fn take(&mut self, token: Token) -> bool {
        let state = self.unsettled(token);
        self.waiting -= usize::from(state == Some(State::Waiting));
        state.is_some()
    }

    /// Somebody starts to work on it. False: stale or settled before.
    pub fn begin(&mut self, token: Token) -> bool {
        let ours = self.take(token);
        if ours {
            self.outstanding.insert(token.position, State::Running);
        }
        ours
    }

    /// False: stale or settled before; nothing will be sent for it.
    pub fn finish(&mut self, token: Token, now: Instant) -> bool {
        let ours = self.take(token);
        if ours {
            self.outstanding.insert(token.position, State::Finished(now));
            self.fresh += 1;
            self.fresh_since.get_or_insert(now);
            self.finished += 1;
        }
        ours
    }

    /// Back to the broker. False: stale or settled before.
    pub fn release(&mut self, token: Token) -> bool {
        let ours = self.take(token);
        if ours {
            self.outstanding.remove(&token.position);
            self.requeue.push(token.position);
        }
        ours
    }

    /// The channel is gone: every token of it is stale from now on, and nothing is left to send.
    pub fn close(&mut self) {
        *self = Self {
            open: false,
            ..Self::new(self.epoch, self.lane, self.window)
        };
    }

    /// True when the next flush shall not wait for [`LINGER`].
    pub fn is_full(&self) -> bool {
        self.fresh >= (self.window / QUARTER).max(1) || !self.requeue.is_empty()
    }

    /// True when what was finished last may bring the next flush forward.
    pub fn is_urgent(&self) -> bool {
        self.fresh == 1 || self.is_full()
    }

    /// When the next flush is worth its while; none while nothing is held back.
    pub fn due(&self) -> Option<Instant> {
        if let Some(since) = self.fresh_since {
            return Some(since + LINGER);
        }
        if self.finished == 0 {
            return None;
        }
        let finished = self.outstanding.values().filter_map(|state| match state {
            State::Finished(at) => Some(*at),
            State::Waiting | State::Running => None,
        });
        finished.min().map(|at| at + STRAGGLER)
    }

    /// Frames in the order they have to be sent. `all`: stragglers too, however young.
    pub fn flush(&mut self, now: Instant, all: bool) -> Vec<Frame> {
        // First: a prefix that overtook them would acknowledge what was given back.
        let mut frames: Vec<_> = self.requeue.drain(..).map(Frame::Requeue).collect();
        let mut last = None;
        while let Some(entry) = self.outstanding.first_entry() {
            if !matches!(entry.get(), State::Finished(_)) {
                break;
            }
            last = Some(*entry.key());
            entry.remove();
            self.finished -= 1;
        }
        frames.extend(last.map(Frame::Prefix));
        // With the prefetch nearly used up and less in stock than is held back, frames are cheaper than idle handlers.
        let starving = self.outstanding.len() * 4 >= self.window * 3 && self.finished > self.waiting;
        let all = all || starving;
        if self.finished > 0 {
            let ripe: Vec<u64> = self
                .outstanding
                .iter()
                .filter(|(_, state)| {
                    matches!(state, State::Finished(at) if all || now.saturating_duration_since(*at) >= STRAGGLER)
                })
                .map(|(tag, _)| *tag)
                .collect();
            for tag in ripe {
                self.outstanding.remove(&tag);
                self.finished -= 1;
                frames.push(Frame::Single(tag));
            }
        }
        self.fresh = 0;
        self.fresh_since = None;
        frames
    }
}

#[cfg(test)]
mod tests;
