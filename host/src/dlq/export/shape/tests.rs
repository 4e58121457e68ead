//! The record is what the manual says, field by field.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::model::outcome::Failure;
use crate::model::{Attempt, FailureClass, Origin, Outcome};

fn letter(kind: MessageKind, body: &'static [u8]) -> DeadLetter {
    let attempt = |number| Attempt {
        number,
        started_ms: 1,
        duration_us: 1,
        outcome: Outcome::Timeout {
            limit: Duration::from_secs(1),
            failure: Failure::new("slow"),
        },
        digest: None,
        log: Vec::new(),
    };
    DeadLetter {
        id: "letter-1".into(),
        raw: RawMessage {
            origin: Origin {
                broker: "b".into(),
                kind,
                destination: "d".into(),
                partition: Some(2),
                offset: Some(7),
            },
            body: Some(Bytes::from_static(body)),
            key: None,
            headers: [("x-mine", "1")].into_iter().collect(),
            props: Properties::default(),
            timestamp_ms: Some(1_700_000_000_000),
            redelivered: false,
        },
        message_id: Some("m-1".into()),
        message_type: Some("t".into()),
        route: Some("r".into()),
        plugin: Some("p".into()),
        digest: None,
        class: FailureClass::Exhausted,
        reason: "slow".into(),
        code: Some("timeout".into()),
        attempts: vec![attempt(1), attempt(2)],
        first_failure_ms: 1_700_000_001_000,
        last_failure_ms: 1_700_000_002_000,
        trace_id: None,
        state: LetterState::Dead,
        reprocessed: 0,
    }
}

fn document(letter: &DeadLetter) -> Value {
    serde_json::from_slice(replica(letter).raw.body.as_deref().unwrap()).unwrap()
}

#[test]
fn a_message_that_says_what_it_is_stands_there_as_it_was() {
    let body = br#"{"type":"t", "id":"m-1",  "payload":{"a":1.50}}"#;
    let task = letter(MessageKind::Task, body);
    let expected = json!({
        "id": "letter-1",
        "original_queue": "d",
        "original_topic": "",
        "original_message": { "type": "t", "id": "m-1", "payload": { "a": 1.5 } },
        "failure_reason": "slow",
        "failure_details": {
            "class": "exhausted", "code": "timeout", "broker": "b", "partition": 2, "offset": 7,
            "route": "r", "plugin": "p", "helix-exported": "letter-1",
        },
        "retry_count": 1,
        "first_failure": "2023-11-14T22:13:21Z",
        "last_failure": "2023-11-14T22:13:22Z",
        "next_retry": "0001-01-01T00:00:00Z",
        "status": "pending",
    });
    assert_eq!(document(&task), expected);
    let record = replica(&task).raw;
    let text = String::from_utf8(record.body.unwrap().to_vec()).unwrap();
    assert!(
        text.contains(std::str::from_utf8(body).unwrap()),
        "byte for byte: {text}"
    );
    assert_eq!(record.key.as_deref(), Some(&b"letter-1"[..]));
    assert_eq!(record.headers.text("id"), Some("letter-1"));
    assert_eq!(record.headers.text("type"), Some("dlq.message"));

    let event = document(&letter(MessageKind::Event, body));
    assert_eq!(
        (&event["original_queue"], &event["original_topic"]),
        (&json!(""), &json!("d"))
    );
}

#[test]
fn every_other_message_is_wrapped_as_helixagent_wraps_it() {
    for body in [&b"\xff\x00"[..], b"\"text\"", br#"{"a":1}"#] {
        let shown = document(&letter(MessageKind::Task, body));
        let original = &shown["original_message"];
        assert_eq!(original["id"], "m-1");
        assert_eq!(original["type"], "t");
        assert_eq!(original["payload"], STANDARD.encode(body));
        assert_eq!(original["headers"], json!({ "x-mine": "1" }));
        assert_eq!(
            (&original["delivery_mode"], &original["state"]),
            (&json!(2), &json!("dead_lettered"))
        );
    }
}

#[test]
fn letters_of_one_key_share_it() {
    let mut keyed = letter(MessageKind::Event, b"{}");
    keyed.raw.key = Some(Bytes::from_static(b"k"));
    assert_eq!(replica(&keyed).raw.key.as_deref(), Some(&b"k"[..]));
}
