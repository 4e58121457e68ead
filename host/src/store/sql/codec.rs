//! A message as one blob: byte for byte what the broker handed over, repeated and binary headers included.
//!
//! Version 1: fields in the order of [`write()`]; lengths and numbers are LEB128, an optional field starts with 0 or 1.

use bytes::{Buf, Bytes};

use crate::model::raw::Properties;
use crate::model::{Headers, MessageKind, Origin, RawMessage};

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "tests")]
mod tests;

const VERSION: u8 = 1;

pub(in crate::store) fn write(message: &RawMessage) -> Vec<u8> {
    let mut out = Writer(Vec::with_capacity(message.size() + 128));
    out.0.push(VERSION);
    out.text(&message.origin.broker);
    out.0.push(match message.origin.kind {
        MessageKind::Task => 0,
        MessageKind::Event => 1,
    });
    out.text(&message.origin.destination);
    out.optional(message.origin.partition, |out, n| out.number(u64::from(n)));
    out.optional(message.origin.offset, Writer::number);
    out.optional(message.body.as_deref(), Writer::bytes);
    out.optional(message.key.as_deref(), Writer::bytes);
    out.number(message.headers.len() as u64);
    for (name, value) in message.headers.iter() {
        out.text(name);
        out.bytes(value);
    }
    let props = &message.props;
    for text in [
        &props.content_type,
        &props.message_type,
        &props.message_id,
        &props.correlation_id,
        &props.reply_to,
    ] {
        out.optional(text.as_deref(), Writer::text);
    }
    out.optional(props.priority, |out, n| out.0.push(n));
    out.optional(props.expires_ms, Writer::number);
    out.optional(message.timestamp_ms, Writer::number);
    out.0.push(u8::from(message.redelivered));
    out.0
}

/// None: not what [`write()`] wrote.
pub(in crate::store) fn read(blob: Vec<u8>) -> Option<RawMessage> {
    let mut from = Reader(blob.into());
    if from.byte()? != VERSION {
        return None;
    }
    let message = RawMessage {
        origin: Origin {
            broker: from.text()?.into(),
            kind: match from.byte()? {
                0 => MessageKind::Task,
                1 => MessageKind::Event,
                _ => return None,
            },
            destination: from.text()?.into(),
            partition: from.optional(|from| u32::try_from(from.number()?).ok())?,
            offset: from.optional(Reader::number)?,
        },
        body: from.optional(Reader::bytes)?,
        key: from.optional(Reader::bytes)?,
        headers: from.headers()?,
        props: Properties {
            content_type: from.optional(Reader::text)?,
            message_type: from.optional(Reader::text)?,
            message_id: from.optional(Reader::text)?,
            correlation_id: from.optional(Reader::text)?,
            reply_to: from.optional(Reader::text)?,
            priority: from.optional(Reader::byte)?,
            expires_ms: from.optional(Reader::number)?,
        },
        timestamp_ms: from.optional(Reader::number)?,
        redelivered: from.byte()? == 1,
    };
    from.0.is_empty().then_some(message)
}

struct Writer(Vec<u8>);

impl Writer {
    fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push((n as u8) | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn optional<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.0.push(u8::from(value.is_some()));
        if let Some(value) = value {
            write(self, value);
        }
    }
}

struct Reader(Bytes);

impl Reader {
    fn byte(&mut self) -> Option<u8> {
        self.0.try_get_u8().ok()
    }

    fn number(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte < 0x80 {
                return Some(n);
            }
        }
        None
    }

    fn bytes(&mut self) -> Option<Bytes> {
        let len = usize::try_from(self.number()?).ok()?;
        (len <= self.0.len()).then(|| self.0.split_to(len))
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.into()).ok()
    }

    fn optional<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.byte()? {
            0 => Some(None),
            1 => read(self).map(Some),
            _ => None,
        }
    }

    fn headers(&mut self) -> Option<Headers> {
        let count = self.number()?;
        let mut headers = Headers::new();
        for _ in 0..count {
            let name = self.text()?;
            headers.push(name, self.bytes()?);
        }
        Some(headers)
    }
}
