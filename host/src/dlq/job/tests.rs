//! Whatever happens to a host in the middle of a job: each letter ends with one result, lanes keep their order, and after a
//! stop nothing goes.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// What can happen next.
#[derive(Debug, Clone, Copy)]
enum Event {
    Start,
    /// The n-th of those under way ends.
    End(usize),
    /// It has to be tried again.
    Again(usize),
    Tick,
    /// The host is killed: what was in memory is gone, what was written is there.
    Crash,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => Just(Event::Start),
        4 => any::<usize>().prop_map(Event::End),
        1 => any::<usize>().prop_map(Event::Again),
        1 => Just(Event::Tick),
        1 => Just(Event::Crash),
    ]
}

/// Bytes for three letters, so that they bound as often as the letters do.
fn course(under_way: usize, waiting: usize) -> Course {
    Course::new(Limits {
        under_way,
        waiting,
        bytes: 100,
    })
}

/// The store's part, and what the brokers saw.
struct World {
    lanes: Vec<Option<u8>>,
    results: Vec<u32>,
    sent: Vec<u32>,
    crashes: u32,
    now: Instant,
    course: Course,
    under_way: Vec<u64>,
    /// Started since the last crash, in order.
    started: Vec<u64>,
}

impl World {
    fn new(lanes: Vec<Option<u8>>, most: usize, window: usize) -> Self {
        let count = lanes.len();
        Self {
            lanes,
            results: vec![0; count],
            sent: vec![0; count],
            crashes: 0,
            now: Instant::now(),
            course: course(most, window),
            under_way: Vec::new(),
            started: Vec::new(),
        }
    }

    fn lane(&self, place: u64) -> Option<u8> {
        self.lanes[place as usize - 1]
    }

    fn read(&mut self) {
        if let Some((after, limit)) = self.course.wants() {
            let from = after.unwrap_or(0) as usize;
            let places: Vec<u64> = (from..self.lanes.len())
                .filter(|at| self.results[*at] == 0)
                .map(|at| at as u64 + 1)
                .take(limit)
                .collect();
            for place in &places {
                let lane = self.lane(*place).map(|lane| vec![lane]);
                self.course.add(*place, lane, 30);
            }
            if places.len() < limit {
                self.course.all_read();
            }
        }
    }

    fn step(&mut self, event: Event, most: usize, window: usize) {
        match event {
            Event::Start => {
                self.read();
                let Some(place) = self.course.ready(self.now) else {
                    return;
                };
                assert!(self.course.start(place));
                let lane = self.lane(place);
                assert!(self.under_way.len() < most);
                if lane.is_some() {
                    assert!(
                        self.under_way.iter().all(|other| self.lane(*other) != lane),
                        "two of a lane"
                    );
                    let before = (1..place).filter(|other| self.lane(*other) == lane);
                    assert!(
                        before
                            .into_iter()
                            .all(|other| self.results[other as usize - 1] == 1),
                        "one of its lane was overtaken"
                    );
                }
                self.sent[place as usize - 1] += 1;
                self.under_way.push(place);
                self.started.push(place);
            }
            Event::End(n) if !self.under_way.is_empty() => {
                let place = self.under_way.remove(n % self.under_way.len());
                self.results[place as usize - 1] += 1;
                self.course.ended(place);
            }
            Event::Again(n) if !self.under_way.is_empty() => {
                let place = self.under_way.remove(n % self.under_way.len());
                // It was not sent.
                self.sent[place as usize - 1] -= 1;
                self.course.again(place, self.now + Duration::from_secs(5));
            }
            Event::End(_) | Event::Again(_) => {}
            Event::Tick => self.now += Duration::from_secs(6),
            Event::Crash => {
                self.crashes += 1;
                self.under_way.clear();
                self.started.clear();
                self.course = course(most, window);
            }
        }
    }
}

