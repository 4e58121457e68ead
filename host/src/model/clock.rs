//! Time, injected: production reads the system, tests and simulations turn the hands themselves.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970-01-01T00:00:00Z.
pub type UnixMs = u64;

/// Wall time for what is written down or shown, monotonic time for intervals.
pub trait Clock: Send + Sync + 'static {
    /// Wall time. May jump; never used to measure how long something took.
    fn now_ms(&self) -> UnixMs;
    /// Monotonic time.
    fn instant(&self) -> Instant;
}

#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> UnixMs {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, duration_ms)
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// Saturating, so that an absurd configuration value cannot wrap around to "now".
pub fn duration_ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
