#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod shared;

use super::*;
use crate::message::Id;

const SEED: u64 = 7;

/// The first sequence of a key whose message has this fate.
fn find(stream: Stream, fate: Fate, from: u64) -> Id {
    (from..)
        .map(|sequence| Id {
            stream,
            key: 1,
            sequence,
        })
        .find(|id| Fate::of(SEED, id) == fate)
        .unwrap()
}

struct Story(Vec<Event>);

impl Story {
    fn new() -> Self {
        Self(Vec::new())
    }

    fn at(mut self, t: u64, what: What) -> Self {
        self.0.push(Event { t, what });
        self
    }

    fn sent(self, t: u64, id: Id) -> Self {
        let offset = i64::try_from(id.sequence).unwrap();
        self.at(
            t,
            What::Sent {
                id: id.to_string(),
                again: false,
            },
        )
        .at(
            t,
            What::Confirmed {
                id: id.to_string(),
                partition: Some(0),
                offset: Some(offset),
            },
        )
    }

    fn ran(self, t: u64, id: Id, attempt: u32, said: Said) -> Self {
        self.ran_on("a", t, id, attempt, said)
    }

    fn ran_on(self, instance: &str, t: u64, id: Id, attempt: u32, said: Said) -> Self {
        self.at(
            t,
            What::Ran {
                id: id.to_string(),
                attempt,
                said,
                instance: instance.to_owned(),
            },
        )
    }

    fn letter(self, t: u64, id: Id, class: &str, instance: &str) -> Self {
        self.at(
            t,
            What::Letter {
                id: id.to_string(),
                class: class.to_owned(),
                instance: instance.to_owned(),
            },
        )
    }

    fn fault(self, from: u64, to: u64, effect: Effect) -> Self {
        self.fault_in("brokers", from, to, effect)
    }

    fn fault_in(self, arena: &str, from: u64, to: u64, effect: Effect) -> Self {
        let (kind, arena) = ("kill-host".to_owned(), arena.to_owned());
        self.at(
            from,
            What::Fault {
                kind: kind.clone(),
                arena: arena.clone(),
                effect,
            },
        )
        .at(to, What::Mended { kind, arena })
    }

    fn report(self) -> Report {
        check(SEED, 10, &self.0)
    }
}

fn task(fate: Fate) -> Id {
    find(Stream::RabbitTasks, fate, 0)
}

fn events(n: usize) -> Vec<Id> {
    let mut from = 0;
    (0..n)
        .map(|_| {
            let id = find(Stream::KafkaEvents, Fate::Done, from);
            from = id.sequence + 1;
            id
        })
        .collect()
}

#[test]
fn a_run_without_a_fault_is_clean() {
    let (done, dead) = (task(Fate::Done), task(Fate::Reject));
    let report = Story::new()
        .sent(1, done)
        .sent(2, dead)
        .ran(3, done, 1, Said::Done)
        .ran(4, dead, 1, Said::Reject)
        .letter(9, dead, "rejected", "a")
        .report();
    assert_eq!(report.faults_found(), Vec::<String>::new());
    assert_eq!((report.messages, report.handled, report.dead), (2, 1, 1));
}

#[test]
fn a_confirmed_message_without_an_end_is_lost_and_one_in_doubt_is_not() {
    let report = Story::new().sent(1, task(Fate::Done)).report();
    assert_eq!(report.lost.len(), 1);
    let report = Story::new()
        .sent(1, task(Fate::Reject))
        .ran(2, task(Fate::Reject), 1, Said::Reject)
        .report();
    assert_eq!(report.lost.len(), 1, "a rejected message without a letter");
    let doubt = What::Sent {
        id: task(Fate::Done).to_string(),
        again: false,
    };
    assert_eq!(Story::new().at(1, doubt).report().lost.len(), 0);
}

