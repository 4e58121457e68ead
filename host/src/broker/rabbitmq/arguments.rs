//! Queue arguments: from the topology file to AMQP, and from the broker's complaint to a difference. Pure.

use std::collections::BTreeMap;

use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::convert::short;
use crate::broker::{Destination, Error};
use crate::model::clock::duration_ms;

/// How a queue is declared.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    pub durable: bool,
    pub exclusive: bool,
    pub auto_delete: bool,
    pub arguments: FieldTable,
}

impl Shape {
    /// Durable and shared; classic unless `x-queue-type` says otherwise.
    pub fn of(want: &Destination) -> Result<Self, Error> {
        let mut table = BTreeMap::new();
        for (name, value) in &want.arguments {
            let name = short("an argument's name", name).map_err(Error::Unsupported)?;
            table.insert(name, argument(value));
        }
        // Refused by 3.10 and without effect later.
        let quorum = want
            .arguments
            .get("x-queue-type")
            .is_some_and(|kind| kind == "quorum");
        if want.max_priority > 0 && !quorum {
            table.insert(
                "x-max-priority".into(),
                AMQPValue::LongLongInt(want.max_priority.into()),
            );
        }
        if let Some(ttl) = want.ttl {
            let ms = i64::try_from(duration_ms(ttl)).unwrap_or(i64::MAX);
            table.insert("x-message-ttl".into(), AMQPValue::LongLongInt(ms));
        }
        Ok(Self {
            durable: true,
            exclusive: false,
            auto_delete: false,
            arguments: table.into(),
        })
    }

    /// Takes over what is there. False when that cannot be expressed, so that looking on makes no sense.
    pub fn adopt(&mut self, found: &Difference) -> bool {
        let flag = |text: &str| text.parse::<bool>().ok();
        let current = found.there.as_deref();
        let before = self.clone();
        match (found.name.as_str(), current.and_then(flag)) {
            ("durable", Some(value)) => self.durable = value,
            ("exclusive", Some(value)) => self.exclusive = value,
            ("auto_delete", Some(value)) => self.auto_delete = value,
            (name, _) => {
                let Ok(name) = short("an argument's name", name) else {
                    return false;
                };
                let mut table: BTreeMap<ShortString, AMQPValue> = self.arguments.inner().clone();
                match current {
                    Some(value) => table.insert(name, argument(value)),
                    None => table.remove(&name),
                };
                self.arguments = table.into();
            }
        }
        *self != before
    }
}

/// Whole numbers as integers, `true` and `false` as booleans, everything else as text.
fn argument(text: &str) -> AMQPValue {
    match (text.parse::<i64>(), text.parse::<bool>()) {
        (Ok(number), _) => AMQPValue::LongLongInt(number),
        (_, Ok(flag)) => AMQPValue::Boolean(flag),
        _ => AMQPValue::LongString(text.as_bytes().into()),
    }
}

/// One property in which a queue differs from what was asked for. None means "not set".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    pub name: String,
    pub wanted: Option<String>,
    pub there: Option<String>,
}

impl Difference {
    pub fn line(&self) -> String {
        let show = |value: &Option<String>| value.clone().unwrap_or_else(|| "not set".to_owned());
        format!(
            "{}: wanted {}, is {}",
            self.name,
            show(&self.wanted),
            show(&self.there)
        )
    }
}

/// Reads RabbitMQ's `inequivalent arg 'x' for queue 'q' in vhost '/': received A but current is B`
/// (3.8 to 4.x), where A and B are `none`, `the value '5' of type 'long'` or `'true'`.
pub fn difference(text: &str) -> Option<Difference> {
    let (_, rest) = text.split_once("inequivalent arg '")?;
    let (name, rest) = rest.split_once('\'')?;
    let (_, rest) = rest.split_once("': received ")?;
    let (wanted, there) = rest.split_once(" but current is ")?;
    Some(Difference {
        name: name.to_owned(),
        wanted: value(wanted),
        there: value(there),
    })
}

fn value(text: &str) -> Option<String> {
    if text.trim() == "none" {
        return None;
    }
    let (_, rest) = text.split_once('\'')?;
    // The type comes last; a value may hold quotes itself.
    let (value, _) = rest
        .rsplit_once("' of type ")
        .or_else(|| rest.rsplit_once('\''))?;
    Some(value.to_owned())
}

#[cfg(test)]
mod tests;
