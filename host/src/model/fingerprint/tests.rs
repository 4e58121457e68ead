//! What failed alike has one fingerprint, what failed otherwise another.

#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::raw::Properties;
use crate::model::{FailureClass, Headers, LetterState, MessageKind, Origin, RawMessage};

fn letter(reason: &str) -> DeadLetter {
    DeadLetter {
        id: "a".into(),
        raw: RawMessage {
            origin: Origin {
                broker: "b".into(),
                kind: MessageKind::Task,
                destination: "q".into(),
                partition: None,
                offset: None,
            },
            body: Some(Bytes::new()),
            key: None,
            headers: Headers::new(),
            props: Properties::default(),
            timestamp_ms: None,
            redelivered: false,
        },
        message_id: None,
        message_type: None,
        route: Some("r".into()),
        plugin: None,
        digest: Some("sha256:1".into()),
        class: FailureClass::Rejected,
        reason: reason.into(),
        code: Some("c".into()),
        attempts: Vec::new(),
        first_failure_ms: 0,
        last_failure_ms: 0,
        trace_id: None,
        state: LetterState::Dead,
        reprocessed: 0,
    }
}

#[test]
fn what_differs_each_time_is_left_out() {
    for (text, wanted) in [
        ("order 17 is unknown", "order # is unknown"),
        ("took 1204 ms, at 0x7ffe01", "took # ms, at #"),
        ("no user `ann`", "no user `…`"),
        ("field \"a b\" is 'x'", "field \"…\" is '…'"),
        ("don't do that, it isn't 'so'", "don't do that, it isn't '…'"),
        ("id 01a20a64-97d7-7313-82aa-f118c5aba7dc is gone", "id # is gone"),
        ("commit deadbee5 and facade", "commit # and facade"),
        (
            "unreachable, in app::run::h0123456789abcdef ← main",
            "unreachable, in app::run::# ← main",
        ),
        ("/var/data/2026/part7.json", "/var/data/#/part#.json"),
        ("a  b\n\tc ", "a b c"),
        ("an open \" quote and a 'b", "an open \" quote and a 'b"),
        ("token 01ARZ3NDEKTSV4RRFFQ69G5FAV", "token #"),
        ("größer als 5 €", "größer als # €"),
        ("", ""),
    ] {
        assert_eq!(normal(text), wanted, "{text}");
    }
}

#[test]
fn each_part_counts() {
    let base = letter("order 1");
    let of = |change: fn(&mut DeadLetter)| {
        let mut other = base.clone();
        change(&mut other);
        Fingerprint::of(&other)
    };
    let print = Fingerprint::of(&base);
    assert_eq!(print, of(|l| l.reason = "order 22".into()));
    for other in [
        of(|l| l.route = None),
        of(|l| l.class = FailureClass::Exhausted),
        of(|l| l.code = None),
        of(|l| l.reason = "something else".into()),
    ] {
        assert_ne!(print.group, other.group);
        assert_ne!(print.failure, other.failure);
    }
    let newer = of(|l| l.digest = Some("sha256:2".into()));
    assert_ne!(print.group, newer.group);
    assert_eq!(print.failure, newer.failure, "an older version had it as well");
    // What moves from one part into its neighbour is another failure.
    let moved = of(|l| {
        l.route = Some("rrejected".into());
        l.code = Some(String::new());
    });
    assert_ne!(print.failure, moved.failure);
}

proptest! {
    #[test]
    fn a_normal_text_stays_what_it_is(text in any::<String>()) {
        let once = normal(&text);
        prop_assert_eq!(normal(&once), once);
    }

    #[test]
    fn numbers_ids_and_hashes_never_tell_two_apart(
        parts in prop::collection::vec(("[ ,:][a-z ]{0,8}[ ,:]", any::<u64>(), any::<u64>(), any::<u128>()), 1..6),
    ) {
        let said = |which: fn(&(String, u64, u64, u128)) -> String| -> String { parts.iter().map(which).collect() };
        let first = said(|(text, n, _, id)| format!("{text}{n} in {:#x} of {}", n, uuid::Uuid::from_u128(*id)));
        let second = said(|(text, _, m, id)| format!("{text}{m} in {:#x} of {}", m, uuid::Uuid::from_u128(!*id)));
        prop_assert_eq!(normal(&first), normal(&second));
    }

    #[test]
    fn words_tell_apart(a in "[a-z]{1,7}", b in "[a-z]{1,7}") {
        prop_assume!(a != b);
        prop_assert_ne!(
            Fingerprint::of(&letter(&format!("no {a} here"))).group,
            Fingerprint::of(&letter(&format!("no {b} here"))).group
        );
    }
}
