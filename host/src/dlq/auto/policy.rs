//! What the host does with a dead letter by itself: send it now, later, not any more, or not at all. Pure.

use sha2::{Digest, Sha256};

use crate::config::valid::{AutoPolicy, DlqAuto, OnExhausted};
use crate::dlq::redrive::GUARD;
use crate::model::UnixMs;
use crate::model::clock::duration_ms;
use crate::retry::delay;
use crate::store::{Candidate, Progress, Step};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// So far the host is with it then, whatever becomes of it.
    Send(Progress),
    Settle(Step),
}

/// `policies` are those of `settings`, see [`policies()`].
pub fn decide(settings: &DlqAuto, policies: &str, letter: &Candidate, now: UnixMs) -> Decision {
    let Some(policy) = policy_of(settings, letter.message_type.as_deref()) else {
        let policies = policies.to_owned();
        return Decision::Settle(Step::Leave { policies });
    };
    let Progress { attempts, due_ms } = letter.progress;
    if attempts >= policy.retry.max_retries {
        return Decision::Settle(ended(
            policy,
            format!("the host tried {attempts} times (dlq.auto max_retries)"),
        ));
    }
    if letter.reprocessed >= GUARD {
        return Decision::Settle(ended(
            policy,
            format!(
                "it was sent again {} times and failed each time",
                letter.reprocessed
            ),
        ));
    }
    // What failed in the future was written by a clock that was set back since: nobody waits for that.
    let rested = match letter.last_failure_ms {
        failed if failed <= now => failed.saturating_add(wait(policy, attempts + 1)),
        _ => 0,
    };
    let due_ms = due_ms.max(rested);
    if due_ms > now {
        return Decision::Settle(Step::Set(Progress { attempts, due_ms }));
    }
    Decision::Send(Progress {
        attempts: attempts + 1,
        due_ms: now.saturating_add(wait(policy, attempts + 2)),
    })
}

/// The most specific one that takes the type; none when it says never.
pub fn policy_of<'a>(settings: &'a DlqAuto, message_type: Option<&str>) -> Option<&'a AutoPolicy> {
    let message_type = message_type.unwrap_or_default();
    settings
        .types
        .iter()
        .find(|(pattern, _)| pattern.matches(message_type))
        .map_or(Some(&settings.policy), |(_, policy)| policy.as_ref())
}

/// Which types are left alone, in few characters: letters that were left under others are decided anew.
pub fn policies(settings: &DlqAuto) -> String {
    let mut hash = Sha256::new();
    for (pattern, policy) in &settings.types {
        hash.update(pattern.0.as_bytes());
        // In no pattern that is UTF-8.
        hash.update([0xff, u8::from(policy.is_some())]);
    }
    hash.finalize()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Before that attempt, 1 for the first.
fn wait(policy: &AutoPolicy, attempt: u32) -> u64 {
    duration_ms(delay(attempt, &policy.retry, 0.5))
}

fn ended(policy: &AutoPolicy, why: String) -> Step {
    match policy.on_exhausted {
        OnExhausted::Archive => Step::Archive { why },
        OnExhausted::Discard => Step::Discard { why },
    }
}

#[cfg(test)]
mod tests;