#[test]
fn what_nobody_sent_or_ordered_is_unexpected() {
    let (done, dead) = (task(Fate::Done), task(Fate::Reject));
    let base = || Story::new().sent(1, done).ran(2, done, 1, Said::Done);
    assert_eq!(base().ran(3, dead, 1, Said::Reject).report().unexpected.len(), 1);
    assert!(
        !base()
            .letter(3, done, "rejected", "a")
            .report()
            .unexpected
            .is_empty()
    );
    let output = |said| What::Output {
        id: done.to_string(),
        attempt: 1,
        said,
    };
    assert_eq!(base().at(3, output(Said::Done)).report().unexpected.len(), 0);
    assert_eq!(base().at(3, output(Said::Retry)).report().unexpected.len(), 1);
    let wrong = Story::new()
        .sent(1, dead)
        .letter(2, dead, "timeout", "a")
        .report();
    assert_eq!(wrong.unexpected.len(), 1, "another class than ordered");
    let twice = Story::new()
        .sent(1, dead)
        .letter(2, dead, "rejected", "a")
        .letter(2, dead, "rejected", "a");
    assert_eq!(twice.report().unexpected.len(), 1, "two letters in one store");
}

#[test]
fn an_attempt_that_nobody_ordered_needs_a_stall() {
    let done = task(Fate::Done);
    let story = || Story::new().sent(1, done);
    let late = |story: Story| story.ran(500, done, 2, Said::Done).report();
    assert_eq!(late(story()).unexpected.len(), 1);
    assert_eq!(
        late(story().fault(10, 20, Effect::Redelivers)).unexpected.len(),
        1
    );
    assert_eq!(late(story().fault(10, 20, Effect::Stalls)).unexpected.len(), 0);
    // The attempt that was cut off is in no history: the first that is may be long after the stall, not long before it.
    let late = |sent| {
        let story = Story::new().fault(10, 20, Effect::Stalls).sent(sent, done);
        story.ran(50_000, done, 2, Said::Done).report().unexpected.len()
    };
    assert_eq!((late(1), late(30_000)), (0, 1));
}

#[test]
fn a_duplicate_needs_a_fault_that_explains_it() {
    let done = task(Fate::Done);
    let twice = |story: Story| {
        story
            .ran(100_000, done, 1, Said::Done)
            .ran(100_050, done, 1, Said::Done)
            .report()
    };
    let sent = || Story::new().sent(1, done);
    assert_eq!(twice(sent()).unexplained.len(), 1);
    assert_eq!(
        twice(sent().fault(99_990, 100_010, Effect::None))
            .unexplained
            .len(),
        1
    );
    assert_eq!(
        twice(sent().fault(99_990, 100_010, Effect::Rebalance))
            .unexplained
            .len(),
        1,
        "no partition"
    );
    assert_eq!(
        twice(sent().fault(99_990, 100_010, Effect::Redelivers))
            .unexplained
            .len(),
        0
    );
    assert_eq!(
        twice(sent().fault(10, 20, Effect::Redelivers)).unexplained.len(),
        1,
        "long over"
    );
    let again = What::Sent {
        id: done.to_string(),
        again: true,
    };
    assert_eq!(twice(sent().at(2, again)).unexplained.len(), 0);
}

#[test]
fn a_fault_explains_nothing_in_the_other_arena() {
    for (stream, own, other) in [
        (Stream::EmbeddedEvents, "embedded", "brokers"),
        (Stream::EmbeddedTasks, "embedded", "brokers"),
        (Stream::KafkaEvents, "brokers", "embedded"),
        (Stream::RabbitTasks, "brokers", "embedded"),
    ] {
        let done = find(stream, Fate::Done, 0);
        let unexplained = |arena, effect| {
            let story = Story::new()
                .sent(1, done)
                .ran(2, done, 1, Said::Done)
                .fault_in(arena, 3, 4, effect)
                .ran(5, done, 1, Said::Done);
            story.report().unexplained.len()
        };
        assert_eq!(unexplained(own, Effect::Redelivers), 0, "{stream:?}");
        assert_eq!(unexplained(other, Effect::Redelivers), 1, "{stream:?}");
        assert_eq!(unexplained(other, Effect::Stalls), 1, "{stream:?}");
        // A drain: only Kafka forgets what was finished behind an unfinished message.
        let forgets = stream == Stream::KafkaEvents;
        assert_eq!(
            unexplained(own, Effect::Rebalance),
            usize::from(!forgets),
            "{stream:?}"
        );
    }
}

