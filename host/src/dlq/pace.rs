//! So many letters a second. Pure.

use std::time::{Duration, Instant};

/// Time that was lost is made good up to this much, so that a timer that fires late does not lower the rate; more of it
/// (a broker was away) is not, so that no flood follows.
const MADE_GOOD: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub struct Pace {
    every: Duration,
    next: Option<Instant>,
}

impl Pace {
    /// 0 is taken for 1.
    pub fn new(per_second: u32) -> Self {
        Self {
            every: Duration::from_secs(1) / per_second.max(1),
            next: None,
        }
    }

    /// When the next one may go; none when it may go now.
    pub fn wait(&self, now: Instant) -> Option<Duration> {
        let wait = self.next?.saturating_duration_since(now);
        (!wait.is_zero()).then_some(wait)
    }

    /// One goes.
    pub fn took(&mut self, now: Instant) {
        let earliest = now.checked_sub(MADE_GOOD).unwrap_or(now);
        let due = self.next.map_or(now, |next| next.max(earliest));
        self.next = Some(due + self.every);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many go in that time when the timer fires up to `late` too late.
    fn gone(rate: u32, time: Duration, late: impl Fn(u64) -> Duration) -> u64 {
        let start = Instant::now();
        let mut pace = Pace::new(rate);
        let mut now = start;
        let mut gone = 0;
        while now - start < time {
            match pace.wait(now) {
                Some(wait) => now += wait + late(gone),
                None => {
                    pace.took(now);
                    gone += 1;
                }
            }
        }
        gone
    }

    proptest! {
        #[test]
        fn the_rate_is_kept_whatever_the_timer_does(rate in 1_u32..5_000, late_us in 0_u64..100_000) {
            let seconds = 20;
            let gone = gone(rate, Duration::from_secs(seconds), |n| {
                Duration::from_micros(n.wrapping_mul(7_919) % (late_us + 1))
            });
            let wanted = u64::from(rate) * seconds;
            prop_assert!(gone.abs_diff(wanted) * 20 <= wanted.max(20), "{} instead of {}", gone, wanted);
        }
    }

    #[test]
    fn after_a_pause_no_flood_follows() {
        let start = Instant::now();
        let mut pace = Pace::new(100);
        pace.took(start);
        let later = start + Duration::from_secs(60);
        let mut at_once = 0;
        while pace.wait(later).is_none() {
            pace.took(later);
            at_once += 1;
        }
        assert!((25..=26).contains(&at_once), "{at_once}");
    }
}
