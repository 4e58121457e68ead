//! Arbitrary bytes, headers and half-right documents: never a panic, and the same answer twice.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::decode;
use super::tests::raw;
use crate::model::{MessageKind, RawMessage};

const NAMES: &[&str] = &[
    "id",
    "type",
    "payload",
    "data",
    "source",
    "subject",
    "priority",
    "key",
    "headers",
    "metadata",
    "timestamp",
    "time",
    "created_at",
    "deadline",
    "expiration",
    "content_type",
    "schema",
    "correlation_id",
    "trace_id",
    "traceparent",
    "state",
    "delivery_mode",
    "specversion",
    "data_base64",
    "datacontenttype",
    "message_type",
    "message_id",
    "content-type",
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_time",
    "cloudEvents_type",
    "cloudEvents:id",
    "helix-replay",
    "helix-format",
    "helix-key",
];

const VALUES: &[&str] = &[
    "",
    "t",
    "1",
    "1.0",
    "null",
    "-1",
    "true",
    "{}",
    "[]",
    "\"\"",
    "\"t\"",
    "\"1.0\"",
    "\"aGk=\"",
    "\"\\ud800\"",
    "0001-01-01T00:00:00Z",
    "\"2026-01-18T10:11:12Z\"",
    "application/cloudevents+json",
    "application/json",
    "raw",
    "1e400",
    "99999999999999999999999",
    "{\"a\":\"b\"}",
    "\"eyJpZCI6InQiLCJ0eXBlIjoidCJ9\"",
    "é",
];

fn document() -> impl Strategy<Value = Vec<u8>> {
    let members = vec((select(NAMES), select(VALUES)), 0..8);
    members.prop_map(|members| {
        let members: Vec<String> = members.iter().map(|(n, v)| format!("\"{n}\":{v}")).collect();
        format!("{{{}}}", members.join(",")).into_bytes()
    })
}

pub(super) fn message() -> impl Strategy<Value = RawMessage> {
    let name = prop_oneof![select(NAMES).prop_map(str::to_owned), ".{0,12}"];
    let value = prop_oneof![
        select(VALUES).prop_map(|v| v.as_bytes().to_vec()),
        vec(any::<u8>(), 0..16)
    ];
    let body = prop_oneof![document(), vec(any::<u8>(), 0..200)];
    (
        any::<bool>(),
        vec((name, value), 0..8),
        proptest::option::of(body),
        any::<Option<String>>(),
    )
        .prop_map(|(task, headers, body, content_type)| {
            let mut message = raw(
                if task {
                    MessageKind::Task
                } else {
                    MessageKind::Event
                },
                &[],
                Bytes::new(),
            );
            message.body = body.map(Bytes::from);
            message.headers = headers.into_iter().collect();
            message.props.content_type = content_type;
            message
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn never_panics_and_never_invents(message in message()) {
        let first = decode(&message, "fallback", 5);
        prop_assert_eq!(&first, &decode(&message, "fallback", 5));
        match first {
            Ok(envelope) => {
                prop_assert!(!envelope.message_type.is_empty());
                prop_assert!(!envelope.id.is_empty());
                prop_assert!(envelope.priority <= 10);
                prop_assert_eq!(envelope.tombstone, message.body.is_none());
            }
            Err(malformed) => prop_assert!(!malformed.code.is_empty() && !malformed.reason.is_empty()),
        }
    }
}
