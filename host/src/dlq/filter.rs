//! Which letters somebody means, from words: the parameters of the API, and of the command line through it. Pure.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::{FailureClass, LetterState, UnixMs};
use crate::store::{LetterFilter, SOUGHT, words_of};
use crate::telemetry::logs::printable;

/// Every word, with its meaning.
pub const WORDS: [(&str, &str); 10] = [
    ("route", "The route that gave up on it."),
    ("type", "The type of the message."),
    ("class", "What kind of failure."),
    (
        "state",
        "Without it all but `reprocessed` and `discarded`; `all` is every state.",
    ),
    ("destination", "The queue or topic that it came from."),
    ("digest", "The plugin version that ran last."),
    ("group", "`id` of a failure group."),
    (
        "since",
        "Last failure at that time or later: RFC 3339, or so long ago, like `-90m`.",
    ),
    ("until", "Last failure before that time, likewise."),
    (
        "text",
        "Words that are all in reason, code, message id or destination.",
    ),
];

/// Of all words but `text` and the times, which are short or looked through once.
const MAX_BYTES: usize = 1024;

/// A value that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}`, at character {at}: {why}", printable(name))]
pub struct Fault {
    pub name: String,
    /// Of the value; 1 is the first.
    pub at: usize,
    pub why: String,
}

impl Fault {
    pub fn new(name: &str, at: usize, why: impl Into<String>) -> Self {
        Self {
            name: name.chars().take(64).collect(),
            at,
            why: why.into(),
        }
    }
}

/// Without `state` only what nobody has dealt with yet. `queue` and `topic` are other words for `destination`.
///
/// # Errors
/// The first word that means nothing, and where in it.
pub fn read<'a>(
    words: impl IntoIterator<Item = (&'a str, &'a str)>,
    now: UnixMs,
) -> Result<LetterFilter, Fault> {
    let mut filter = LetterFilter::default();
    let mut said: Vec<&str> = Vec::new();
    let mut any_state = false;
    for (name, value) in words {
        let name = match name {
            "queue" | "topic" => "destination",
            name => name,
        };
        if said.contains(&name) {
            return Err(Fault::new(name, 1, "it is given twice"));
        }
        said.push(name);
        match name {
            "route" => filter.route = Some(text(name, value)?),
            "type" => filter.message_type = Some(text(name, value)?),
            "destination" => filter.destination = Some(text(name, value)?),
            "digest" => filter.digest = Some(digest(value)?),
            "group" => filter.group = Some(text(name, value)?),
            "class" => filter.class = Some(word(name, value, &FailureClass::ALL.map(FailureClass::as_str))?),
            "state" if value == "all" => any_state = true,
            "state" => {
                let mut known = LetterState::ALL.map(LetterState::as_str).to_vec();
                known.push("all");
                filter.state = Some(word(name, value, &known)?);
            }
            "since" => filter.since_ms = Some(time(name, value, now)?),
            "until" => filter.until_ms = Some(time(name, value, now)?),
            "text" => filter.text = Some(sought(name, value)?),
            unknown => {
                let known = WORDS.map(|(name, _)| name).join(", ");
                return Err(Fault::new(
                    unknown,
                    1,
                    format!("letters cannot be found by that, but by {known}"),
                ));
            }
        }
    }
    filter.open = filter.state.is_none() && !any_state;
    Ok(filter)
}

fn text(name: &str, value: &str) -> Result<String, Fault> {
    if value.is_empty() {
        return Err(Fault::new(name, 1, "it is empty; leave it out to find any"));
    }
    if value.len() > MAX_BYTES {
        let why = format!(
            "it has {} bytes, no such name has more than {MAX_BYTES}",
            value.len()
        );
        return Err(Fault::new(name, value.chars().count(), why));
    }
    Ok(value.to_owned())
}

/// At least one word, and not too many.
fn sought(name: &str, value: &str) -> Result<String, Fault> {
    let words = words_of([value]).len();
    if value.is_empty() {
        return Err(Fault::new(name, 1, "it is empty; leave it out to find any"));
    }
    if words == 0 {
        let why = "there is no word in it: letters are found by words of letters and digits";
        return Err(Fault::new(name, 1, why));
    }
    if words > SOUGHT {
        let why = format!("it has {words} words, {SOUGHT} at most are looked for");
        return Err(Fault::new(name, 1, why));
    }
    Ok(value.to_owned())
}

