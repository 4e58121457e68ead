//! The members of a JSON envelope, found without building a tree: each stays the borrowed text it was.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::{Malformed, time};
use crate::model::UnixMs;

/// `Some` also for a JSON null, so that `"payload": null` is not the same as no payload. A member that is there twice
/// is an error.
macro_rules! fields {
    ($($name:ident $(= $wire:literal)?),* $(,)?) => {
        #[derive(Debug, Default, Deserialize)]
        pub(super) struct Fields<'a> {
            $(
                #[serde(borrow, default, deserialize_with = "present" $(, rename = $wire)?)]
                pub(super) $name: Option<&'a RawValue>,
            )*
        }
    };
}

fields! {
    id, kind = "type", payload, data, source, subject, priority, key, headers, metadata,
    timestamp, time, created_at, deadline, expiration,
    content_type, data_content_type, datacontenttype, schema, data_schema, dataschema,
    correlation_id, reply_to, trace_id, traceparent, tracestate, state, delivery_mode,
}

fn present<'de: 'a, 'a, D: Deserializer<'de>>(from: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&'a RawValue>::deserialize(from).map(Some)
}

impl<'a> Fields<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Malformed> {
        serde_json::from_str(text).map_err(|e| syntax(&e))
    }

    pub(super) fn is_envelope(&self) -> bool {
        self.payload.is_some() || self.data.is_some()
    }

    pub(super) fn id(&self) -> Result<Option<Cow<'a, str>>, Malformed> {
        text(self.id, "id.type")
    }

    pub(super) fn message_type(&self) -> Result<Option<Cow<'a, str>>, Malformed> {
        text(self.kind, "type.type")
    }

    /// The first of `timestamp`, `time`, `created_at` that is set.
    pub(super) fn time_ms(&self) -> Result<Option<UnixMs>, Malformed> {
        for (value, code) in [
            (self.timestamp, "timestamp.type"),
            (self.time, "time.type"),
            (self.created_at, "created_at.type"),
        ] {
            if let Some(at) = point_in_time(value, code)? {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    pub(super) fn deadline_ms(&self) -> Result<Option<UnixMs>, Malformed> {
        let deadline = point_in_time(self.deadline, "deadline.type")?;
        let expiration = point_in_time(self.expiration, "expiration.type")?;
        Ok(deadline.into_iter().chain(expiration).min())
    }

    /// Clamped to 0–10.
    pub(super) fn priority(&self) -> Result<Option<u8>, Malformed> {
        let Some(value) = not_null(self.priority) else {
            return Ok(None);
        };
        let wrong = || wrong_type("priority.type", "an integer from 0 to 10", value.get());
        let number: serde_json::Number = serde_json::from_str(value.get()).map_err(|_| wrong())?;
        match (number.as_u64(), number.as_i64()) {
            (Some(n), _) => Ok(Some(u8::try_from(n).unwrap_or(u8::MAX).min(10))),
            (None, Some(_)) => Ok(Some(0)),
            // 5.0 is how some languages write 5.
            (None, None) => match number.as_f64() {
                Some(f) if f.fract() == 0.0 => Ok(Some(f.clamp(0.0, 10.0) as u8)),
                _ => Err(wrong()),
            },
        }
    }

    pub(super) fn payload_content_type(&self) -> Result<Option<String>, Malformed> {
        first_text(&[
            (self.data_content_type, "data_content_type.type"),
            (self.content_type, "content_type.type"),
            (self.datacontenttype, "datacontenttype.type"),
        ])
    }

    pub(super) fn payload_schema(&self) -> Result<Option<String>, Malformed> {
        first_text(&[
            (self.data_schema, "data_schema.type"),
            (self.schema, "schema.type"),
            (self.dataschema, "dataschema.type"),
        ])
    }

    /// `headers`, and as headers also what has no place of its own: `metadata` (its JSON text) and a bare `trace_id`.
    pub(super) fn extra_headers(&self) -> Result<Vec<(String, Bytes)>, Malformed> {
        let mut out = Vec::new();
        if let Some(value) = not_null(self.headers) {
            let members = Members::parse(value.get(), "headers.type")?;
            for (name, value) in members.0 {
                out.push((name, header_value(value)?));
            }
        }
        if let Some(value) = not_null(self.metadata).filter(|v| v.get() != "{}") {
            out.push((
                "metadata".to_owned(),
                Bytes::copy_from_slice(value.get().as_bytes()),
            ));
        }
        if let Some(id) = text(self.trace_id, "trace_id.type")? {
            out.push(("trace_id".to_owned(), Bytes::from(id.into_owned())));
        }
        Ok(out)
    }
}

/// A string as its content, anything else as its JSON text.
pub(super) fn header_value(value: &RawValue) -> Result<Bytes, Malformed> {
    Ok(match text(Some(value), "headers.type") {
        Ok(content) => Bytes::from(content.map(Cow::into_owned).unwrap_or_default()),
        Err(_) if value.get().starts_with('"') => {
            return Err(Malformed::new(
                "json.syntax",
                "a header's text has an invalid escape",
            ));
        }
        Err(_) => Bytes::copy_from_slice(value.get().as_bytes()),
    })
}

/// The content of a JSON string; none for null and for the empty string.
pub(super) fn text<'a>(
    value: Option<&'a RawValue>,
    code: &'static str,
) -> Result<Option<Cow<'a, str>>, Malformed> {
    let Some(value) = not_null(value) else {
        return Ok(None);
    };
    let text = string(value).ok_or_else(|| wrong_type(code, "a string", value.get()))?;
    Ok(Some(text).filter(|t| !t.is_empty()))
}

