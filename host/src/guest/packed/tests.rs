#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::model::{Envelope, Headers, MessageKind, TraceContext};

fn number(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

type Fields = Vec<Option<Vec<u8>>>;

/// Reads an event as a guest does: by the table of places, written from wit/packed-handler.wit alone.
fn read_event(e: &[u8]) -> (Fields, Vec<(String, Vec<u8>)>) {
    let present = number(e, 40);
    let place = |k: usize| number(e, 48 + 4 * k) as usize;
    let fields = (0..13)
        .map(|k| (present >> k & 1 == 1).then(|| e[place(k)..place(k + 1)].to_vec()))
        .collect();
    let mut at = place(13);
    let mut headers = Vec::new();
    for _ in 0..number(e, 44) {
        let n = number(e, at) as usize;
        let name = String::from_utf8(e[at + 4..at + 4 + n].to_vec()).unwrap();
        at += 4 + n;
        let v = number(e, at) as usize;
        headers.push((name, e[at + 4..at + 4 + v].to_vec()));
        at += 4 + v;
    }
    assert_eq!(
        at,
        number(e, 0) as usize,
        "the headers end where the next event starts"
    );
    (fields, headers)
}

fn text() -> impl Strategy<Value = String> {
    "\\PC{0,12}"
}

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
}

prop_compose! {
    fn envelope()(
        (id, message_type, topic, payload) in (text(), text(), text(), bytes()),
        (source, subject, content_type, schema) in (any::<Option<u8>>(), proptest::option::of(text()), proptest::option::of(text()), proptest::option::of(text())),
        (key, replay, correlation_id) in (proptest::option::of(bytes()), proptest::option::of(text()), proptest::option::of(text())),
        trace in proptest::option::of((text(), proptest::option::of(text()))),
        (partition, offset, time_ms, reprocessed) in (proptest::option::of(0..u32::MAX), proptest::option::of(0..u64::MAX), any::<u64>(), any::<u32>()),
        (redelivered, tombstone) in any::<(bool, bool)>(),
        headers in proptest::collection::vec((text(), bytes()), 0..4),
    ) -> Envelope {
        Envelope {
            id, message_type,
            origin: Origin { broker: "b".into(), kind: MessageKind::Event, destination: topic.into(), partition, offset },
            payload, tombstone, content_type, schema,
            source: source.map(|n| n.to_string()), subject, priority: 0, key, time_ms,
            deadline_ms: None, correlation_id, reply_to: None,
            trace: trace.map(|(traceparent, tracestate)| TraceContext { traceparent, tracestate }),
            headers: headers.into_iter().collect::<Headers>(), redelivered, reprocessed, replay,
        }
    }
}

fn invocation(envelope: &Envelope) -> Invocation<'_> {
    Invocation {
        envelope,
        attempt: 3,
        max_attempts: 4,
        timeout: Duration::from_secs(1),
        headers: None,
        fresh: false,
    }
}

/// Writes outcomes as a guest does.
fn outcomes(said: &[Said]) -> Vec<u8> {
    let mut out = vec![1, 1, 0, 0];
    out.extend((said.len() as u32).to_le_bytes());
    for one in said {
        let (tag, after, reason, code) = match one {
            Said::Ok => {
                out.push(0);
                continue;
            }
            Said::Retry {
                after_ms,
                reason,
                code,
            } => (1, after_ms.unwrap_or(u64::MAX), reason, code),
            Said::Reject { reason, code } => (2, u64::MAX, reason, code),
        };
        out.push(tag);
        out.extend(after.to_le_bytes());
        out.extend((reason.len() as u32).to_le_bytes());
        out.extend(reason.as_bytes());
        out.extend(code.as_ref().map_or(u32::MAX, |c| c.len() as u32).to_le_bytes());
        out.extend(code.iter().flat_map(|c| c.bytes()));
    }
    out
}

fn said() -> impl Strategy<Value = Said> {
    let code = || proptest::option::of(text());
    prop_oneof![
        Just(Said::Ok),
        (proptest::option::of(0..u64::MAX), text(), code()).prop_map(|(after_ms, reason, code)| {
            Said::Retry {
                after_ms,
                reason,
                code,
            }
        }),
        (text(), code()).prop_map(|(reason, code)| Said::Reject { reason, code }),
    ]
}

