//! Checks a tree against its schema: every unknown key and every wrong value, each with its place.
//!
//! serde stops at the first error, so it comes after this and finds nothing left to say. What is wrong is taken out of
//! the tree, so that the checks that follow see the rest.

use serde_json::Value as Json;

use super::fault::Fault;
use super::schema::{Resolved, resolve};
use super::source::{carries_password, is_postgres, is_reference, quoted};
use super::suggest;
use super::tree::{Node, Value};
use super::units::{Size, Span};
use crate::error;

pub(super) fn walk(tree: &mut Node, schema: &Json) -> Vec<Fault> {
    let mut walker = Walker {
        root: schema,
        faults: Vec::new(),
    };
    walker.node(tree, schema, &mut Vec::new());
    walker.faults
}

struct Walker<'a> {
    root: &'a Json,
    faults: Vec<Fault>,
}

impl<'a> Walker<'a> {
    /// False: it cannot be used and has to go.
    fn node(&mut self, node: &mut Node, schema: &'a Json, path: &mut Vec<String>) -> bool {
        let schema = resolve(schema, self.root);
        let words = schema.words();
        if !words.is_empty() {
            return self.word(node, &words, path);
        }
        let options = schema.options();
        if !options.is_empty() {
            return self.option(node, options, path);
        }
        let wanted: Vec<&str> = match schema.get("type") {
            Some(Json::String(one)) => vec![one],
            Some(Json::Array(many)) => many.iter().filter_map(Json::as_str).collect(),
            _ => return true,
        };
        if wanted.contains(&"string") {
            as_string(node);
        }
        match (&mut node.value, wanted.as_slice()) {
            (Value::Integer(n), _) if schema.text("format") == Some("size") && *n >= 0 => {
                node.value = Value::String(format!("{n}B"));
                self.string(node, schema, path)
            }
            (Value::Table(_), w) if w.contains(&"object") => self.table(node, schema, path),
            (Value::Array(_), w) if w.contains(&"array") => self.array(node, schema, path),
            (Value::String(_), w) if w.contains(&"string") => self.string(node, schema, path),
            (Value::Integer(n), w) if w.contains(&"integer") || w.contains(&"number") => {
                let n = *n as f64;
                self.range(node, n, schema, path)
            }
            (Value::Float(n), w) if w.contains(&"number") => {
                let n = *n;
                self.range(node, n, schema, path)
            }
            (Value::Boolean(_), w) if w.contains(&"boolean") => true,
            _ => self.wrong_type(node, schema, &wanted, path),
        }
    }

    fn wrong_type(&mut self, node: &Node, schema: Resolved<'_>, wanted: &[&str], path: &[String]) -> bool {
        let mut fault = self.value_fault(
            node,
            path,
            format!("must be {}, not {}", describe(schema, wanted), node.value.kind()),
        );
        let text = match &node.value {
            Value::Integer(n) => n.to_string(),
            Value::Float(n) => n.to_string(),
            _ => String::new(),
        };
        fault = match (schema.text("format"), &node.value) {
            (Some("duration"), Value::Integer(_) | Value::Float(_)) => fault.help(format!(
                "a duration needs its unit: \"{text}s\" for seconds, \"{text}ms\" for milliseconds"
            )),
            (Some("size"), _) => fault.help("a size is a number and a unit: \"64KiB\", \"1MiB\""),
            _ if wanted == ["array"] => fault.help("write a list: [\"…\", \"…\"]"),
            _ if wanted == ["string"] => fault.help("put it in quotes"),
            _ => fault,
        };
        self.faults.push(fault);
        false
    }

    fn value_fault(&self, node: &Node, path: &[String], what: impl std::fmt::Display) -> Fault {
        Fault::new(
            error::CONFIG_VALUE,
            node.place.clone(),
            format!("`{}` {what}", shown(path)),
        )
    }

    fn word(&mut self, node: &mut Node, words: &[&str], path: &[String]) -> bool {
        as_string(node);
        let said = match &node.value {
            Value::String(text) if words.contains(&text.as_str()) => return true,
            Value::String(text) => quoted(text),
            other => other.kind().to_owned(),
        };
        let list: Vec<String> = words.iter().map(|w| format!("\"{w}\"")).collect();
        let mut fault = self.value_fault(
            node,
            path,
            format!("cannot be {said}; it is one of {}", list.join(", ")),
        );
        if let Some(near) = node
            .str()
            .and_then(|text| suggest::nearest(text, words.iter().copied()))
        {
            fault = fault.help(format!("did you mean `{near}`?"));
        }
        self.faults.push(fault);
        false
    }

