//! What is published arrives as it was.

use bytes::Bytes;
use helix_host::broker::PublishError;
use helix_host::decode::decode;
use helix_host::model::{BrokerKind, Headers, MessageKind, Outgoing, TraceContext};
use helix_tests::unique;

use super::capabilities::Flag;
use super::stage::{Stage, acknowledge, ids, send};

/// Not UTF-8, and what a text protocol would trip over.
const BYTES: &[u8] = b"\x00\xff\xfe\r\n\"'\\,\xc3\x28 end";

pub async fn every_field_survives(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    let sent = Outgoing {
        content_type: Some("application/x-thing".into()),
        schema: Some("https://example.com/schema/1".into()),
        source: Some("/shop/checkout".into()),
        subject: Some("order 17".into()),
        priority: Some(7),
        key: Some(Bytes::from_static(BYTES)),
        time_ms: 1_700_000_000_123,
        deadline_ms: Some(4_000_000_000_456),
        correlation_id: Some("correlated-1".into()),
        reply_to: Some("answers".into()),
        trace: Some(TraceContext {
            traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into(),
            tracestate: Some("a=1".into()),
        }),
        ..stage.message(&name, "the id: ä")
    };
    send(&*broker, vec![sent.clone()]).await;
    let mut consumer = stage.consumer(&*broker, &name, 1).await;
    let got = consumer.take(1).await;
    let raw = &got[0].raw;
    if stage.kind == MessageKind::Task {
        assert_eq!(raw.props.message_id.as_deref(), Some("the id: ä"));
        assert_eq!(raw.props.message_type.as_deref(), Some("contract.checked"));
        assert_eq!(raw.props.priority, Some(7));
    }
    assert_eq!(raw.key.as_deref(), Some(BYTES));
    let envelope = decode(raw, "fallback", 0).unwrap();
    assert_eq!(envelope.id, sent.id);
    assert_eq!(envelope.message_type, sent.message_type);
    assert_eq!(envelope.payload, sent.payload);
    assert_eq!(envelope.content_type, sent.content_type);
    assert_eq!(envelope.schema, sent.schema);
    assert_eq!(envelope.source, sent.source);
    assert_eq!(envelope.subject, sent.subject);
    assert_eq!(envelope.priority, 7);
    assert_eq!(envelope.key, sent.key);
    assert_eq!(envelope.time_ms, sent.time_ms);
    assert_eq!(envelope.deadline_ms, sent.deadline_ms);
    assert_eq!(envelope.correlation_id, sent.correlation_id);
    assert_eq!(envelope.reply_to, sent.reply_to);
    assert_eq!(envelope.trace, sent.trace);
    assert!(!envelope.tombstone);
    acknowledge(got);
    consumer.leave().await;
    broker.close().await;
}

pub async fn headers_survive(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    let long = "x".repeat(5000);
    let pairs: [(&str, &[u8]); 7] = [
        ("b", b"first"),
        ("a", BYTES),
        ("b", b"second"),
        ("empty", b""),
        ("helix-stamp", b"of the host"),
        ("long", long.as_bytes()),
        ("b", b"first"),
    ];
    let headers: Headers = pairs
        .iter()
        .map(|(name, value)| (*name, value.to_vec()))
        .collect();
    send(
        &*broker,
        vec![Outgoing {
            headers,
            ..stage.message(&name, "headed")
        }],
    )
    .await;
    let mut consumer = stage.consumer(&*broker, &name, 1).await;
    let got = consumer.take(1).await;
    let carried: Vec<(&str, &[u8])> = got[0]
        .raw
        .headers
        .iter()
        .map(|(name, value)| (name, &value[..]))
        .filter(|(name, _)| pairs.iter().any(|(ours, _)| ours == name))
        .collect();
    if stage.place.capabilities().kind == BrokerKind::RabbitMq {
        // An AMQP table has neither order nor repeats; the first value of a name counts, as everywhere.
        let mut carried = carried;
        carried.sort_unstable();
        let mut expected: Vec<(&str, &[u8])> = vec![pairs[0], pairs[1], pairs[3], pairs[4], pairs[5]];
        expected.sort_unstable();
        assert_eq!(carried, expected);
    } else {
        assert_eq!(carried, pairs);
    }
    drop(got);
    broker.close().await;
}

