//! What was sent, what came of it, and whether the two agree.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::Swap;
use super::host::Host;
use crate::http;

/// Publishes one message; only 202 (it is on disk) counts.
pub fn post(address: &str, path: &str, kind: &str, payload: &Value) -> Result<()> {
    let (status, body) = http::request(
        "POST",
        address,
        path,
        Some(&json!({ "type": kind, "payload": payload })),
    )?;
    ensure!(status == 202, "{path} answered {status}: {body}");
    Ok(())
}

/// Accepted messages by type.
#[derive(Default)]
pub struct Tally(BTreeMap<String, u64>);

impl Tally {
    pub fn send(&mut self, address: &str, path: &str, kind: &str, payload: &Value) -> Result<()> {
        post(address, path, kind, payload)?;
        self.add(kind, 1);
        Ok(())
    }

    pub fn add(&mut self, kind: &str, number: u64) {
        *self.0.entry(kind.to_owned()).or_default() += number;
    }
}

/// What the host says, by type.
#[derive(Default)]
pub struct Counts {
    handled: BTreeMap<String, u64>,
    retried: BTreeMap<String, u64>,
    dead: BTreeMap<String, u64>,
}

impl Counts {
    pub fn read(host: &Host) -> Result<Self> {
        let types = types_of_routes(&serde_json::from_str(
            &host.helix(&["routes", "--output", "json"])?,
        )?);
        let (status, metrics) = http::request("GET", &host.address, "/metrics", None)?;
        ensure!(status == 200, "/metrics answered {status}");
        let mut counts = Self::default();
        for line in metrics.lines() {
            let Some((name, labels, value)) = sample(line) else {
                continue;
            };
            let Some(kind) = label(labels, "route").and_then(|route| types.get(route)) else {
                continue;
            };
            match name {
                "messaging_outcomes_total" if label(labels, "outcome") == Some("done") => {
                    *counts.handled.entry(kind.clone()).or_default() += value;
                }
                "messaging_retries_total" => *counts.retried.entry(kind.clone()).or_default() += value,
                _ => {}
            }
        }
        let letters = http::json(&host.address, "/v1/messaging/dlq?limit=1000")?;
        for letter in letters
            .get("messages")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let kind = letter.get("type").and_then(Value::as_str).unwrap_or("(none)");
            *counts.dead.entry(kind.to_owned()).or_default() += 1;
        }
        Ok(counts)
    }

    pub fn handled(&self, kind: &str) -> u64 {
        self.handled.get(kind).copied().unwrap_or_default()
    }

    /// True when every accepted message is handled or dead.
    pub fn finished(&self, tally: &Tally) -> bool {
        tally
            .0
            .iter()
            .all(|(kind, sent)| self.handled(kind) + number(&self.dead, kind) >= *sent)
    }
}

fn number(of: &BTreeMap<String, u64>, kind: &str) -> u64 {
    of.get(kind).copied().unwrap_or_default()
}

/// Route name → type. The route of notifications takes every type of its queue; the demo sends one.
fn types_of_routes(routes: &Value) -> BTreeMap<String, String> {
    let word = |route: &Value, key: &str| {
        route
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let of = |route: &Value| match word(route, "type") {
        any if any == "*" => "notification".to_owned(),
        kind => kind,
    };
    routes
        .as_array()
        .into_iter()
        .flatten()
        .map(|route| (word(route, "name"), of(route)))
        .collect()
}

/// `name{labels} value` of the Prometheus text format.
fn sample(line: &str) -> Option<(&str, &str, u64)> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{')?;
    Some((name, labels.trim_end_matches('}'), value.parse().ok()?))
}

fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let after = labels.split_once(&format!("{name}=\""))?.1;
    after.split_once('"').map(|(value, _)| value)
}

/// Prints the page; true when nothing is missing.
pub fn print(tally: &Tally, counts: &Counts, swap: &Swap, letters: &str) -> bool {
    println!(
        "\n  {:<24} {:>8} {:>8} {:>8} {:>8} {:>8}",
        "type", "accepted", "handled", "retried", "dead", "lost"
    );
    let mut lost_in_all = 0;
    for (kind, sent) in &tally.0 {
        let (handled, dead) = (counts.handled(kind), number(&counts.dead, kind));
        let lost = sent.saturating_sub(handled + dead);
        lost_in_all += lost;
        let retried = number(&counts.retried, kind);
        println!("  {kind:<24} {sent:>8} {handled:>8} {retried:>8} {dead:>8} {lost:>8}");
    }
    let by_new = counts.handled("llm.request").saturating_sub(swap.handled_by_old);
    println!(
        "\n  {} was replaced under traffic, {:.1} s after the file was renamed into place:",
        swap.plugin, swap.seconds
    );
    println!("    {}  finished {}", short(&swap.old), swap.handled_by_old);
    println!("    {}  finished {by_new}", short(&swap.new));
    println!("    {lost_in_all} messages lost");
    println!("\n  $ helix dlq ls");
    for line in letters.lines() {
        println!("  {line}");
    }
    lost_in_all == 0
}

fn short(digest: &str) -> String {
    let hex = digest.rsplit_once(':').map_or(digest, |(_, hex)| hex);
    hex.chars().take(12).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn reads_samples_and_labels() {
        let line = r#"messaging_outcomes_total{outcome="done",route="q:t"} 42"#;
        let (name, labels, value) = sample(line).unwrap();
        assert_eq!((name, value), ("messaging_outcomes_total", 42));
        assert_eq!(
            (label(labels, "route"), label(labels, "outcome")),
            (Some("q:t"), Some("done"))
        );
        assert!(sample("# HELP messaging_outcomes_total What handlers said").is_none());
    }

    #[test]
    fn a_message_nobody_accounts_for_is_noticed() {
        let mut tally = Tally::default();
        tally.add("a", 3);
        let mut counts = Counts::default();
        counts.handled.insert("a".into(), 2);
        assert!(!counts.finished(&tally));
        counts.dead.insert("a".into(), 1);
        assert!(counts.finished(&tally));
    }
}
