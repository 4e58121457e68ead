//! Was each message handled or given up on, and nothing else?

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use super::{Fate, KILLS, MESSAGES, fate, id};

/// What a handler reported.
#[derive(Debug, Clone)]
pub struct Report {
    /// The id of the report itself: the same when a message is handled twice.
    pub event: String,
    /// The message that was handled.
    pub id: String,
    pub attempt: u64,
}

impl Report {
    /// From the flat JSON that the host publishes by default.
    pub fn parse(body: &[u8]) -> Self {
        let event: Value = serde_json::from_slice(body).expect("a report is JSON");
        let text = |value: &Value| {
            value
                .as_str()
                .unwrap_or_else(|| panic!("no report: {event}"))
                .to_owned()
        };
        Self {
            event: text(&event["id"]),
            id: text(&event["data"]["id"]),
            attempt: event["data"]["attempt"].as_u64().expect("an attempt"),
        }
    }
}

/// A run as its observers saw it.
pub struct Run {
    pub broker: &'static str,
    pub seed: u64,
    pub reports: Vec<Report>,
    /// Message id and class of each dead letter.
    pub letters: Vec<(String, String)>,
    /// Messages that a client published again because nobody had answered.
    pub resent: BTreeSet<String>,
    /// What one kill may repeat at most.
    pub repeats: usize,
    pub took: Duration,
}

/// Every message ended once: handled, or a dead letter. More than once only where a kill explains it.
#[allow(
    clippy::print_stdout,
    reason = "the count of duplicates is part of the result"
)]
pub fn check(run: &Run) {
    let mut handled: BTreeMap<&str, Vec<&Report>> = BTreeMap::new();
    for report in &run.reports {
        handled.entry(&report.id).or_default().push(report);
    }
    let mut dead: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (id, class) in &run.letters {
        dead.entry(id).or_default().push(class);
    }
    let again = |n: usize| n.saturating_sub(1);
    let duplicates: usize = handled.values().map(|r| again(r.len())).sum();
    let duplicate_letters: usize = dead.values().map(|l| again(l.len())).sum();
    println!(
        "{}: {MESSAGES} messages, {KILLS} kills, {} handled, {} dead, {} duplicates ({} of them in the DLQ), {} published again, {:.1} s, seed {}",
        run.broker,
        handled.len(),
        dead.len(),
        duplicates + duplicate_letters,
        duplicate_letters,
        run.resent.len(),
        run.took.as_secs_f64(),
        run.seed,
    );
    let mut wrong = Vec::new();
    for n in 0..MESSAGES {
        let id = id(n);
        let reports = handled.remove(id.as_str()).unwrap_or_default();
        let letters = dead.remove(id.as_str()).unwrap_or_default();
        let attempt = if fate(n) == Fate::HandledAfterRetry { 2 } else { 1 };
        let as_it_should = match fate(n) {
            Fate::Dead => {
                reports.is_empty() && !letters.is_empty() && letters.iter().all(|c| *c == "rejected")
            }
            Fate::Handled | Fate::HandledAfterRetry => {
                !reports.is_empty() && letters.is_empty() && reports.iter().all(|r| r.attempt == attempt)
            }
        };
        let recognisable = reports
            .windows(2)
            .all(|pair| matches!(pair, [a, b] if a.event == b.event));
        // The id of a letter is made from the message, so a delivery that is repeated writes the same one.
        let one_letter = letters.len() <= 1 || run.resent.contains(&id);
        if !as_it_should || !recognisable || !one_letter {
            wrong.push(format!(
                "{id} ({:?}): reports {reports:?}, letters {letters:?}",
                fate(n)
            ));
        }
    }
    wrong.extend(
        handled
            .keys()
            .map(|id| format!("{id}: handled, and nobody sent it")),
    );
    wrong.extend(
        dead.keys()
            .map(|id| format!("{id}: a dead letter, and nobody sent it")),
    );
    let some: Vec<&String> = wrong.iter().take(10).collect();
    assert!(
        wrong.is_empty(),
        "{}, seed {}: {} wrong, as {some:#?}",
        run.broker,
        run.seed,
        wrong.len()
    );
    let explained = KILLS * run.repeats + run.resent.len();
    assert!(
        duplicates <= explained,
        "{}: {duplicates} duplicates, at most {explained} have a cause",
        run.broker
    );
}
