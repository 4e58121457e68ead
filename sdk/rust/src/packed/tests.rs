#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::time::Duration;

use super::*;
use crate::failure::{reject, retry, retry_after};
use crate::record::EventMessage;

fn full() -> EventMessage {
    EventMessage {
        id: "e-1".into(),
        message_type: "verification.completed".into(),
        source: Some("verifier".into()),
        subject: None,
        data: b"{\"ok\":true}".to_vec(),
        tombstone: false,
        content_type: Some("application/json".into()),
        schema: Some(String::new()),
        time_ms: 1_700_000_000_123,
        key: Some(vec![0, 255]),
        topic: "results".into(),
        partition: Some(2),
        offset: Some(1 << 40),
        attempt: 2,
        max_attempts: 4,
        redelivered: true,
        reprocessed: 3,
        replay: None,
        correlation_id: Some("c".into()),
        traceparent: Some("00-aa-bb-01".into()),
        tracestate: None,
        headers: vec![("A".into(), b"1".to_vec()), ("a".into(), Vec::new())],
    }
}

/// Writes what the host writes, from the text of the WIT and not from the reader.
fn pack(events: &[EventMessage]) -> Vec<u8> {
    let mut out = vec![1, 1, 0, 0];
    out.extend((events.len() as u32).to_le_bytes());
    for event in events {
        let fields: [Option<&[u8]>; 13] = [
            Some(event.id.as_bytes()),
            Some(event.message_type.as_bytes()),
            Some(event.topic.as_bytes()),
            Some(&event.data),
            event.source.as_deref().map(str::as_bytes),
            event.subject.as_deref().map(str::as_bytes),
            event.content_type.as_deref().map(str::as_bytes),
            event.schema.as_deref().map(str::as_bytes),
            event.key.as_deref(),
            event.replay.as_deref().map(str::as_bytes),
            event.correlation_id.as_deref().map(str::as_bytes),
            event.traceparent.as_deref().map(str::as_bytes),
            event.tracestate.as_deref().map(str::as_bytes),
        ];
        let (mut places, mut present, mut body) = (Vec::new(), 0u32, Vec::new());
        for (k, field) in fields.iter().enumerate() {
            places.extend((104 + body.len() as u32).to_le_bytes());
            if let Some(bytes) = field {
                present |= 1 << k;
                body.extend_from_slice(bytes);
            }
        }
        places.extend((104 + body.len() as u32).to_le_bytes());
        for (name, value) in &event.headers {
            body.extend((name.len() as u32).to_le_bytes());
            body.extend(name.as_bytes());
            body.extend((value.len() as u32).to_le_bytes());
            body.extend(value);
        }
        out.extend((104 + body.len() as u32).to_le_bytes());
        out.extend((u32::from(event.redelivered) | u32::from(event.tombstone) << 1).to_le_bytes());
        out.extend(event.time_ms.to_le_bytes());
        out.extend(event.offset.unwrap_or(u64::MAX).to_le_bytes());
        out.extend(event.partition.unwrap_or(u32::MAX).to_le_bytes());
        for number in [
            event.attempt,
            event.max_attempts,
            event.reprocessed,
            present,
            event.headers.len() as u32,
        ] {
            out.extend(number.to_le_bytes());
        }
        out.extend(places);
        out.extend(body);
    }
    out
}

fn same(packed: &Context<'_>, typed: &Context<'_>) {
    assert_eq!(packed.id(), typed.id());
    assert_eq!(packed.message_type(), typed.message_type());
    assert_eq!(packed.destination(), typed.destination());
    assert_eq!(packed.payload(), typed.payload());
    assert_eq!(packed.source(), typed.source());
    assert_eq!(packed.subject(), typed.subject());
    assert_eq!(packed.content_type(), typed.content_type());
    assert_eq!(packed.schema(), typed.schema());
    assert_eq!(packed.key(), typed.key());
    assert_eq!(packed.replay(), typed.replay());
    assert_eq!(packed.correlation_id(), typed.correlation_id());
    assert_eq!(packed.traceparent(), typed.traceparent());
    assert_eq!(packed.tracestate(), typed.tracestate());
    assert_eq!(packed.time(), typed.time());
    assert_eq!(
        (packed.partition(), packed.offset()),
        (typed.partition(), typed.offset())
    );
    assert_eq!(
        (packed.attempt(), packed.max_attempts()),
        (typed.attempt(), typed.max_attempts())
    );
    assert_eq!(
        (packed.redelivered(), packed.reprocessed()),
        (typed.redelivered(), typed.reprocessed())
    );
    assert_eq!(packed.tombstone(), typed.tombstone());
    assert_eq!(
        packed.headers().collect::<Vec<_>>(),
        typed.headers().collect::<Vec<_>>()
    );
}

