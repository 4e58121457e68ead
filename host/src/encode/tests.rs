//! What is encoded is decoded to the same message, in every format and under both brokers' conventions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::model::{Envelope, Origin, RawMessage, TraceContext};

const FORMATS: [WireFormat; 5] = [
    WireFormat::Flat,
    WireFormat::Raw,
    WireFormat::Legacy,
    WireFormat::CloudeventsBinary,
    WireFormat::CloudeventsStructured,
];

/// Tasks travel with properties, events with nothing but headers and key.
fn travel(wire: Wire, kind: MessageKind) -> RawMessage {
    let kafka = kind == MessageKind::Event;
    RawMessage {
        origin: Origin {
            broker: "b".into(),
            kind,
            destination: "d".into(),
            partition: None,
            offset: None,
        },
        body: wire.body,
        key: wire.key.filter(|_| kafka),
        headers: wire.headers,
        props: if kafka { Properties::default() } else { wire.props },
        timestamp_ms: None,
        redelivered: false,
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z./_-]{1,12}", "\\PC{1,12}"]
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..60),
        Just(b"{\"a\": [1, 2.50], \"b\":\"\\u00e9\"}".to_vec()),
        Just(
            b" {\"id\":\"i\",\"type\":\"t\",\"payload\":\"aGk=\",\"state\":\"\",\"delivery_mode\":2}"
                .to_vec()
        ),
        Just(b"null".to_vec()),
        Just(b"\"text\"".to_vec()),
    ]
}

prop_compose! {
    fn outgoing()(
        task in any::<bool>(),
        (id, message_type) in prop_oneof![(text(), text()), Just(("i".to_owned(), "t".to_owned()))],
        payload in payload(),
        tombstone in proptest::bool::weighted(0.1),
        content_type in of(prop_oneof![Just("application/json"), Just("text/plain"), Just("application/vnd.x+json")]),
        (schema, source, subject) in (of(text()), of(text()), of(text())),
        priority in of(0u8..=10),
        key in of(vec(any::<u8>(), 0..8)),
        time_ms in prop_oneof![Just(0), 0..4_000_000_000_000u64, Just(u64::MAX)],
        deadline_ms in of(prop_oneof![0..4_000_000_000_000u64, Just(u64::MAX)]),
        (correlation_id, reply_to) in (of(text()), of(text())),
        traced in of(of("[a-z]=[a-z0-9]{1,4}")),
        headers in vec(("x-[a-z]{1,6}|helix-[a-f]{1,4}", vec(any::<u8>(), 0..6)), 0..4),
    ) -> Outgoing {
        Outgoing {
            kind: if task { MessageKind::Task } else { MessageKind::Event },
            destination: "d".into(),
            id,
            message_type,
            payload: if tombstone { Bytes::new() } else { payload.into() },
            tombstone,
            content_type: content_type.map(str::to_owned),
            schema,
            source,
            subject,
            priority,
            key: key.map(Bytes::from),
            time_ms,
            not_before_ms: None,
            deadline_ms,
            correlation_id,
            reply_to,
            trace: traced.map(|tracestate| TraceContext {
                traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
                tracestate,
            }),
            headers: headers.into_iter().collect(),
        }
    }
}

