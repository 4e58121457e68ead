//! One test per wire shape and per kind of bad input.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use super::*;
use crate::model::raw::Properties;
use crate::model::{Headers, MessageKind, Origin};

pub(super) fn raw(kind: MessageKind, headers: &[(&str, &str)], body: impl Into<Bytes>) -> RawMessage {
    RawMessage {
        origin: Origin {
            broker: "b".into(),
            kind,
            destination: "d".into(),
            partition: Some(1),
            offset: Some(7),
        },
        body: Some(body.into()),
        key: None,
        headers: headers
            .iter()
            .map(|(n, v)| (*n, Bytes::copy_from_slice(v.as_bytes())))
            .collect::<Headers>(),
        props: Properties::default(),
        timestamp_ms: Some(1_000),
        redelivered: false,
    }
}

fn event(headers: &[(&str, &str)], body: &str) -> RawMessage {
    raw(MessageKind::Event, headers, body.to_owned())
}

fn task(headers: &[(&str, &str)], body: &str) -> RawMessage {
    raw(MessageKind::Task, headers, body.to_owned())
}

fn ok(raw: &RawMessage) -> Envelope {
    decode(raw, "fallback", 5).unwrap_or_else(|e| panic!("{}: {e}", e.code))
}

fn code(raw: &RawMessage) -> &'static str {
    decode(raw, "fallback", 5).expect_err("malformed").code
}

