//! Every message of the queue becomes a letter that says where it died and why, whatever its bytes are.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::dlq::export;
use crate::model::raw::Properties;
use crate::model::{Headers, MessageKind, Origin};

const NOW: UnixMs = 1_795_000_000_000;
const QUEUE: &str = "helixagent.dlq";

fn place() -> Place {
    Place {
        queue: QUEUE.into(),
        events: "kafka".into(),
    }
}

fn message(body: impl Into<Bytes>) -> RawMessage {
    RawMessage {
        origin: Origin {
            broker: "rabbitmq".into(),
            kind: MessageKind::Task,
            destination: QUEUE.into(),
            partition: None,
            offset: None,
        },
        body: Some(body.into()),
        key: None,
        headers: Headers::new(),
        props: Properties::default(),
        timestamp_ms: None,
        redelivered: false,
    }
}

fn died(body: impl Into<Bytes>, deaths: &Value) -> RawMessage {
    let mut raw = message(body);
    raw.headers.push("x-death", deaths.to_string());
    raw
}

fn death(queue: &str, reason: &str) -> Value {
    json!({ "queue": queue, "reason": reason, "exchange": "x", "routing-keys": ["a", "b"], "count": 2, "time": 1_794_999_000 })
}

fn adopted(raw: RawMessage) -> DeadLetter {
    read(raw, &place(), NOW).letter().clone()
}

#[test]
fn a_letter_comes_from_the_queue_its_message_died_in_last() {
    let body = r#"{"type":"llm.request","id":"m-1","payload":{"a":1}}"#;
    for (reason, class, code) in [
        ("expired", FailureClass::Expired, "broker.expired"),
        ("rejected", FailureClass::Rejected, "broker.rejected"),
        ("maxlen", FailureClass::Broker, "broker.maxlen"),
        ("delivery_limit", FailureClass::Broker, "broker.delivery-limit"),
        ("who knows", FailureClass::Broker, "broker.other"),
    ] {
        let deaths = json!([death("work", reason), death("before", "rejected")]);
        let letter = adopted(died(body, &deaths));
        assert_eq!((letter.class, letter.code.as_deref()), (class, Some(code)));
        assert_eq!(letter.state, LetterState::Dead, "somebody may send it again");
        assert_eq!(&*letter.raw.origin.destination, "work");
        assert_eq!(letter.message_id.as_deref(), Some("m-1"));
        assert_eq!(letter.message_type.as_deref(), Some("llm.request"));
        assert_eq!(letter.raw.body.as_deref(), Some(body.as_bytes()));
        assert_eq!(letter.last_failure_ms, 1_794_999_000_000);
        assert!(letter.reason.contains("`work`"), "{}", letter.reason);
        assert_eq!(
            letter.raw.headers.get(header::ADOPTED),
            None,
            "it can be sent again"
        );
        assert_eq!(deaths::read(&letter.raw.headers).len(), 2);
    }
}

#[test]
fn what_died_in_the_queue_of_dead_letters_itself_came_from_before() {
    let deaths = json!([death(QUEUE, "expired"), death("work", "rejected")]);
    let letter = adopted(died("x", &deaths));
    assert_eq!(&*letter.raw.origin.destination, "work");
    assert_eq!(letter.class, FailureClass::Rejected);
}

#[test]
fn all_that_the_header_says_is_shown() {
    let deaths = json!([death("work", "expired"), { "reason": "no queue" }, 7]);
    let read = deaths::read(&died("x", &deaths).headers);
    let expected = Death {
        queue: "work".into(),
        reason: "expired".into(),
        exchange: "x".into(),
        routing_keys: vec!["a".into(), "b".into()],
        count: 2,
        time_ms: Some(1_794_999_000_000),
    };
    assert_eq!(read, [expected]);
}

#[test]
fn bytes_that_are_no_message_are_kept_with_what_happened_to_them() {
    let letter = adopted(died(&b"\xff\x00"[..], &json!([death("work", "expired")])));
    assert_eq!(letter.class, FailureClass::Expired);
    assert_eq!((letter.message_id, letter.message_type), (None, None));
    assert_eq!(letter.raw.body.as_deref(), Some(&b"\xff\x00"[..]));

    let letter = adopted(message(&b"\xff\x00"[..]));
    assert_eq!(letter.class, FailureClass::Malformed);
    assert!(letter.reason.contains("nothing says why"), "{}", letter.reason);
    assert_eq!(letter.raw.headers.text(header::ADOPTED), Some(QUEUE));
}