pub async fn every_byte_survives(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    let every: Bytes = (0..=u8::MAX).cycle().take(50_000).collect();
    let payloads = [
        every,
        Bytes::new(),
        Bytes::from_static(b"{\"type\":\"a\",\"data\":{}}"),
    ];
    let batch = payloads.iter().enumerate().map(|(n, payload)| Outgoing {
        payload: payload.clone(),
        ..stage.message(&name, &n.to_string())
    });
    send(&*broker, batch.collect()).await;
    let mut consumer = stage.consumer(&*broker, &name, 10).await;
    let got = consumer.take(3).await;
    for (delivery, payload) in got.iter().zip(&payloads) {
        assert!(
            delivery.raw.body.as_ref() == Some(payload),
            "body {:?}",
            delivery.raw.body
        );
        assert!(decode(&delivery.raw, "fallback", 0).unwrap().payload == *payload);
        assert_eq!(delivery.raw.key, None);
    }
    acknowledge(got);
    consumer.leave().await;
    broker.close().await;
}

/// A task goes back to its queue byte for byte. A topic takes nothing back: others would read it twice.
pub async fn what_is_put_back_comes_again_as_it_was(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    let sent = Outgoing {
        payload: Bytes::from_static(b"{\"type\":\"a\",\"data\":{}}"),
        content_type: Some("application/x-thing".into()),
        priority: Some(7),
        key: Some(Bytes::from_static(BYTES)),
        time_ms: 1_700_000_000_000,
        deadline_ms: Some(4_000_000_000_456),
        correlation_id: Some("correlated-1".into()),
        reply_to: Some("answers".into()),
        headers: [("a", BYTES), ("helix-stamp", b"of the host")]
            .into_iter()
            .map(|(name, value)| (name, value.to_vec()))
            .collect(),
        ..stage.message(&name, "the id")
    };
    send(&*broker, vec![sent]).await;
    let mut consumer = stage.consumer(&*broker, &name, 1).await;
    let first = consumer.take(1).await;
    let raw = first[0].raw.clone();
    acknowledge(first);
    let answer = broker.publisher().put_back(raw.clone()).await;
    if stage.kind == MessageKind::Event {
        assert!(matches!(answer, Err(PublishError::Invalid(_))), "{answer:?}");
        consumer
            .assert_silent("an event was put into its topic again")
            .await;
    } else {
        answer.unwrap();
        let again = consumer.take(1).await;
        let mut expected = raw.clone();
        // Another place, and on some brokers another time.
        expected.origin.offset = again[0].raw.origin.offset;
        expected.timestamp_ms = again[0].raw.timestamp_ms;
        assert_eq!(again[0].raw, expected);
        acknowledge(again);
        let mut lost = raw;
        lost.origin.destination = unique("nowhere").into();
        let answer = broker.publisher().put_back(lost).await;
        assert!(
            matches!(answer, Err(PublishError::UnknownTarget(_))),
            "{answer:?}"
        );
    }
    consumer.leave().await;
    broker.close().await;
}

pub async fn a_tombstone_is_not_an_empty_value(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    let empty = Outgoing {
        payload: Bytes::new(),
        key: Some("k".into()),
        ..stage.message(&name, "empty")
    };
    let tombstone = Outgoing {
        tombstone: true,
        id: "tombstone".into(),
        ..empty.clone()
    };
    let results = broker.publisher().publish(vec![tombstone, empty]).await;
    assert!(results[1].is_ok(), "{results:?}");
    let mut consumer = stage.consumer(&*broker, &name, 10).await;
    if stage.can(Flag::Tombstones) {
        assert!(results[0].is_ok(), "{results:?}");
        let got = consumer.take(1).await;
        assert_eq!(
            (ids(&got), &got[0].raw.body),
            (vec!["tombstone".to_owned()], &None)
        );
        assert!(decode(&got[0].raw, "fallback", 0).unwrap().tombstone);
        acknowledge(got);
    } else {
        assert!(
            matches!(&results[0], Err(PublishError::Invalid(why)) if why.contains("tombstone")),
            "{results:?}"
        );
    }
    let got = consumer.take(1).await;
    assert_eq!(
        (ids(&got), &got[0].raw.body),
        (vec!["empty".to_owned()], &Some(Bytes::new()))
    );
    assert!(!decode(&got[0].raw, "fallback", 0).unwrap().tombstone);
    acknowledge(got);
    consumer.leave().await;
    broker.close().await;
}