proptest! {
    #[test]
    fn each_letter_ends_with_one_result_whatever_happens(
        lanes in prop::collection::vec(prop::option::of(0_u8..3), 0..40),
        events in prop::collection::vec(event(), 0..300),
        most in 1_usize..6,
        window in 1_usize..12,
    ) {
        let mut world = World::new(lanes, most, window);
        for event in events {
            world.step(event, most, window);
        }
        // Left alone it comes to its end.
        let mut rounds = 0;
        loop {
            world.read();
            if world.course.is_over() {
                break;
            }
            rounds += 1;
            prop_assert!(rounds < 10_000, "it stands still");
            let next = if world.course.ready(world.now).is_some() {
                Event::Start
            } else if world.under_way.is_empty() {
                Event::Tick
            } else {
                Event::End(0)
            };
            world.step(next, most, window);
        }
        prop_assert!(world.results.iter().all(|results| *results == 1), "{:?}", world.results);
        for sent in &world.sent {
            prop_assert!(*sent >= 1 && *sent <= 1 + world.crashes, "sent {} times, killed {} times", sent, world.crashes);
        }
    }

    #[test]
    fn nothing_goes_after_a_stop(
        lanes in prop::collection::vec(prop::option::of(0_u8..3), 1..30),
        events in prop::collection::vec(event(), 0..60),
    ) {
        let (most, window) = (4, 8);
        let mut world = World::new(lanes, most, window);
        for event in events {
            world.step(event, most, window);
        }
        world.read();
        let place = world.course.ready(world.now);
        world.course.stop();
        prop_assert!(world.course.ready(world.now).is_none());
        prop_assert!(world.course.wants().is_none());
        if let Some(place) = place {
            prop_assert!(!world.course.start(place), "found before the stop, started after it");
        }
        for place in world.under_way.clone() {
            prop_assert!(!world.course.is_over());
            world.course.ended(place);
        }
        prop_assert!(world.course.is_over());
    }
}

#[test]
fn one_that_is_tried_again_holds_up_its_lane_and_no_other() {
    let now = Instant::now();
    let mut course = course(4, 8);
    for (place, lane) in [
        (1, Some(vec![1])),
        (2, Some(vec![1])),
        (3, Some(vec![2])),
        (4, None),
    ] {
        course.add(place, lane, 30);
    }
    course.all_read();
    assert_eq!(course.ready(now), Some(1));
    assert!(course.start(1));
    assert_eq!(course.ready(now), Some(3), "2 is behind 1");
    let later = now + Duration::from_secs(1);
    course.again(1, later);
    assert_eq!(course.ready(now), Some(3), "2 is behind 1 still");
    assert!(course.start(3));
    assert!(course.start(4));
    assert_eq!((course.ready(now), course.wake_at()), (None, Some(later)));
    assert_eq!(course.ready(later), Some(1));
    assert!(course.start(1));
    course.ended(1);
    assert_eq!(course.ready(later), Some(2));
}

#[test]
fn large_letters_are_few_at_a_time() {
    let limits = Limits {
        under_way: 100,
        waiting: 500,
        bytes: 1_000,
    };
    let mut course = Course::new(limits);
    let (mut place, mut most, mut in_memory) = (0, 0, BTreeMap::new());
    // Small ones first, so that the large ones come as a surprise.
    let bytes = |place: u64| if place <= 200 { 1 } else { 400 };
    loop {
        while let Some((_, limit)) = course.wants() {
            for _ in 0..limit {
                place += 1;
                course.add(place, None, bytes(place));
                in_memory.insert(place, bytes(place));
            }
            if place > 1_000 {
                most = most.max(in_memory.values().sum::<usize>());
            }
        }
        if place >= 1_200 {
            break;
        }
        let next = course.ready(Instant::now()).unwrap();
        assert!(course.start(next));
        course.ended(next);
        in_memory.remove(&next);
    }
    // How large they are is known by then.
    assert!(most <= 1_400, "{most} bytes in memory");
    assert!(most >= 400, "{most} bytes in memory");
}

#[test]
fn one_that_is_larger_than_all_may_be_goes_alone() {
    let mut course = course(4, 8);
    for place in 1..=3 {
        assert_eq!(course.wants().map(|(_, limit)| limit > 0), Some(true));
        course.add(place, None, 1_000);
        assert_eq!(course.wants(), None);
        assert!(course.start(place));
        assert_eq!(course.wants(), None, "it is in memory while it is under way");
        course.ended(place);
    }
}