fn word<T: DeserializeOwned + Serialize>(name: &str, value: &str, known: &[&str]) -> Result<T, Fault> {
    serde_json::from_value(serde_json::Value::String(value.to_owned())).map_err(|_| {
        // Up to where it agrees with one of them.
        let common = |word: &&str| {
            word.chars()
                .zip(value.chars())
                .take_while(|(a, b)| a == b)
                .count()
        };
        let at = known.iter().map(common).max().unwrap_or_default() + 1;
        Fault::new(name, at, format!("it is none of {}", known.join(", ")))
    })
}

/// 64 hex digits, with or without what they are of.
fn digest(value: &str) -> Result<String, Fault> {
    const PREFIX: &str = "sha256:";
    let (before, hex) = match value.strip_prefix(PREFIX) {
        Some(hex) => (PREFIX.len(), hex),
        None => (0, value),
    };
    let wrong = hex.chars().position(|c| !matches!(c, '0'..='9' | 'a'..='f'));
    if wrong.is_some() || hex.len() != 64 {
        let at = before + wrong.unwrap_or(hex.len().min(64)) + 1;
        return Err(Fault::new(
            "digest",
            at,
            "a digest is `sha256:` and 64 hex digits, as `dlq show` has it",
        ));
    }
    Ok(format!("{PREFIX}{hex}"))
}

/// RFC 3339, or so long ago: `-90m`, `-1h`, `-2d`.
fn time(name: &str, value: &str, now: UnixMs) -> Result<UnixMs, Fault> {
    if let Some(ago) = value.strip_prefix('-') {
        return Ok(now.saturating_sub(span(name, ago)?));
    }
    let Ok(time) = value.parse::<jiff::Timestamp>() else {
        let why = "a time is RFC 3339, like `2026-11-27T18:00:00Z`, or so long ago, like `-90m`, `-1h`, `-2d`; \
                   a `+` in a URL is written `%2B`";
        return Err(Fault::new(name, not_a_time(value), why));
    };
    Ok(u64::try_from(time.as_millisecond()).unwrap_or_default())
}

fn span(name: &str, text: &str) -> Result<u64, Fault> {
    let digits = text.chars().take_while(char::is_ascii_digit).count();
    // The minus is the first character.
    let wrong = |at: usize| {
        let why = "so long ago is a whole number and s, m, h, d or w, like `-90m`";
        Err(Fault::new(name, at + 2, why))
    };
    let (number, unit) = text.split_at(digits);
    let unit_ms: u64 = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "w" => 604_800_000,
        _ if digits > 0 && unit.chars().count() > 1 && "smhdw".contains(unit.get(..1).unwrap_or("?")) => {
            return wrong(digits + 1);
        }
        _ => return wrong(digits),
    };
    match number.parse::<u64>() {
        Ok(number) => Ok(number.saturating_mul(unit_ms)),
        Err(_) => wrong(0),
    }
}

/// Where a text stops to look like a time; its beginning when it looks like one that does not exist.
fn not_a_time(value: &str) -> usize {
    const SHAPE: &str = "0000-00-00T00:00:00";
    let same = |(shape, c): &(char, char)| match shape {
        '0' => c.is_ascii_digit(),
        'T' => matches!(c, 'T' | 't' | ' '),
        other => c == other,
    };
    let good = SHAPE.chars().zip(value.chars()).take_while(same).count();
    let ending: String = value.chars().skip(good).collect();
    let stray = ending
        .chars()
        .position(|c| !matches!(c, '0'..='9' | '.' | ':' | '+' | '-' | 'Z' | 'z'));
    match stray {
        _ if good < SHAPE.len() => good + 1,
        Some(stray) => good + stray + 1,
        // No zone.
        None if ending.is_empty() => good + 1,
        None => 1,
    }
}

#[cfg(test)]
mod tests;
