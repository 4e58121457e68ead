//! Headers of both brokers become ours without loss, and leave again as they came.
//!
//! An input that begins with `A` is an AMQP field table (without its length), everything else a message as text.

use helix_host::broker::kafka::convert::Converter;
use helix_host::broker::rabbitmq::convert::{EXPIRES_HEADER, KEY_HEADER, properties, raw_message};
use helix_host::decode::decode;
use helix_host::encode::Wire;
use helix_host::model::RawMessage;
use lapin::BasicProperties;
use lapin::types::FieldTable;
use lapin::types::parsing::parse_field_table;

use crate::message;

pub fn headers(data: &[u8]) {
    match data {
        [b'A', table @ ..] => {
            let mut framed = u32::try_from(table.len())
                .unwrap_or_default()
                .to_be_bytes()
                .to_vec();
            framed.extend_from_slice(table);
            if let Ok((_, table)) = parse_field_table(framed.as_slice()) {
                amqp(table);
            }
        }
        _ => kafka(data),
    }
}

fn amqp(table: FieldTable) {
    let named = |name: &str| {
        table
            .inner()
            .keys()
            .filter(|n| n.as_str().eq_ignore_ascii_case(name))
            .count()
    };
    let (all, keys, deadlines) = (table.inner().len(), named(KEY_HEADER), named(EXPIRES_HEADER));
    let raw = received(&BasicProperties::default().with_headers(table));
    assert_eq!(raw.headers.len(), all - keys - deadlines, "a header came or went");
    assert_eq!(raw.key.is_some(), keys > 0);
    counted(&raw);
    let wire = Wire {
        body: raw.body.clone(),
        key: raw.key.clone(),
        headers: raw.headers.clone(),
        props: raw.props.clone(),
    };
    match properties(&wire, 0, 128 << 10) {
        Ok(properties) => {
            let again = received(&properties);
            assert_eq!(again.headers, raw.headers);
            assert_eq!(again.key, raw.key);
            assert_eq!(again.props, raw.props);
        }
        Err(what) => crate::assert_tame(&what),
    }
}

fn received(properties: &BasicProperties) -> RawMessage {
    raw_message(
        &"amqp".into(),
        &"queue".into(),
        properties,
        false,
        b"{}".to_vec(),
        0,
    )
}

fn kafka(data: &[u8]) {
    let message = message::read(data);
    let record = message.record();
    let raw = Converter::new("kafka".into(), "topic".into()).message(&record);
    let got: Vec<(&str, &[u8])> = raw.headers.iter().map(|(n, v)| (n, v.as_ref())).collect();
    let names: Vec<_> = record
        .headers
        .iter()
        .map(|(n, _)| String::from_utf8_lossy(n))
        .collect();
    let sent: Vec<(&str, &[u8])> = names
        .iter()
        .zip(&record.headers)
        .map(|(n, (_, v))| (&**n, *v))
        .collect();
    assert_eq!(got, sent);
    assert_eq!(raw.key.as_deref(), record.key);
    assert_eq!(raw.body.as_deref(), record.body);
    counted(&raw);
}

/// What limits count is what is there; the first of several names is what is found, and removing one removes all.
fn counted(raw: &RawMessage) {
    let names: usize = raw.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
    let rest = raw.body.as_ref().map_or(0, bytes::Bytes::len) + raw.key.as_ref().map_or(0, bytes::Bytes::len);
    assert_eq!(raw.size(), names + rest);
    for (name, _) in raw.headers.iter() {
        let first = raw.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        assert_eq!(raw.headers.get(name), first.map(|(_, v)| v));
        let mut without = raw.headers.clone();
        without.remove(name);
        assert!(without.get(name).is_none() && without.len() < raw.headers.len());
    }
    if let Ok(envelope) = decode(raw, "queue/0/7", 5) {
        assert!(
            envelope.headers.len() >= raw.headers.len(),
            "decoding drops no header"
        );
    }
}
