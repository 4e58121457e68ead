//! The environment over the file: `HELIX__SECTION__KEY`, and the variables existing HelixAgent installations set.

use std::collections::BTreeMap;

use super::fault::Fault;
use super::source::{Place, quoted};
use super::tree::{Node, Value, from_text};
use crate::error;

type Env = BTreeMap<String, String>;

/// (variables in order of precedence, key of the broker).
const RABBITMQ: [(&[&str], &str); 5] = [
    (&["RABBITMQ_HOST"], "host"),
    (&["RABBITMQ_PORT"], "port"),
    (&["RABBITMQ_USER"], "user"),
    (&["RABBITMQ_PASSWORD"], "password"),
    (&["RABBITMQ_VHOST"], "vhost"),
];

const KAFKA: [(&[&str], &str); 5] = [
    (&["KAFKA_BROKERS"], "servers"),
    (&["KAFKA_CONSUMER_GROUP", "KAFKA_GROUP_ID"], "group"),
    (&["KAFKA_CLIENT_ID"], "properties.client.id"),
    (&["KAFKA_SESSION_TIMEOUT_MS"], "session_timeout"),
    (&["KAFKA_HEARTBEAT_INTERVAL_MS"], "heartbeat_interval"),
];

/// Puts the environment over the tree. `HELIX__…` is the more exact word and wins over the others.
pub(super) fn overlay(tree: &mut Node, env: &Env) -> Vec<Fault> {
    let mut faults = Vec::new();
    broker(
        tree,
        env,
        ("rabbitmq", "RABBITMQ_ENABLED", "tasks"),
        &RABBITMQ,
        &mut faults,
    );
    broker(
        tree,
        env,
        ("kafka", "KAFKA_ENABLED", "events"),
        &KAFKA,
        &mut faults,
    );
    switches(tree, env, &mut faults);
    for (name, text) in env {
        let Some(path) = name
            .get(..7)
            .filter(|p| p.eq_ignore_ascii_case("HELIX__"))
            .and_then(|_| name.get(7..))
        else {
            continue;
        };
        let path: Vec<String> = path.split("__").map(str::to_owned).collect();
        let place = Place::Env(name.clone());
        if path.iter().any(String::is_empty) {
            let fault = Fault::new(error::CONFIG_UNKNOWN_KEY, place, "an empty part in the path")
                .help("the form is HELIX__SECTION__KEY, as in HELIX__HOST__LISTEN");
            faults.push(fault);
            continue;
        }
        if let Err(what) = tree.set(&path, from_text(text, place.clone())) {
            faults.push(Fault::new(error::CONFIG_UNKNOWN_KEY, place, what));
        }
    }
    faults
}

/// Set and not empty (compose files pass on empty ones), with the names that were set too and lost.
fn lookup<'a>(env: &'a Env, names: &[&'static str]) -> Option<(&'static str, &'a str, Vec<&'static str>)> {
    let mut set = names.iter().filter_map(|name| {
        let text = env.get(*name)?.trim();
        // Kubernetes puts `RABBITMQ_PORT=tcp://10.0.0.1:5672` into every pod when a service is named rabbitmq.
        let injected = name.ends_with("_PORT") && text.starts_with("tcp://");
        (!text.is_empty() && !injected).then_some((*name, text))
    });
    let (name, text) = set.next()?;
    Some((name, text, set.map(|(name, _)| name).collect()))
}

fn found(name: &str, value: Value, text: Option<&str>, lost: &[&str]) -> Node {
    let mut node = Node::new(value, Place::Env(name.to_owned()));
    node.text = text.map(str::to_owned);
    node.shadowed = lost.iter().map(|name| Place::Env((*name).to_owned())).collect();
    node
}

