//! A task goes back as it was, an event never into its topic, and nothing is sent that could not run.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::model::raw::Properties;
use crate::model::{FailureClass, LetterState, Origin};

const NOW: UnixMs = 1_700_000_000_000;

fn letter(kind: MessageKind, raw: RawMessage, route: Option<&str>, reprocessed: u32) -> DeadLetter {
    DeadLetter {
        id: "letter-1".into(),
        raw: RawMessage {
            origin: Origin {
                kind,
                // Queues have none.
                partition: raw.origin.partition.filter(|_| kind == MessageKind::Event),
                ..raw.origin.clone()
            },
            ..raw
        },
        message_id: None,
        message_type: None,
        route: route.map(str::to_owned),
        plugin: None,
        digest: None,
        class: FailureClass::Rejected,
        reason: "no".into(),
        code: None,
        attempts: Vec::new(),
        first_failure_ms: 1,
        last_failure_ms: 2,
        trace_id: None,
        state: LetterState::Dead,
        reprocessed,
    }
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..60).prop_map(Bytes::from)
}

prop_compose! {
    fn any_message()(
        (partition, offset) in any::<(Option<u32>, Option<u64>)>(),
        (body, key) in (of(bytes()), of(bytes())),
        headers in vec(("[a-z-]{1,8}", bytes()), 0..5),
        (content_type, message_type, message_id) in (of(".{0,8}"), of(".{0,8}"), of(".{0,8}")),
        (correlation_id, reply_to) in (of(".{0,8}"), of(".{0,8}")),
        (priority, timestamp_ms, redelivered) in any::<(Option<u8>, Option<u64>, bool)>(),
        before in any::<bool>(),
    ) -> RawMessage {
        let mut raw = RawMessage {
            origin: Origin { broker: "b".into(), kind: MessageKind::Task, destination: "d".into(), partition, offset },
            body,
            key,
            headers: headers.into_iter().collect(),
            props: Properties { content_type, message_type, message_id, correlation_id, reply_to, priority, expires_ms: None },
            timestamp_ms,
            redelivered,
        };
        if before {
            // Of the life before.
            raw.headers.push("Helix-Letter", "letter-0");
            raw.headers.push("helix-reprocessed", "1");
        }
        raw
    }
}

fn without_stamps(raw: &RawMessage) -> RawMessage {
    let mut raw = raw.clone();
    raw.headers.remove(header::LETTER);
    raw.headers.remove(header::REPROCESSED);
    raw
}

proptest! {
    #[test]
    fn a_task_goes_back_byte_for_byte_under_its_stamps(raw in any_message(), times in any::<u32>(), route in of("[a-z]{1,4}")) {
        let letter = letter(MessageKind::Task, raw, route.as_deref(), times);
        // A deadline that a random message happens to carry is another test's.
        let Ok(Plan::Queue(sent)) = plan(&letter, |_| false, NOW) else {
            prop_assert!(decode::decode(&letter.raw, "", NOW).is_ok_and(|e| e.deadline_ms.is_some()));
            return Ok(());
        };
        prop_assert_eq!(without_stamps(&sent), without_stamps(&letter.raw));
        prop_assert_eq!(sent.headers.text(header::LETTER), Some("letter-1"));
        prop_assert_eq!(sent.reprocessed(), times.saturating_add(1));
        let stamps = sent.headers.iter().filter(|(name, _)| name.to_lowercase().starts_with("helix-")).count();
        prop_assert_eq!(stamps, 2, "each once");
    }

    #[test]
    fn an_event_goes_to_its_route_or_nowhere(raw in any_message(), times in 0..9u32, route in of("[a-z]{1,4}"), there in any::<bool>()) {
        let letter = letter(MessageKind::Event, raw, route.as_deref(), times);
        match plan(&letter, |_| there, NOW) {
            Ok(Plan::Queue(_)) => prop_assert!(false, "it would be in its topic twice"),
            Ok(Plan::Route(row)) => {
                prop_assert!(there);
                prop_assert_eq!(Some(row.route.as_str()), route.as_deref());
                prop_assert_eq!((row.id.as_str(), row.attempt, row.due_ms, row.history.len()), ("letter-1", 1, NOW, 0));
                prop_assert_eq!(without_stamps(&row.raw), without_stamps(&letter.raw));
                prop_assert_eq!(row.raw.reprocessed(), times + 1);
            }
            Err(Refusal::NoRoute { .. }) => prop_assert!(route.is_none()),
            Err(Refusal::NoPlace { queue }) => panic!("it came from {queue}"),
            Err(Refusal::RouteGone(_)) => prop_assert!(!there && route.is_some()),
            Err(Refusal::Withheld(_)) => prop_assert!(false, "no replay had it"),
            Err(Refusal::TooLate { .. }) => prop_assert!(decode::decode(&letter.raw, "", NOW).is_ok_and(|e| e.deadline_ms.is_some())),
        }
    }
}

