//! How fast a replay goes, and how fast it went. Pure: given the time, it says how long to wait.

use std::time::{Duration, Instant};

use crate::model::replay::Options;

/// What a replay that fell behind (its broker was away) may make up for at most.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Batches a second at least, so that a low rate does not come in lumps.
const LUMPS: u32 = 10;

pub(super) struct Pace {
    rate: Option<u32>,
    delay: Duration,
    due: Instant,
}

impl Pace {
    pub(super) fn new(options: &Options, now: Instant) -> Self {
        Self {
            rate: options.rate,
            delay: options.delay,
            due: now,
        }
    }

    /// Until the next batch may go out.
    pub(super) fn wait(&self, now: Instant) -> Duration {
        self.due.saturating_duration_since(now)
    }

    /// So many messages have gone out; what was only read costs nothing.
    pub(super) fn sent(&mut self, messages: usize, now: Instant) {
        if messages == 0 {
            return;
        }
        if let Some(rate) = self.rate {
            let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
            let messages = u32::try_from(messages).unwrap_or(u32::MAX);
            let takes = Duration::from_secs_f64(f64::from(messages) / f64::from(rate.max(1)));
            self.due = self.due.max(earliest) + takes;
        }
        if !self.delay.is_zero() {
            self.due = self.due.max(now + self.delay);
        }
    }
}

/// The most messages of a batch.
pub(super) fn batch_size(options: &Options) -> usize {
    match options.rate {
        Some(rate) => {
            let share = usize::try_from((rate / LUMPS).max(1)).unwrap_or(usize::MAX);
            options.batch_size.min(share)
        }
        None => options.batch_size,
    }
}

/// Offsets a second, smoothed over some seconds.
pub(super) struct Meter {
    since: Instant,
    done: u64,
    rate_milli: u64,
}

impl Meter {
    pub(super) fn new(now: Instant, done: u64) -> Self {
        Self {
            since: now,
            done,
            rate_milli: 0,
        }
    }

    /// A thousand seconds' worth.
    pub(super) fn rate_milli(&mut self, now: Instant, done: u64) -> u64 {
        let passed = u64::try_from(now.saturating_duration_since(self.since).as_millis()).unwrap_or(u64::MAX);
        if passed >= 500 {
            let fresh = done.saturating_sub(self.done).saturating_mul(1_000_000) / passed;
            self.rate_milli = if self.rate_milli == 0 {
                fresh
            } else {
                (self.rate_milli + fresh) / 2
            };
            (self.since, self.done) = (now, done);
        }
        self.rate_milli
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(rate: Option<u32>, delay_ms: u64) -> Options {
        Options {
            batch_size: 100,
            delay: Duration::from_millis(delay_ms),
            rate,
            dry_run: false,
            preserve_order: true,
            skip_duplicates: false,
        }
    }

    /// Seconds that so many messages take, when each batch needs `work` and a timer is late by `late`.
    fn takes(options: &Options, messages: usize, work: Duration, late: Duration) -> f64 {
        let start = Instant::now();
        let (mut now, mut pace, mut left) = (start, Pace::new(options, start), messages);
        while left > 0 {
            let wait = pace.wait(now);
            if !wait.is_zero() {
                now += wait + late;
            }
            let batch = batch_size(options).min(left);
            now += work;
            pace.sent(batch, now);
            left -= batch;
        }
        (now + pace.wait(now)).duration_since(start).as_secs_f64()
    }

    #[test]
    fn a_rate_is_kept_within_five_percent() {
        let (work, late) = (Duration::from_millis(3), Duration::from_millis(2));
        for rate in [1, 7, 50, 333, 1_000, 5_000] {
            let messages = rate as usize * 20;
            let took = takes(&options(Some(rate), 0), messages, work, late);
            assert!(
                (took - 20.0).abs() < 1.0,
                "{rate}/s: 20 s of messages took {took} s"
            );
        }
    }

    #[test]
    fn a_pause_lies_between_batches_that_sent_something() {
        let took = takes(&options(None, 10), 10_000, Duration::ZERO, Duration::ZERO);
        assert!((took - 1.0).abs() < 0.05, "{took}");
        let start = Instant::now();
        let mut pace = Pace::new(&options(None, 10), start);
        pace.sent(0, start);
        assert!(pace.wait(start).is_zero());
    }

    #[test]
    fn after_an_outage_a_second_is_made_up_for_and_no_more() {
        let start = Instant::now();
        let mut pace = Pace::new(&options(Some(100), 0), start);
        let later = start + Duration::from_secs(60);
        for _ in 0..10 {
            pace.sent(10, later);
        }
        assert!(pace.wait(later).is_zero(), "a second's worth at once");
        pace.sent(10, later);
        assert_eq!(pace.wait(later), Duration::from_millis(100));
    }
}