fn broker(
    tree: &mut Node,
    env: &Env,
    (kind, switch, role): (&str, &'static str, &str),
    variables: &[(&'static [&'static str], &str)],
    faults: &mut Vec<Fault>,
) {
    let set: Vec<_> = variables
        .iter()
        .filter_map(|(names, key)| Some((lookup(env, names)?, *key)))
        .collect();
    let Some(((first, _, _), _)) = set.first() else {
        return;
    };
    if env.get(switch).is_some_and(|v| v == "false") {
        return;
    }
    let declared: Vec<String> = tree
        .get("brokers")
        .and_then(Node::entries)
        .into_iter()
        .flatten()
        .filter(|(_, b)| b.get("kind").and_then(Node::str) == Some(kind))
        .map(|(name, _)| name.clone())
        .collect();
    let target = match declared.as_slice() {
        [only] => only.clone(),
        [] => {
            if let Some(other) = tree.at(&["brokers", kind]) {
                let message = format!("is set, but the broker named `{kind}` is of another kind");
                let place = Place::Env((*first).to_owned());
                faults.push(
                    Fault::new(error::CONFIG_REFERENCE, place, message)
                        .help(format!("rename the one at {}, or unset the variable", other.key)),
                );
                return;
            }
            let tag = found(first, Value::String(kind.to_owned()), None, &[]);
            put(tree, &["brokers", kind, "kind"], tag, faults);
            if tree.at(&["messaging", role]).is_none() {
                put(
                    tree,
                    &["messaging", role],
                    found(first, Value::String(kind.to_owned()), None, &[]),
                    faults,
                );
            }
            kind.to_owned()
        }
        many if many.iter().any(|name| name == kind) => kind.to_owned(),
        many => {
            let place = Place::Env((*first).to_owned());
            let message = format!("could mean any of these brokers: {}", many.join(", "));
            faults.push(Fault::new(error::CONFIG_REFERENCE, place, message).help(format!(
                "name one of them `{kind}`, or say which with HELIX__BROKERS__NAME__…"
            )));
            return;
        }
    };
    for ((name, text, lost), key) in set {
        let value = match key {
            "servers" => Value::Array(
                text.split(',')
                    .map(str::trim)
                    .filter(|s| !s.is_empty())
                    .map(|s| Node::new(Value::String(s.to_owned()), Place::Env(name.to_owned())))
                    .collect(),
            ),
            "port" => text
                .parse()
                .map_or_else(|_| Value::String(text.to_owned()), Value::Integer),
            "session_timeout" | "heartbeat_interval" => Value::String(match text.parse::<u64>() {
                Ok(ms) => format!("{ms}ms"),
                Err(_) => text.to_owned(),
            }),
            _ => Value::String(text.to_owned()),
        };
        let path: Vec<&str> = match key {
            "properties.client.id" => vec!["brokers", &target, "properties", "client.id"],
            key => vec!["brokers", &target, key],
        };
        put(tree, &path, found(name, value, Some(text), &lost), faults);
    }
}

fn put(tree: &mut Node, path: &[&str], node: Node, faults: &mut Vec<Fault>) {
    let place = node.place.clone();
    let path: Vec<String> = path.iter().map(|p| (*p).to_owned()).collect();
    if let Err(what) = tree.set(&path, node) {
        faults.push(Fault::new(error::CONFIG_VALUE, place, what));
    }
}

fn switches(tree: &mut Node, env: &Env, faults: &mut Vec<Fault>) {
    // Only the exact word `false` switches off: existing installations set `1`, `yes` and `TRUE`.
    let on = |text: &str| Value::Boolean(text != "false");
    if let Some((name, text, lost)) = lookup(env, &["MESSAGING_ENABLED"]) {
        put(
            tree,
            &["messaging", "enabled"],
            found(name, on(text), None, &lost),
            faults,
        );
    }
    if let Some((name, text, lost)) = lookup(
        env,
        &["MESSAGING_FALLBACK_ENABLED", "MESSAGING_FALLBACK_INMEMORY"],
    ) {
        put(
            tree,
            &["messaging", "fallback"],
            found(name, on(text), None, &lost),
            faults,
        );
    }
    let debug = lookup(env, &["MESSAGING_DEBUG"]).filter(|(_, text, _)| matches!(*text, "true" | "1"));
    if let Some((name, text, _)) = lookup(env, &["LOG_LEVEL"]) {
        let lost: Vec<&str> = debug.iter().map(|(name, ..)| *name).collect();
        // HelixAgent's levels are those of logrus and in any case; `tracing` has no `fatal` and no `panic`.
        let level = text.to_lowercase();
        let level = if matches!(level.as_str(), "fatal" | "panic") {
            "error".to_owned()
        } else {
            level
        };
        let level = if level == "warning" {
            "warn".to_owned()
        } else {
            level
        };
        put(
            tree,
            &["host", "log"],
            found(name, Value::String(level), None, &lost),
            faults,
        );
    } else if let Some((name, ..)) = debug {
        put(
            tree,
            &["host", "log"],
            found(name, Value::String("debug".into()), None, &[]),
            faults,
        );
    }
    if let Some((name, text, _)) = lookup(env, &["PORT"]) {
        let place = Place::Env(name.to_owned());
        let Ok(port) = text.parse::<u16>() else {
            let message = format!("{} is no port", quoted(text));
            faults.push(
                Fault::new(error::CONFIG_VALUE, place, message).help("a number from 0 to 65535, as in 7061"),
            );
            return;
        };
        let listen = tree
            .at(&["host", "listen"])
            .and_then(Node::str)
            .unwrap_or("127.0.0.1:7061");
        // An address that cannot be read keeps its own fault.
        if let Ok(mut address) = listen.parse::<std::net::SocketAddr>() {
            address.set_port(port);
            put(
                tree,
                &["host", "listen"],
                found(name, Value::String(address.to_string()), None, &[]),
                faults,
            );
        }
    }
}