fn manual(inner: &Value) -> Value {
    json!({
        "id": "dlq-1", "original_queue": "work", "original_topic": "", "original_message": inner,
        "failure_reason": "no backend", "failure_details": { "host": "b-7" }, "retry_count": 3,
        "first_failure": "2024-11-20T10:00:00Z", "last_failure": "2024-11-20T10:01:00Z",
        "next_retry": "0001-01-01T00:00:00Z", "status": "pending",
    })
}

#[test]
fn the_message_inside_of_the_manuals_shape_is_the_letters() {
    let inner = json!({ "type": "llm.request", "id": "m-1", "payload": { "a": 1 } });
    let body = manual(&inner).to_string();
    let mut wrapped = message(
        json!({
            "id": "m", "type": "dlq", "state": "pending", "delivery_mode": 2,
            "payload": base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &body),
        })
        .to_string(),
    );
    wrapped.headers.push("x-mine", "1");
    wrapped.props.message_type = Some("dlq".into());
    for raw in [message(body.clone()), wrapped] {
        let letter = adopted(raw);
        assert_eq!(letter.class, FailureClass::Foreign);
        assert_eq!(letter.message_id.as_deref(), Some("m-1"));
        assert_eq!(letter.message_type.as_deref(), Some("llm.request"));
        assert_eq!(&*letter.raw.origin.destination, "work");
        let kept: Value = serde_json::from_slice(letter.raw.body.as_deref().unwrap()).unwrap();
        assert_eq!(kept, inner);
        assert!(
            letter.reason.starts_with("no backend; retried 3 times"),
            "{}",
            letter.reason
        );
        assert!(letter.reason.contains("b-7"), "{}", letter.reason);
        assert_eq!(letter.last_failure_ms - letter.first_failure_ms, 60_000);
        assert_eq!(letter.raw.headers.get(header::ADOPTED), None);
    }
}

#[test]
fn an_event_of_the_manuals_shape_comes_from_its_topic() {
    let mut body = manual(&json!({ "type": "e", "id": "m-1", "data": 1 }));
    body["original_queue"] = json!("");
    body["original_topic"] = json!("events");
    let letter = adopted(message(body.to_string()));
    assert_eq!(letter.raw.origin.to_string(), "kafka/events");
    assert_eq!(letter.raw.origin.kind, MessageKind::Event);
}

#[test]
fn of_a_broken_entry_the_bytes_are_kept_with_the_reason() {
    let whole = manual(&json!({ "type": "t", "payload": 1 }));
    for (field, value) in [
        ("original_message", Value::Null),
        ("original_message", json!("text")),
        ("original_message", json!({ "payload": 1 })),
    ] {
        let mut body = whole.clone();
        body[field] = value;
        let text = body.to_string();
        let letter = adopted(message(text.clone()));
        assert_eq!(letter.class, FailureClass::Malformed);
        assert_eq!(letter.raw.body.as_deref(), Some(text.as_bytes()));
        assert!(letter.reason.contains("original_message"), "{}", letter.reason);
        assert!(letter.reason.contains("no backend"), "{}", letter.reason);
        assert_eq!(&*letter.raw.origin.destination, QUEUE, "it can be sent nowhere");
        assert_eq!(letter.raw.headers.text(header::ADOPTED), Some(QUEUE));
    }
    // Wrong types around a message that is there.
    let mut body = whole.clone();
    for field in [
        "failure_reason",
        "failure_details",
        "retry_count",
        "first_failure",
        "status",
    ] {
        body[field] = json!(["?"]);
    }
    let letter = adopted(message(body.to_string()));
    assert_eq!(letter.class, FailureClass::Foreign);
    assert_eq!(&*letter.raw.origin.destination, "work");
}

#[test]
fn the_same_message_has_the_same_name_and_another_one_another() {
    let id = |raw: &RawMessage| adopted(raw.clone()).id;
    let named = died(
        r#"{"type":"t","id":"1","payload":1}"#,
        &json!([death("work", "expired")]),
    );
    let mut again = named.clone();
    again.redelivered = true;
    assert_eq!(id(&named), id(&again));
    assert_ne!(
        id(&named),
        id(&died(
            r#"{"type":"t","id":"2","payload":1}"#,
            &json!([death("work", "expired")])
        ))
    );
    assert_ne!(
        id(&named),
        id(&died(
            r#"{"type":"t","id":"1","payload":1}"#,
            &json!([death("other", "expired")])
        ))
    );

    let mark = |raw: &RawMessage| read(raw.clone(), &place(), NOW).nameless.unwrap();
    let nameless = died("x", &json!([death("work", "expired")]));
    let mut later = death("work", "expired");
    later["time"] = json!(1_794_999_001);
    assert_eq!(
        mark(&nameless),
        mark(&RawMessage {
            redelivered: true,
            ..nameless.clone()
        })
    );
    assert_ne!(mark(&nameless), mark(&died("x", &json!([later]))));
    assert_eq!(read(named, &place(), NOW).nameless, None);
}

