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

fn delivered(window: usize, tags: std::ops::RangeInclusive<u64>) -> Coalescer {
    let mut core = Coalescer::new(window);
    tags.for_each(|tag| core.delivered(tag));
    core
}

#[test]
fn a_finished_prefix_is_one_frame() {
    let now = Instant::now();
    let mut core = delivered(100, 1..=10);
    for tag in [3, 1, 2, 5] {
        assert!(core.finish(tag, now));
    }
    assert_eq!(core.flush(now, false), [Frame::Prefix(3)]);
    assert_eq!(core.due(), Some(now + STRAGGLER));
}

#[test]
fn a_straggler_is_acknowledged_alone_after_its_time() {
    let now = Instant::now();
    let mut core = delivered(100, 1..=3);
    core.finish(2, now);
    assert_eq!(core.due(), Some(now + LINGER));
    assert_eq!(core.flush(now + LINGER, false), []);
    assert_eq!(core.due(), Some(now + STRAGGLER));
    assert_eq!(core.flush(now + STRAGGLER, false), [Frame::Single(2)]);
    assert_eq!(core.due(), None);
    core.finish(1, now + STRAGGLER);
    assert_eq!(core.flush(now + STRAGGLER, false), [Frame::Prefix(1)]);
}

#[test]
fn one_slow_message_does_not_starve_the_window() {
    let now = Instant::now();
    let mut core = delivered(10, 1..=10);
    (2..=7).for_each(|tag| {
        core.finish(tag, now);
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
    assert!(core.release(1));
    assert!(!core.release(1));
    assert!(!core.finish(1, now));
    assert!(core.is_full());
    assert_eq!(core.flush(now, false), [Frame::Requeue(1)]);
}

#[test]
fn the_first_finished_sets_the_time_and_the_rest_does_not_move_it() {
    let now = Instant::now();
    let mut core = delivered(250, 1..=250);
    core.finish(1, now);
    assert!(core.is_urgent());
    core.finish(2, now + Duration::from_millis(4));
    assert!(!core.is_urgent());
    assert_eq!(core.due(), Some(now + LINGER));
    (3..62).for_each(|tag| {
        core.finish(tag, now);
    });
    assert!(!core.is_full());
    core.finish(62, now);
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
    /// No unfinished tag is ever acknowledged, nothing is settled twice, and everything settled reaches the broker.
    #[test]
    fn settles_exactly_what_was_settled(
        window in 1..20_usize,
        steps in prop::collection::vec((0..6_u8, 0..400_u64, 0..120_u64), 1..400),
    ) {
        let mut now = Instant::now();
        let (mut core, mut broker) = (Coalescer::new(window), Broker::default());
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
                    prop_assert!(core.finish(tag, now));
                    prop_assert!(!core.finish(tag, now));
                    finished.insert(tag);
                }
                4 if pick % 5 == 0 && !running.is_empty() => {
                    let tag = running.swap_remove(usize::try_from(pick).unwrap() % running.len());
                    prop_assert!(core.release(tag));
                    released.insert(tag);
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
