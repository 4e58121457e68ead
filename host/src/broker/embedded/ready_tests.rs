#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// The table, and what a perfect queue would hand out.
#[derive(Default)]
struct Model {
    table: BTreeSet<u64>,
    held: BTreeSet<u64>,
}

impl Model {
    fn scan(&self, scan: Scan) -> Vec<u64> {
        self.table
            .range(scan.after + 1..=scan.last)
            .take(scan.limit)
            .copied()
            .collect()
    }

    fn ready(&self) -> impl Iterator<Item = u64> {
        self.table.difference(&self.held).copied()
    }
}

fn take_all(ready: &mut Ready, model: &Model, max: usize) -> Vec<u64> {
    let mut out = Vec::new();
    while let Some(scan) = ready.take(max - out.len(), &mut out) {
        ready.scanned(scan, Some(&model.scan(scan)));
    }
    out
}

#[derive(Debug, Clone)]
enum Step {
    Publish {
        priority: u8,
        count: usize,
    },
    Claim(usize),
    Ack(usize),
    Release(usize),
    Restart,
    /// A claim whose scan is overtaken by a publish; `seen`: the commit is in the scan's snapshot.
    Race {
        priority: u8,
        seen: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..4, 1usize..900).prop_map(|(priority, count)| Step::Publish { priority, count }),
        6 => (1usize..1500).prop_map(Step::Claim),
        4 => any::<usize>().prop_map(Step::Ack),
        4 => any::<usize>().prop_map(Step::Release),
        1 => Just(Step::Restart),
        3 => (0u8..4, any::<bool>()).prop_map(|(priority, seen)| Step::Race { priority, seen }),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn hands_out_the_smallest_ready_keys_and_none_twice(steps in steps()) {
        let mut ready = Ready::new(7);
        let mut model = Model::default();
        let mut sequence = 0;
        for step in steps {
            match step {
                Step::Publish { priority, count } => for _ in 0..count {
                    sequence += 1;
                    let key = key(7, priority, sequence);
                    model.table.insert(key);
                    ready.append(key);
                },
                Step::Claim(max) => {
                    let expect: Vec<u64> = model.ready().take(max).collect();
                    let got = take_all(&mut ready, &model, max);
                    prop_assert_eq!(&got, &expect);
                    model.held.extend(got);
                }
                Step::Ack(pick) => if let Some(key) = nth(&model.held, pick) {
                    model.held.remove(&key);
                    model.table.remove(&key);
                },
                Step::Release(pick) => if let Some(key) = nth(&model.held, pick) {
                    model.held.remove(&key);
                    ready.put_back(key);
                },
                Step::Restart => {
                    ready = Ready::new(7);
                    model.held.clear();
                }
                Step::Race { priority, seen } => {
                    let mut out = Vec::new();
                    if let Some(scan) = ready.take(usize::MAX, &mut out) {
                        sequence += 1;
                        let key = key(7, priority, sequence);
                        let before = model.scan(scan);
                        model.table.insert(key);
                        ready.append(key);
                        let found = if seen { model.scan(scan) } else { before };
                        ready.scanned(scan, Some(&found));
                    }
                    for key in out {
                        prop_assert!(model.held.insert(key), "handed out twice");
                    }
                }
            }
            prop_assert!(ready.may_have() || model.ready().next().is_none(), "forgot a task");
        }
        let rest: Vec<u64> = model.ready().collect();
        prop_assert_eq!(take_all(&mut ready, &model, usize::MAX), rest);
    }
}

fn nth(set: &BTreeSet<u64>, pick: usize) -> Option<u64> {
    (!set.is_empty()).then(|| *set.iter().nth(pick % set.len()).unwrap())
}

#[test]
fn keys_sort_by_queue_then_priority_then_sequence() {
    assert!(key(1, 9, 500) < key(1, 1, 3));
    assert!(key(1, 5, 3) < key(1, 5, 4));
    assert!(key(1, 0, u64::MAX) < key(2, 15, 1));
    let k = key(MAX_QUEUE, 3, 77);
    assert!(i64::try_from(k).is_ok());
    assert_eq!((queue_of(k), level_of(k), sequence_of(k)), (MAX_QUEUE, 12, 77));
}

#[test]
fn memory_stays_bounded_under_a_backlog() {
    let mut ready = Ready::new(1);
    let mut model = Model::default();
    take_all(&mut ready, &model, 1);
    for sequence in 1..=20_000 {
        model.table.insert(key(1, 0, sequence));
        ready.append(key(1, 0, sequence));
    }
    assert!(ready.levels.iter().map(|l| l.keys.len()).sum::<usize>() <= WINDOW);
    assert_eq!(take_all(&mut ready, &model, usize::MAX).len(), 20_000);
}

#[test]
fn a_failed_scan_is_asked_for_again() {
    let mut ready = Ready::new(1);
    let mut out = Vec::new();
    let scan = ready.take(1, &mut out).unwrap();
    ready.scanned(scan, None);
    assert_eq!(ready.take(1, &mut out), Some(scan));
}
