#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn token(position: u64) -> Token {
    Token {
        epoch: 7,
        lane: 1,
        position,
    }
}

fn delivered(window: usize, tags: std::ops::RangeInclusive<u64>) -> Coalescer {
    let mut core = Coalescer::new(7, 1, window);
    tags.for_each(|tag| assert_eq!(core.delivered(tag), token(tag)));
    core
}

#[test]
fn after_the_end_of_the_channel_everything_is_stale() {
    let now = Instant::now();
    let mut core = delivered(10, 1..=3);
    assert!(core.begin(token(1)) && core.finish(token(1), now) && core.release(token(2)));
    core.close();
    assert!(!core.begin(token(3)) && !core.finish(token(3), now) && !core.release(token(3)));
    let late = core.delivered(4);
    assert!(!core.finish(late, now));
    assert_eq!((core.flush(now, true), core.due()), (vec![], None));
}

#[test]
fn a_finished_prefix_is_one_frame() {
    let now = Instant::now();
    let mut core = delivered(100, 1..=10);
    for tag in [3, 1, 2, 5] {
        assert!(core.finish(token(tag), now));
    }
    assert_eq!(core.flush(now, false), [Frame::Prefix(3)]);
    assert_eq!(core.due(), Some(now + STRAGGLER));
}

#[test]
fn a_straggler_is_acknowledged_alone_after_its_time() {
    let now = Instant::now();
    let mut core = delivered(100, 1..=3);
    core.finish(token(2), now);
    assert_eq!(core.due(), Some(now + LINGER));
    assert_eq!(core.flush(now + LINGER, false), []);
    assert_eq!(core.due(), Some(now + STRAGGLER));
    assert_eq!(core.flush(now + STRAGGLER, false), [Frame::Single(2)]);
    assert_eq!(core.due(), None);
    core.finish(token(1), now + STRAGGLER);
    assert_eq!(core.flush(now + STRAGGLER, false), [Frame::Prefix(1)]);
}

#[test]
fn one_slow_message_does_not_starve_the_window() {
    let now = Instant::now();
    let mut core = delivered(10, 1..=10);
    (1..=5).for_each(|tag| assert!(core.begin(token(tag))));
    (2..=5).for_each(|tag| assert!(core.finish(token(tag), now)));
    assert_eq!(core.flush(now, false), [], "5 of 10 still wait for a handler");
    (6..=7).for_each(|tag| {
        core.finish(token(tag), now);
    });
    assert_eq!(
        core.flush(now, false),
        (2..=7).map(Frame::Single).collect::<Vec<_>>()
    );
}

#[test]
fn a_release_goes_out_at_once_and_once() {
    let now = Instant::now();
    let mut core = delivered(10, 1..=2);
    assert!(core.release(token(1)));
    assert!(!core.release(token(1)));
    assert!(!core.finish(token(1), now));
    assert!(core.is_full());
    assert_eq!(core.flush(now, false), [Frame::Requeue(1)]);
}

#[test]
fn the_first_finished_sets_the_time_and_the_rest_does_not_move_it() {
    let now = Instant::now();
    let mut core = delivered(250, 1..=250);
    core.finish(token(1), now);
    assert!(core.is_urgent());
    core.finish(token(2), now + Duration::from_millis(4));
    assert!(!core.is_urgent());
    assert_eq!(core.due(), Some(now + LINGER));
    (3..62).for_each(|tag| {
        core.finish(token(tag), now);
    });
    assert!(!core.is_full());
    core.finish(token(62), now);
    assert!(core.is_full());
}

/// The broker's side: it closes the channel when a frame names a tag that is not outstanding.
#[derive(Default)]
struct Broker {
    outstanding: BTreeSet<u64>,
    acked: BTreeSet<u64>,
    requeued: BTreeSet<u64>,
}

impl Broker {
    fn take(&mut self, frame: Frame) {
        let (Frame::Prefix(tag) | Frame::Single(tag) | Frame::Requeue(tag)) = frame;
        assert!(self.outstanding.contains(&tag), "unknown delivery tag {tag}");
        match frame {
            Frame::Prefix(tag) => {
                let rest = self.outstanding.split_off(&(tag + 1));
                self.acked.extend(std::mem::replace(&mut self.outstanding, rest));
            }
            Frame::Single(tag) => {
                self.outstanding.remove(&tag);
                self.acked.insert(tag);
            }
            Frame::Requeue(tag) => {
                self.outstanding.remove(&tag);
                self.requeued.insert(tag);
            }
        }
    }
}

proptest! {
    /// No unfinished tag is ever acknowledged, stale tokens do nothing, nothing is settled twice, and everything settled
    /// reaches the broker.
    #[test]
    fn settles_exactly_what_was_settled(
        window in 1..20_usize,
        steps in prop::collection::vec((0..7_u8, 0..400_u64, 0..120_u64), 1..400),
    ) {
        let mut now = Instant::now();
        let (mut core, mut broker) = (Coalescer::new(7, 1, window), Broker::default());
        let (mut next, mut running) = (1, Vec::new());
        let (mut finished, mut released) = (BTreeSet::new(), BTreeSet::new());
        for (step, pick, wait) in steps {
            match step {
                0 | 1 if broker.outstanding.len() < window => {
                    core.delivered(next);
                    broker.outstanding.insert(next);
                    running.push(next);
                    next += 1;
                }
                2 | 3 if !running.is_empty() => {
                    let tag = running.swap_remove(usize::try_from(pick).unwrap() % running.len());
                    prop_assert!(core.finish(token(tag), now));
                    prop_assert!(!core.finish(token(tag), now));
                    finished.insert(tag);
                }
                4 if pick % 5 == 0 && !running.is_empty() => {
                    let tag = running.swap_remove(usize::try_from(pick).unwrap() % running.len());
                    prop_assert!(core.release(token(tag)));
                    released.insert(tag);
                }
                5 => {
                    // A receipt of an earlier connection, or of another channel of this one.
                    let stale = Token { position: pick % next, ..token(0) };
                    for stale in [Token { epoch: 6, ..stale }, Token { lane: 2, ..stale }] {
                        prop_assert!(!core.begin(stale) && !core.finish(stale, now) && !core.release(stale));
                    }
                }
                _ => {
                    now += Duration::from_millis(wait);
                    core.flush(now, false).into_iter().for_each(|frame| broker.take(frame));
                }
            }
            prop_assert!(broker.acked.is_subset(&finished), "acknowledged before it was finished");
            prop_assert!(broker.requeued.is_subset(&released));
            prop_assert!(core.outstanding.len() <= window);
        }
        // Left alone, it empties itself at the times it names.
        while core.due().is_some() || core.is_full() {
            now = core.due().unwrap_or(now).max(now);
            core.flush(now, false).into_iter().for_each(|frame| broker.take(frame));
        }
        prop_assert_eq!(&broker.acked, &finished);
        prop_assert_eq!(&broker.requeued, &released);
        prop_assert_eq!(broker.outstanding.into_iter().collect::<Vec<_>>(), { running.sort_unstable(); running });
    }
}
