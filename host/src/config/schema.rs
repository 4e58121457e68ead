//! JSON schemas of helix.toml and topology.toml, made from [`super::raw`] and used twice: for editors, and to check files.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value};

use super::raw;

static HELIX: LazyLock<Value> = LazyLock::new(of::<raw::Raw>);
static TOPOLOGY: LazyLock<Value> = LazyLock::new(of::<raw::Topology>);

pub(super) fn helix() -> &'static Value {
    &HELIX
}

pub(super) fn topology() -> &'static Value {
    &TOPOLOGY
}

/// The committed text of config/helix.schema.json.
pub fn helix_text() -> String {
    let mut text = serde_json::to_string_pretty(&*HELIX).unwrap_or_default();
    text.push('\n');
    text
}

fn of<T: JsonSchema>() -> Value {
    let schema = SchemaSettings::draft2020_12()
        .into_generator()
        .into_root_schema_for::<T>();
    without_null(schema.to_value())
}

/// TOML has no null, so `null` is no type of ours. Keys come out sorted, whatever serde_json is built with.
fn without_null(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<String, Value> = map
                .into_iter()
                .filter(|(key, value)| !(key == "default" && value.is_null()))
                .map(|(key, value)| (key, without_null(value)))
                .collect();
            let mut map: Map<String, Value> = sorted.into_iter().collect();
            if let Some(Value::Array(types)) = map.get_mut("type") {
                types.retain(|t| t != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    map.insert("type".into(), only);
                }
            }
            if let Some(Value::Array(options)) = map.get_mut("enum") {
                options.retain(|v| !v.is_null());
            }
            if let Some(Value::Array(options)) = map.get_mut("anyOf") {
                options.retain(|v| v.get("type").is_none_or(|t| t != "null"));
                if let [Value::Object(only)] = options.as_slice() {
                    let only = only.clone();
                    map.remove("anyOf");
                    for (key, value) in only {
                        map.entry(key).or_insert(value);
                    }
                    let again: BTreeMap<String, Value> = std::mem::take(&mut map).into_iter().collect();
                    map = again.into_iter().collect();
                }
            }
            Value::Object(map)
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_null).collect()),
        other => other,
    }
}

/// Follows `$ref`; keys beside it win.
pub(super) fn resolve<'a>(schema: &'a Value, root: &'a Value) -> Resolved<'a> {
    let target = schema
        .get("$ref")
        .and_then(Value::as_str)
        .and_then(|r| r.strip_prefix("#/$defs/"))
        .and_then(|name| root.get("$defs")?.get(name));
    Resolved { own: schema, target }
}

/// A schema and what it refers to.
#[derive(Clone, Copy)]
pub(super) struct Resolved<'a> {
    own: &'a Value,
    target: Option<&'a Value>,
}

impl<'a> Resolved<'a> {
    pub fn get(self, key: &str) -> Option<&'a Value> {
        self.own.get(key).or_else(|| self.target?.get(key))
    }

    pub fn text(self, key: &str) -> Option<&'a str> {
        self.get(key)?.as_str()
    }

    /// The words allowed, when it is a choice of words.
    pub fn words(self) -> Vec<&'a str> {
        let mut words: Vec<&str> = Vec::new();
        let mut collect = |schema: &'a Value| {
            words.extend(schema.get("const").and_then(Value::as_str));
            words.extend(
                schema
                    .get("enum")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .filter_map(Value::as_str),
            );
        };
        for schema in [Some(self.own), self.target].into_iter().flatten() {
            collect(schema);
            for option in schema
                .get("oneOf")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                collect(option);
            }
        }
        words
    }

    /// The alternatives of `oneOf` or `anyOf`.
    pub fn options(self) -> &'a [Value] {
        let found = self.get("oneOf").or_else(|| self.get("anyOf"));
        found.and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }
}
