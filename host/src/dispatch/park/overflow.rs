//! What the store has no room for: it waits for its lane's turn, in the order it came. Sans-I/O.

use std::collections::{HashMap, VecDeque};

use crate::dispatch::lanes::LaneKey;

#[derive(Debug)]
pub(super) struct Overflow<T> {
    /// Never an empty queue.
    lanes: HashMap<LaneKey, VecDeque<T>>,
}

/// What becomes of a message that wants to be parked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Offered<T> {
    /// There is room.
    Goes(T),
    /// It waits, as the first of its lane.
    First,
    /// It waits behind others.
    Behind,
}

impl<T> Default for Overflow<T> {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
        }
    }
}

impl<T> Overflow<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    /// How many lanes have no room.
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    pub(super) fn keys(&self) -> Vec<LaneKey> {
        self.lanes.keys().cloned().collect()
    }

    pub(super) fn has(&self, key: &LaneKey) -> bool {
        self.lanes.contains_key(key)
    }

    /// `room`: how many of the lane still fit, none when nothing bounds it. One less when this one goes.
    pub(super) fn offer(&mut self, key: &LaneKey, item: T, room: &mut Option<u64>) -> Offered<T> {
        if let Some(waiting) = self.lanes.get_mut(key) {
            waiting.push_back(item);
            return Offered::Behind;
        }
        match room {
            Some(0) => {
                self.lanes.insert(LaneKey::clone(key), VecDeque::from([item]));
                Offered::First
            }
            Some(left) => {
                *left -= 1;
                Offered::Goes(item)
            }
            None => Offered::Goes(item),
        }
    }

    /// Those of the lane that fit now, in order.
    pub(super) fn admit(&mut self, key: &LaneKey, room: Option<u64>) -> Vec<T> {
        let Some(waiting) = self.lanes.get_mut(key) else {
            return Vec::new();
        };
        let fits = room.map_or(waiting.len(), |room| {
            usize::try_from(room).unwrap_or(usize::MAX).min(waiting.len())
        });
        let admitted = waiting.drain(..fits).collect();
        if waiting.is_empty() {
            self.lanes.remove(key);
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> LaneKey {
        Arc::from([n].as_slice())
    }

    #[test]
    fn a_full_lane_waits_and_another_does_not() {
        let mut overflow = Overflow::default();
        let mut room = Some(1);
        assert_eq!(overflow.offer(&key(1), 'a', &mut room), Offered::Goes('a'));
        assert_eq!(overflow.offer(&key(1), 'b', &mut room), Offered::First);
        // Behind the one that waits, even if there is room by now.
        assert_eq!(overflow.offer(&key(1), 'c', &mut Some(9)), Offered::Behind);
        assert_eq!(overflow.offer(&key(2), 'd', &mut None), Offered::Goes('d'));
        assert_eq!(overflow.len(), 1);
        assert!(overflow.admit(&key(1), Some(0)).is_empty());
        assert_eq!(overflow.admit(&key(1), None), ['b', 'c']);
        assert!(overflow.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_every_lane_keeps_its_order(
            steps in prop::collection::vec((any::<bool>(), 0..3u8, prop::option::of(0..4u64)), 0..80)
        ) {
            let mut overflow = Overflow::default();
            let (mut came, mut went) = (vec![Vec::new(); 3], vec![Vec::new(); 3]);
            for (n, (offer, lane, mut room)) in steps.into_iter().enumerate() {
                let at = usize::from(lane);
                if offer {
                    came[at].push(n);
                    if let Offered::Goes(item) = overflow.offer(&key(lane), n, &mut room) {
                        went[at].push(item);
                    }
                } else {
                    let admitted = overflow.admit(&key(lane), room);
                    prop_assert!(room.is_none_or(|room| admitted.len() as u64 <= room));
                    went[at].extend(admitted);
                }
                prop_assert!(came[at].starts_with(&went[at]));
                prop_assert_eq!(overflow.has(&key(lane)), came[at] != went[at]);
            }
        }
    }
}
