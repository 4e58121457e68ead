//! Bytes, headers and properties are decoded or refused; what was decoded survives every format and every broker.

use bytes::Bytes;
use helix_host::broker::kafka::convert::{Converter, Record};
use helix_host::broker::rabbitmq::convert;
use helix_host::decode::decode;
use helix_host::encode::{Wire, encode};
use helix_host::model::{Envelope, MessageKind, Outgoing, RawMessage, WireFormat};

use crate::message;

const FALLBACK: &str = "queue/0/7";
const FORMATS: [WireFormat; 5] = [
    WireFormat::Flat,
    WireFormat::Raw,
    WireFormat::Legacy,
    WireFormat::CloudeventsBinary,
    WireFormat::CloudeventsStructured,
];
/// What RabbitMQ grants a frame unless told otherwise.
const FRAME: usize = 128 << 10;

pub fn envelope(data: &[u8]) {
    let raw = message::read(data).raw();
    let first = decode(&raw, FALLBACK, 5);
    assert_eq!(first, decode(&raw, FALLBACK, 5), "the same answer twice");
    let envelope = match first {
        Ok(envelope) => envelope,
        Err(malformed) => {
            assert!(!malformed.code.is_empty() && !malformed.reason.is_empty());
            return;
        }
    };
    sound(&raw, &envelope);
    for format in FORMATS {
        let sent = outgoing(&envelope);
        for raw in arrivals(encode(&sent, format), sent.kind) {
            let got = decode(&raw, "other", 6)
                .unwrap_or_else(|e| panic!("{format:?}: {}: {e}\n{sent:?}\n{raw:?}", e.code));
            same(&sent, &got, format);
        }
    }
}

fn sound(raw: &RawMessage, envelope: &Envelope) {
    assert!(!envelope.message_type.is_empty());
    assert!(!envelope.id.is_empty());
    assert!(envelope.priority <= 10);
    assert_eq!(envelope.tombstone, raw.body.is_none());
    assert!(!envelope.tombstone || envelope.payload.is_empty());
    // Delivered again, later: it is still the same message.
    let mut again = raw.clone();
    again.redelivered = true;
    let again = decode(&again, FALLBACK, 1_000_000).expect("time and redelivery decide nothing");
    assert_eq!(
        (&again.id, &again.message_type, &again.payload, &again.key),
        (
            &envelope.id,
            &envelope.message_type,
            &envelope.payload,
            &envelope.key
        )
    );
    // An id the producer gave does not depend on where the message lay.
    if envelope.id != FALLBACK {
        let elsewhere = decode(raw, "elsewhere", 5).expect("the fallback id decides nothing");
        assert_eq!(elsewhere.id, envelope.id);
    }
}

fn outgoing(envelope: &Envelope) -> Outgoing {
    let e = envelope.clone();
    Outgoing {
        kind: e.origin.kind,
        destination: "out".into(),
        id: e.id,
        message_type: e.message_type,
        payload: e.payload,
        tombstone: e.tombstone,
        content_type: e.content_type,
        schema: e.schema,
        source: e.source,
        subject: e.subject,
        priority: Some(e.priority),
        key: e.key,
        time_ms: e.time_ms,
        not_before_ms: None,
        deadline_ms: e.deadline_ms,
        correlation_id: e.correlation_id,
        reply_to: e.reply_to,
        trace: e.trace,
        headers: e.headers,
    }
}

/// How it reaches the next reader: events over Kafka, tasks over the embedded broker (which stores what it is given) and
/// over AMQP, unless AMQP has no room for it.
fn arrivals(wire: Wire, kind: MessageKind) -> Vec<RawMessage> {
    if kind == MessageKind::Event {
        let record = Record {
            key: wire.key.as_deref(),
            body: wire.body.as_deref(),
            headers: wire
                .headers
                .iter()
                .map(|(n, v)| (n.as_bytes(), v.as_ref()))
                .collect(),
            ..Record::default()
        };
        return vec![Converter::new("kafka".into(), "topic".into()).message(&record)];
    }
    let amqp = convert::properties(&wire, 0, FRAME).ok().map(|properties| {
        // AMQP knows no tombstones; the host sends none there.
        let body = wire.body.clone().unwrap_or_default().to_vec();
        let mut raw = convert::raw_message(&"amqp".into(), &"queue".into(), &properties, false, body, 0);
        raw.body = raw.body.filter(|_| wire.body.is_some());
        raw
    });
    let embedded = RawMessage {
        origin: message::origin(kind),
        body: wire.body,
        key: wire.key,
        headers: wire.headers,
        props: wire.props,
        timestamp_ms: None,
        redelivered: false,
    };
    std::iter::once(embedded).chain(amqp).collect()
}

fn same(sent: &Outgoing, got: &Envelope, format: WireFormat) {
    assert_eq!(got.id, sent.id, "{format:?}");
    assert_eq!(got.message_type, sent.message_type, "{format:?}");
    assert_eq!(got.tombstone, sent.tombstone, "{format:?}");
    // Extension attributes may be set as headers, and CloudEvents' partitioning extension is one that makes a key.
    let extended = sent.key.is_none()
        && matches!(
            format,
            WireFormat::CloudeventsBinary | WireFormat::CloudeventsStructured
        );
    assert!(
        extended || got.key == sent.key,
        "{format:?}: {:?} became {:?}",
        sent.key,
        got.key
    );
    assert_eq!(got.trace, sent.trace, "{format:?}");
    assert_eq!(Some(got.priority), sent.priority, "{format:?}");
    // JSON inside JSON loses the blanks around it, nothing else.
    let inside = matches!(format, WireFormat::Flat | WireFormat::CloudeventsStructured);
    let trimmed = Bytes::copy_from_slice(sent.payload.trim_ascii());
    assert!(
        got.payload == sent.payload || inside && got.payload == trimmed,
        "{format:?}: {:?} became {:?}",
        sent.payload,
        got.payload
    );
}
