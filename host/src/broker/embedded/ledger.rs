//! Which offsets of a partition are finished; only the contiguous prefix may be committed. Pure.

use std::collections::BTreeSet;

#[derive(Debug, Clone)]
pub struct Ledger {
    /// Everything below is finished: what may be committed.
    base: u64,
    /// The next offset that was never handed out.
    next: u64,
    /// Finished offsets above `base`.
    finished: BTreeSet<u64>,
}

impl Ledger {
    /// Nothing handed out; the first offset will be `at`.
    pub fn new(at: u64) -> Self {
        Self {
            base: at,
            next: at,
            finished: BTreeSet::new(),
        }
    }

    /// The committable position: every offset below it is finished.
    pub fn prefix(&self) -> u64 {
        self.base
    }

    /// The next offset to hand out.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Something above the prefix is finished; after a restart it is handed out again.
    pub fn is_ahead(&self) -> bool {
        !self.finished.is_empty()
    }

    /// Hands out the next offset.
    pub fn start(&mut self) -> u64 {
        let offset = self.next;
        self.next += 1;
        offset
    }

    /// True when the prefix moved. Offsets that were never handed out, or are finished already, change nothing.
    pub fn finish(&mut self, offset: u64) -> bool {
        if offset < self.base || offset >= self.next {
            return false;
        }
        if offset != self.base {
            self.finished.insert(offset);
            return false;
        }
        self.base += 1;
        while self.finished.remove(&self.base) {
            self.base += 1;
        }
        true
    }

    /// Retention deleted everything below `first`: those offsets cannot be delivered any more. True when the prefix moved.
    pub fn skip_to(&mut self, first: u64) -> bool {
        if first <= self.base {
            return false;
        }
        self.finished = self.finished.split_off(&first);
        self.base = first;
        self.next = self.next.max(first);
        while self.finished.remove(&self.base) {
            self.base += 1;
        }
        true
    }

    /// Handed out and not finished.
    #[cfg(test)]
    fn is_open(&self, offset: u64) -> bool {
        (self.base..self.next).contains(&offset) && !self.finished.contains(&offset)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::Ledger;

    #[derive(Debug, Clone)]
    enum Step {
        Start,
        Finish(u64),
        Skip(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => Just(Step::Start),
            4 => (0u64..60).prop_map(Step::Finish),
            1 => (0u64..60).prop_map(Step::Skip),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        /// Against the plainest model there is: a set of everything handed out and a set of everything finished.
        #[test]
        fn never_passes_over_an_unfinished_offset(at in 0u64..20, steps in steps()) {
            let mut ledger = Ledger::new(at);
            let (mut started, mut done) = (BTreeSet::new(), BTreeSet::new());
            let mut floor = at;
            for step in steps {
                let before = ledger.prefix();
                match step {
                    Step::Start => {
                        prop_assert!(started.insert(ledger.start()), "handed out twice");
                    }
                    Step::Finish(offset) => {
                        let moved = ledger.finish(offset);
                        if started.contains(&offset) {
                            done.insert(offset);
                        }
                        prop_assert_eq!(moved, ledger.prefix() > before);
                    }
                    Step::Skip(first) => {
                        let moved = ledger.skip_to(first);
                        floor = floor.max(first);
                        prop_assert_eq!(moved, ledger.prefix() > before);
                    }
                }
                prop_assert!(ledger.prefix() >= before, "went back");
                // The prefix stops at the first offset that is neither finished nor deleted.
                let mut expect = floor;
                while done.contains(&expect) {
                    expect += 1;
                }
                prop_assert_eq!(ledger.prefix(), expect);
                for offset in &started {
                    prop_assert_eq!(ledger.is_open(*offset), *offset >= floor && !done.contains(offset));
                }
            }
        }
    }

    #[test]
    fn out_of_order_finishes_wait_for_the_gap() {
        let mut ledger = Ledger::new(10);
        for _ in 0..3 {
            ledger.start();
        }
        assert!(!ledger.finish(12));
        assert!(!ledger.finish(11));
        assert_eq!(ledger.prefix(), 10);
        assert!(ledger.finish(10));
        assert_eq!(ledger.prefix(), 13);
        assert!(!ledger.finish(10), "twice");
        assert!(!ledger.finish(13), "never handed out");
    }
}