#[test]
fn flat_task() {
    let body = r#" {"id":"task-1","type":"llm.request","payload": {"a" :1.50,  "b":"\u00e9"} ,"priority":8,
        "created_at":"2026-01-18T10:11:12Z","deadline":1768731072345,"correlation_id":"c","reply_to":"r",
        "metadata":{"team":"x"},"trace_id":"abc","headers":{"h":"v","n":3},"unknown":[1]} "#;
    let message = task(&[], body);
    let e = ok(&message);
    assert_eq!(
        (e.id.as_str(), e.message_type.as_str()),
        ("task-1", "llm.request")
    );
    assert_eq!(&e.payload[..], br#"{"a" :1.50,  "b":"\u00e9"}"#);
    assert_eq!(e.priority, 8);
    assert_eq!(e.time_ms, 1_768_731_072_000);
    assert_eq!(e.deadline_ms, Some(1_768_731_072_345));
    assert_eq!(
        (e.correlation_id.as_deref(), e.reply_to.as_deref()),
        (Some("c"), Some("r"))
    );
    assert_eq!(e.content_type.as_deref(), Some("application/json"));
    assert_eq!(e.headers.text("metadata"), Some(r#"{"team":"x"}"#));
    assert_eq!(e.headers.text("trace_id"), Some("abc"));
    assert_eq!((e.headers.text("h"), e.headers.text("n")), (Some("v"), Some("3")));
    assert!(e.trace.is_none(), "a bare trace id is no trace context");
}

#[test]
fn the_payload_shares_the_memory_of_the_body() {
    let message = event(&[], r#"{"type":"t","data":{"x":1}}"#);
    let body = message.body.as_ref().unwrap().as_ptr_range();
    assert!(body.contains(&ok(&message).payload.as_ptr()));
}

#[test]
fn flat_event_and_which_of_payload_and_data() {
    let both = r#"{"id":"e","type":"t","source":"s","subject":"u","payload":1,"data":[2],"timestamp":1768731072,
        "data_content_type":"application/vnd.x+json","data_schema":"urn:s","key":"k"}"#;
    let e = ok(&event(&[], both));
    assert_eq!(&e.payload[..], b"[2]");
    assert_eq!(
        (e.source.as_deref(), e.subject.as_deref(), e.schema.as_deref()),
        (Some("s"), Some("u"), Some("urn:s"))
    );
    assert_eq!(e.content_type.as_deref(), Some("application/vnd.x+json"));
    assert_eq!(e.key.as_deref(), Some(&b"k"[..]));
    assert_eq!(e.time_ms, 1_768_731_072_000);
    assert_eq!(&ok(&task(&[], both)).payload[..], b"1");
    assert_eq!(
        &ok(&event(&[], r#"{"type":"t","data":null}"#)).payload[..],
        b"null"
    );
    assert_eq!(
        &ok(&event(&[], r#"{"type":"t","data":"aGk="}"#)).payload[..],
        br#""aGk=""#
    );
}

#[test]
fn what_nobody_said_is_filled_in() {
    let e = ok(&event(
        &[],
        r#"{"id":"","type":"t","data":1,"timestamp":"0001-01-01T00:00:00Z"}"#,
    ));
    assert_eq!(
        (e.id.as_str(), e.time_ms, e.priority, e.deadline_ms),
        ("fallback", 1_000, 0, None)
    );
    let mut timeless = event(&[], r#"{"type":"t","data":1}"#);
    timeless.timestamp_ms = None;
    assert_eq!(ok(&timeless).time_ms, 5);
}

#[test]
fn a_document_with_a_type_and_no_payload_is_its_own_payload() {
    let body = r#"{"type":"user.created","id":42,"name":"x"}"#;
    let e = ok(&event(&[], body));
    assert_eq!(
        (e.id.as_str(), e.message_type.as_str()),
        ("fallback", "user.created")
    );
    assert_eq!(&e.payload[..], body.as_bytes());
    assert_eq!(ok(&event(&[("id", "h")], body)).id, "h");
}

fn legacy_task(payload: &str) -> String {
    let inner = format!(
        r#"{{"id":"task-9","type":"llm.request","payload":"{payload}","priority":8,"state":"pending","max_retries":3,
        "retry_count":0,"deadline":"2026-01-18T10:16:12Z","created_at":"2026-01-18T10:11:12.5Z",
        "scheduled_at":"0001-01-01T00:00:00Z","started_at":"0001-01-01T00:00:00Z",
        "completed_at":"0001-01-01T00:00:00Z","metadata":{{"k":"v"}},"trace_id":"tr","correlation_id":"co"}}"#
    );
    legacy_message("task-9", "llm.request", &STANDARD.encode(inner))
}

fn legacy_message(id: &str, message_type: &str, payload: &str) -> String {
    format!(
        r#"{{"id":"{id}","type":"{message_type}","payload":"{payload}","headers":{{"a":"b"}},
        "timestamp":"2026-01-18T10:11:13Z","priority":8,"retry_count":0,"max_retries":3,"trace_id":"tr",
        "correlation_id":"co","reply_to":"answers","expiration":"2026-01-18T10:16:12Z","delivery_mode":2,
        "state":"pending"}}"#
    )
}

#[test]
fn legacy_task_over_amqp() {
    let mut message = task(
        &[("a", "b"), ("trace-id", "tr")],
        &legacy_task(&STANDARD.encode(b"\x00\xffhi")),
    );
    message.props.message_type = Some("llm.request".into());
    message.props.message_id = Some("task-9".into());
    message.props.content_type = Some("application/json".into());
    message.props.priority = Some(8);
    let e = ok(&message);
    assert_eq!(
        (e.id.as_str(), e.message_type.as_str()),
        ("task-9", "llm.request")
    );
    assert_eq!(&e.payload[..], b"\x00\xffhi");
    assert_eq!((e.priority, e.time_ms), (8, 1_768_731_072_500));
    assert_eq!(e.deadline_ms, Some(1_768_731_372_000));
    assert_eq!(
        (e.correlation_id.as_deref(), e.reply_to.as_deref()),
        (Some("co"), Some("answers"))
    );
    assert_eq!(e.headers.iter().filter(|(n, _)| *n == "a").count(), 1);
    assert_eq!(e.headers.text("metadata"), Some(r#"{"k":"v"}"#));
}

#[test]
fn legacy_event_over_kafka() {
    let inner = r#"{"id":"evt-1","type":"debate.round","source":"s","data":"eyJ4IjoxfQ==",
        "data_content_type":"application/json","timestamp":"2026-01-18T10:11:12Z","headers":{"a":"b"},"key":"a2V5"}"#;
    let body = legacy_message("evt-1", "debate.round", &STANDARD.encode(inner));
    let mut message = event(
        &[("type", "debate.round"), ("id", "evt-1"), ("trace-id", "tr")],
        &body,
    );
    message.key = Some("evt-1".into());
    let e = ok(&message);
    assert_eq!(&e.payload[..], br#"{"x":1}"#);
    assert_eq!(
        e.key.as_deref(),
        Some(&b"key"[..]),
        "the event's key, not HelixAgent's record key"
    );
    assert_eq!(
        (e.source.as_deref(), e.content_type.as_deref()),
        (Some("s"), Some("application/json"))
    );
    assert_eq!(e.headers.text("a"), Some("b"));
    // Without headers it is recognised as well.
    assert_eq!(ok(&event(&[], &body)).payload, e.payload);
}

#[test]
fn legacy_single_envelope_and_null_payload() {
    let e = ok(&event(&[], &legacy_message("m", "t", "aGVsbG8=")));
    assert_eq!((&e.payload[..], e.content_type), (&b"hello"[..], None));
    let null = legacy_message("m", "t", "X").replace("\"X\"", "null");
    assert_eq!(&ok(&event(&[], &null)).payload[..], b"");
    let object = legacy_message("m", "t", "X").replace("\"X\"", "{\"a\":1}");
    assert_eq!(&ok(&event(&[], &object)).payload[..], b"{\"a\":1}");
}

#[test]
fn a_string_payload_is_base64_only_in_an_envelope_of_helixagent() {
    for sign in [r#""delivery_mode":2"#, r#""state":"pending""#] {
        let e = ok(&event(&[], &format!(r#"{{"type":"t","payload":"aGk=",{sign}}}"#)));
        assert_eq!(&e.payload[..], br#""aGk=""#);
    }
}

#[test]
fn raw_with_amqp_properties_and_kafka_headers() {
    let mut amqp = task(&[("trace_id", "tr")], "anything");
    amqp.props.message_type = Some("t".into());
    amqp.props.message_id = Some("i".into());
    amqp.props.reply_to = Some("r".into());
    amqp.props.priority = Some(200);
    amqp.props.expires_ms = Some(77);
    let e = ok(&amqp);
    assert_eq!(
        (e.id.as_str(), e.message_type.as_str(), &e.payload[..]),
        ("i", "t", &b"anything"[..])
    );
    assert_eq!(
        (e.reply_to.as_deref(), e.priority, e.deadline_ms),
        (Some("r"), 10, Some(77))
    );

    let old = event(
        &[
            ("message_type", "t"),
            ("message_id", "i"),
            ("priority", "high"),
            ("deadline", "90"),
        ],
        "[",
    );
    let e = ok(&old);
    assert_eq!(
        (e.id.as_str(), e.message_type.as_str(), &e.payload[..]),
        ("i", "t", &b"["[..])
    );
    assert_eq!(
        (e.priority, e.deadline_ms),
        (0, Some(90_000)),
        "a header that cannot be read is just a header"
    );
}

#[test]
fn with_the_type_in_a_header_only_an_envelope_that_agrees_is_unwrapped() {
    let unwrapped =
        |headers: &[(&str, &str)], body: &str| ok(&event(headers, body)).payload != body.as_bytes();
    let body = r#"{"id":"1","type":"push","data":{"x":1}}"#;
    assert!(unwrapped(&[("type", "push"), ("id", "1")], body));
    assert!(unwrapped(&[("type", "push")], body));
    assert!(unwrapped(
        &[("type", "push"), ("id", "1")],
        r#"{"data":{"x":1},"type":"push"}"#
    ));
    assert!(!unwrapped(&[("type", "push"), ("id", "2")], body), "another id");
    assert!(
        !unwrapped(&[("type", "webhook"), ("id", "1")], body),
        "another type"
    );
    assert!(
        !unwrapped(&[("type", "push"), ("id", "1"), ("helix-format", "raw")], body),
        "told not to"
    );
    assert!(
        !unwrapped(&[("type", "push")], r#"{"id":"1","type":"push","x":{"data":1}}"#),
        "no data of its own"
    );
    assert!(
        !unwrapped(&[("type", "push")], r#"{"type":"push","data":1"#),
        "no JSON"
    );
}

#[test]
fn the_earliest_deadline_counts() {
    let mut message = task(
        &[("deadline", "300")],
        r#"{"type":"t","payload":1,"deadline":400,"expiration":500}"#,
    );
    assert_eq!(ok(&message).deadline_ms, Some(300_000));
    message.props.expires_ms = Some(200_000);
    assert_eq!(ok(&message).deadline_ms, Some(200_000));
    message.headers = [("deadline", "0001-01-01T00:00:00Z")].into_iter().collect();
    message.props.expires_ms = None;
    assert_eq!(ok(&message).deadline_ms, Some(400_000));
}

#[test]
fn tombstones() {
    let mut message = event(&[("type", "t")], "");
    message.body = None;
    let e = ok(&message);
    assert!(e.tombstone && e.payload.is_empty());
    message.headers = Headers::new();
    assert_eq!(code(&message), "type.missing");
    let empty = ok(&event(&[("type", "t")], ""));
    assert!(!empty.tombstone && empty.payload.is_empty());
    let mut cloud = event(CE, "");
    cloud.body = None;
    assert!(ok(&cloud).tombstone);
}

const CE: &[(&str, &str)] = &[
    ("ce_specversion", "1.0"),
    ("ce_id", "i"),
    ("ce_source", "/s"),
    ("ce_type", "com.x"),
];

#[test]
fn cloudevents_binary_on_both_brokers() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let rest = [
        ("time", "2026-01-18T10:11:12Z"),
        ("subject", "u"),
        ("dataschema", "urn:d"),
        ("partitionkey", "pk"),
        ("traceparent", parent),
        ("tracestate", "a=b"),
        ("tenant", "x"),
    ];
    for prefix in ["ce_", "cloudEvents_", "cloudEvents:", "CE_"] {
        let mandatory = CE.iter().map(|(n, v)| (n.trim_start_matches("ce_"), *v));
        let names: Vec<(String, &str)> = mandatory
            .chain(rest)
            .map(|(n, v)| (format!("{prefix}{n}"), v))
            .collect();
        let mut headers: Vec<(&str, &str)> = names.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        headers.push(("content-type", "text/plain"));
        // The body looks like an envelope, and is not touched.
        let body = r#"{"id":"i","type":"com.x","data":1}"#;
        let e = ok(&event(&headers, body));
        assert_eq!(
            (e.id.as_str(), e.message_type.as_str(), &e.payload[..]),
            ("i", "com.x", body.as_bytes())
        );
        assert_eq!(
            (e.source.as_deref(), e.subject.as_deref(), e.schema.as_deref()),
            (Some("/s"), Some("u"), Some("urn:d"))
        );
        assert_eq!(
            (e.content_type.as_deref(), e.time_ms),
            (Some("text/plain"), 1_768_731_072_000)
        );
        assert_eq!(e.key.as_deref(), Some(&b"pk"[..]));
        let trace = e.trace.unwrap();
        assert_eq!(
            (trace.traceparent.as_str(), trace.tracestate.as_deref()),
            (parent, Some("a=b"))
        );
        assert_eq!(e.headers.text("ce_tenant"), Some("x"), "{prefix}");
    }
    let mut keyed = event(CE, "");
    keyed.key = Some("record".into());
    assert_eq!(ok(&keyed).key.as_deref(), Some(&b"record"[..]));
}

#[test]
fn not_a_cloudevent_without_all_mandatory_attributes() {
    let body = r#"{"x":1}"#;
    for missing in 0..3 {
        let headers: Vec<_> = CE
            .iter()
            .enumerate()
            .filter(|(n, _)| *n != missing)
            .map(|(_, h)| *h)
            .collect();
        let e = ok(&event(&headers, body));
        assert_eq!(
            (e.message_type.as_str(), e.source),
            ("com.x", None),
            "ce_type still names the type"
        );
    }
    assert_eq!(code(&event(&CE[..3], body)), "type.missing");
}

#[test]
fn cloudevents_structured() {
    let message = |content_type: &str, rest: &str| {
        event(
            &[("content-type", content_type)],
            &format!(r#"{{"specversion":"1.0","id":"i","source":"/s","type":"t"{rest}}}"#),
        )
    };
    let json = "Application/CloudEvents+JSON; charset=utf-8";
    let e = ok(&message(
        json,
        r#","data": {"a": 1} ,"time":"2026-01-18T10:11:12Z","tenant":"x","seq":7"#,
    ));
    assert_eq!(
        (&e.payload[..], e.content_type.as_deref()),
        (&br#"{"a": 1}"#[..], Some("application/json"))
    );
    assert_eq!(
        (e.headers.text("ce_tenant"), e.headers.text("ce_seq")),
        (Some("x"), Some("7"))
    );
    let e = ok(&message(
        json,
        r#","data_base64":"AP8=","datacontenttype":"image/png""#,
    ));
    assert_eq!(
        (&e.payload[..], e.content_type.as_deref()),
        (&b"\x00\xff"[..], Some("image/png"))
    );
    let e = ok(&message(json, r#","data":"a\nb","datacontenttype":"text/plain""#));
    assert_eq!(&e.payload[..], b"a\nb");
    let e = ok(&message(
        json,
        r#","data":"a\nb","datacontenttype":"application/json""#,
    ));
    assert_eq!(&e.payload[..], br#""a\nb""#);
    assert_eq!(&ok(&message(json, "")).payload[..], b"");

    assert_eq!(code(&message(json, r#","data_base64":"*""#)), "base64.invalid");
    assert_eq!(code(&message(json, r#","id":"again""#)), "json.duplicate");
    assert_eq!(
        code(&event(
            &[("content-type", json)],
            r#"{"specversion":"1.0","id":"i","type":"t"}"#
        )),
        "cloudevents.attribute"
    );
    assert_eq!(
        code(&event(&[("content-type", json)], r#"{"specversion":1}"#)),
        "cloudevents.attribute"
    );
    assert_eq!(
        code(&event(&[("content-type", json)], r#"{"specversion":"0.3"}"#)),
        "cloudevents.version"
    );
    assert_eq!(
        code(&event(
            &[("content-type", "application/cloudevents-batch+json")],
            "[]"
        )),
        "cloudevents.batch"
    );
    assert_eq!(
        code(&event(&[("content-type", json)], "\"x\"")),
        "cloudevents.type"
    );
}

#[test]
fn host_headers() {
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let e = ok(&event(
        &[
            ("type", "t"),
            ("helix-reprocessed", "2"),
            ("helix-replay", "job"),
            ("traceparent", parent),
            ("tracestate", "s"),
        ],
        "",
    ));
    assert_eq!((e.reprocessed, e.replay.as_deref()), (2, Some("job")));
    assert_eq!(e.trace.unwrap().tracestate.as_deref(), Some("s"));
    for bad in [
        "",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
    ] {
        assert!(
            ok(&event(&[("type", "t"), ("traceparent", bad)], ""))
                .trace
                .is_none(),
            "{bad}"
        );
    }
}

#[test]
fn priorities_are_clamped() {
    for (said, want) in [
        ("-3", 0),
        ("0", 0),
        ("10", 10),
        ("11", 10),
        ("5.0", 5),
        ("1e300", 10),
        ("99999999999999999999", 10),
        ("null", 0),
    ] {
        assert_eq!(
            ok(&task(
                &[],
                &format!(r#"{{"type":"t","payload":1,"priority":{said}}}"#)
            ))
            .priority,
            want,
            "{said}"
        );
    }
}

#[test]
fn bad_bodies_are_malformed_with_a_stable_code() {
    let with = |member: &str| code(&task(&[], &format!(r#"{{"payload":1,"type":"t",{member}}}"#)));
    assert_eq!(with(r#""priority":"high""#), "priority.type");
    assert_eq!(with(r#""priority":5.5"#), "priority.type");
    assert_eq!(with(r#""id":{}"#), "id.type");
    assert_eq!(with(r#""deadline":"soon""#), "deadline.type");
    assert_eq!(with(r#""expiration":true"#), "expiration.type");
    assert_eq!(with(r#""timestamp":1e999"#), "timestamp.type");
    assert_eq!(with(r#""headers":[]"#), "headers.type");
    assert_eq!(with(r#""headers":{"a":1,"a":2}"#), "json.duplicate");
    assert_eq!(with(r#""source":1"#), "source.type");
    assert_eq!(with(r#""type":"u""#), "json.duplicate");
    assert_eq!(with(r#""id":"\ud800""#), "id.type");
    assert_eq!(code(&task(&[], r#"{"payload":1,"type":2}"#)), "type.type");
    assert_eq!(code(&task(&[], r#"{"payload":1}"#)), "type.missing");
    assert_eq!(code(&task(&[], r#"{"x":1}"#)), "type.missing");
    for body in ["", "hello", "[1]", "7", "null"] {
        assert_eq!(code(&task(&[], body)), "type.missing", "{body}");
    }
    for body in [
        "{",
        "{}x",
        r#"{"type":"t","payload":}"#,
        r#"{"type":"t" "payload":1}"#,
    ] {
        assert_eq!(code(&task(&[], body)), "json.syntax", "{body}");
    }
    assert_eq!(
        code(&raw(MessageKind::Task, &[], &b"{\"type\":\"\xff\"}"[..])),
        "utf8.invalid"
    );
    assert_eq!(
        code(&task(&[], &legacy_message("i", "t", "***"))),
        "base64.invalid"
    );
    assert_eq!(code(&task(&[], &legacy_task("***"))), "base64.invalid");
}

#[test]
fn depth_costs_no_stack() {
    let deep = "[".repeat(1 << 20);
    assert_eq!(code(&task(&[], &deep)), "type.missing");
    assert_eq!(
        code(&task(&[], &format!(r#"{{"type":"t","payload":{deep}"#))),
        "json.syntax"
    );
    assert_eq!(code(&task(&[], &format!(r#"{{"type":{deep}"#))), "json.syntax");
    let closed = format!("{deep}{}", "]".repeat(1 << 20));
    assert_eq!(
        code(&task(&[], &format!(r#"{{"payload":1,"type":{closed}}}"#))),
        "type.type"
    );
    assert_eq!(
        ok(&task(&[], &format!(r#"{{"type":"t","payload":{closed}}}"#)))
            .payload
            .len(),
        closed.len()
    );
    assert_eq!(ok(&task(&[("type", "t")], &deep)).payload.len(), 1 << 20);
}
