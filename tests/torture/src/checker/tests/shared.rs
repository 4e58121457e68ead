//! What is asked of hosts that share a store.

use super::*;
use crate::history::{Step, Verb, Work};

fn repair() -> Id {
    find(Stream::StoreTasks, Fate::Repair, 0)
}

fn step(at: u64, actor: &str, action: &str, (from, to): (&str, &str)) -> Step {
    Step {
        at,
        actor: actor.to_owned(),
        action: action.to_owned(),
        from: from.to_owned(),
        to: to.to_owned(),
        reason: None,
    }
}

const CLAIM: (&str, &str) = ("dead", "retrying");
const SENT: (&str, &str) = ("retrying", "reprocessed");

/// Claimed and sent by this one.
fn redriven(actor: &str) -> Vec<Step> {
    vec![step(5, actor, "reprocess", CLAIM), step(6, actor, "sent", SENT)]
}

impl Story {
    fn kept(self, id: Id, state: &str, trail: Vec<Step>) -> Self {
        self.at(
            90_000,
            What::Kept {
                id: id.to_string(),
                letter: format!("letter of {id}"),
                class: "rejected".to_owned(),
                state: state.to_owned(),
                trail,
            },
        )
    }

    fn asked(self, t: u64, n: u64, id: Id, verb: Verb, actor: &str, status: u16) -> Self {
        let asked = What::Asked {
            n,
            id: id.to_string(),
            letter: format!("letter of {id}"),
            verb,
            actor: actor.to_owned(),
            instance: "a".to_owned(),
        };
        self.at(t, asked).at(t, What::Answered { n, status })
    }

    /// Of 40 offsets in batches of 10, counted as these.
    fn replay(self, state: &str, counted: u64, copies: &[(i64, u64)]) -> Self {
        let mut story = self;
        for (offset, at) in copies {
            story = story.at(
                80_000,
                What::Copy {
                    replay: "r".to_owned(),
                    partition: 0,
                    offset: *offset,
                    at: *at,
                },
            );
        }
        story.at(
            90_000,
            What::Replay {
                id: "r".to_owned(),
                state: state.to_owned(),
                batch: 10,
                total: 40,
                replayed: counted,
                done: counted,
                from: 10,
                to: 1_000,
                stretches: vec![(0, 0, 40)],
            },
        )
    }
}

#[test]
fn a_letter_that_was_sent_again_has_run_to_its_end_or_was_discarded() {
    let id = repair();
    let dead = || Story::new().sent(1, id).ran(2, id, 1, Said::Reject);
    let done = dead().ran(9, id, 1, Said::Done);
    let report = done.kept(id, "reprocessed", redriven("ann")).report();
    assert_eq!(report.faults_found(), Vec::<String>::new());
    let discard = vec![step(5, "ann", "discard", ("dead", "discarded"))];
    assert_eq!(
        dead().kept(id, "discarded", discard).report().faults_found(),
        Vec::<String>::new()
    );
    let vanished = dead().kept(id, "reprocessed", redriven("ann"));
    assert_eq!(vanished.report().lost.len(), 1, "between store and broker");
    assert_eq!(dead().report().lost.len(), 1, "no letter");
    assert_eq!(dead().kept(id, "dead", vec![]).report().left.len(), 1);
    let hopeless = find(Stream::StoreTasks, Fate::Reject, 0);
    let vanished = Story::new()
        .sent(1, hopeless)
        .ran(2, hopeless, 1, Said::Reject)
        .kept(hopeless, "reprocessed", redriven("ann"));
    assert_eq!(vanished.report().lost.len(), 1, "it would be a letter again");
}

#[test]
fn a_message_has_one_letter_in_a_store_and_runs_once_for_each_claim() {
    let id = repair();
    let story = || {
        Story::new()
            .sent(1, id)
            .ran(2, id, 1, Said::Reject)
            .ran(9, id, 1, Said::Done)
            .kept(id, "reprocessed", redriven("ann"))
    };
    assert_eq!(story().report().faults_found(), Vec::<String>::new());
    let two = story().kept(id, "reprocessed", vec![]).report();
    assert_eq!(two.unexpected.len(), 2, "{:?}", two.unexpected);
    let twice = |trail: Vec<Step>| {
        Story::new()
            .sent(1, id)
            .ran(2, id, 1, Said::Reject)
            .ran(9, id, 1, Said::Done)
            .ran(10, id, 1, Said::Done)
            .ran(11, id, 1, Said::Done)
            .kept(id, "reprocessed", trail)
            .report()
            .unexplained
            .len()
    };
    assert_eq!(twice(redriven("ann")), 1);
    let mut lapsed = vec![
        step(3, "bob", "reprocess", CLAIM),
        step(4, "host", "lease ran out", ("retrying", "dead")),
    ];
    lapsed.extend(redriven("ann"));
    assert_eq!(twice(lapsed), 0);
}

