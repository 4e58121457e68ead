//! Outcome + attempt + policy → verdict. Pure: chance comes in as a number.

use std::time::Duration;

use crate::config::valid::RetryPolicy;
use crate::model::{FailureClass, Outcome, Verdict};

/// The longest wait a handler may ask for: what it wants later than this belongs into a delayed task of its own.
pub const LONGEST_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

/// `attempt` is the one that ended with `outcome`, 1 for the first; `random` is drawn from 0..1 for the jitter.
///
/// A handler's `retry(after)` replaces the policy's delay, jitter included, but not its count.
pub fn decide(outcome: &Outcome, attempt: u32, policy: &RetryPolicy, random: f64) -> Verdict {
    let (failure, after) = match outcome {
        Outcome::Done => return Verdict::Acknowledge,
        Outcome::Reject { failure } => return dead(FailureClass::Rejected, failure),
        Outcome::Refused { failure } => return dead(FailureClass::Refused, failure),
        Outcome::Retry { failure, after } => (failure, *after),
        Outcome::Trap { failure } | Outcome::Timeout { failure, .. } => (failure, None),
    };
    if attempt > policy.max_retries {
        return dead(FailureClass::Exhausted, failure);
    }
    let delay = after.map_or_else(
        || delay(attempt, policy, random),
        |after| after.min(LONGEST_AFTER),
    );
    Verdict::RetryAfter {
        delay,
        failure: failure.clone(),
    }
}

fn dead(class: FailureClass, failure: &crate::model::Failure) -> Verdict {
    Verdict::DeadLetter {
        class,
        failure: failure.clone(),
    }
}

