//! Every effective value and the source that set it.

use serde::Serialize;
use serde_json::Value as Json;

use super::raw;
use super::source::{Place, carries_password, is_reference, is_secret_name};
use super::tree::Node;
use super::walk::shown;

/// One line of `helix config explain`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explained {
    /// `brokers.rabbitmq.host`, `routes[0].queue`
    pub path: String,
    /// As it would stand in TOML; secrets are `***`.
    pub value: String,
    /// `config/helix.toml:12`, `env RABBITMQ_HOST`, `flag --listen`, `default`
    pub source: String,
    /// Sources that said something too and lost, the strongest first.
    pub over: Vec<String>,
}

pub(super) fn explain(tree: &Node, raw: &raw::Raw) -> Vec<Explained> {
    let mut out = Vec::new();
    let all = serde_json::to_value(raw).unwrap_or_default();
    leaves(&all, Some(tree), &mut Vec::new(), &mut out);
    out
}

fn leaves(value: &Json, node: Option<&Node>, path: &mut Vec<String>, out: &mut Vec<Explained>) {
    match value {
        Json::Null => {}
        Json::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            for key in keys {
                path.push(key.clone());
                leaves(
                    map.get(key).unwrap_or(&Json::Null),
                    node.and_then(|n| n.get(key)),
                    path,
                    out,
                );
                path.pop();
            }
        }
        Json::Array(items) if items.iter().any(Json::is_object) => {
            for (n, item) in items.iter().enumerate() {
                path.push(n.to_string());
                leaves(item, node.and_then(|node| node.get(&n.to_string())), path, out);
                path.pop();
            }
        }
        leaf => out.push(Explained {
            path: shown(path),
            value: if is_secret(path) || leaf.as_str().is_some_and(carries_password) {
                masked(leaf)
            } else {
                toml_text(leaf)
            },
            source: node.map_or(Place::Default, |n| n.place.clone()).to_string(),
            over: node
                .into_iter()
                .flat_map(|n| &n.shadowed)
                .map(Place::to_string)
                .collect(),
        }),
    }
}

/// Passwords by name; and what plugins get as environment, since that is how they get their keys.
fn is_secret(path: &[String]) -> bool {
    let guest_env = matches!(path, [first, _, third, _] if first == "plugins" && third == "env");
    guest_env || path.last().is_some_and(|key| is_secret_name(key))
}

fn masked(value: &Json) -> String {
    match value.as_str() {
        Some(reference) if is_reference(reference) => format!("*** ({reference})"),
        _ => "***".into(),
    }
}

pub(super) fn toml_text(value: &Json) -> String {
    match value {
        Json::String(text) => toml::Value::String(text.clone()).to_string(),
        Json::Array(items) => format!("[{}]", items.iter().map(toml_text).collect::<Vec<_>>().join(", ")),
        Json::Object(map) if map.is_empty() => "{}".into(),
        Json::Object(map) => {
            let inner: Vec<String> = map
                .iter()
                .map(|(k, v)| format!("{} = {}", key_text(k), toml_text(v)))
                .collect();
            format!("{{ {} }}", inner.join(", "))
        }
        other => other.to_string(),
    }
}

/// A bare key where TOML allows one.
pub(super) fn key_text(key: &str) -> String {
    let bare = !key.is_empty()
        && key
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if bare {
        key.to_owned()
    } else {
        toml::Value::String(key.to_owned()).to_string()
    }
}
