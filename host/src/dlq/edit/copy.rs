//! The changed copy of a message: its body or headers replaced, and a new id wherever its wire shape says one. Pure.

use std::collections::HashMap;

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::decode;
use crate::model::header::{self, HOST_PREFIX};
use crate::model::{DeadLetter, Envelope, RawMessage, UnixMs};

/// What is to be different. The body is that of the broker, as `dlq show` has it, envelope included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edit {
    pub body: Option<Bytes>,
    /// Set, or removed where there is no value; the others stay.
    pub headers: Vec<(String, Option<String>)>,
    pub content_type: Option<String>,
}

/// Why there is no such copy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("nothing is different; send the letter again as it is (`helix dlq reprocess`)")]
    Nothing,
    #[error("the header `{0}` belongs to the host")]
    HostHeader(String),
    #[error("a header without a name")]
    NoName,
    #[error("the edited message cannot be decoded: {reason} ({code})")]
    Malformed { code: &'static str, reason: String },
    #[error(
        "its id stands in more than one place of its body, so the copy cannot get one of its own; publish the repaired \
         message with `helix send`, then discard this letter"
    )]
    Identity,
}

const ID_HEADERS: [&str; 5] = ["id", "message_id", "ce_id", "cloudEvents_id", "cloudEvents:id"];

pub(super) fn of(letter: &DeadLetter, edit: &Edit, id: &str, now: UnixMs) -> Result<RawMessage, Fault> {
    let mut raw = letter.raw.clone();
    apply(&mut raw, edit)?;
    if raw == letter.raw {
        return Err(Fault::Nothing);
    }
    raw.redelivered = false;
    for name in [header::LETTER, header::REPROCESSED, header::EDITED] {
        raw.headers.remove(name);
    }
    let before = decoded(&raw, now)?;
    name(&mut raw, id);
    // An id in the body is changed only where it names the message: a payload may have one that is the same by chance. Some
    // shapes compare ids in several places to tell what they are; one that fell apart would arrive as another message.
    if !renames(&raw, &before, id, now) {
        raw.body = raw.body.as_ref().and_then(|body| renamed(body, &before.id, id));
        if !renames(&raw, &before, id, now) {
            return Err(Fault::Identity);
        }
    }
    raw.headers.push(header::EDITED, letter.id.clone());
    Ok(raw)
}

/// It is the same message under that id.
fn renames(raw: &RawMessage, before: &Envelope, id: &str, now: UnixMs) -> bool {
    decoded(raw, now).is_ok_and(|after| after.id == id && alike(before, &after))
}

fn apply(raw: &mut RawMessage, edit: &Edit) -> Result<(), Fault> {
    for (name, value) in &edit.headers {
        if name.is_empty() {
            return Err(Fault::NoName);
        }
        if name
            .get(..HOST_PREFIX.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(HOST_PREFIX))
        {
            return Err(Fault::HostHeader(name.clone()));
        }
        raw.headers.remove(name);
        if let Some(value) = value {
            raw.headers.push(name.clone(), value.clone());
        }
    }
    if let Some(content_type) = &edit.content_type {
        raw.props.content_type = Some(content_type.clone());
        if raw.headers.get("content-type").is_some() {
            raw.headers.remove("content-type");
            raw.headers.push("content-type", content_type.clone());
        }
    }
    if let Some(body) = &edit.body {
        raw.body = Some(body.clone());
    }
    Ok(())
}

fn decoded(raw: &RawMessage, now: UnixMs) -> Result<Envelope, Fault> {
    decode::decode(raw, "", now).map_err(|why| Fault::Malformed {
        code: why.code,
        reason: why.reason,
    })
}

/// In its properties and headers.
fn name(raw: &mut RawMessage, new: &str) {
    raw.props.message_id = Some(new.to_owned());
    for name in ID_HEADERS {
        if raw.headers.get(name).is_some() {
            raw.headers.remove(name);
            raw.headers.push(name, new.to_owned());
        }
    }
}