/// The content of a JSON string, borrowed when nothing in it is escaped.
pub(super) fn string(value: &RawValue) -> Option<Cow<'_, str>> {
    #[derive(Deserialize)]
    struct Text<'a>(#[serde(borrow)] Cow<'a, str>);
    serde_json::from_str::<Text<'_>>(value.get()).ok().map(|t| t.0)
}

pub(super) fn owned(value: Option<&RawValue>, code: &'static str) -> Result<Option<String>, Malformed> {
    text(value, code).map(|t| t.map(Cow::into_owned))
}

fn first_text(from: &[(Option<&RawValue>, &'static str)]) -> Result<Option<String>, Malformed> {
    for (value, code) in from {
        if let Some(text) = owned(*value, code)? {
            return Ok(Some(text));
        }
    }
    Ok(None)
}

pub(super) fn not_null(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|v| v.get() != "null")
}

pub(super) fn point_in_time(
    value: Option<&RawValue>,
    code: &'static str,
) -> Result<Option<UnixMs>, Malformed> {
    let Some(value) = not_null(value) else {
        return Ok(None);
    };
    let wrong = || {
        wrong_type(
            code,
            "an RFC 3339 time or Unix time in (milli)seconds",
            value.get(),
        )
    };
    if value.get().starts_with('"') {
        let text = string(value).ok_or_else(wrong)?;
        if text.is_empty() {
            return Ok(None);
        }
        return time::from_text(&text).map(time::Time::set).ok_or_else(wrong);
    }
    let number: serde_json::Number = serde_json::from_str(value.get()).map_err(|_| wrong())?;
    Ok(Some(match (number.as_u64(), number.as_f64()) {
        (Some(n), _) => time::from_number(n),
        // Seconds with a fraction, as Python's time.time() gives them; `as` saturates.
        (None, Some(f)) if f < 1e11 => (f * 1000.0) as u64,
        (None, Some(f)) => f as u64,
        (None, None) => return Err(wrong()),
    }))
}

fn wrong_type(code: &'static str, wanted: &str, got: &str) -> Malformed {
    let field = code.strip_suffix(".type").unwrap_or(code);
    let mut shown: String = got.chars().take(40).collect();
    if shown.len() < got.len() {
        shown.push('…');
    }
    Malformed::new(code, format!("`{field}` must be {wanted}, not {shown}"))
}

pub(super) fn syntax(error: &serde_json::Error) -> Malformed {
    let said = error.to_string();
    let code = if said.starts_with("duplicate field") {
        "json.duplicate"
    } else {
        "json.syntax"
    };
    Malformed::new(code, format!("the body is no JSON envelope: {said}"))
}

/// All members of a JSON object by name; a name that is there twice is an error.
pub(super) struct Members<'a>(pub(super) BTreeMap<String, &'a RawValue>);

impl<'a> Members<'a> {
    /// `code` is for a value that is no object.
    pub(super) fn parse(text: &'a str, code: &'static str) -> Result<Self, Malformed> {
        serde_json::from_str(text).map_err(|e| {
            if e.is_data() && !e.to_string().starts_with("duplicate field") {
                wrong_type(code, "an object", text)
            } else {
                syntax(&e)
            }
        })
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.get(name).copied()
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if members.contains_key(&name) {
                        return Err(serde::de::Error::custom(format!("duplicate field `{name}`")));
                    }
                    members.insert(name, value);
                }
                Ok(Members(members))
            }
        }
        from.deserialize_map(Collect)
    }
}
