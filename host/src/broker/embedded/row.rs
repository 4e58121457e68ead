//! Properties and headers ↔ the bytes of a row's `hdr` column. Pure.
//!
//! Layout: version (1 byte) · content type, message type, message id, correlation id, reply-to (each length or
//! `u32::MAX` for none, then UTF-8) · priority (1 byte, 255 = none) · expiry (8 bytes, 0 = none) · number of headers ·
//! per header name and value with their lengths. All integers are little endian, lengths 4 bytes.

use std::sync::Arc;

use bytes::Bytes;

use crate::model::raw::Properties;
use crate::model::{Headers, UnixMs};

const VERSION: u8 = 1;
const NONE: u32 = u32::MAX;

/// A message as it lies in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// For people who open the file; delivered from the properties.
    pub id: String,
    pub key: Option<Bytes>,
    pub hdr: Vec<u8>,
    /// None is a tombstone, SQL NULL.
    pub body: Option<Bytes>,
    pub expires_ms: Option<UnixMs>,
}

impl Stored {
    pub fn size(&self) -> usize {
        self.id.len()
            + self.hdr.len()
            + self.key.as_ref().map_or(0, Bytes::len)
            + self.body.as_ref().map_or(0, Bytes::len)
    }
}

pub fn pack(props: &Properties, headers: &Headers) -> Vec<u8> {
    let mut out = Vec::with_capacity(96 + headers.size() + 8 * headers.len());
    out.push(VERSION);
    for text in [
        &props.content_type,
        &props.message_type,
        &props.message_id,
        &props.correlation_id,
        &props.reply_to,
    ] {
        match text {
            Some(text) => put(&mut out, text.as_bytes()),
            None => out.extend_from_slice(&NONE.to_le_bytes()),
        }
    }
    out.push(props.priority.unwrap_or(u8::MAX));
    out.extend_from_slice(&props.expires_ms.unwrap_or(0).to_le_bytes());
    out.extend_from_slice(&length(headers.len()).to_le_bytes());
    for (name, value) in headers.iter() {
        put(&mut out, name.as_bytes());
        put(&mut out, value);
    }
    out
}

/// None: not written by us (another version, a damaged row).
pub fn unpack(bytes: &[u8]) -> Option<(Properties, Headers)> {
    let mut rest = bytes;
    let [version] = take::<1>(&mut rest)?;
    if version != VERSION {
        return None;
    }
    let mut texts = [None, None, None, None, None];
    for slot in &mut texts {
        *slot = match blob(&mut rest)? {
            Some(bytes) => Some(String::from_utf8(bytes.to_vec()).ok()?),
            None => None,
        };
    }
    let [content_type, message_type, message_id, correlation_id, reply_to] = texts;
    let [priority] = take::<1>(&mut rest)?;
    let expires = u64::from_le_bytes(take::<8>(&mut rest)?);
    let count = u32::from_le_bytes(take::<4>(&mut rest)?);
    let mut headers = Headers::new();
    for _ in 0..count {
        let name: Arc<str> = std::str::from_utf8(blob(&mut rest)??).ok()?.into();
        headers.push(name, Bytes::copy_from_slice(blob(&mut rest)??));
    }
    let props = Properties {
        content_type,
        message_type,
        message_id,
        correlation_id,
        reply_to,
        priority: (priority != u8::MAX).then_some(priority),
        expires_ms: (expires != 0).then_some(expires),
    };
    rest.is_empty().then_some((props, headers))
}

fn length(n: usize) -> u32 {
    // Messages are capped far below this before they get here.
    u32::try_from(n).unwrap_or(NONE - 1)
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&length(bytes.len()).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn blob<'a>(rest: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    let length = u32::from_le_bytes(take::<4>(rest)?);
    if length == NONE {
        return Some(None);
    }
    let (head, tail) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = tail;
    Some(Some(head))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text() -> impl Strategy<Value = Option<String>> {
        prop::option::of(".{0,20}")
    }

    fn props() -> impl Strategy<Value = Properties> {
        (
            text(),
            text(),
            text(),
            text(),
            text(),
            prop::option::of(0u8..=10),
            prop::option::of(1u64..),
        )
            .prop_map(
                |(content_type, message_type, message_id, correlation_id, reply_to, priority, expires_ms)| {
                    Properties {
                        content_type,
                        message_type,
                        message_id,
                        correlation_id,
                        reply_to,
                        priority,
                        expires_ms,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            props in props(),
            headers in prop::collection::vec((".{0,12}", prop::collection::vec(any::<u8>(), 0..40)), 0..8),
        ) {
            let headers: Headers = headers.into_iter().collect();
            prop_assert_eq!(unpack(&pack(&props, &headers)), Some((props, headers)));
        }

        #[test]
        fn damaged_bytes_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack(&bytes);
        }
    }
}
