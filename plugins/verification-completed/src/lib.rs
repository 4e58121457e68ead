//! Events `verification.completed` of `helixagent.events.verification.results`, many at a time: adds up the scores, and
//! publishes a task `notification` to `helixagent.tasks.notifications` for each verification that failed.
//!
//! ```toml
//! [plugins.verification-completed]
//! publish = ["helixagent.tasks.notifications"]
//! ```
//!
//! Rejected: JSON that is no result (`payload.invalid`), a score outside 0..=1 (`score.invalid`). The others of the batch
//! go on: each notification belongs to its own event, and is sent when that event is done.

use helix_sdk::prelude::*;

const NOTIFICATIONS: &str = "helixagent.tasks.notifications";
const PASS: f64 = 0.5;

#[derive(Deserialize)]
struct Completed {
    verification_id: String,
    provider: Option<String>,
    score: f64,
    /// What the verifier decided; by the score when it did not.
    passed: Option<bool>,
}

#[derive(Serialize)]
struct Notification<'a> {
    channel: &'a str,
    subject: &'a str,
    text: String,
}

/// What a batch came to, for the log.
#[derive(Debug, Default, PartialEq)]
struct Summary {
    count: u32,
    passed: u32,
    total: f64,
}

impl Summary {
    fn add(&mut self, score: f64, passed: bool) {
        self.count += 1;
        self.passed += u32::from(passed);
        self.total += score;
    }

    fn mean(&self) -> f64 {
        if self.count == 0 {
            0.0
        } else {
            self.total / f64::from(self.count)
        }
    }
}

#[helix_sdk::event_batch]
fn handle(events: Batch<Event<Completed>>) -> Vec<Handled> {
    let mut summary = Summary::default();
    let results = events.each(|event| score(event, &mut summary));
    println!(
        "{} verifications, {} passed, mean score {:.3}",
        summary.count,
        summary.passed,
        summary.mean()
    );
    results
}

fn score(event: &Event<Completed>, summary: &mut Summary) -> Handled {
    let completed = &event.data;
    if !(0.0..=1.0).contains(&completed.score) {
        return Err(reject(format_args!("score {} is not in 0..=1", completed.score)).code("score.invalid"));
    }
    let passed = completed.passed.unwrap_or(completed.score >= PASS);
    summary.add(completed.score, passed);
    if !passed {
        notify(completed)?;
    }
    Ok(())
}

/// Belongs to the event at hand: `Batch::each` sees to it.
fn notify(completed: &Completed) -> Result<(), Failure> {
    let provider = completed.provider.as_deref().unwrap_or("unknown");
    publish::task("notification")
        .queue(NOTIFICATIONS)
        .priority(3)
        .key(completed.verification_id.as_str())
        .json(&Notification {
            channel: "log",
            subject: "verification failed",
            text: format!(
                "{} scored {:.2} (provider {provider})",
                completed.verification_id, completed.score
            ),
        })?
        .send()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use helix_sdk::testing::{Message, event, run_batch};
    use serde_json::{Value, json};

    use super::*;

    fn completed(id: &str, score: f64) -> Message {
        event("verification.completed")
            .id(id)
            .json(&json!({ "verification_id": id, "score": score }))
    }

    #[test]
    fn notifies_about_the_failed_ones_only() {
        let report = run_batch::<handle>([completed("a", 0.9), completed("b", 0.2), completed("c", 0.5)]);
        assert_eq!(report.results, [Ok(()), Ok(()), Ok(())]);
        let [task] = &report.tasks[..] else {
            panic!("{report:?}")
        };
        assert_eq!(
            (task.queue.as_deref(), task.input),
            (Some(NOTIFICATIONS), Some(1))
        );
        let body: Value = serde_json::from_slice(&task.payload).unwrap();
        assert_eq!(body["text"], "b scored 0.20 (provider unknown)");
    }

    #[test]
    fn a_bad_event_costs_only_itself_and_shifts_nothing() {
        let no_json = event("verification.completed").payload("{");
        let report = run_batch::<handle>([no_json, completed("b", 7.0), completed("c", 0.1)]);
        let codes: Vec<_> = report
            .results
            .iter()
            .map(|result| result.as_ref().err().and_then(|failure| failure.code_str()))
            .collect();
        assert_eq!(codes, [Some("payload.invalid"), Some("score.invalid"), None]);
        assert_eq!(report.tasks.len(), 1);
        assert_eq!(report.tasks[0].input, Some(2));
    }

    #[test]
    fn the_verifier_knows_better_than_the_score() {
        let body = json!({ "verification_id": "a", "score": 0.9, "passed": false, "provider": "p" });
        let report = run_batch::<handle>([event("verification.completed").json(&body)]);
        assert_eq!(report.tasks.len(), 1);
    }

    #[test]
    fn the_summary_adds_up() {
        let mut summary = Summary::default();
        assert_eq!(summary.mean(), 0.0);
        summary.add(1.0, true);
        summary.add(0.5, false);
        assert_eq!((summary.count, summary.passed, summary.mean()), (2, 1, 0.75));
    }
}
