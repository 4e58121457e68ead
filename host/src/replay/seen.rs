//! The ids that a replay has sent, so that a second message of an id is left out. Bounded: the oldest are forgotten.

use std::collections::{HashSet, VecDeque};

use sha2::{Digest, Sha256};

/// Ids remembered: about 12 MB. Two of an id that are further apart are both sent.
pub(super) const MOST: usize = 262_144;

#[derive(Default)]
pub(super) struct Seen {
    /// 128 bits of a hash: of a billion ids no two share them, but for a chance of one in 10^20.
    set: HashSet<u128>,
    order: VecDeque<u128>,
}

impl Seen {
    /// True: it is the first of that id.
    pub(super) fn first(&mut self, id: &str) -> bool {
        let hash = Sha256::digest(id.as_bytes());
        let short = hash
            .iter()
            .take(16)
            .fold(0u128, |sum, &byte| (sum << 8) | u128::from(byte));
        if !self.set.insert(short) {
            return false;
        }
        self.order.push_back(short);
        if self.order.len() > MOST
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_known_until_too_many_came_between() {
        let mut seen = Seen::default();
        assert!(seen.first("a"));
        assert!(!seen.first("a"));
        for n in 0..MOST {
            assert!(seen.first(&n.to_string()), "{n}");
        }
        assert!(seen.first("a"), "forgotten");
        assert_eq!((seen.set.len(), seen.order.len()), (MOST, MOST));
    }
}
