//! Time, injected: production reads the system, tests and simulations turn the hands themselves.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type UnixMs = u64;

/// Wall time for what is written down, shown or due, monotonic time for intervals.
pub trait Clock: Send + Sync + 'static {
    /// Wall time, for due times and times to live as well: it does not go back while the process lives.
    fn now_ms(&self) -> UnixMs;
    /// Monotonic time.
    fn instant(&self) -> Instant;
}

/// The wall clock of the machine, without its jumps: it runs as fast as monotonic time and follows a clock that was
/// set slowly. A jump of an hour would else let retries wait for an hour, or everything with a time to live expire at once.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> UnixMs {
        static STEADY: OnceLock<(Instant, Steady)> = OnceLock::new();
        let (start, steady) = STEADY.get_or_init(|| (Instant::now(), Steady::new(wall_ms())));
        steady.now(duration_ms(start.elapsed()), wall_ms)
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

fn wall_ms() -> UnixMs {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, duration_ms)
}

/// How often the wall clock is looked at, and how far it is followed then: 5 %. An hour is made good in 20 hours.
const SLEW_EVERY_MS: u64 = 1_000;
const SLEW_MS: i64 = 50;

/// Time that was the wall's at its beginning. Pure.
#[derive(Debug)]
struct Steady {
    start: UnixMs,
    offset: AtomicI64,
    looked: AtomicU64,
}

impl Steady {
    fn new(start: UnixMs) -> Self {
        Self {
            start,
            offset: AtomicI64::new(0),
            looked: AtomicU64::new(0),
        }
    }

    /// `elapsed`: monotonic milliseconds since the beginning.
    fn now(&self, elapsed: u64, wall: impl FnOnce() -> UnixMs) -> UnixMs {
        let looked = self.looked.load(Ordering::Relaxed);
        let now = self.at(elapsed);
        if elapsed.saturating_sub(looked) < SLEW_EVERY_MS
            || self
                .looked
                .compare_exchange(looked, elapsed, Ordering::Relaxed, Ordering::Relaxed)
                .is_err()
        {
            return now;
        }
        let behind = i64::try_from(wall())
            .unwrap_or(i64::MAX)
            .saturating_sub_unsigned(now);
        self.offset
            .fetch_add(behind.clamp(-SLEW_MS, SLEW_MS), Ordering::Relaxed);
        // Not the corrected time: one look never makes the time go back.
        now
    }

    fn at(&self, elapsed: u64) -> UnixMs {
        self.start
            .saturating_add(elapsed)
            .saturating_add_signed(self.offset.load(Ordering::Relaxed))
    }
}

/// Saturating, so that an absurd configuration value cannot wrap around to "now".
pub fn duration_ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: UnixMs = 1_700_000_000_000;
    const HOUR: u64 = 3_600_000;

    #[test]
    fn a_jump_of_the_wall_clock_is_followed_slowly_and_never_backwards() {
        for jump in [HOUR.cast_signed(), -HOUR.cast_signed()] {
            let steady = Steady::new(START);
            let mut last = START;
            for elapsed in (0..60_000).step_by(100) {
                let wall = START.saturating_add(elapsed).saturating_add_signed(jump);
                let now = steady.now(elapsed, || wall);
                assert!(now >= last, "{jump}: {last} then {now}");
                assert!(
                    now.abs_diff(START + elapsed) <= elapsed / 20 + 50,
                    "{jump}: {now} at {elapsed}"
                );
                last = now;
            }
        }
    }

    #[test]
    fn a_small_step_is_made_good() {
        let steady = Steady::new(START);
        let mut now = 0;
        for elapsed in (0..60_000).step_by(100) {
            now = steady.now(elapsed, || START + elapsed + 1_500);
        }
        assert!(now.abs_diff(START + 59_900 + 1_500) <= 50, "{now}");
    }
}