fn expect_same(sent: &Outgoing, got: &Envelope, format: WireFormat) {
    let cloud = matches!(
        format,
        WireFormat::CloudeventsBinary | WireFormat::CloudeventsStructured
    );
    let in_json = !sent.tombstone
        && matches!(format, WireFormat::Flat | WireFormat::CloudeventsStructured)
        && json_payload(sent).is_some();
    assert_eq!(got.id, sent.id);
    assert_eq!(got.message_type, sent.message_type);
    if in_json {
        assert_eq!(got.payload, sent.payload.trim_ascii());
        assert_eq!(
            got.content_type.as_deref(),
            sent.content_type.as_deref().or(Some("application/json"))
        );
    } else {
        assert_eq!(got.payload, sent.payload);
        assert_eq!(got.content_type, sent.content_type);
    }
    assert_eq!(got.tombstone, sent.tombstone);
    assert_eq!(got.schema, sent.schema);
    assert_eq!(
        got.source.as_deref(),
        sent.source.as_deref().or(cloud.then_some("/helix"))
    );
    assert_eq!(got.subject, sent.subject);
    let unsaid = if format == WireFormat::Legacy && !sent.tombstone {
        5
    } else {
        0
    };
    assert_eq!(got.priority, sent.priority.unwrap_or(unsaid));

    assert_eq!(got.key, sent.key);
    assert_eq!(got.time_ms, sent.time_ms);
    assert_eq!(got.deadline_ms, sent.deadline_ms);
    assert_eq!(got.correlation_id, sent.correlation_id);
    assert_eq!(got.reply_to, sent.reply_to);
    assert_eq!(got.trace, sent.trace);
    let own = |headers: &Headers| -> Vec<(String, Bytes)> {
        let ours = |name: &str| {
            (name.starts_with("x-") || name.starts_with("helix-"))
                && ![KEY_HEADER, FORMAT_HEADER, CONTENT_TYPE_HEADER].contains(&name)
        };
        headers
            .iter()
            .filter(|(n, _)| ours(n))
            .map(|(n, v)| (n.to_owned(), v.clone()))
            .collect()
    };
    assert_eq!(own(&got.headers), own(&sent.headers));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn decodes_to_what_was_encoded(message in outgoing()) {
        for format in FORMATS {
            let raw = travel(encode(&message, format), message.kind);
            let got = decode::decode(&raw, "fallback", 1)
                .unwrap_or_else(|e| panic!("{format:?}: {}: {e}", e.code));
            expect_same(&message, &got, format);
        }
    }
}

fn sample(kind: MessageKind) -> Outgoing {
    Outgoing {
        kind,
        destination: "d".into(),
        id: "m-1".into(),
        message_type: "llm.request".into(),
        payload: Bytes::from_static(b"{\"n\":1}"),
        tombstone: false,
        content_type: Some("application/json".into()),
        schema: None,
        source: Some("helix/p".into()),
        subject: None,
        priority: Some(8),
        key: Some(Bytes::from_static(b"k")),
        time_ms: 1_768_731_072_345,
        not_before_ms: None,
        deadline_ms: Some(1_768_731_372_000),
        correlation_id: Some("c".into()),
        reply_to: Some("r".into()),
        trace: Some(TraceContext {
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
            tracestate: None,
        }),
        headers: [("tenant", "x")].into_iter().collect(),
    }
}

fn body(wire: &Wire) -> String {
    String::from_utf8(wire.body.as_ref().unwrap().to_vec()).unwrap()
}

#[test]
fn flat_looks_like_the_manual() {
    assert_eq!(
        body(&encode(&sample(MessageKind::Task), WireFormat::Flat)),
        r#"{"id":"m-1","type":"llm.request","source":"helix/p","payload":{"n":1},"priority":8,"created_at":"2026-01-18T10:11:12.345Z","deadline":"2026-01-18T10:16:12Z","correlation_id":"c","reply_to":"r"}"#
    );
    assert_eq!(
        body(&encode(&sample(MessageKind::Event), WireFormat::Flat)),
        r#"{"id":"m-1","type":"llm.request","source":"helix/p","data":{"n":1},"priority":8,"timestamp":"2026-01-18T10:11:12.345Z","deadline":"2026-01-18T10:16:12Z","correlation_id":"c","reply_to":"r"}"#
    );
    let mut text = sample(MessageKind::Task);
    text.content_type = Some("text/plain".into());
    assert_eq!(encode(&text, WireFormat::Flat), encode(&text, WireFormat::Raw));
    text.content_type = None;
    text.payload = Bytes::from_static(b"{\"n\":");
    assert_eq!(encode(&text, WireFormat::Flat), encode(&text, WireFormat::Raw));
}