fn typed(headers: &[(&str, String)], expires_ms: Option<UnixMs>) -> RawMessage {
    RawMessage {
        origin: Origin {
            broker: "b".into(),
            kind: MessageKind::Task,
            destination: "d".into(),
            partition: None,
            offset: Some(1),
        },
        body: Some(Bytes::from_static(b"x")),
        key: None,
        headers: headers
            .iter()
            .map(|(name, value)| (*name, value.clone()))
            .collect(),
        props: Properties {
            message_type: Some("t".into()),
            expires_ms,
            ..Properties::default()
        },
        timestamp_ms: None,
        redelivered: true,
    }
}

#[test]
fn what_is_past_its_own_deadline_is_refused_and_the_time_to_live_of_a_queue_begins_anew() {
    let planned = |raw: RawMessage| plan(&letter(MessageKind::Task, raw, None, 0), |_| false, NOW);
    let deadline = |ms: UnixMs| typed(&[("deadline", ms.to_string())], None);
    assert_eq!(planned(deadline(NOW - 5)), Err(Refusal::TooLate { late_ms: 5 }));
    assert!(planned(deadline(NOW + 5)).is_ok());
    let expires = |at| match planned(typed(&[], Some(at))) {
        Ok(Plan::Queue(raw)) => raw.props.expires_ms,
        other => panic!("{other:?}"),
    };
    assert_eq!(expires(NOW - 5), None);
    assert_eq!(expires(NOW + 5), Some(NOW + 5));
}

fn raw(kind: MessageKind, headers: &[(&'static str, &'static str)]) -> RawMessage {
    RawMessage {
        origin: Origin {
            broker: "b".into(),
            kind,
            destination: "d".into(),
            partition: None,
            offset: None,
        },
        body: Some(Bytes::from_static(b"{}")),
        key: None,
        headers: headers.iter().copied().collect(),
        props: Properties::default(),
        timestamp_ms: None,
        redelivered: false,
    }
}

#[test]
fn what_its_broker_knows_of_a_message_stays_behind() {
    let headers = [
        ("x-mine", "1"),
        ("x-death", "[]"),
        ("x-first-death-queue", "d"),
        ("X-Delivery-Count", "7"),
    ];
    let message = raw(MessageKind::Task, &headers);
    let Ok(Plan::Queue(sent)) = plan(&letter(MessageKind::Task, message, None, 0), |_| false, NOW) else {
        panic!("it goes to its queue");
    };
    let names: Vec<&str> = sent.headers.iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["x-mine", header::REPROCESSED, header::LETTER]);
}

#[test]
fn what_was_found_in_a_queue_of_dead_letters_has_nowhere_to_go() {
    let found = raw(MessageKind::Task, &[(header::ADOPTED, "d")]);
    let refused = plan(&letter(MessageKind::Task, found, None, 0), |_| true, NOW);
    assert_eq!(refused, Err(Refusal::NoPlace { queue: "d".into() }));
    // Written by its producer, who does not know where it dies.
    let forged = raw(MessageKind::Task, &[(header::ADOPTED, "elsewhere")]);
    let Ok(Plan::Queue(sent)) = plan(&letter(MessageKind::Task, forged, None, 0), |_| true, NOW) else {
        panic!("it goes to its queue");
    };
    assert_eq!(sent.headers.get(header::ADOPTED), None);
}

#[test]
fn what_failed_without_effects_is_not_sent_again() {
    let of = |headers: &[(&str, String)]| {
        let letter = letter(MessageKind::Event, typed(headers, None), Some("r"), 0);
        plan(&letter, |_| true, NOW)
    };
    let replay = ("helix-replay", "job".to_owned());
    assert!(
        matches!(of(std::slice::from_ref(&replay)), Ok(Plan::Route(_))),
        "it had its effects"
    );
    let denied = ("helix-replay-effects", "denied".to_owned());
    assert_eq!(of(&[replay, denied]), Err(Refusal::Withheld("job".to_owned())));
}

#[test]
fn what_was_read_again_in_a_stream_goes_to_its_route_and_not_back_into_it() {
    let mut letter = letter(MessageKind::Task, typed(&[], None), Some("r"), 0);
    letter.raw.origin.partition = Some(0);
    assert!(matches!(plan(&letter, |_| true, NOW), Ok(Plan::Route(row)) if row.route == "r"));
}