#[test]
fn a_key_out_of_order_is_found_and_a_rerun_after_a_crash_is_not() {
    let ids = events(3);
    let sent = || ids.iter().fold(Story::new(), |story, id| story.sent(1, *id));
    let swapped = sent()
        .ran(2, ids[1], 1, Said::Done)
        .ran(3, ids[0], 1, Said::Done)
        .ran(4, ids[2], 1, Said::Done);
    assert_eq!(swapped.report().order_breaks.len(), 1);
    let rerun = sent()
        .ran(2, ids[0], 1, Said::Done)
        .ran(3, ids[1], 1, Said::Done)
        .fault(4, 5, Effect::Redelivers)
        .ran(6, ids[0], 1, Said::Done)
        .ran(7, ids[1], 1, Said::Done)
        .ran(8, ids[2], 1, Said::Done);
    assert_eq!(rerun.report().faults_found(), Vec::<String>::new());
}

#[test]
fn a_rerun_after_a_crash_that_nobody_heard_of_does_not_unsay_the_run_before() {
    let ids = events(2);
    let both = || Story::new().sent(1, ids[0]).sent(1, ids[1]);
    let told = |story: Story| story.ran(2, ids[0], 1, Said::Done).ran(3, ids[1], 1, Said::Done);
    // Delivered anew, stopped in its first attempt, and run as the second.
    let after = |story: Story| {
        story
            .fault(5, 6, Effect::Stalls)
            .ran(7, ids[0], 2, Said::Done)
            .ran(8, ids[1], 1, Said::Done)
    };
    let crash = told(both()).fault(4, 4, Effect::Redelivers);
    assert_eq!(after(crash).report().order_breaks, Vec::<String>::new());
    let none = told(both()).ran(7, ids[0], 2, Said::Done);
    assert_eq!(
        none.report().order_breaks.len(),
        1,
        "the follower ran before its head was heard"
    );
}

#[test]
fn a_follower_may_not_run_while_its_head_waits_for_a_retry() {
    let head = find(Stream::KafkaEvents, Fate::RetryOnce, 0);
    let follower = find(Stream::KafkaEvents, Fate::Done, head.sequence + 1);
    let story = || {
        Story::new()
            .sent(1, head)
            .sent(1, follower)
            .ran(2, head, 1, Said::Retry)
    };
    let good = story()
        .ran(3, head, 2, Said::Done)
        .ran(4, follower, 1, Said::Done);
    assert_eq!(good.report().order_breaks.len(), 0);
    let bad = story()
        .ran(3, follower, 1, Said::Done)
        .ran(4, head, 2, Said::Done);
    assert_eq!(bad.report().order_breaks.len(), 1);
}

#[test]
fn what_one_host_keeps_in_its_store_another_host_may_overtake() {
    let head = find(Stream::KafkaEvents, Fate::RetryOnce, 0);
    let next = find(Stream::KafkaEvents, Fate::Done, head.sequence + 1);
    let breaks = |other: &str| {
        Story::new()
            .sent(1, head)
            .sent(1, next)
            .ran(2, head, 1, Said::Retry)
            .ran_on(other, 3, next, 1, Said::Done)
            .ran(4, head, 2, Said::Done)
            .report()
            .order_breaks
            .len()
    };
    assert_eq!((breaks("a"), breaks("b")), (1, 0));
}

#[test]
fn a_retry_on_one_host_does_not_make_it_the_keeper_of_what_another_has() {
    let head = find(Stream::KafkaEvents, Fate::RetryOnce, 0);
    let next = find(Stream::KafkaEvents, Fate::RetryOnce, head.sequence + 1);
    let breaks = |other: &str| {
        Story::new()
            .sent(1, head)
            .sent(1, next)
            .ran(2, head, 1, Said::Retry)
            .ran_on(other, 3, next, 1, Said::Retry)
            .ran_on(other, 4, next, 2, Said::Done)
            .ran(5, head, 2, Said::Done)
            .report()
            .order_breaks
            .len()
    };
    assert_eq!((breaks("a"), breaks("b")), (2, 0));
}

#[test]
fn what_came_while_one_host_kept_the_key_may_be_kept_by_the_next_one() {
    let before = find(Stream::KafkaEvents, Fate::RetryOnce, 0);
    let head = find(Stream::KafkaEvents, Fate::RetryOnce, before.sequence + 1);
    let follower = find(Stream::KafkaEvents, Fate::Done, head.sequence + 1);
    let last = find(Stream::KafkaEvents, Fate::Done, follower.sequence + 1);
    let breaks = |keeper: &str| {
        Story::new()
            .sent(1, before)
            .ran_on("b", 2, before, 1, Said::Retry)
            // Behind what b may have in its store; then a takes over, has it fail, and stores what follows.
            .sent(3, head)
            .sent(3, follower)
            .sent(3, last)
            .ran_on("b", 4, before, 2, Said::Done)
            .ran_on(keeper, 5, head, 1, Said::Retry)
            .ran_on(keeper, 6, head, 2, Said::Done)
            .ran_on("b", 7, last, 1, Said::Done)
            .ran_on(keeper, 8, follower, 1, Said::Done)
            .report()
            .order_breaks
            .len()
    };
    assert_eq!((breaks("a"), breaks("b")), (0, 1));
}

