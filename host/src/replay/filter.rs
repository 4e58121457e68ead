//! Which messages of a stretch are sent. Pure.

use std::borrow::Cow;

use serde_json::Value;

use crate::model::Envelope;
use crate::model::replay::Filter;

/// One of the types, and all headers, and all metadata. `envelope` is none for bytes that are no message: those match a
/// filter that asks for nothing.
pub(super) fn matches(filter: &Filter, envelope: Option<&Envelope>) -> bool {
    let Some(envelope) = envelope else {
        return filter.is_empty();
    };
    let types = &filter.message_types;
    (types.is_empty() || types.contains(&envelope.message_type))
        && filter
            .headers
            .iter()
            .all(|(name, wanted)| header(envelope, name, wanted))
        && metadata(filter, envelope)
}

/// A header may be there several times; one of them is enough.
fn header(envelope: &Envelope, name: &str, wanted: &str) -> bool {
    envelope
        .headers
        .iter()
        .any(|(is, value)| is.eq_ignore_ascii_case(name) && &value[..] == wanted.as_bytes())
}

/// The `metadata` object of the envelope, which decoding keeps as the JSON text of a header of that name.
fn metadata(filter: &Filter, envelope: &Envelope) -> bool {
    if filter.metadata.is_empty() {
        return true;
    }
    let object: Option<serde_json::Map<String, Value>> = envelope
        .headers
        .get("metadata")
        .and_then(|text| serde_json::from_slice(text).ok());
    let Some(object) = object else { return false };
    filter
        .metadata
        .iter()
        .all(|(name, wanted)| object.get(name).is_some_and(|value| text(value) == *wanted))
}

/// Numbers and truth values by their JSON.
fn text(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => text.into(),
        other => other.to_string().into(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decode::decode;
    use crate::model::raw::Properties;
    use crate::model::{MessageKind, Origin, RawMessage};

    fn envelope() -> Envelope {
        let body = json!({ "id": "1", "type": "b", "data": {}, "metadata": { "team": "red", "n": 3, "on": true, "deep": {} } });
        let raw = RawMessage {
            origin: Origin {
                broker: "k".into(),
                kind: MessageKind::Event,
                destination: "t".into(),
                partition: Some(0),
                offset: Some(0),
            },
            body: Some(body.to_string().into()),
            key: None,
            headers: [("X-A", "1"), ("x-a", "2"), ("x-b", "3")].into_iter().collect(),
            props: Properties::default(),
            timestamp_ms: None,
            redelivered: false,
        };
        decode(&raw, "f", 0).unwrap()
    }

    fn hit(filter: serde_json::Value) -> bool {
        matches(&serde_json::from_value(filter).unwrap(), Some(&envelope()))
    }

    #[test]
    fn one_of_the_types_and_all_of_the_rest() {
        assert!(hit(json!({})));
        assert!(hit(json!({ "message_types": ["a", "b"] })));
        assert!(!hit(json!({ "message_types": ["a", "B"] })));
        assert!(hit(json!({ "headers": { "x-a": "2", "X-B": "3" } })));
        assert!(!hit(json!({ "headers": { "x-a": "2", "x-b": "4" } })));
        assert!(!hit(json!({ "headers": { "x-c": "" } })));
        assert!(hit(
            json!({ "metadata": { "team": "red", "n": "3", "on": "true" } })
        ));
        assert!(!hit(json!({ "metadata": { "team": "red", "n": "4" } })));
        assert!(!hit(json!({ "metadata": { "none": "" } })));
        assert!(!hit(json!({ "message_types": ["b"], "headers": { "x-a": "9" } })));
    }

    #[test]
    fn what_is_no_message_matches_where_nothing_is_asked_for() {
        assert!(matches(&Filter::default(), None));
        let filter = Filter {
            message_types: vec!["a".into()],
            ..Filter::default()
        };
        assert!(!matches(&filter, None));
    }
}