/// Field names and order as HelixAgent prints them.
#[test]
fn legacy_task_looks_like_helixagents() {
    let wire = encode(&sample(MessageKind::Task), WireFormat::Legacy);
    let inner = concat!(
        r#"{"id":"m-1","type":"llm.request","payload":"eyJuIjoxfQ==","priority":8,"state":"pending","max_retries":3,"#,
        r#""retry_count":0,"deadline":"2026-01-18T10:16:12Z","created_at":"2026-01-18T10:11:12.345Z","#,
        r#""scheduled_at":"0001-01-01T00:00:00Z","started_at":"0001-01-01T00:00:00Z","#,
        r#""completed_at":"0001-01-01T00:00:00Z","trace_id":"0af7651916cd43dd8448eb211c80319c","correlation_id":"c"}"#,
    );
    assert_eq!(
        body(&wire),
        format!(
            concat!(
                r#"{{"id":"m-1","type":"llm.request","payload":"{}","headers":{{"tenant":"x"}},"#,
                r#""timestamp":"2026-01-18T10:11:12.345Z","priority":8,"retry_count":0,"max_retries":3,"#,
                r#""trace_id":"0af7651916cd43dd8448eb211c80319c","correlation_id":"c","reply_to":"r","#,
                r#""expiration":"2026-01-18T10:16:12Z","delivery_mode":2,"state":"pending"}}"#,
            ),
            STANDARD.encode(inner)
        )
    );
    assert_eq!(
        wire.headers.text("trace-id"),
        Some("0af7651916cd43dd8448eb211c80319c")
    );
    assert_eq!(
        (wire.headers.text("type"), wire.headers.text("id")),
        (Some("llm.request"), Some("m-1"))
    );
}

#[test]
fn legacy_event_looks_like_helixagents() {
    let mut message = sample(MessageKind::Event);
    message.deadline_ms = None;
    let text = body(&encode(&message, WireFormat::Legacy));
    assert!(text.contains(r#""expiration":"0001-01-01T00:00:00Z""#), "{text}");
    let envelope: serde_json::Value = serde_json::from_str(&text).unwrap();
    let inner = STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
    assert_eq!(
        String::from_utf8(inner).unwrap(),
        concat!(
            r#"{"id":"m-1","type":"llm.request","source":"helix/p","data":"eyJuIjoxfQ==","#,
            r#""data_content_type":"application/json","timestamp":"2026-01-18T10:11:12.345Z","headers":{"tenant":"x"},"#,
            r#""trace_id":"0af7651916cd43dd8448eb211c80319c","correlation_id":"c","key":"aw=="}"#,
        )
    );
}

#[test]
fn cloudevents_names() {
    let wire = encode(&sample(MessageKind::Task), WireFormat::CloudeventsBinary);
    assert_eq!(wire.headers.text("cloudEvents_specversion"), Some("1.0"));
    assert_eq!(wire.props.content_type.as_deref(), Some("application/json"));
    let wire = encode(&sample(MessageKind::Event), WireFormat::CloudeventsBinary);
    assert_eq!(wire.headers.text("ce_source"), Some("helix/p"));
    assert_eq!(wire.headers.text("content-type"), Some("application/json"));
    let wire = encode(&sample(MessageKind::Event), WireFormat::CloudeventsStructured);
    assert_eq!(
        body(&wire),
        r#"{"specversion":"1.0","id":"m-1","source":"helix/p","type":"llm.request","time":"2026-01-18T10:11:12.345Z","datacontenttype":"application/json","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","data":{"n":1}}"#
    );
}

#[test]
fn a_header_cannot_pose_as_type_or_id() {
    for name in [
        "type",
        "ID",
        "Message_Type",
        "ce_type",
        "CE_ID",
        "cloudEvents:source",
        "content-type",
        "traceparent",
        "helix-format",
    ] {
        for format in FORMATS {
            let mut message = sample(MessageKind::Event);
            let plain = encode(&message, format);
            message.headers = [("tenant", "x"), (name, "forged")].into_iter().collect();
            assert_eq!(encode(&message, format), plain, "{name} {format:?}");
        }
    }
}