#[test]
fn what_comes_again_behind_a_letter_waits_for_as_long_as_that_does() {
    for (stream, unexplained) in [(Stream::StoreEvents, 0), (Stream::StoreTasks, 1)] {
        let id = find(stream, Fate::Done, 0);
        let story = |from| {
            Story::new()
                .fault_in("store", from, from + 10, Effect::Redelivers)
                .sent(60_000, id)
                .ran(100_000, id, 1, Said::Done)
                .ran(190_000, id, 1, Said::Done)
                .report()
                .unexplained
                .len()
        };
        assert_eq!(story(70_000), unexplained, "{stream:?}");
        assert_eq!(story(10_000), 1, "{stream:?}, before it was there");
    }
}

#[test]
fn of_those_who_want_a_letter_one_gets_it() {
    let id = repair();
    let story = |second: u16, trail: Vec<Step>| {
        Story::new()
            .sent(1, id)
            .ran(2, id, 1, Said::Reject)
            .asked(3, 1, id, Verb::Reprocess, "ann", 202)
            .asked(3, 2, id, Verb::Reprocess, "ann", second)
            .ran(9, id, 1, Said::Done)
            .kept(id, "reprocessed", trail)
            .report()
            .faults_found()
    };
    assert_eq!(story(409, redriven("ann")), Vec::<String>::new());
    assert_eq!(story(202, redriven("ann")).len(), 1, "two winners, one claim");
    let mut both = vec![step(5, "ann", "reprocess", CLAIM)];
    both.extend(redriven("ann"));
    assert_eq!(story(409, both).len(), 1, "claimed while it was claimed");
    assert_eq!(story(409, redriven("eve")).len(), 1, "told that it is done");
    assert_eq!(
        story(
            409,
            [
                redriven("ann"),
                vec![step(7, "x", "discard", ("dead", "discarded"))]
            ]
            .concat()
        )
        .len(),
        1,
        "not where the trail is"
    );
}

#[test]
fn a_key_waits_behind_its_dead_letter_until_somebody_acts() {
    let head = find(Stream::StoreEvents, Fate::Repair, 0);
    let next = find(Stream::StoreEvents, Fate::Done, head.sequence + 1);
    let story = || {
        Story::new()
            .sent(1, head)
            .sent(1, next)
            .ran(2, head, 1, Said::Reject)
    };
    let breaks = |story: Story| story.report().order_breaks.len();
    assert_eq!(breaks(story().ran_on("b", 3, next, 1, Said::Done)), 1);
    let sent = story().ran_on("b", 5, head, 1, Said::Done);
    assert_eq!(breaks(sent.ran(6, next, 1, Said::Done)), 0);
    let discarded = |verb, status| {
        let story = story().asked(3, 1, head, verb, "ann", status);
        breaks(story.ran(6, next, 1, Said::Done))
    };
    assert_eq!(discarded(Verb::Discard, 200), 0);
    assert_eq!(discarded(Verb::Release, 200), 0);
    assert_eq!(discarded(Verb::Discard, 0), 0, "nobody knows");
    assert_eq!(discarded(Verb::Discard, 409), 1);
    assert_eq!(discarded(Verb::Reprocess, 202), 1);
}

#[test]
fn a_job_sends_each_letter_once_and_none_after_its_cancel() {
    let id = repair();
    let job = |at: u64| Step {
        reason: Some("job j".to_owned()),
        ..step(at, "night", "reprocess", CLAIM)
    };
    let story = |trail: Vec<Step>| {
        let cancelled = What::Cancelled {
            what: Work::Job,
            id: "j".to_owned(),
        };
        Story::new()
            .sent(1, id)
            .ran(2, id, 1, Said::Reject)
            .at(100, cancelled)
            .ran(300, id, 1, Said::Done)
            .kept(id, "reprocessed", trail)
            .report()
            .faults_found()
    };
    let sent = |at| step(at, "night", "sent", SENT);
    let again = |at| step(at, "host", "failed again", ("reprocessed", "dead"));
    assert_eq!(story(vec![job(90), sent(120)]), Vec::<String>::new());
    assert_eq!(story(vec![job(200), sent(210)]).len(), 1);
    assert_eq!(
        story(vec![job(50), sent(60), again(70), job(80), sent(90)]).len(),
        1,
        "twice"
    );
    let not = step(60, "night", "not sent", ("retrying", "dead"));
    assert_eq!(story(vec![job(50), not, job(80), sent(90)]), Vec::<String>::new());
}

