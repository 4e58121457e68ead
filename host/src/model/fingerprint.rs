//! Which dead letters failed alike: a hash over route, class, code, the message without what differs each time, and the
//! plugin version. Pure.

use sha2::{Digest as _, Sha256};

use super::DeadLetter;

/// Characters of the message that are kept to be shown; the hash is over all of it.
const SHOWN: usize = 300;
/// Hex digits of an id: 64 bits, so that among a million groups two share one with a chance of 3 in 10⁸.
const DIGITS: usize = 16;
/// A run of letters and digits this long that has a digit in it is somebody's id.
const ID: usize = 16;
/// Hex of this length that has a digit in it is a hash, an address or an id.
const HEX: usize = 8;
/// Stands for a number, an id or a hash.
const ANY: char = '#';
/// Stands for what was in quotes.
const QUOTED: char = '…';

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// The group: route, class, code, message and plugin version.
    pub group: String,
    /// The same without the plugin version, so that a failure is known again that an older version had.
    pub failure: String,
    /// What the members have in common, cut to be shown.
    pub message: String,
}

impl Fingerprint {
    pub fn of(letter: &DeadLetter) -> Self {
        let message = normal(&letter.reason);
        let failure = [
            letter.route.as_deref(),
            Some(letter.class.as_str()),
            letter.code.as_deref(),
            Some(&message),
        ];
        let group: Vec<_> = failure
            .iter()
            .copied()
            .chain([letter.digest.as_deref()])
            .collect();
        Self {
            group: hash(&group),
            failure: hash(&failure),
            message: message.chars().take(SHOWN).collect(),
        }
    }
}

/// Each part with its length, so that no two lists of parts are the same bytes.
fn hash(parts: &[Option<&str>]) -> String {
    use std::fmt::Write;
    let mut sha = Sha256::new();
    for part in parts {
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        sha.update(length.to_be_bytes());
        sha.update(part.unwrap_or_default());
    }
    let mut out = String::with_capacity(64);
    for byte in sha.finalize() {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out.truncate(DIGITS);
    out
}

/// The message without numbers, ids, hashes, and what stands in quotes. Normal text stays as it is.
pub fn normal(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.trim();
    let mut before = None;
    while let Some(next) = rest.chars().next() {
        let length = if next.is_whitespace() {
            out.push(' ');
            run(rest, char::is_whitespace)
        } else if let Some(length) = quoted(next, rest, before) {
            out.extend([next, QUOTED, next]);
            length
        } else if next.is_ascii_alphanumeric() {
            word(rest, &mut out)
        } else {
            out.push(next);
            next.len_utf8()
        };
        let (taken, left) = rest.split_at(length);
        before = taken.chars().next_back();
        rest = left;
    }
    out
}

/// Bytes of the text up to where the first character is that is not so.
fn run(text: &str, so: impl Fn(char) -> bool) -> usize {
    text.find(|c: char| !so(c)).unwrap_or(text.len())
}

/// The length of what is in quotes here, with them. An apostrophe inside a word opens none, and quotes end on their line.
fn quoted(quote: char, text: &str, before: Option<char>) -> Option<usize> {
    if !matches!(quote, '"' | '`' | '\'') {
        return None;
    }
    let single = quote == '\'';
    if single && before.is_some_and(in_word) {
        return None;
    }
    let inside = text.get(1..)?;
    for (at, found) in inside.match_indices([quote, '\n']) {
        if found == "\n" {
            return None;
        }
        let end = at + 1;
        let after = inside.get(end..).and_then(|after| after.chars().next());
        if !(single && after.is_some_and(in_word)) {
            return Some(end + 1);
        }
    }
    None
}

/// What stands for digits counts as well, so that a text that was made normal is read the same way again.
fn in_word(c: char) -> bool {
    c.is_alphanumeric() || c == ANY
}

/// Writes one word as it is compared; its length in the text.
fn word(text: &str, out: &mut String) -> usize {
    if let Some(length) = uuid(text) {
        out.push(ANY);
        return length;
    }
    let length = run(text, |c| c.is_ascii_alphanumeric());
    let word = text.get(..length).unwrap_or(text);
    let has_digit = word.bytes().any(|b| b.is_ascii_digit());
    let hex = word.strip_prefix("0x").unwrap_or(word);
    let is_hex = hex.bytes().all(|b| b.is_ascii_hexdigit()) && (hex.len() >= HEX || hex.len() < length);
    if has_digit && (length >= ID || is_hex) {
        out.push(ANY);
        return length;
    }
    let mut rest = word;
    while let Some(next) = rest.chars().next() {
        let digits = next.is_ascii_digit();
        let (same, left) = rest.split_at(run(rest, |c| c.is_ascii_digit() == digits));
        if digits {
            out.push(ANY);
        } else {
            out.push_str(same);
        }
        rest = left;
    }
    length
}

/// 8-4-4-4-12 hex digits, and no more of them.
fn uuid(text: &str) -> Option<usize> {
    const LENGTH: usize = 36;
    let candidate = text.as_bytes().get(..LENGTH)?;
    let shape = candidate.iter().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    });
    let ends = !text.as_bytes().get(LENGTH).is_some_and(u8::is_ascii_alphanumeric);
    (shape && ends).then_some(LENGTH)
}

#[cfg(test)]
mod tests;
