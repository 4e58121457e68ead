//! Kafka record → [`RawMessage`]. Pure.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::model::raw::Properties;
use crate::model::{Headers, MessageKind, Origin, RawMessage, UnixMs};

/// Header names of one topic repeat; so many different ones are kept, then they are allocated per message.
const NAMES: usize = 256;
/// So many headers of a record are compared with those of the one before.
const PLACES: usize = 16;

/// A record as librdkafka shows it.
#[derive(Debug, Clone, Default)]
pub struct Record<'a> {
    pub partition: u32,
    pub offset: u64,
    pub timestamp_ms: Option<UnixMs>,
    pub key: Option<&'a [u8]>,
    /// None is a tombstone.
    pub body: Option<&'a [u8]>,
    /// In order, names may repeat; a null value is an empty one.
    pub headers: Pairs<'a>,
}

/// Names and values; up to eight need no allocation.
pub type Pairs<'a> = SmallVec<[(&'a [u8], &'a [u8]); 8]>;

/// Turns records of one topic into messages.
#[derive(Debug)]
pub struct Converter {
    broker: Arc<str>,
    topic: Arc<str>,
    names: HashSet<Arc<str>>,
    /// Names of the last record, by place: the next one mostly has the same.
    last: Vec<Arc<str>>,
}

impl Converter {
    pub fn new(broker: Arc<str>, topic: Arc<str>) -> Self {
        Self {
            broker,
            topic,
            names: HashSet::new(),
            last: Vec::new(),
        }
    }

    /// One allocation holds key, body and all header values.
    pub fn message(&mut self, record: &Record<'_>) -> RawMessage {
        let values: usize = record.headers.iter().map(|(_, v)| v.len()).sum();
        let size = record.key.map_or(0, <[u8]>::len) + record.body.map_or(0, <[u8]>::len) + values;
        let mut block = BytesMut::with_capacity(size);
        for part in [record.key, record.body].into_iter().flatten() {
            block.extend_from_slice(part);
        }
        for (_, value) in &record.headers {
            block.extend_from_slice(value);
        }
        let mut block = block.freeze();
        let mut cut = |part: &[u8]| -> Bytes { block.split_to(part.len()) };
        let key = record.key.map(&mut cut);
        let body = record.body.map(&mut cut);
        let headers: Headers = record
            .headers
            .iter()
            .enumerate()
            .map(|(place, (name, value))| (self.name(place, name), cut(value)))
            .collect();
        RawMessage {
            origin: Origin {
                broker: self.broker.clone(),
                kind: MessageKind::Event,
                destination: self.topic.clone(),
                partition: Some(record.partition),
                offset: Some(record.offset),
            },
            body,
            key,
            headers,
            props: Properties::default(),
            timestamp_ms: record.timestamp_ms,
            // Kafka does not count deliveries.
            redelivered: false,
        }
    }

    fn name(&mut self, place: usize, bytes: &[u8]) -> Arc<str> {
        if let Some(same) = self.last.get(place).filter(|last| last.as_bytes() == bytes) {
            return same.clone();
        }
        let name = self.known(bytes);
        if let Some(last) = self.last.get_mut(place) {
            *last = name.clone();
        } else if place < PLACES {
            self.last.push(name.clone());
        }
        name
    }

    fn known(&mut self, bytes: &[u8]) -> Arc<str> {
        let text = String::from_utf8_lossy(bytes);
        if let Some(known) = self.names.get(&*text) {
            return known.clone();
        }
        let name: Arc<str> = text.into();
        if self.names.len() < NAMES {
            self.names.insert(name.clone());
        }
        name
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        reason = "tests"
    )]

    use super::*;

    fn convert(record: &Record<'_>) -> RawMessage {
        Converter::new("k".into(), "t".into()).message(record)
    }

    #[test]
    fn everything_arrives_in_order() {
        let message = convert(&Record {
            partition: 3,
            offset: 7,
            timestamp_ms: Some(9),
            key: Some(b"key"),
            body: Some(b"body"),
            headers: Pairs::from_slice(&[(b"a", b"1"), (b"b", b""), (b"a", b"\xff2")]),
        });
        assert_eq!(message.origin.to_string(), "k/t[3]@7");
        assert_eq!(message.timestamp_ms, Some(9));
        assert_eq!(message.key.as_deref(), Some(&b"key"[..]));
        assert_eq!(message.body.as_deref(), Some(&b"body"[..]));
        let headers: Vec<_> = message
            .headers
            .iter()
            .map(|(n, v)| (n.to_owned(), v.to_vec()))
            .collect();
        let want = [("a", &b"1"[..]), ("b", b""), ("a", b"\xff2")];
        assert_eq!(headers, want.map(|(n, v)| (n.to_owned(), v.to_vec())));
    }

    #[test]
    fn null_and_empty_stay_different() {
        let tombstone = convert(&Record {
            key: Some(b""),
            ..Record::default()
        });
        assert_eq!((tombstone.body, tombstone.key), (None, Some(Bytes::new())));
        let empty = convert(&Record {
            body: Some(b""),
            ..Record::default()
        });
        assert_eq!((empty.body, empty.key), (Some(Bytes::new()), None));
    }

    #[test]
    fn hostile_header_names_do_not_fill_memory() {
        let mut converter = Converter::new("k".into(), "t".into());
        for i in 0..NAMES * 2 {
            let name = format!("h{i}");
            let headers = Pairs::from_slice(&[(name.as_bytes(), &b"v"[..]), (b"\xff", b"")]);
            let message = converter.message(&Record {
                headers,
                ..Record::default()
            });
            assert_eq!(message.headers.text(&name), Some("v"));
        }
        assert_eq!(converter.names.len(), NAMES);
    }
}
