#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeMap;

use lapin::types::{FieldArray, LongString};

use super::*;

const LIMIT: usize = 100_000;

fn receive(properties: &BasicProperties, redelivered: bool) -> RawMessage {
    raw_message(
        &"main".into(),
        &"q".into(),
        properties,
        redelivered,
        b"body".to_vec(),
        5_000,
    )
}

fn table(entries: Vec<(&str, AMQPValue)>) -> FieldTable {
    entries
        .into_iter()
        .map(|(name, value)| (name.into(), value))
        .collect::<BTreeMap<_, _>>()
        .into()
}

fn wire() -> Wire {
    Wire {
        body: None,
        key: None,
        headers: Headers::new(),
        props: Properties::default(),
    }
}

#[test]
fn what_is_sent_is_what_is_received() {
    let mut sent = wire();
    sent.key = Some(Bytes::from_static(b"k\0\xff"));
    sent.headers = [("b", &b"\x00\xfe"[..]), ("a", &b"text"[..])]
        .into_iter()
        .collect();
    sent.props = Properties {
        content_type: Some("application/json".into()),
        message_type: Some("user.created".into()),
        message_id: Some("id1".into()),
        correlation_id: Some("c".into()),
        reply_to: Some("r".into()),
        priority: Some(9),
        expires_ms: Some(1_900_000_000_123),
    };
    let properties = properties(&sent, 1_700_000_000_999, LIMIT).unwrap();
    assert_eq!(*properties.delivery_mode(), Some(2));
    assert!(
        properties.expiration().is_none(),
        "the broker must not drop it silently"
    );
    let raw = receive(&properties, false);
    assert_eq!(raw.props, sent.props);
    assert_eq!(raw.key, sent.key);
    assert_eq!(
        raw.headers,
        [("a", &b"text"[..]), ("b", &b"\x00\xfe"[..])]
            .into_iter()
            .collect()
    );
    assert_eq!(raw.timestamp_ms, Some(1_700_000_000_000));
    assert_eq!(raw.body.as_deref(), Some(&b"body"[..]));
    assert_eq!(
        (raw.origin.offset, raw.origin.partition, raw.redelivered),
        (None, None, false)
    );
}

#[test]
fn headers_of_other_producers_become_text() {
    let death = table(vec![
        ("count", AMQPValue::LongLongInt(2)),
        ("queue", AMQPValue::LongString("q".into())),
    ]);
    let headers = table(vec![
        ("bool", AMQPValue::Boolean(true)),
        ("bytes", AMQPValue::ByteArray(vec![0, 255].into())),
        ("double", AMQPValue::Double(1.5)),
        ("int", AMQPValue::ShortShortInt(-3)),
        ("long", AMQPValue::LongLongInt(1 << 60)),
        ("text", AMQPValue::LongString(LongString::from("x"))),
        ("void", AMQPValue::Void),
        (
            "x-death",
            AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(death)])),
        ),
    ]);
    let raw = receive(&BasicProperties::default().with_headers(headers), false);
    let expected: [(&str, &[u8]); 8] = [
        ("bool", b"true"),
        ("bytes", b"\x00\xff"),
        ("double", b"1.5"),
        ("int", b"-3"),
        ("long", b"1152921504606846976"),
        ("text", b"x"),
        ("void", b""),
        ("x-death", br#"[{"count":2,"queue":"q"}]"#),
    ];
    assert_eq!(raw.headers, expected.into_iter().collect());
}

#[test]
fn an_expiration_counts_from_the_timestamp_or_from_now() {
    let properties = BasicProperties::default().with_expiration("1500".into());
    assert_eq!(receive(&properties, false).props.expires_ms, Some(6_500));
    let properties = properties.with_timestamp(100);
    assert_eq!(receive(&properties, false).props.expires_ms, Some(101_500));
    let nonsense = BasicProperties::default()
        .with_expiration("soon".into())
        .with_timestamp(u64::MAX);
    assert_eq!(receive(&nonsense, false).props.expires_ms, None);
}

#[test]
fn redelivered_by_flag_or_by_count() {
    let counted = |n| {
        BasicProperties::default().with_headers(table(vec![("x-delivery-count", AMQPValue::LongLongInt(n))]))
    };
    assert!(receive(&BasicProperties::default(), true).redelivered);
    assert!(receive(&counted(1), false).redelivered);
    assert!(!receive(&counted(0), false).redelivered);
}

#[test]
fn the_first_of_several_headers_of_one_name_counts() {
    let mut sent = wire();
    sent.headers = [("a", "1"), ("a", "2")].into_iter().collect();
    let raw = receive(&properties(&sent, 0, LIMIT).unwrap(), false);
    assert_eq!(raw.headers, [("a", "1")].into_iter().collect());
}

#[test]
fn what_amqp_cannot_carry_is_said() {
    let long = "x".repeat(256);
    let mut sent = wire();
    sent.props.message_id = Some(long.clone());
    assert_eq!(
        properties(&sent, 0, LIMIT).unwrap_err(),
        "the message id has 256 bytes, AMQP allows 255"
    );
    let mut sent = wire();
    sent.headers.push(long, "v");
    assert!(
        properties(&sent, 0, LIMIT)
            .unwrap_err()
            .starts_with("a header name has 256 bytes")
    );
    let mut sent = wire();
    sent.headers.push("big", vec![0; LIMIT]);
    assert!(
        properties(&sent, 0, LIMIT)
            .unwrap_err()
            .contains("an AMQP frame holds 100000")
    );
}