#[test]
fn a_last_attempt_that_nobody_heard_of_needs_a_stall() {
    let head = find(Stream::EmbeddedEvents, Fate::Trap, 0);
    let next = find(Stream::EmbeddedEvents, Fate::Done, head.sequence + 1);
    let breaks = |stalled: bool, letter: bool| {
        let mut story = Story::new().sent(1, head).sent(1, next);
        for attempt in 1..Fate::Trap.last_attempt() {
            story = story.ran(100 + u64::from(attempt), head, attempt, Said::Trap);
        }
        if stalled {
            story = story.fault(200, 9_000, Effect::Stalls);
        }
        story = story.ran(9_100, next, 1, Said::Done);
        if letter {
            story = story.letter(90_000, head, "exhausted", "a");
        }
        story.report().order_breaks.len()
    };
    assert_eq!(
        (breaks(true, true), breaks(false, true), breaks(true, false)),
        (0, 1, 1)
    );
}

#[test]
fn a_commit_beyond_what_ran_is_found() {
    let ids = events(2);
    let committed = |offset: u64| What::Committed {
        stream: Stream::KafkaEvents,
        partition: 0,
        offset: i64::try_from(offset).unwrap(),
    };
    let story = || {
        ids.iter()
            .fold(Story::new(), |story, id| story.sent(1, *id))
            .ran(2, ids[0], 1, Said::Done)
    };
    let end = |story: Story| story.ran(9, ids[1], 1, Said::Done).report().order_breaks.len();
    assert_eq!(end(story().at(3, committed(ids[0].sequence + 1))), 0);
    assert_eq!(end(story().at(3, committed(ids[1].sequence + 1))), 1);
}

#[test]
fn a_commit_may_pass_what_waits_in_the_store_of_a_host_that_was_killed() {
    let head = find(Stream::EmbeddedEvents, Fate::RetryOnce, 0);
    let next = find(Stream::EmbeddedEvents, Fate::Done, head.sequence + 1);
    let committed = What::Committed {
        stream: Stream::EmbeddedEvents,
        partition: 0,
        offset: i64::try_from(next.sequence + 1).unwrap(),
    };
    let story = |rerun: bool| {
        let story = Story::new()
            .sent(1, head)
            .ran(10, head, 1, Said::Retry)
            .ran(20, head, 2, Said::Done)
            .fault(30, 9_000, Effect::Redelivers);
        // Its row was not gone yet: the host asks for it again, and whatever comes meanwhile lines up behind.
        let story = if rerun {
            story.ran(9_100, head, 2, Said::Done)
        } else {
            story
        };
        story
            .sent(9_200, next)
            .at(9_300, committed.clone())
            .ran(9_400, next, 1, Said::Done)
    };
    assert_eq!(story(true).report().order_breaks.len(), 0);
    assert_eq!(story(false).report().order_breaks.len(), 1);
}

#[test]
fn two_of_one_key_at_a_time_need_a_stall() {
    let overlap = || What::Overlap {
        id: "k001-0000002".to_owned(),
        other: "k001-0000001".to_owned(),
    };
    assert_eq!(Story::new().at(5, overlap()).report().order_breaks.len(), 1);
    let stalled = Story::new().fault(1, 4, Effect::Stalls).at(5, overlap());
    assert_eq!(stalled.report().order_breaks.len(), 0);
}

#[test]
fn what_is_left_and_a_late_drain_are_told() {
    let left = What::Left {
        what: "in flight".to_owned(),
        count: 3,
    };
    let drained = What::Drained {
        arena: "x".to_owned(),
        ms: DRAIN_LIMIT_MS + 1,
    };
    assert_eq!(
        Story::new()
            .at(1, left)
            .at(2, drained)
            .report()
            .faults_found()
            .len(),
        2
    );
}