#[test]
fn every_field_arrives_as_in_the_typed_call() {
    let bare = EventMessage {
        tombstone: true,
        ..EventMessage::default()
    };
    let events = [full(), bare, full()];
    let mut seen = 0;
    let out = run(&pack(&events), |context| {
        same(context, &Context::event(&events[seen]));
        assert_eq!(context.input(), Some(seen as u32));
        assert_eq!(host::scope(), host::Scope::Input(seen as u32));
        seen += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(seen, 3);
    assert_eq!(out, [1, 1, 0, 0, 3, 0, 0, 0, 0, 0, 0]);
    assert_eq!(host::scope(), host::Scope::Single);
}

#[test]
fn outcomes_are_written_as_the_contract_says() {
    let mut results = vec![
        Err(reject("no").code("c")),
        Err(retry_after(Duration::from_millis(258), "")),
        Err(retry("ä")),
        Ok(()),
    ];
    let out = run(&pack(&[full(), full(), full(), full()]), |_| results.remove(0)).unwrap();
    let none = [255u8; 8];
    let mut expected = vec![1, 1, 0, 0, 4, 0, 0, 0];
    expected.push(2);
    expected.extend(none);
    expected.extend([2, 0, 0, 0, b'n', b'o', 1, 0, 0, 0, b'c']);
    expected.push(1);
    expected.extend([2, 1, 0, 0, 0, 0, 0, 0]);
    expected.extend([0, 0, 0, 0, 255, 255, 255, 255]);
    expected.push(1);
    expected.extend(none);
    expected.extend([2, 0, 0, 0, 0xc3, 0xa4, 255, 255, 255, 255]);
    expected.push(0);
    assert_eq!(out, expected);
}

#[test]
fn a_buffer_cut_anywhere_is_refused() {
    let whole = pack(&[full(), full()]);
    assert_eq!(read(&whole).unwrap().len(), 2);
    for length in 0..whole.len() {
        assert!(read(&whole[..length]).is_err(), "cut at {length}");
    }
    let mut longer = whole.clone();
    longer.push(0);
    assert_eq!(read(&longer).unwrap_err(), Malformed::Trailing);
    for (at, fault) in [(0, Malformed::Version(9)), (1, Malformed::Kind(9))] {
        let mut other = whole.clone();
        other[at] = 9;
        assert_eq!(read(&other).unwrap_err(), fault);
    }
    let mut lying = whole;
    lying[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    assert_eq!(read(&lying).unwrap_err(), Malformed::Event(2));
}

#[test]
fn a_place_out_of_order_or_bounds_is_refused() {
    let whole = pack(&[full()]);
    for field in 0..14 {
        for place in [0u32, 103, u32::MAX] {
            let mut wrong = whole.clone();
            let at = 8 + 48 + 4 * field;
            wrong[at..at + 4].copy_from_slice(&place.to_le_bytes());
            assert_eq!(
                read(&wrong).unwrap_err(),
                Malformed::Event(0),
                "field {field} at {place}"
            );
        }
    }
}

/// A later layout may put numbers before field 0 and anything after the headers.
#[test]
fn a_later_layout_is_read_by_its_places() {
    let mut event = pack(&[full()]).split_off(8);
    event.splice(104..104, [7u8; 16]);
    for field in 0..14 {
        let at = 48 + 4 * field;
        let place = u32::from_le_bytes(event[at..at + 4].try_into().unwrap()) + 16;
        event[at..at + 4].copy_from_slice(&place.to_le_bytes());
    }
    event.extend([9; 5]);
    let size = event.len() as u32;
    event[..4].copy_from_slice(&size.to_le_bytes());
    let mut buffer = vec![1, 1, 0, 0, 1, 0, 0, 0];
    buffer.extend(event);
    let typed = full();
    run(&buffer, |context| {
        same(context, &Context::event(&typed));
        Ok(())
    })
    .unwrap();
}

#[test]
#[should_panic(expected = "text is not UTF-8")]
fn text_that_is_none_is_a_trap() {
    let mut buffer = pack(&[full()]);
    buffer[8 + 104] = 0xff;
    let _ = run(&buffer, |context| {
        let _ = context.id();
        Ok(())
    });
}
