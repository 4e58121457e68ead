#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn key(n: u8) -> LaneKey {
    Arc::from([n].as_slice())
}

#[test]
fn what_was_taken_and_given_back_is_the_next_to_run() {
    let mut lanes = Lanes::default();
    for (item, lane) in [(1, 1), (2, 2), (3, 1)] {
        lanes.push(item, Some(&key(lane))).unwrap();
    }
    lanes.push(4, None).unwrap();
    let items = |taken: &[(i32, Option<LaneKey>)]| taken.iter().map(|(item, _)| *item).collect::<Vec<_>>();
    let mut taken = lanes.take(3);
    assert_eq!(items(&taken), [4, 1, 2]);
    let running = taken.remove(0);
    lanes.put_back(taken);
    assert_eq!((running.0, lanes.queued(), lanes.runnable()), (4, 3, 2));
    let again = lanes.take(9);
    assert_eq!(items(&again), [1, 2], "3 waits behind 1");
    lanes.finish(&key(1));
    assert_eq!(items(&lanes.take(9)), [3]);
}

#[test]
fn a_lane_runs_one_at_a_time_and_others_go_on() {
    let mut lanes = Lanes::default();
    for (item, lane) in [(1, 0), (2, 0), (3, 1)] {
        lanes.push(item, Some(&key(lane))).unwrap();
    }
    let taken: Vec<i32> = lanes.take(10).into_iter().map(|(item, _)| item).collect();
    assert_eq!(taken, [1, 3]);
    lanes.finish(&key(0));
    assert_eq!(lanes.take(10)[0].0, 2);
}

#[test]
fn a_lane_is_held_up_by_a_retry_and_by_the_store_and_by_nothing_else() {
    let now = Instant::now();
    let mut lanes = Lanes::default();
    assert!(!lanes.is_held_up(&key(0)), "nobody is there");
    lanes.push(1, Some(&key(0))).unwrap();
    assert!(!lanes.is_held_up(&key(0)));
    let (item, lane) = lanes.take(1).pop().unwrap();
    assert!(!lanes.is_held_up(&key(0)), "it runs, that does not take long");
    lanes.hold(&lane.unwrap(), item, now);
    assert!(lanes.is_held_up(&key(0)) && !lanes.is_held_up(&key(1)));
    lanes.wake(now);
    assert!(!lanes.is_held_up(&key(0)));
    lanes.take(1);
    lanes.park_running(&key(0));
    assert!(lanes.is_held_up(&key(0)));
    lanes.stored(&key(0));
    let generation = lanes.parked_generation(&key(0)).unwrap();
    assert!(lanes.unpark(&key(0), generation) && !lanes.is_held_up(&key(0)));
}

#[test]
fn a_lane_that_is_claimed_lets_nobody_run_until_it_is_finished() {
    let now = Instant::now();
    let mut lanes = Lanes::default();
    assert!(lanes.claim(&key(0)));
    assert!(!lanes.claim(&key(0)), "once at a time");
    lanes.push(1, Some(&key(0))).unwrap();
    lanes.push(2, Some(&key(1))).unwrap();
    assert_eq!(lanes.take(9).into_iter().map(|t| t.0).collect::<Vec<_>>(), [2]);
    assert!(!lanes.claim(&key(1)), "it runs");
    lanes.finish(&key(0));
    assert!(!lanes.claim(&key(0)), "what came meanwhile is next");
    let (item, lane) = lanes.take(9).pop().unwrap();
    lanes.hold(&lane.unwrap(), item, now);
    assert!(!lanes.claim(&key(0)), "it waits for its retry");
    lanes.wake(now);
    lanes.take(9);
    lanes.finish(&key(0));
    assert!(lanes.claim(&key(0)));
    lanes.finish(&key(0));
    lanes.mark_parked(&key(0), 0);
    assert!(!lanes.claim(&key(0)), "it lives in the store");
}

#[test]
fn a_waiting_head_holds_its_own_followers_only() {
    let now = Instant::now();
    let mut lanes = Lanes::default();
    lanes.push(1, Some(&key(0))).unwrap();
    lanes.push(2, Some(&key(0))).unwrap();
    let (item, lane) = lanes.take(1).pop().unwrap();
    lanes.hold(&lane.unwrap(), item, now + Duration::from_secs(1));
    lanes.push(3, Some(&key(1))).unwrap();
    assert_eq!(lanes.take(9).into_iter().map(|t| t.0).collect::<Vec<_>>(), [3]);
    assert!(!lanes.wake(now));
    assert!(lanes.wake(now + Duration::from_secs(1)));
    assert_eq!(lanes.take(9)[0].0, 1);
}

#[test]
fn a_lane_of_which_one_message_may_not_go_stays_as_it_is() {
    let mut lanes = Lanes::default();
    let due = Instant::now() + Duration::from_secs(9);
    for lane in [0, 1] {
        for item in [1, 2] {
            lanes.push(10 * i32::from(lane) + item, Some(&key(lane))).unwrap();
        }
        let (item, lane) = lanes.take(1).pop().unwrap();
        lanes.hold(&lane.unwrap(), item, due);
    }
    assert_eq!(lanes.relieve(|item| *item != 2), [(key(1), due, vec![11, 12])]);
    assert_eq!((lanes.queued(), lanes.next_due()), (2, Some(due)));
    assert_eq!(lanes.push(13, Some(&key(1))), Err(13));
    assert_eq!(lanes.push(3, Some(&key(0))), Ok(()));
    assert!(lanes.wake(due));
    assert_eq!(lanes.take(9)[0].0, 1);
}

