//! Brokers that did not take a letter are left in peace for a while, longer each time. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::UnixMs;

/// After the first refusal; doubled with each that follows, up to the last.
const FIRST_MS: u64 = 1_000;
const LAST_MS: u64 = 300_000;

struct Door {
    until: UnixMs,
    refusals: u32,
}

#[derive(Default)]
pub struct Doors {
    shut: HashMap<Arc<str>, Door>,
}

impl Doors {
    /// Until when nothing is sent there; none when something may be.
    pub fn shut_until(&self, broker: &str, now: UnixMs) -> Option<UnixMs> {
        self.shut
            .get(broker)
            .map(|door| door.until)
            .filter(|until| *until > now)
    }

    /// It did not take one; until when it is left in peace. Those that were under way together count once.
    pub fn refused(&mut self, broker: &Arc<str>, now: UnixMs) -> UnixMs {
        let door = self.shut.entry(Arc::clone(broker)).or_insert(Door {
            until: 0,
            refusals: 0,
        });
        if door.until <= now {
            let wait = FIRST_MS.saturating_mul(1 << door.refusals.min(16)).min(LAST_MS);
            door.refusals = door.refusals.saturating_add(1);
            door.until = now.saturating_add(wait);
        }
        door.until
    }

    pub fn took(&mut self, broker: &str) {
        self.shut.remove(broker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_refuses_is_asked_less_and_less_and_at_once_when_it_took_one() {
        let (mut doors, broker) = (Doors::default(), Arc::from("b"));
        let mut now = 10;
        let mut waits = Vec::new();
        for _ in 0..11 {
            let until = doors.refused(&broker, now);
            assert_eq!(doors.refused(&broker, now), until, "one of the same moment");
            assert_eq!(doors.shut_until("b", until - 1), Some(until));
            assert_eq!(doors.shut_until("b", until), None);
            waits.push((until - now) / 1_000);
            now = until;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(doors.shut_until("c", now), None);
        doors.took("b");
        assert_eq!(doors.refused(&broker, now), now + 1_000);
    }
}
