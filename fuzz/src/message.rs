//! A message as text, read leniently: any bytes are some message.
//!
//! ```text
//! task                      or event; the default is task
//! @type: llm.request        AMQP properties and the record's key, after an @
//! tenant: x                 headers
//!                           an empty line, then the body; without one there is no body
//! {"n":1}
//! ```

use bytes::Bytes;
use helix_host::broker::kafka::convert::{Converter, Record};
use helix_host::model::raw::Properties;
use helix_host::model::{MessageKind, Origin, RawMessage};

#[derive(Debug)]
pub struct Message<'a> {
    pub kind: MessageKind,
    pub props: Properties,
    pub key: Option<&'a [u8]>,
    /// In order, names may repeat.
    pub headers: Vec<(&'a [u8], &'a [u8])>,
    pub body: Option<&'a [u8]>,
}

pub fn read(data: &[u8]) -> Message<'_> {
    let mut message = Message {
        kind: MessageKind::Task,
        props: Properties::default(),
        key: None,
        headers: Vec::new(),
        body: None,
    };
    let mut rest = data;
    while !rest.is_empty() {
        let (line, after) = cut(rest, b"\n").unwrap_or((rest, &[]));
        rest = after;
        match cut(line, b": ").unwrap_or((line, &[])) {
            (b"", b"") => {
                message.body = Some(rest);
                break;
            }
            (b"task", b"") => message.kind = MessageKind::Task,
            (b"event", b"") => message.kind = MessageKind::Event,
            (b"@key", value) => message.key = Some(value),
            ([b'@', name @ ..], value) => property(&mut message.props, name, value),
            header => message.headers.push(header),
        }
    }
    message
}

fn cut<'a>(text: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let start = text.windows(at.len()).position(|part| part == at)?;
    let (before, after) = text.split_at(start);
    Some((before, after.get(at.len()..).unwrap_or_default()))
}

fn property(props: &mut Properties, name: &[u8], value: &[u8]) {
    // Adapters hand over no empty text: AMQP's empty string is no value.
    let text = Some(String::from_utf8_lossy(value).into_owned()).filter(|text| !text.is_empty());
    let number = text.as_ref().and_then(|text| text.parse::<u64>().ok());
    match name {
        b"content-type" => props.content_type = text,
        b"type" => props.message_type = text,
        b"id" => props.message_id = text,
        b"correlation-id" => props.correlation_id = text,
        b"reply-to" => props.reply_to = text,
        b"priority" => props.priority = number.and_then(|n| u8::try_from(n).ok()),
        b"expires" => props.expires_ms = number,
        _ => {}
    }
}

impl Message<'_> {
    pub fn record(&self) -> Record<'_> {
        Record {
            partition: 1,
            offset: 7,
            timestamp_ms: Some(1_768_731_072_345),
            key: self.key,
            body: self.body,
            headers: self.headers.iter().copied().collect(),
        }
    }

    /// As the broker that has such messages would hand it over.
    pub fn raw(&self) -> RawMessage {
        if self.kind == MessageKind::Event {
            return Converter::new("kafka".into(), "topic".into()).message(&self.record());
        }
        let headers = self
            .headers
            .iter()
            .map(|(name, value)| (String::from_utf8_lossy(name).into_owned(), value.to_vec()));
        RawMessage {
            origin: origin(MessageKind::Task),
            body: self.body.map(Bytes::copy_from_slice),
            key: self.key.map(Bytes::copy_from_slice),
            headers: headers.collect(),
            props: self.props.clone(),
            timestamp_ms: None,
            redelivered: false,
        }
    }
}

pub fn origin(kind: MessageKind) -> Origin {
    Origin {
        broker: "broker".into(),
        kind,
        destination: "queue".into(),
        partition: None,
        offset: None,
    }
}
