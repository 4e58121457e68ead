//! When to look in the store for keys that another host may have parked, before anything of a source is dispatched. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::broker::Token;

/// A queue whose activity moved to another host and back was quiet here meanwhile: RabbitMQ needs longer to find out that a
/// consumer is gone.
const QUIET: Duration = Duration::from_millis(500);
/// The host that had it before may park what it had in hand a little later.
const STALE: Duration = Duration::from_secs(5);

pub(super) struct Lookout {
    /// Nothing tells us that the queue was another host's for a while: a single active consumer keeps its channel.
    silent: bool,
    /// What was assigned when we looked last: epochs by lane.
    seen: HashMap<u32, u64>,
    came: Option<Instant>,
    looked: Option<Instant>,
}

impl Lookout {
    pub(super) fn new(silent: bool) -> Self {
        Self {
            silent,
            seen: HashMap::new(),
            came: None,
            looked: None,
        }
    }

    /// These came now. True: a partition that was assigned anew, a new connection, or a queue that may have been elsewhere.
    pub(super) fn look(&mut self, tokens: impl Iterator<Item = Token>, now: Instant) -> bool {
        let (mut last, mut new) = (None, false);
        for Token { epoch, lane, .. } in tokens {
            // Neighbours are mostly of one lane.
            if last.replace((lane, epoch)) != Some((lane, epoch)) {
                new |= self.seen.insert(lane, epoch) != Some(epoch);
            }
        }
        if self.silent {
            let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
            new |= since(self.came.replace(now)).is_some_and(|quiet| quiet >= QUIET);
            new |= since(self.looked).is_some_and(|age| age >= STALE);
            if new {
                self.looked = Some(now);
            }
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(lane: u32, epoch: u64) -> Token {
        Token {
            epoch,
            lane,
            position: 0,
        }
    }

    #[test]
    fn what_is_assigned_anew_is_looked_for_once() {
        let (mut lookout, now) = (Lookout::new(false), Instant::now());
        assert!(lookout.look([of(0, 1), of(0, 1)].into_iter(), now));
        assert!(!lookout.look([of(0, 1)].into_iter(), now));
        assert!(
            lookout.look([of(0, 1), of(1, 1)].into_iter(), now),
            "another partition"
        );
        assert!(
            lookout.look([of(1, 2)].into_iter(), now),
            "the same, assigned anew"
        );
        let later = now + Duration::from_secs(3600);
        assert!(
            !lookout.look([of(0, 1), of(1, 2)].into_iter(), later),
            "its assignment would say so"
        );
    }

    #[test]
    fn a_queue_that_may_have_been_elsewhere_is_looked_after() {
        let start = Instant::now();
        let mut lookout = Lookout::new(true);
        let mut at = |ms: u64| lookout.look([of(0, 1)].into_iter(), start + Duration::from_millis(ms));
        assert!(at(0), "the first delivery of this consumer");
        assert!(!at(400));
        assert!(at(900), "it was quiet for half a second");
        // A steady stream costs one look in five seconds.
        let looks = (1..=100).filter(|n| at(900 + n * 100)).count();
        assert_eq!(looks, 2);
    }
}