/// How long to wait after a failed `attempt`: `delay × multiplier^(attempt − 1)`, at most `max_delay`, then spread by
/// `jitter` in both directions. Nonsense (NaN, a shrinking multiplier, a jitter above 1) counts as the nearest sense.
pub fn delay(attempt: u32, policy: &RetryPolicy, random: f64) -> Duration {
    if policy.delay.is_zero() {
        return Duration::ZERO;
    }
    // `f64::max` and `min` return the other side when one is NaN; `clamp` does not.
    let growth = policy
        .multiplier
        .max(1.0)
        .powf(f64::from(attempt.saturating_sub(1)));
    let delay = (policy.delay.as_secs_f64() * growth).min(policy.max_delay.as_secs_f64());
    let jitter = if policy.jitter.is_nan() {
        0.0
    } else {
        policy.jitter.clamp(0.0, 1.0)
    };
    let random = if random.is_nan() {
        0.5
    } else {
        random.clamp(0.0, 1.0)
    };
    let spread = jitter.mul_add(2.0f64.mul_add(random, -1.0), 1.0);
    // Only a `max_delay` of 5 × 10^11 years gets past what a Duration holds.
    Duration::try_from_secs_f64(delay * spread).unwrap_or(policy.max_delay)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;
    use crate::model::Failure;

    /// The manual's.
    fn manual() -> RetryPolicy {
        RetryPolicy {
            max_retries: 3,
            delay: Duration::from_secs(1),
            multiplier: 2.0,
            max_delay: Duration::from_secs(30),
            jitter: 0.0,
        }
    }

    #[test]
    fn the_delays_of_the_manual() {
        let seconds: Vec<u64> = (1..=7).map(|n| delay(n, &manual(), 0.3).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn jitter_goes_both_ways() {
        let policy = RetryPolicy {
            jitter: 0.25,
            ..manual()
        };
        let at = |random| delay(2, &policy, random);
        assert_eq!(at(0.0), Duration::from_millis(1500));
        assert_eq!(at(0.5), Duration::from_millis(2000));
        assert_eq!(at(1.0), Duration::from_millis(2500));
    }

    #[test]
    fn every_outcome_has_its_verdict() {
        let failure = Failure::coded("c", "why");
        let f = || failure.clone();
        let dead = |class| Verdict::DeadLetter { class, failure: f() };
        let again = |seconds| Verdict::RetryAfter {
            delay: Duration::from_secs(seconds),
            failure: f(),
        };
        let limit = Duration::from_secs(5);
        let hour = Some(Duration::from_secs(3600));
        let week = Some(Duration::from_secs(7 * 86_400));
        for (outcome, attempt, want) in [
            (Outcome::Done, 9, Verdict::Acknowledge),
            (Outcome::Reject { failure: f() }, 1, dead(FailureClass::Rejected)),
            (Outcome::Refused { failure: f() }, 1, dead(FailureClass::Refused)),
            (
                Outcome::Retry {
                    failure: f(),
                    after: None,
                },
                1,
                again(1),
            ),
            (
                Outcome::Retry {
                    failure: f(),
                    after: None,
                },
                3,
                again(4),
            ),
            (
                Outcome::Retry {
                    failure: f(),
                    after: None,
                },
                4,
                dead(FailureClass::Exhausted),
            ),
            (
                Outcome::Retry {
                    failure: f(),
                    after: hour,
                },
                1,
                again(3600),
            ),
            (
                Outcome::Retry {
                    failure: f(),
                    after: Some(Duration::ZERO),
                },
                3,
                again(0),
            ),
            (
                Outcome::Retry {
                    failure: f(),
                    after: week,
                },
                1,
                again(86_400),
            ),
            (
                Outcome::Retry {
                    failure: f(),
                    after: hour,
                },
                4,
                dead(FailureClass::Exhausted),
            ),
            (Outcome::Trap { failure: f() }, 2, again(2)),
            (Outcome::Trap { failure: f() }, 4, dead(FailureClass::Exhausted)),
            (Outcome::Timeout { limit, failure: f() }, 1, again(1)),
            (
                Outcome::Timeout { limit, failure: f() },
                4,
                dead(FailureClass::Exhausted),
            ),
        ] {
            assert_eq!(
                decide(&outcome, attempt, &manual(), 0.5),
                want,
                "{outcome:?} {attempt}"
            );
        }
        let never = RetryPolicy {
            max_retries: 0,
            ..manual()
        };
        let trap = Outcome::Trap { failure: f() };
        assert_eq!(decide(&trap, 1, &never, 0.5), dead(FailureClass::Exhausted));
    }

    fn duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            (0..100_000u64).prop_map(Duration::from_millis),
            (any::<u64>(), 0..1_000_000_000u32).prop_map(|(s, n)| Duration::new(s, n)),
            Just(Duration::MAX),
        ]
    }

    fn number() -> impl Strategy<Value = f64> {
        prop_oneof![
            any::<f64>(),
            0.0..4.0,
            Just(f64::NAN),
            Just(f64::INFINITY),
            Just(f64::MIN)
        ]
    }

    fn outcome() -> impl Strategy<Value = Outcome> {
        let failure = Failure::coded("c", "why");
        let (f, g) = (failure.clone(), failure.clone());
        prop_oneof![
            Just(Outcome::Done),
            Just(Outcome::Reject {
                failure: failure.clone()
            }),
            Just(Outcome::Refused {
                failure: failure.clone()
            }),
            Just(Outcome::Trap { failure }),
            duration().prop_map(move |limit| Outcome::Timeout {
                limit,
                failure: f.clone()
            }),
            prop::option::of(duration()).prop_map(move |after| Outcome::Retry {
                failure: g.clone(),
                after
            }),
        ]
    }

    fn policy() -> impl Strategy<Value = RetryPolicy> {
        (0..6u32, duration(), number(), duration(), number()).prop_map(
            |(max_retries, delay, multiplier, max_delay, jitter)| RetryPolicy {
                max_retries,
                delay,
                multiplier,
                max_delay,
                jitter,
            },
        )
    }

    proptest! {
        #[test]
        fn bounded_and_never_panics(
            attempt: u32, delay in duration(), multiplier in number(), max_delay in duration(),
            jitter in number(), random in number(),
        ) {
            let policy = RetryPolicy { max_retries: u32::MAX, delay, multiplier, max_delay, jitter };
            let got = super::delay(attempt, &policy, random);
            let jitter = if jitter.is_nan() { 0.0 } else { jitter.clamp(0.0, 1.0) };
            // Relative rounding of f64.
            prop_assert!(got.as_secs_f64() <= max_delay.as_secs_f64() * (1.0 + jitter) * (1.0 + 1e-9) + 1e-9);
        }

        /// Only a failure that may pass is run again, and only as often as the policy allows; the reason is kept.
        #[test]
        fn a_verdict_follows_from_the_kind_of_outcome_and_the_count(
            outcome in outcome(), attempt in 1..9u32, policy in policy(), random in number(),
        ) {
            let verdict = decide(&outcome, attempt, &policy, random);
            let again = attempt <= policy.max_retries;
            match (&outcome, &verdict) {
                (Outcome::Done, Verdict::Acknowledge)
                | (Outcome::Reject { .. }, Verdict::DeadLetter { class: FailureClass::Rejected, .. })
                | (Outcome::Refused { .. }, Verdict::DeadLetter { class: FailureClass::Refused, .. }) => {}
                (Outcome::Retry { after: Some(after), .. }, Verdict::RetryAfter { delay, .. }) => {
                    prop_assert!(again);
                    prop_assert_eq!(*delay, (*after).min(LONGEST_AFTER), "what the handler asked for, without jitter");
                }
                (Outcome::Retry { .. } | Outcome::Trap { .. } | Outcome::Timeout { .. }, Verdict::RetryAfter { delay, .. }) => {
                    prop_assert!(again);
                    prop_assert_eq!(*delay, super::delay(attempt, &policy, random));
                }
                (Outcome::Retry { .. } | Outcome::Trap { .. } | Outcome::Timeout { .. }, Verdict::DeadLetter { class, .. }) => {
                    prop_assert!(!again);
                    prop_assert_eq!(*class, FailureClass::Exhausted);
                }
                _ => prop_assert!(false, "{outcome:?} became {verdict:?}"),
            }
            if let Verdict::RetryAfter { failure, .. } | Verdict::DeadLetter { failure, .. } = &verdict {
                prop_assert_eq!(Some(failure), outcome.failure());
            }
        }

        #[test]
        fn jitter_stays_within_its_share(
            attempt in 1..50u32, delay_ms in 1..100_000u64, multiplier in 1.0..4.0f64, max_ms in 1..100_000u64,
            jitter in 0.0..=1.0f64, random in 0.0..=1.0f64,
        ) {
            let steady = RetryPolicy {
                max_retries: 0,
                delay: Duration::from_millis(delay_ms),
                multiplier,
                max_delay: Duration::from_millis(max_ms),
                jitter: 0.0,
            };
            let middle = super::delay(attempt, &steady, random).as_secs_f64();
            let got = super::delay(attempt, &RetryPolicy { jitter, ..steady }, random).as_secs_f64();
            // Durations are whole nanoseconds.
            prop_assert!((got - middle).abs() <= middle * jitter + 2e-9, "{got} is not within {jitter} of {middle}");
        }

        #[test]
        fn grows_without_jitter(attempt in 1..10_000u32, delay in duration(), multiplier in number(), max_delay in duration()) {
            let policy = RetryPolicy { max_retries: 0, delay, multiplier, max_delay, jitter: 0.0 };
            prop_assert!(super::delay(attempt, &policy, 0.1) <= super::delay(attempt + 1, &policy, 0.9));
        }
    }
}
