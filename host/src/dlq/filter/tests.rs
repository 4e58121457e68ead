//! What is said is meant, and what means nothing says where.

#![allow(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;

const NOW: UnixMs = 1_795_000_000_000;

fn fault(name: &str, value: &str) -> (usize, String) {
    let fault = read([(name, value)], NOW).unwrap_err();
    assert_eq!(fault.name, name);
    (fault.at, fault.to_string())
}

#[test]
fn words_become_a_filter() {
    let hex = "ab".repeat(32);
    let filter = read(
        [
            ("route", "r"),
            ("type", "t"),
            ("class", "too-large"),
            ("state", "dead"),
            ("queue", "q"),
            ("digest", hex.as_str()),
            ("group", "g"),
            ("since", "-90m"),
            ("until", "2026-11-18T10:26:40.5+00:00"),
            ("text", "50% ☃"),
        ],
        NOW,
    );
    assert_eq!(
        filter.unwrap(),
        LetterFilter {
            route: Some("r".into()),
            message_type: Some("t".into()),
            class: Some(FailureClass::TooLarge),
            state: Some(LetterState::Dead),
            open: false,
            destination: Some("q".into()),
            digest: Some(format!("sha256:{hex}")),
            group: Some("g".into()),
            since_ms: Some(NOW - 90 * 60_000),
            until_ms: Some(1_794_997_600_500),
            text: Some("50% ☃".into()),
        }
    );
    let none = read([], NOW).unwrap();
    assert!(none.open && none.state.is_none());
    let all = read([("state", "all")], NOW).unwrap();
    assert!(!all.open && all.state.is_none());
}

#[test]
fn what_means_nothing_says_which_and_where() {
    for (name, value, at) in [
        ("class", "rejecter", 8),
        ("class", "", 1),
        ("state", "deed", 3),
        ("since", "yesterday", 1),
        ("since", "2026-13", 8),
        ("since", "2026-13-01T00:00:00Z", 1),
        ("since", "2026-11-18T10:26:40", 20),
        ("since", "2026-11-18T10:26:40 01:00", 20),
        ("until", "-", 2),
        ("until", "-1", 3),
        ("until", "-1y", 3),
        ("until", "-1hour", 4),
        ("until", "-h", 2),
        ("until", "-99999999999999999999h", 2),
        ("digest", "sha256:xy", 8),
        ("digest", "abc", 4),
        ("route", "", 1),
        ("limits", "5", 1),
        ("text", "", 1),
        ("text", "% ☃", 1),
        ("text", "a b c d e f g h i j k l m n o p q", 1),
    ] {
        let (found, text) = fault(name, value);
        assert_eq!(found, at, "{name}={value}: {text}");
        assert!(text.contains(&format!("`{name}`")), "{text}");
    }
    assert!(read([("queue", "a"), ("topic", "b")], NOW).is_err(), "twice");
    assert!(!fault("a\u{1b}[2J", "x").1.contains('\u{1b}'));
}

proptest! {
    #[test]
    fn no_word_panics(name in prop::sample::select(WORDS.map(|(name, _)| name).to_vec()), value in any::<String>()) {
        if let Err(fault) = read([(name, value.as_str())], NOW) {
            prop_assert!(fault.at >= 1 && fault.at <= value.chars().count() + 1, "{}", fault);
        }
    }

    #[test]
    fn so_long_ago_is_before_now(n in any::<u64>(), unit in prop::sample::select(vec!["s", "m", "h", "d", "w"])) {
        let value = format!("-{n}{unit}");
        let filter = read([("since", value.as_str())], NOW).unwrap();
        prop_assert!(filter.since_ms.unwrap() <= NOW);
    }
}