#[test]
fn a_replay_brings_everything_and_little_of_it_twice() {
    let copies = |offsets: std::ops::Range<i64>| offsets.map(|offset| (offset, 100)).collect::<Vec<_>>();
    let all = copies(0..40);
    let wrong = |story: Story| story.report().faults_found();
    assert_eq!(
        wrong(Story::new().replay("completed", 40, &all)),
        Vec::<String>::new()
    );
    let lost = Story::new().replay("completed", 40, &copies(0..39));
    assert_eq!(lost.report().lost.len(), 2, "missing, and counted");
    let foreign = Story::new().replay("completed", 40, &copies(0..41)).report();
    assert_eq!(foreign.unexpected.len(), 1);
    let twice = [all.clone(), copies(0..10)].concat();
    assert_eq!(
        Story::new()
            .replay("completed", 40, &twice)
            .report()
            .unexplained
            .len(),
        1
    );
    let killed = Story::new().fault_in("store", 50, 60, Effect::Redelivers);
    assert_eq!(
        wrong(killed.replay("completed", 40, &twice)),
        Vec::<String>::new()
    );
    assert_eq!(
        Story::new()
            .replay("running", 20, &copies(0..20))
            .report()
            .left
            .len(),
        1
    );
    assert_eq!(
        Story::new()
            .replay("completed", 41, &all)
            .report()
            .unexpected
            .len(),
        2
    );
}

#[test]
fn a_replay_that_was_cancelled_sends_one_batch_more_at_most() {
    let story = |late: i64| {
        let cancelled = What::Cancelled {
            what: Work::Replay,
            id: "r".to_owned(),
        };
        let copies: Vec<(i64, u64)> = (0..20)
            .map(|offset| (offset, 100))
            .chain((20..20 + late).map(|offset| (offset, 700)))
            .collect();
        let counted = copies.len() as u64;
        Story::new()
            .at(500, cancelled)
            .replay("cancelled", counted, &copies)
            .report()
            .unexpected
            .len()
    };
    assert_eq!((story(10), story(11)), (0, 1));
}

#[test]
fn one_host_makes_a_replay_and_the_store_has_it() {
    let made = |instance: &str| What::Made {
        what: Work::Replay,
        id: "r".to_owned(),
        instance: instance.to_owned(),
        status: 201,
    };
    let all: Vec<(i64, u64)> = (0..40).map(|offset| (offset, 100)).collect();
    let once = Story::new().at(1, made("a"));
    assert_eq!(
        once.replay("completed", 40, &all).report().faults_found(),
        Vec::<String>::new()
    );
    let twice = Story::new().at(1, made("a")).at(1, made("b"));
    assert_eq!(twice.replay("completed", 40, &all).report().unexpected.len(), 1);
    assert_eq!(Story::new().at(1, made("a")).report().lost.len(), 1);
}

#[test]
fn while_only_the_store_is_away_successes_go_on() {
    let done = find(Stream::StoreTasks, Fate::Done, 0);
    let away = |story: Story, from: u64, to: u64| {
        let (kind, arena) = ("stop-postgres".to_owned(), "store".to_owned());
        let fault = What::Fault {
            kind: kind.clone(),
            arena: arena.clone(),
            effect: Effect::None,
        };
        story.at(from, fault).at(to, What::Mended { kind, arena })
    };
    let late = |story: Story| {
        let story = away(story.sent(1, done), 30_000, 35_000);
        story.ran(36_000, done, 1, Said::Done).report().unexpected.len()
    };
    assert_eq!(late(Story::new()), 1);
    let other = Story::new().fault_in("store", 29_000, 29_500, Effect::Redelivers);
    assert_eq!(late(other), 0, "it may be because of the other fault");
    // All there is has run, and failed.
    let reject = find(Stream::StoreTasks, Fate::Reject, 0);
    let failed = Story::new().sent(1, reject).ran(2, reject, 1, Said::Reject);
    let kept = |story: Story| {
        story
            .report()
            .unexpected
            .iter()
            .any(|what| what.starts_with("nothing was done"))
    };
    assert!(!kept(away(failed, 30_000, 35_000)));
    assert!(kept(away(Story::new().sent(1, reject), 30_000, 35_000)));
    let in_time = Story::new().sent(1, done);
    let mut story = away(in_time, 30_000, 35_000).ran(33_000, done, 1, Said::Done);
    story.0.sort_by_key(|event| event.t);
    assert_eq!(story.report().unexpected.len(), 0);
}

#[test]
fn a_live_groups_position_never_goes_back() {
    let story = |offsets: [i64; 2]| {
        let committed = offsets.map(|offset| What::Committed {
            stream: Stream::StoreEvents,
            partition: 0,
            offset,
        });
        let [first, second] = committed;
        Story::new()
            .at(1, first)
            .at(2, second)
            .report()
            .order_breaks
            .len()
    };
    assert_eq!((story([4, 4]), story([4, 3])), (0, 1));
}
