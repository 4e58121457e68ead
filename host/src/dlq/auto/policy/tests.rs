//! A letter that always fails, under any policy: how often it is sent, and when.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::valid::{Pattern, RetryPolicy};
use crate::model::FailureClass;

fn policy(max_retries: u32, delay_ms: u64, multiplier: f64, max_ms: u64) -> AutoPolicy {
    AutoPolicy {
        retry: RetryPolicy {
            max_retries,
            delay: Duration::from_millis(delay_ms),
            multiplier,
            max_delay: Duration::from_millis(max_ms),
            jitter: 0.0,
        },
        on_exhausted: OnExhausted::Archive,
    }
}

fn settings(policy: AutoPolicy) -> DlqAuto {
    DlqAuto {
        classes: vec![FailureClass::Exhausted],
        policy,
        types: Vec::new(),
        processing_timeout: Duration::from_secs(30),
        batch_size: 10,
        poll_interval: Duration::from_secs(5),
    }
}

fn candidate(failed_ms: UnixMs) -> Candidate {
    Candidate {
        id: "a".into(),
        message_type: Some("llm.request".into()),
        reprocessed: 0,
        last_failure_ms: failed_ms,
        progress: Progress::default(),
    }
}

/// Looks every `poll` ms; each time it is sent it fails after `takes` ms. When it was sent, and how it ended.
fn life(settings: &DlqAuto, failed_ms: UnixMs, poll: u64, takes: u64) -> (Vec<(UnixMs, UnixMs)>, Step) {
    let mut letter = candidate(failed_ms);
    let mut now = failed_ms;
    let mut sent = Vec::new();
    for _ in 0..200_000 {
        // Only what is due is looked at.
        if letter.progress.due_ms <= now {
            match decide(settings, "", &letter, now) {
                Decision::Send(next) => {
                    sent.push((now, letter.last_failure_ms));
                    letter.progress = next;
                    letter.reprocessed += 1;
                    now += takes;
                    letter.last_failure_ms = now;
                    continue;
                }
                Decision::Settle(Step::Set(next)) => {
                    assert_eq!(next.attempts, letter.progress.attempts, "waiting is no attempt");
                    assert!(next.due_ms > now, "it would be looked at again at once");
                    letter.progress = next;
                }
                Decision::Settle(step) => return (sent, step),
            }
        }
        now += poll;
    }
    panic!("it goes round for ever: {sent:?}");
}

proptest! {
    #[test]
    fn a_letter_that_always_fails_is_sent_as_often_as_its_policy_says_and_never_too_soon(
        max_retries in 0_u32..14, delay_ms in 0_u64..5_000, multiplier in 1.0_f64..4.0, more in 0_u64..60_000,
        poll in 1_u64..10_000, takes in 0_u64..20_000,
    ) {
        let settings = settings(policy(max_retries, delay_ms, multiplier, delay_ms + more));
        let (sent, end) = life(&settings, 1_000_000, poll, takes);
        prop_assert_eq!(sent.len(), usize::try_from(max_retries.min(GUARD)).unwrap());
        prop_assert!(matches!(end, Step::Archive { .. }), "{:?}", end);
        for (n, (at, failed)) in (1_u32..).zip(&sent) {
            let wait = duration_ms(delay(n, &settings.policy.retry, 0.5));
            prop_assert!(at - failed >= wait, "attempt {} after {} ms instead of {}", n, at - failed, wait);
            // As soon as somebody looks: once to find out when it is due, and then at that time.
            prop_assert!(at - failed <= wait + 2 * poll + takes, "attempt {} after {} ms", n, at - failed);
        }
    }

    #[test]
    fn whatever_the_clock_does_it_comes_to_an_end_and_waits_no_longer_than_its_policy(
        jumps in proptest::collection::vec(-7_200_000_i64..7_200_000, 1..20),
    ) {
        let settings = settings(policy(3, 1_000, 2.0, 30_000));
        let mut letter = candidate(10_000_000_000);
        let mut now = 10_000_000_000_u64;
        for jump in jumps {
            now = now.saturating_add_signed(jump);
            match decide(&settings, "", &letter, now) {
                Decision::Send(next) => {
                    prop_assert!(next.due_ms <= now + 30_000);
                    letter.progress = next;
                    letter.last_failure_ms = now;
                }
                Decision::Settle(Step::Set(next)) => {
                    prop_assert!(next.due_ms <= letter.progress.due_ms.max(now + 30_000));
                }
                Decision::Settle(step) => {
                    prop_assert!(matches!(step, Step::Archive { .. }), "{:?}", step);
                    prop_assert_eq!(letter.progress.attempts, 3);
                }
            }
        }
    }
}

#[test]
fn the_delays_are_those_of_the_manual() {
    let settings = settings(policy(7, 1_000, 2.0, 30_000));
    let (sent, _) = life(&settings, 1_000_000, 1, 0);
    let seconds: Vec<u64> = sent.iter().map(|(at, failed)| (at - failed) / 1_000).collect();
    assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
}

#[test]
fn what_failed_in_the_future_is_not_waited_for() {
    let settings = settings(policy(3, 1_000, 2.0, 30_000));
    assert!(matches!(
        decide(&settings, "", &candidate(9_000_000), 1_000),
        Decision::Send(Progress { attempts: 1, .. })
    ));
}

#[test]
fn the_most_specific_type_decides_and_may_say_never() {
    let discard = AutoPolicy {
        on_exhausted: OnExhausted::Discard,
        ..policy(0, 0, 1.0, 0)
    };
    let types = vec![
        (Pattern::new("llm.request"), None),
        (Pattern::new("llm.*"), Some(discard)),
    ];
    let settings = DlqAuto {
        types,
        ..settings(policy(3, 0, 1.0, 0))
    };
    let now = 2_000_000;
    let of = |message_type: Option<&str>| {
        let letter = Candidate {
            message_type: message_type.map(str::to_owned),
            ..candidate(1)
        };
        decide(&settings, "p", &letter, now)
    };
    let policies = "p".to_owned();
    assert_eq!(
        of(Some("llm.request")),
        Decision::Settle(Step::Leave { policies })
    );
    assert!(matches!(
        of(Some("llm.answer")),
        Decision::Settle(Step::Discard { .. })
    ));
    assert!(matches!(of(Some("debate")), Decision::Send(_)));
    assert!(matches!(of(None), Decision::Send(_)));
}

#[test]
fn policies_that_leave_other_types_alone_have_another_name() {
    let with = |types: Vec<(Pattern, Option<AutoPolicy>)>| {
        policies(&DlqAuto {
            types,
            ..settings(policy(3, 0, 1.0, 0))
        })
    };
    let none = with(Vec::new());
    let never = with(vec![(Pattern::new("a"), None)]);
    let other = with(vec![(Pattern::new("b"), None)]);
    let often = with(vec![(Pattern::new("a"), Some(policy(9, 0, 1.0, 0)))]);
    let seldom = with(vec![(Pattern::new("a"), Some(policy(1, 0, 1.0, 0)))]);
    assert_eq!(often, seldom, "how often is asked at each look");
    let names: std::collections::BTreeSet<_> = [&none, &never, &other, &often].into_iter().collect();
    assert_eq!(names.len(), 4);
}
