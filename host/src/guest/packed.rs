//! The layout of `packed-handler`: events in, outcomes out (wit/packed-handler.wit). Pure; what comes out is hostile.

use super::Invocation;
use super::convert;
use crate::model::Origin;

const VERSION: u8 = 1;
const KIND_EVENTS: u8 = 1;
const HEAD: usize = 8;
/// Numbers before the first field of an event.
const NUMBERS: usize = 48 + 4 * (FIELDS + 1);
const FIELDS: usize = 13;
const NONE_32: u32 = u32::MAX;
const NONE_64: u64 = u64::MAX;

/// What the guest said about one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Ok,
    Retry {
        after_ms: Option<u64>,
        reason: String,
        code: Option<String>,
    },
    Reject {
        reason: String,
        code: Option<String>,
    },
}

/// Lays out a batch in `out`, whose memory is kept. `None` when something does not fit into 32 bits.
pub(super) fn encode(out: &mut Vec<u8>, batch: &[Invocation<'_>]) -> Option<()> {
    let estimate: usize = batch.iter().map(|i| i.envelope.payload.len() + 512).sum();
    out.clear();
    out.reserve(HEAD + estimate);
    out.extend_from_slice(&[VERSION, KIND_EVENTS, 0, 0]);
    out.extend_from_slice(&u32::try_from(batch.len()).ok()?.to_le_bytes());
    for invocation in batch {
        event(out, invocation)?;
    }
    Some(())
}

fn event(out: &mut Vec<u8>, invocation: &Invocation<'_>) -> Option<()> {
    let e = invocation.envelope;
    let Origin {
        destination,
        partition,
        offset,
        ..
    } = &e.origin;
    let trace = e.trace.as_ref();
    let fields: [Option<&[u8]>; FIELDS] = [
        Some(e.id.as_bytes()),
        Some(e.message_type.as_bytes()),
        Some(destination.as_bytes()),
        Some(&e.payload),
        e.source.as_deref().map(str::as_bytes),
        e.subject.as_deref().map(str::as_bytes),
        e.content_type.as_deref().map(str::as_bytes),
        e.schema.as_deref().map(str::as_bytes),
        e.key.as_deref(),
        e.replay.as_deref().map(str::as_bytes),
        e.correlation_id.as_deref().map(str::as_bytes),
        trace.map(|t| t.traceparent.as_bytes()),
        trace.and_then(|t| t.tracestate.as_deref()).map(str::as_bytes),
    ];

    let mut places = [0u32; FIELDS + 1];
    let mut present = 0u32;
    let mut at = NUMBERS;
    for (k, (field, place)) in fields.iter().zip(&mut places).enumerate() {
        *place = u32::try_from(at).ok()?;
        if let Some(field) = field {
            present |= 1 << k;
            at = at.checked_add(field.len())?;
        }
    }
    let headers_at = u32::try_from(at).ok()?;
    if let Some(last) = places.last_mut() {
        *last = headers_at;
    }
    let mut headers = 0u32;
    for (name, value) in convert::headers(invocation) {
        headers += 1;
        at = at.checked_add(8 + name.len() + value.len())?;
    }
    let size = u32::try_from(at).ok()?;

    let flags = u32::from(e.redelivered) | u32::from(e.tombstone) << 1;
    let mut numbers = [0u8; 48];
    {
        let mut rest: &mut [u8] = &mut numbers;
        put(&mut rest, &size.to_le_bytes());
        put(&mut rest, &flags.to_le_bytes());
        put(&mut rest, &e.time_ms.to_le_bytes());
        put(&mut rest, &offset.unwrap_or(NONE_64).to_le_bytes());
        put(&mut rest, &partition.unwrap_or(NONE_32).to_le_bytes());
        put(&mut rest, &invocation.attempt.to_le_bytes());
        put(&mut rest, &invocation.max_attempts.to_le_bytes());
        put(&mut rest, &e.reprocessed.to_le_bytes());
        put(&mut rest, &present.to_le_bytes());
        put(&mut rest, &headers.to_le_bytes());
    }
    out.extend_from_slice(&numbers);
    for place in places {
        out.extend_from_slice(&place.to_le_bytes());
    }
    for field in fields.into_iter().flatten() {
        out.extend_from_slice(field);
    }
    for (name, value) in convert::headers(invocation) {
        out.extend_from_slice(&u32::try_from(name.len()).ok()?.to_le_bytes());
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(&u32::try_from(value.len()).ok()?.to_le_bytes());
        out.extend_from_slice(value);
    }
    Some(())
}

fn put(rest: &mut &mut [u8], bytes: &[u8]) {
    if let Some((here, after)) = std::mem::take(rest).split_at_mut_checked(bytes.len()) {
        here.copy_from_slice(bytes);
        *rest = after;
    }
}

/// Reads the outcomes of `expected` events. Anything but exactly that is an error, which counts as a trap.
pub(super) fn decode(bytes: &[u8], expected: usize) -> Result<Vec<Said>, String> {
    let mut r = Reader { rest: bytes };
    let [version, kind, a, b] = r.array::<4>()?;
    if version != VERSION || kind != KIND_EVENTS || a != 0 || b != 0 {
        return Err(format!(
            "outcomes begin with version {version}, kind {kind}; expected 1, 1"
        ));
    }
    let count = u32::from_le_bytes(r.array()?) as usize;
    if count != expected {
        return Err(format!("{count} outcomes for {expected} events"));
    }
    let mut said = Vec::with_capacity(expected);
    for _ in 0..expected {
        let [tag] = r.array::<1>()?;
        said.push(match tag {
            0 => Said::Ok,
            1 | 2 => {
                let after = u64::from_le_bytes(r.array()?);
                let reason = r.text()?.ok_or("an outcome without a reason")?;
                let code = r.text()?;
                match (tag, after) {
                    (1, NONE_64) => Said::Retry {
                        after_ms: None,
                        reason,
                        code,
                    },
                    (1, after) => Said::Retry {
                        after_ms: Some(after),
                        reason,
                        code,
                    },
                    (_, NONE_64) => Said::Reject { reason, code },
                    _ => return Err("a reject with a delay".into()),
                }
            }
            other => return Err(format!("an outcome of kind {other}")),
        });
    }
    if r.rest.is_empty() {
        Ok(said)
    } else {
        Err(format!("{} bytes too many after the outcomes", r.rest.len()))
    }
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, n: usize) -> Result<&'a [u8], String> {
        let (here, rest) = self
            .rest
            .split_at_checked(n)
            .ok_or("the outcomes end too early")?;
        self.rest = rest;
        Ok(here)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let (here, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or("the outcomes end too early")?;
        self.rest = rest;
        Ok(*here)
    }

    /// A length of all ones is none.
    fn text(&mut self) -> Result<Option<String>, String> {
        let length = u32::from_le_bytes(self.array()?);
        if length == NONE_32 {
            return Ok(None);
        }
        let bytes = self.bytes(length as usize)?;
        let text = std::str::from_utf8(bytes).map_err(|_| "an outcome's text is not UTF-8")?;
        Ok(Some(text.to_owned()))
    }
}

#[cfg(test)]
mod tests;