#[test]
fn what_arrives_behind_a_relieved_lane_follows_it_into_the_store() {
    let mut lanes = Lanes::default();
    lanes.push(1, Some(&key(0))).unwrap();
    lanes.push(2, Some(&key(0))).unwrap();
    let (item, lane) = lanes.take(1).pop().unwrap();
    let due = Instant::now() + Duration::from_secs(9);
    lanes.hold(&lane.unwrap(), item, due);
    assert_eq!(lanes.relieve(|_| true), [(key(0), due, vec![1, 2])]);
    assert_eq!(lanes.push(3, Some(&key(0))), Err(3));
    // 1 and 2 are on disk, 3 is still on its way: an empty answer of the store would be out of date.
    lanes.stored(&key(0));
    lanes.stored(&key(0));
    assert_eq!(lanes.parked_generation(&key(0)), None);
    lanes.stored(&key(0));
    let generation = lanes.parked_generation(&key(0)).unwrap();
    assert_eq!(lanes.push(4, Some(&key(0))), Err(4));
    assert!(
        !lanes.unpark(&key(0), generation),
        "4 arrived after the question was asked"
    );
    lanes.stored(&key(0));
    let generation = lanes.parked_generation(&key(0)).unwrap();
    assert!(lanes.unpark(&key(0), generation));
    assert_eq!(lanes.push(5, Some(&key(0))), Ok(()));
}

#[test]
fn an_answer_from_an_earlier_stay_in_the_store_is_out_of_date() {
    let mut lanes = Lanes::default();
    let stay = |lanes: &mut Lanes<i32>| {
        lanes.push(1, Some(&key(0))).unwrap();
        lanes.take(1);
        lanes.park_running(&key(0));
        lanes.stored(&key(0));
        lanes.parked_generation(&key(0)).unwrap()
    };
    let first = stay(&mut lanes);
    assert!(lanes.unpark(&key(0), first));
    let second = stay(&mut lanes);
    assert!(!lanes.unpark(&key(0), first), "the store has the second message");
    assert!(lanes.unpark(&key(0), second));
}

#[derive(Debug, Clone)]
enum Step {
    Push(u8),
    Run { fail: bool },
    Wake,
    Relieve,
    StoreRuns { fail: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..4).prop_map(Step::Push),
        4 => any::<bool>().prop_map(|fail| Step::Run { fail }),
        1 => Just(Step::Wake),
        1 => Just(Step::Relieve),
        2 => any::<bool>().prop_map(|fail| Step::StoreRuns { fail }),
    ]
}

/// The store of the model: per lane a queue whose head alone may run.
#[derive(Default)]
struct Model {
    lanes: Lanes<(u8, u32)>,
    store: HashMap<u8, VecDeque<(u8, u32)>>,
    next: HashMap<u8, u32>,
    done: HashMap<u8, u32>,
    now: Option<Instant>,
}

impl Model {
    fn settle(&mut self, item: (u8, u32)) {
        let done = self.done.entry(item.0).or_default();
        assert_eq!(
            item.1, *done,
            "lane {} handled {} before {}",
            item.0, item.1, done
        );
        *done += 1;
    }

    fn park(&mut self, item: (u8, u32)) {
        self.store.entry(item.0).or_default().push_back(item);
        self.lanes.stored(&key(item.0));
    }

    fn apply(&mut self, step: &Step) {
        let now = *self.now.get_or_insert_with(Instant::now);
        match step {
            Step::Push(lane) => {
                let n = self.next.entry(*lane).or_default();
                let item = (*lane, *n);
                *n += 1;
                if let Err(item) = self.lanes.push(item, Some(&key(*lane))) {
                    self.park(item);
                }
            }
            Step::Run { fail } => {
                for (item, lane) in self.lanes.take(2) {
                    let lane = lane.unwrap();
                    if *fail {
                        self.lanes.hold(&lane, item, now);
                    } else {
                        self.settle(item);
                        self.lanes.finish(&lane);
                    }
                }
            }
            Step::Wake => {
                self.lanes.wake(now);
            }
            Step::Relieve => {
                for (_, _, items) in self.lanes.relieve(|_| true) {
                    items.into_iter().for_each(|item| self.park(item));
                }
            }
            Step::StoreRuns { fail } => {
                let heads: Vec<u8> = self
                    .store
                    .iter()
                    .filter(|(_, q)| !q.is_empty())
                    .map(|(k, _)| *k)
                    .collect();
                for lane in heads {
                    if *fail {
                        continue;
                    }
                    let item = self.store.get_mut(&lane).unwrap().pop_front().unwrap();
                    self.settle(item);
                    if self.store[&lane].is_empty()
                        && let Some(generation) = self.lanes.parked_generation(&key(lane))
                    {
                        assert!(self.lanes.unpark(&key(lane), generation));
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn order_holds_through_retries_relief_and_the_store(steps in proptest::collection::vec(step(), 0..200)) {
        let mut model = Model::default();
        steps.iter().for_each(|s| model.apply(s));
        // Nothing is stuck: with no more failures everything drains.
        for _ in 0..500 {
            model.apply(&Step::Wake);
            model.apply(&Step::Run { fail: false });
            model.apply(&Step::StoreRuns { fail: false });
        }
        prop_assert_eq!(&model.done.values().sum::<u32>(), &model.next.values().sum::<u32>());
        prop_assert_eq!(model.lanes.queued(), 0);
    }
}
