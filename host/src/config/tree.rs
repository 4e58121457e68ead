//! Values with their places: what files, environment and flags are merged in, before serde sees anything.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::Fault;
use super::source::{Place, SourceFile, quoted};
use crate::error;

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub value: Value,
    pub place: Place,
    /// Where its key stands; the value's place when there is no key.
    pub key: Place,
    /// Sources that said something else and lost.
    pub shadowed: Vec<Place>,
    /// Environment and flags: the text as it was given.
    pub text: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    Datetime(String),
    Array(Vec<Node>),
    Table(BTreeMap<String, Node>),
}

impl Value {
    /// With its article, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "a string",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Boolean(_) => "true or false",
            Self::Datetime(_) => "a date",
            Self::Array(_) => "an array",
            Self::Table(_) => "a table",
        }
    }
}

impl Node {
    pub fn new(value: Value, place: Place) -> Self {
        Self {
            value,
            key: place.clone(),
            place,
            shadowed: Vec::new(),
            text: None,
        }
    }

    pub fn table(place: Place) -> Self {
        Self::new(Value::Table(BTreeMap::new()), place)
    }

    /// A child by key, or by number of an array.
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.value {
            Value::Table(table) => table.get(key),
            Value::Array(items) => key.parse::<usize>().ok().and_then(|n| items.get(n)),
            _ => None,
        }
    }

    pub fn at(&self, path: &[&str]) -> Option<&Node> {
        path.iter().try_fold(self, |node, key| node.get(key))
    }

    pub fn str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn entries(&self) -> Option<&BTreeMap<String, Node>> {
        match &self.value {
            Value::Table(table) => Some(table),
            _ => None,
        }
    }

    /// Without places, for serde.
    pub fn plain(&self) -> toml::Value {
        match &self.value {
            Value::String(v) | Value::Datetime(v) => toml::Value::String(v.clone()),
            Value::Integer(v) => toml::Value::Integer(*v),
            Value::Float(v) => toml::Value::Float(*v),
            Value::Boolean(v) => toml::Value::Boolean(*v),
            Value::Array(items) => toml::Value::Array(items.iter().map(Self::plain).collect()),
            Value::Table(table) => {
                toml::Value::Table(table.iter().map(|(k, v)| (k.clone(), v.plain())).collect())
            }
        }
    }

    /// Puts `new` where `path` leads and remembers what it replaced. Keys of tables are found without regard to case and
    /// to `-` or `_`, since the environment knows neither. Errors say what is in the way.
    pub fn set(&mut self, path: &[String], mut new: Node) -> Result<(), String> {
        let Some((key, rest)) = path.split_first() else {
            return Ok(());
        };
        let slot = match &mut self.value {
            Value::Table(table) => {
                let found = table.keys().find(|k| folded(k) == folded(key)).cloned();
                let name = found.unwrap_or_else(|| key.to_lowercase());
                if rest.is_empty() {
                    if let Some(old) = table.get(&name) {
                        new.shadowed.push(old.place.clone());
                        new.shadowed.extend(old.shadowed.iter().cloned());
                    }
                    table.insert(name, new);
                    return Ok(());
                }
                table
                    .entry(name)
                    .or_insert_with(|| Node::table(new.place.clone()))
            }
            Value::Array(items) => {
                let count = items.len();
                let slot = key.parse::<usize>().ok().and_then(|n| items.get_mut(n));
                slot.ok_or_else(|| format!("{} is no position in a list of {count}", quoted(key)))?
            }
            other => return Err(format!("{} stands inside {}", quoted(key), other.kind())),
        };
        if rest.is_empty() {
            new.shadowed.push(slot.place.clone());
            *slot = new;
            return Ok(());
        }
        slot.set(rest, new)
    }
}

fn folded(key: &str) -> String {
    key.to_lowercase().replace('-', "_")
}

/// Everything that can be read, and every fault of syntax.
pub(super) fn parse(file: &Arc<SourceFile>, text: &str) -> (Node, Vec<Fault>) {
    let place = |span| Place::File {
        file: file.clone(),
        span,
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut faults: Vec<Fault> = errors
        .iter()
        .map(|e| {
            let span = e.span().unwrap_or(0..0);
            Fault::new(
                error::CONFIG_SYNTAX,
                place(span),
                format!("this is not TOML: {}", e.message()),
            )
        })
        .collect();
    // One missing quote makes many errors; the first few are worth reading.
    faults.truncate(5);
    let mut root = Node::table(place(0..0));
    root.value = convert_table(table.get_ref(), file, &mut faults);
    (root, faults)
}

fn convert_table(table: &DeTable<'_>, file: &Arc<SourceFile>, faults: &mut Vec<Fault>) -> Value {
    let mut out = BTreeMap::new();
    for (key, value) in table {
        let mut node = convert(value, file, faults);
        node.key = Place::File {
            file: file.clone(),
            span: key.span(),
        };
        out.insert(key.get_ref().to_string(), node);
    }
    Value::Table(out)
}

fn convert(value: &Spanned<DeValue<'_>>, file: &Arc<SourceFile>, faults: &mut Vec<Fault>) -> Node {
    let place = Place::File {
        file: file.clone(),
        span: value.span(),
    };
    let value = match value.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => {
                faults.push(Fault::new(
                    error::CONFIG_VALUE,
                    place.clone(),
                    "this number is too large",
                ));
                Value::Integer(0)
            }
        },
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::Boolean(*flag),
        DeValue::Datetime(time) => Value::Datetime(time.to_string()),
        DeValue::Array(items) => Value::Array(items.iter().map(|item| convert(item, file, faults)).collect()),
        DeValue::Table(table) => convert_table(table, file, faults),
    };
    Node::new(value, place)
}

/// The text of a variable or flag: TOML when it is, a string when not.
pub(super) fn from_text(text: &str, place: Place) -> Node {
    let value = match toml::from_str::<toml::Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut t| t.remove("v"))
    {
        Some(value) if !text.contains('\n') => plain_to_node(value, &place).value,
        _ => Value::String(text.to_owned()),
    };
    let mut node = Node::new(value, place);
    node.text = Some(text.to_owned());
    node
}

fn plain_to_node(value: toml::Value, place: &Place) -> Node {
    let value = match value {
        toml::Value::String(v) => Value::String(v),
        toml::Value::Integer(v) => Value::Integer(v),
        toml::Value::Float(v) => Value::Float(v),
        toml::Value::Boolean(v) => Value::Boolean(v),
        toml::Value::Datetime(v) => Value::Datetime(v.to_string()),
        toml::Value::Array(items) => {
            Value::Array(items.into_iter().map(|v| plain_to_node(v, place)).collect())
        }
        toml::Value::Table(table) => Value::Table(
            table
                .into_iter()
                .map(|(k, v)| (k, plain_to_node(v, place)))
                .collect(),
        ),
    };
    Node::new(value, place.clone())
}