#[test]
fn a_name_goes_with_the_message_so_that_it_keeps_it_when_it_is_sent_again() {
    let mut found = read(died("x", &json!([death("work", "expired")])), &place(), NOW);
    let before = found.letter().id.clone();
    found.name("adopted-1".into());
    assert_ne!(found.letter().id, before);
    assert_eq!(found.letter().raw.props.message_id.as_deref(), Some("adopted-1"));
    assert_eq!(found.letter().message_id.as_deref(), Some("adopted-1"));
}

#[test]
fn a_death_in_the_future_is_now() {
    let mut late = death("work", "expired");
    late["time"] = json!(u64::MAX);
    assert_eq!(adopted(died("x", &json!([late]))).last_failure_ms, NOW);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z]{0,4}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 6, |inner| {
        let name = prop_oneof![
            Just("original_message".to_owned()),
            Just("original_queue".to_owned()),
            Just("failure_reason".to_owned()),
            Just("failure_details".to_owned()),
            Just("queue".to_owned()),
            Just("type".to_owned()),
            Just("payload".to_owned()),
        ];
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((name, inner), 0..6).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Its bytes, or those of the message that stands in them, are the letter's.
    #[test]
    fn anything_becomes_a_letter(body in prop_oneof![any_json().prop_map(|v| v.to_string().into_bytes()), vec(any::<u8>(), 0..80)],
                                 deaths in prop_oneof![any_json().prop_map(|v| v.to_string()), ".{0,20}"],
                                 has_deaths in any::<bool>()) {
        let mut raw = message(body.clone());
        if has_deaths {
            raw.headers.push("x-death", deaths);
        }
        let letter = adopted(raw);
        prop_assert!(!letter.reason.is_empty());
        prop_assert_eq!(letter.state, LetterState::Dead);
        let kept = letter.raw.body.unwrap();
        let inside = !kept.is_empty() && body.windows(kept.len()).any(|part| *part == *kept);
        prop_assert!(kept == body || inside);
    }

    /// What this host exports it understands: the same message, and that it is a copy.
    #[test]
    fn a_copy_of_a_letter_is_known_again(body in prop_oneof![
        "[a-z]{1,5}".prop_map(|id| format!(r#"{{"type":"t","id":"{id}","payload":{{"a":1}}}}"#).into_bytes()),
        any_json().prop_map(|v| v.to_string().into_bytes()),
        vec(any::<u8>(), 0..40),
    ], typed in any::<bool>()) {
        let mut raw = message(body);
        raw.origin.destination = "work".into();
        if typed {
            raw.props.message_type = Some("typed".into());
            raw.props.message_id = Some("id-1".into());
        }
        let said = decode::decode(&raw, "", NOW).ok();
        let letter = DeadLetter {
            id: "letter-1".into(),
            message_id: said.as_ref().map(|e| e.id.clone()).filter(|id| !id.is_empty()),
            message_type: said.as_ref().map(|e| e.message_type.clone()),
            class: FailureClass::Rejected,
            ..adopted(raw.clone())
        };
        let letter = DeadLetter { raw, ..letter };
        let copy = export::shape::replica(&letter);
        let mut there = message(copy.raw.body.clone().unwrap());
        there.headers = copy.raw.headers;
        let found = read(there, &place(), NOW);
        let expected = CopyOf { letter: "letter-1".into(), original: export::shape::original_of(&letter) };
        prop_assert_eq!(found.copy_of.as_ref(), Some(&expected));
        if let Some(said) = said.filter(|e| !e.id.is_empty() && !e.message_type.is_empty()) {
            let again = decode::decode(&found.letter().raw, "", NOW).unwrap();
            prop_assert_eq!((again.id, again.message_type, again.payload), (said.id, said.message_type, said.payload));
            prop_assert_eq!(&*found.letter().raw.origin.destination, "work");
        }
    }
}