/// The body with another value of its member `id`, every other byte as it was. None when it has no such member, or the
/// member is not what names the message.
fn renamed(body: &Bytes, old: &str, new: &str) -> Option<Bytes> {
    let text = std::str::from_utf8(body).ok()?;
    let members: HashMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    let value = members.get("id")?.get();
    if serde_json::from_str::<String>(value).ok()? != old {
        return None;
    }
    let start = (value.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    let (before, rest) = (text.get(..start)?, text.get(start..)?);
    let after = rest.strip_prefix(value)?;
    let new = serde_json::to_string(new).ok()?;
    Some(Bytes::from(format!("{before}{new}{after}")))
}

/// The same but for the id and what carries it. A payload that is the whole body has its id changed with it.
fn alike(before: &Envelope, after: &Envelope) -> bool {
    let payload = before.payload == after.payload
        || renamed(&before.payload, &before.id, &after.id).is_some_and(|renamed| renamed == after.payload);
    payload
        && before.message_type == after.message_type
        && before.tombstone == after.tombstone
        && before.content_type == after.content_type
        && before.key == after.key
        && before.subject == after.subject
        && before.schema == after.schema
        && before.priority == after.priority
        && before.deadline_ms == after.deadline_ms
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

    use super::*;
    use crate::model::raw::Properties;
    use crate::model::{FailureClass, Headers, LetterState, MessageKind, Origin};

    fn letter(body: &str, headers: &[(&str, &str)], props: Properties) -> DeadLetter {
        DeadLetter {
            id: "letter".into(),
            raw: RawMessage {
                origin: Origin {
                    broker: "b".into(),
                    kind: MessageKind::Task,
                    destination: "q".into(),
                    partition: None,
                    offset: Some(4),
                },
                body: Some(Bytes::copy_from_slice(body.as_bytes())),
                key: None,
                headers: headers
                    .iter()
                    .map(|(n, v)| ((*n).to_owned(), (*v).to_owned()))
                    .collect::<Headers>(),
                props,
                timestamp_ms: None,
                redelivered: true,
            },
            message_id: None,
            message_type: None,
            route: None,
            plugin: None,
            digest: None,
            class: FailureClass::Rejected,
            reason: "no".into(),
            code: None,
            attempts: Vec::new(),
            first_failure_ms: 1,
            last_failure_ms: 1,
            trace_id: None,
            state: LetterState::Dead,
            reprocessed: 0,
        }
    }

    fn typed() -> Properties {
        Properties {
            message_type: Some("t".into()),
            message_id: Some("old".into()),
            ..Properties::default()
        }
    }

    fn body(text: &str) -> Edit {
        Edit {
            body: Some(Bytes::copy_from_slice(text.as_bytes())),
            ..Edit::default()
        }
    }

    #[test]
    fn a_payload_gets_a_new_body_and_the_copy_a_new_id() {
        let letter = letter(
            "wrong",
            &[("id", "old"), ("helix-letter", "earlier"), ("x", "1")],
            typed(),
        );
        let copy = of(&letter, &body("right"), "new", 7).unwrap();
        assert_eq!(copy.body.as_deref(), Some(&b"right"[..]));
        assert_eq!(copy.props.message_id.as_deref(), Some("new"));
        let headers: Vec<(&str, &[u8])> = copy.headers.iter().map(|(n, v)| (n, v.as_ref())).collect();
        assert_eq!(
            headers,
            [("x", &b"1"[..]), ("id", b"new"), ("helix-edited-from", b"letter")]
        );
        assert!(!copy.redelivered);
    }

    #[test]
    fn an_id_inside_the_body_is_replaced_and_every_other_byte_stays() {
        let wrong = r#"{"type":"t","id":"old","payload":{"n":1}}"#;
        let right = r#"{ "type":"t", "id" : "old","payload":{"n":  1.50, "id":"old"} }"#;
        let want = r#"{ "type":"t", "id" : "new","payload":{"n":  1.50, "id":"old"} }"#;
        for props in [typed(), Properties::default()] {
            let copy = of(&letter(wrong, &[], props), &body(right), "new", 7).unwrap();
            assert_eq!(copy.body.as_deref(), Some(want.as_bytes()));
            let envelope = decode::decode(&copy, "", 7).unwrap();
            assert_eq!(
                (&*envelope.id, &*envelope.payload),
                ("new", &br#"{"n":  1.50, "id":"old"}"#[..])
            );
        }
    }

    #[test]
    fn a_document_that_is_its_own_envelope_keeps_the_rest() {
        let wrong = r#"{"type":"t","id":"old","n":1}"#;
        let right = r#"{"type":"t","id":"old","n":2}"#;
        let copy = of(&letter(wrong, &[], Properties::default()), &body(right), "new", 7).unwrap();
        assert_eq!(
            copy.body.as_deref(),
            Some(&br#"{"type":"t","id":"new","n":2}"#[..])
        );
    }

    #[test]
    fn a_payload_with_the_same_id_by_chance_is_not_touched() {
        let right = r#"{"id":"old","n":2}"#;
        let copy = of(&letter("{}", &[], typed()), &body(right), "new", 7).unwrap();
        assert_eq!(copy.body.as_deref(), Some(right.as_bytes()));
        assert_eq!(decode::decode(&copy, "", 7).unwrap().id, "new");
    }

    #[test]
    fn headers_are_set_and_removed_and_the_hosts_own_are_not_touched() {
        let letter = letter("b", &[("keep", "1"), ("gone", "2"), ("Set", "3")], typed());
        let edit = Edit {
            headers: vec![("gone".into(), None), ("set".into(), Some("4".into()))],
            content_type: Some("text/plain".into()),
            ..Edit::default()
        };
        let copy = of(&letter, &edit, "new", 7).unwrap();
        assert_eq!(copy.headers.text("keep"), Some("1"));
        assert_eq!(copy.headers.text("gone"), None);
        assert_eq!(copy.headers.text("set"), Some("4"));
        assert_eq!(copy.props.content_type.as_deref(), Some("text/plain"));
        let forged = Edit {
            headers: vec![("Helix-Letter".into(), Some("x".into()))],
            ..Edit::default()
        };
        assert_eq!(
            of(&letter, &forged, "new", 7),
            Err(Fault::HostHeader("Helix-Letter".into()))
        );
    }

    #[test]
    fn what_is_no_message_or_no_change_is_refused() {
        let letter = letter(r#"{"type":"t"}"#, &[], Properties::default());
        assert!(matches!(
            of(&letter, &body("{"), "new", 7),
            Err(Fault::Malformed { .. })
        ));
        assert_eq!(
            of(&letter, &body(r#"{"type":"t"}"#), "new", 7),
            Err(Fault::Nothing)
        );
        assert_eq!(of(&letter, &Edit::default(), "new", 7), Err(Fault::Nothing));
    }

    #[test]
    fn a_message_that_says_its_id_twice_is_left_alone() {
        use base64::Engine;
        let inner =
            r#"{"id":"old","type":"t","payload":"aGk=","state":"x","created_at":"2026-11-27T00:00:00Z"}"#;
        let outer = |text: &str| {
            let inner = base64::engine::general_purpose::STANDARD.encode(inner);
            format!(r#"{{"id":"old","type":"t","payload":"{inner}","state":"{text}","delivery_mode":2}}"#)
        };
        let letter = letter(&outer("a"), &[], Properties::default());
        let decoded = decode::decode(&letter.raw, "", 7).unwrap();
        assert_eq!(&*decoded.payload, b"hi");
        assert_eq!(of(&letter, &body(&outer("b")), "new", 7), Err(Fault::Identity));
    }
}