    /// Alternatives: tables told apart by `kind`, or values told apart by their type.
    fn option(&mut self, node: &mut Node, options: &'a [Json], path: &mut Vec<String>) -> bool {
        let kinds: Vec<(&str, &'a Json)> = options
            .iter()
            .filter_map(|o| Some((o.get("properties")?.get("kind")?.get("const")?.as_str()?, o)))
            .collect();
        if kinds.is_empty() {
            return self.by_type(node, options, path);
        }
        if node.entries().is_none() {
            let fault = self.value_fault(node, path, format!("must be a table, not {}", node.value.kind()));
            self.faults.push(fault);
            return false;
        }
        let words: Vec<&str> = kinds.iter().map(|(kind, _)| *kind).collect();
        let Value::Table(table) = &mut node.value else {
            return false;
        };
        let Some(kind) = table.get_mut("kind") else {
            let fault = Fault::new(
                error::CONFIG_VALUE,
                node.key.clone(),
                format!("`{}` lacks `kind`", shown(path)),
            )
            .help(format!(
                "add a line: kind = \"{}\"",
                words.join("\" or kind = \"")
            ));
            self.faults.push(fault);
            return false;
        };
        path.push("kind".into());
        let known = self.word(kind, &words, path);
        path.pop();
        let chosen = kind
            .str()
            .and_then(|k| kinds.iter().find(|(kind, _)| *kind == k))
            .map(|(_, schema)| *schema);
        match chosen {
            Some(schema) if known => self.node(node, schema, path),
            _ => false,
        }
    }

    fn by_type(&mut self, node: &mut Node, options: &'a [Json], path: &mut Vec<String>) -> bool {
        let name = match node.value {
            Value::Table(_) => "object",
            Value::Array(_) => "array",
            Value::Boolean(_) => "boolean",
            Value::Integer(_) => "integer",
            Value::Float(_) => "number",
            Value::String(_) | Value::Datetime(_) => "string",
        };
        let types: Vec<&str> = options
            .iter()
            .filter_map(|o| resolve(o, self.root).text("type"))
            .collect();
        match options.iter().zip(&types).find(|(_, t)| **t == name) {
            Some((option, _)) => self.node(node, option, path),
            None => {
                let list: Vec<&str> = types.iter().map(|t| plain_type(t)).collect();
                let fault = self.value_fault(
                    node,
                    path,
                    format!("must be {}, not {}", list.join(" or "), node.value.kind()),
                );
                self.faults.push(fault);
                false
            }
        }
    }

    fn table(&mut self, node: &mut Node, schema: Resolved<'a>, path: &mut Vec<String>) -> bool {
        let key_place = node.key.clone();
        let Value::Table(table) = &mut node.value else {
            return false;
        };
        let properties = schema.get("properties").and_then(Json::as_object);
        let more = schema.get("additionalProperties").filter(|s| !s.is_boolean());
        let mut remove = Vec::new();
        for (key, child) in table.iter_mut() {
            let known = properties.and_then(|p| p.get(key)).or(more);
            let Some(schema) = known else {
                let names = properties.into_iter().flat_map(|p| p.keys()).map(String::as_str);
                let parent = if path.is_empty() {
                    "at the top level".to_owned()
                } else {
                    format!("in `{}`", shown(path))
                };
                let message = format!("unknown key {} {parent}", quoted(key));
                let fault = Fault::new(error::CONFIG_UNKNOWN_KEY, child.key.clone(), message)
                    .label("nobody reads this")
                    .help(suggest::help(key, names));
                self.faults.push(fault);
                remove.push(key.clone());
                continue;
            };
            path.push(key.clone());
            if !self.node(child, schema, path) {
                remove.push(key.clone());
            }
            path.pop();
        }
        for name in schema
            .get("required")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
            .filter_map(Json::as_str)
        {
            if !table.contains_key(name) && !remove.iter().any(|r| r == name) {
                let message = format!("`{}` lacks `{name}`", shown(path));
                let mut fault = Fault::new(error::CONFIG_VALUE, key_place.clone(), message);
                let about = properties
                    .and_then(|p| p.get(name))
                    .and_then(|s| resolve(s, self.root).text("description"));
                if let Some(about) = about {
                    fault = fault.help(format!("{name}: {}", about.replace('\n', " ")));
                }
                self.faults.push(fault);
            }
        }
        for key in remove {
            table.remove(&key);
        }
        true
    }

    fn array(&mut self, node: &mut Node, schema: Resolved<'a>, path: &mut Vec<String>) -> bool {
        let Value::Array(items) = &mut node.value else {
            return false;
        };
        let Some(schema) = schema.get("items") else {
            return true;
        };
        let mut number = 0;
        items.retain_mut(|item| {
            path.push(number.to_string());
            number += 1;
            let keep = self.node(item, schema, path);
            path.pop();
            keep
        });
        true
    }

    fn range(&mut self, node: &Node, n: f64, schema: Resolved<'_>, path: &[String]) -> bool {
        let low = schema.get("minimum").and_then(Json::as_f64);
        let high = schema.get("maximum").and_then(Json::as_f64);
        if low.is_none_or(|low| n >= low) && high.is_none_or(|high| n <= high) && n.is_finite() {
            return true;
        }
        let fault = self.value_fault(node, path, format!("is {n}; it must be {}", bounds(low, high)));
        self.faults.push(fault);
        false
    }

    fn string(&mut self, node: &Node, schema: Resolved<'_>, path: &[String]) -> bool {
        let Some(text) = node.str() else { return false };
        let wrong = match schema.text("format") {
            Some("duration") => measured::<Span>(text, schema),
            Some("size") => measured::<Size>(text, schema),
            Some("address") => text
                .parse::<std::net::SocketAddr>()
                .map(|_| ())
                .map_err(|_| "address and port, as in \"127.0.0.1:7061\" or \"[::1]:7061\"".to_owned()),
            Some("secret") if !is_reference(text) && !matches!(node.place, super::source::Place::Env(_)) => {
                // Says nothing about the value, not even its length.
                let fault = Fault::new(error::CONFIG_SECRET, node.place.clone(), format!("`{}` is a secret in plain text", shown(path)))
                    .help("write \"env:NAME\" to take it from an environment variable, or \"file:/run/secrets/name\" to read it from a file");
                self.faults.push(fault);
                return false;
            }
            Some("store-url")
                if !is_reference(text) && !matches!(node.place, super::source::Place::Env(_)) =>
            {
                if carries_password(text) {
                    let fault = Fault::new(error::CONFIG_SECRET, node.place.clone(), format!("`{}` has a password in plain text", shown(path)))
                        .help("write \"env:HELIX_STORE_URL\" to take the URL from an environment variable, or \"file:/run/secrets/name\" to read it from a file");
                    self.faults.push(fault);
                    return false;
                }
                if is_postgres(text) {
                    Ok(())
                } else {
                    Err("a URL \"postgres://user@host:5432/database\", or a reference to one: \"env:NAME\", \"file:path\"".to_owned())
                }
            }
            _ => Ok(()),
        };
        match wrong {
            Ok(()) => true,
            Err(help) => {
                let fault = self
                    .value_fault(node, path, format!("cannot be {}", quoted(text)))
                    .help(help);
                self.faults.push(fault);
                false
            }
        }
    }
}

/// The environment carries text: where a string is wanted, `123` is one.
fn as_string(node: &mut Node) {
    if node.place.is_text()
        && let Some(text) = node.text.take_if(|_| !matches!(node.value, Value::String(_)))
    {
        node.value = Value::String(text);
    }
}

/// Parses a duration or size and holds it against `x-minimum` and `x-maximum`.
fn measured<T: std::str::FromStr<Err = String> + PartialOrd>(
    text: &str,
    schema: Resolved<'_>,
) -> Result<(), String> {
    let value: T = text.parse()?;
    let bound = |key| {
        schema
            .text(key)
            .and_then(|t: &str| Some((t.parse::<T>().ok()?, t)))
    };
    let (low, high) = (bound("x-minimum"), bound("x-maximum"));
    if low.as_ref().is_some_and(|(low, _)| value < *low)
        || high.as_ref().is_some_and(|(high, _)| value > *high)
    {
        return Err(format!(
            "it must be {}",
            bounds(low.map(|l| l.1), high.map(|h| h.1))
        ));
    }
    Ok(())
}

fn bounds<T: std::fmt::Display>(low: Option<T>, high: Option<T>) -> String {
    match (low, high) {
        (Some(low), Some(high)) => format!("from {low} to {high}"),
        (Some(low), None) => format!("at least {low}"),
        (None, Some(high)) => format!("at most {high}"),
        (None, None) => "a finite number".into(),
    }
}

fn describe(schema: Resolved<'_>, wanted: &[&str]) -> String {
    match schema.text("format") {
        Some("duration") => "a duration".into(),
        Some("size") => "a size".into(),
        _ => wanted
            .iter()
            .map(|w| plain_type(w))
            .collect::<Vec<_>>()
            .join(" or "),
    }
}

fn plain_type(json: &str) -> &'static str {
    match json {
        "object" => "a table",
        "array" => "a list",
        "boolean" => "true or false",
        "integer" => "a whole number",
        "number" => "a number",
        _ => "a string",
    }
}

/// `routes[0].retry.delay`; names that are no bare keys are quoted.
pub(super) fn shown(path: &[String]) -> String {
    let mut out = String::new();
    for (depth, part) in path.iter().enumerate() {
        if depth > 0 && part.bytes().all(|b| b.is_ascii_digit()) {
            out.push_str(&format!("[{part}]"));
            continue;
        }
        if depth > 0 {
            out.push('.');
        }
        if part
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
            && !part.is_empty()
        {
            out.push_str(part);
        } else {
            out.push_str(&format!("\"{}\"", part.escape_default()));
        }
    }
    out
}