proptest! {
    #[test]
    fn what_goes_in_can_be_read_by_places(envelopes in proptest::collection::vec(envelope(), 1..5)) {
        let batch: Vec<_> = envelopes.iter().map(invocation).collect();
        let mut buffer = Vec::new();
        encode(&mut buffer, &batch).unwrap();
        prop_assert_eq!(&buffer[..4], &[1, 1, 0, 0]);
        prop_assert_eq!(number(&buffer, 4) as usize, envelopes.len());
        let mut rest = &buffer[8..];
        for e in &envelopes {
            let (event, after) = rest.split_at(number(rest, 0) as usize);
            rest = after;
            let (fields, headers) = read_event(event);
            let some = |s: &str| Some(s.as_bytes().to_vec());
            let opt = |s: &Option<String>| s.as_ref().map(|s| s.as_bytes().to_vec());
            let trace = e.trace.clone();
            prop_assert_eq!(fields, vec![
                some(&e.id), some(&e.message_type), some(&e.origin.destination), Some(e.payload.to_vec()), opt(&e.source),
                opt(&e.subject), opt(&e.content_type), opt(&e.schema), e.key.as_ref().map(|k| k.to_vec()), opt(&e.replay),
                opt(&e.correlation_id), opt(&trace.clone().map(|t| t.traceparent)), opt(&trace.and_then(|t| t.tracestate)),
            ]);
            let expected: Vec<_> = e.headers.iter().map(|(n, v)| (n.to_owned(), v.to_vec())).collect();
            prop_assert_eq!(headers, expected);
            prop_assert_eq!(number(event, 4), u32::from(e.redelivered) | u32::from(e.tombstone) << 1);
            prop_assert_eq!(long(event, 8), e.time_ms);
            prop_assert_eq!(long(event, 16), e.origin.offset.unwrap_or(u64::MAX));
            prop_assert_eq!(number(event, 24), e.origin.partition.unwrap_or(u32::MAX));
            prop_assert_eq!((number(event, 28), number(event, 32), number(event, 36)), (3, 4, e.reprocessed));
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn what_comes_out_is_read_back(all in proptest::collection::vec(said(), 0..8)) {
        prop_assert_eq!(decode(&outcomes(&all), all.len()).unwrap(), all);
    }

    /// Cut short, longer, or for another number of events: never accepted.
    #[test]
    fn nothing_else_is_accepted(all in proptest::collection::vec(said(), 1..5), cut in 1usize..40) {
        let whole = outcomes(&all);
        let shorter = whole.len().saturating_sub(cut);
        prop_assert!(decode(&whole[..shorter], all.len()).is_err());
        let mut longer = whole.clone();
        longer.push(0);
        prop_assert!(decode(&longer, all.len()).is_err());
        prop_assert!(decode(&whole, all.len() + 1).is_err());
        prop_assert!(decode(&whole, all.len() - 1).is_err());
    }

    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), n in 0usize..5) {
        let _ = decode(&bytes, n);
        let mut headed = vec![1, 1, 0, 0];
        headed.extend((n as u32).to_le_bytes());
        headed.extend(bytes);
        let _ = decode(&headed, n);
    }
}

#[test]
fn only_named_headers_go_in() {
    let mut headers = Headers::new();
    headers.push("A", "1");
    headers.push("b", "2");
    headers.push("a", "3");
    let origin = Origin {
        broker: "b".into(),
        kind: MessageKind::Event,
        destination: "t".into(),
        partition: None,
        offset: None,
    };
    let envelope = crate::guest::tests::envelope(origin, "x", headers);
    let names = ["a".to_owned()];
    let mut buffer = Vec::new();
    let batch = [Invocation {
        headers: Some(&names),
        ..invocation(&envelope)
    }];
    encode(&mut buffer, &batch).unwrap();
    let (_, headers) = read_event(&buffer[8..]);
    assert_eq!(
        headers,
        [("A".to_owned(), b"1".to_vec()), ("a".to_owned(), b"3".to_vec())]
    );
}

#[test]
fn a_reject_with_a_delay_and_a_text_that_is_not_utf8_are_refused() {
    let mut delayed = outcomes(&[Said::Reject {
        reason: "r".into(),
        code: None,
    }]);
    delayed[9..17].copy_from_slice(&5u64.to_le_bytes());
    assert!(decode(&delayed, 1).unwrap_err().contains("delay"));
    let mut broken = outcomes(&[Said::Reject {
        reason: "r".into(),
        code: None,
    }]);
    broken[21] = 0xff;
    assert!(decode(&broken, 1).unwrap_err().contains("UTF-8"));
    assert!(decode(&[1, 1, 0, 0, 0xff, 0xff, 0xff, 0xff], 1).is_err());
}
