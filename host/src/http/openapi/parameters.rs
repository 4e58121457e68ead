//! Parameters, as the document shows them. Ranges are those that are checked.

use serde_json::{Value, json};

use crate::dlq::filter;
use crate::dlq::rehearse;
use crate::model::outcome::REASON_LIMIT;
use crate::model::{FailureClass, LetterState};
use crate::store::Ending;

use super::super::dlq::MAX_ACTOR;
use super::super::page::Limits;

pub(in crate::http) struct Parameter {
    name: &'static str,
    says: &'static str,
    schema: Value,
    in_path: bool,
}

impl Parameter {
    fn new(name: &'static str, says: &'static str, schema: Value) -> Self {
        Self {
            name,
            says,
            schema,
            in_path: false,
        }
    }

    pub(super) fn in_path(name: &'static str) -> Self {
        let says = match name {
            "queue" => "Name of a queue that exists.",
            "topic" => "Name of a topic that exists.",
            _ => "From the list, or from the answer that made it.",
        };
        Self {
            in_path: true,
            ..Self::new(name, says, json!({ "type": "string" }))
        }
    }

    pub(super) fn shown(&self) -> Value {
        json!({
            "name": self.name,
            "in": if self.in_path { "path" } else { "query" },
            "required": self.in_path,
            "description": self.says,
            "schema": self.schema,
        })
    }
}

fn text() -> Value {
    json!({ "type": "string" })
}

pub(in crate::http) fn limit(limits: Limits) -> Parameter {
    let schema = json!({
        "type": "integer", "minimum": 1, "maximum": limits.most, "default": limits.unless_set,
    });
    Parameter::new("limit", "Rows of the answer.", schema)
}

pub(in crate::http) fn offset() -> Parameter {
    let schema = json!({ "type": "integer", "minimum": 0, "default": 0 });
    Parameter::new(
        "offset",
        "Rows to skip. `cursor` stays right while rows come and go.",
        schema,
    )
}

fn cursor() -> Parameter {
    Parameter::new("cursor", "`next` of the page before.", text())
}

pub(in crate::http) fn page(limits: Limits) -> Vec<Parameter> {
    vec![limit(limits), cursor()]
}

pub(in crate::http) fn route() -> Parameter {
    Parameter::new("route", "Name of a route.", text())
}

pub(in crate::http) fn result() -> Parameter {
    let known = Ending::ALL.map(Ending::as_str);
    Parameter::new(
        "result",
        "Only letters with this result.",
        json!({ "type": "string", "enum": known }),
    )
}

/// Who asks, and why.
pub(in crate::http) fn because() -> Vec<Parameter> {
    let reason = json!({ "type": "string", "maxLength": REASON_LIMIT });
    vec![
        actor(),
        Parameter::new("reason", "Kept in the trail. The body says the same.", reason),
    ]
}

pub(in crate::http) fn actor() -> Parameter {
    let schema = json!({ "type": "string", "maxLength": MAX_ACTOR });
    Parameter::new(
        "actor",
        "A name for the trail; the name of the token stands before it.",
        schema,
    )
}

/// Words of a filter.
pub(in crate::http) fn filter() -> Vec<Parameter> {
    let also = [("queue", DESTINATION), ("topic", DESTINATION)];
    filter::WORDS
        .into_iter()
        .chain(also)
        .map(|(name, says)| Parameter::new(name, says, word(name)))
        .collect()
}

const DESTINATION: &str = "The same as `destination`.";

fn word(name: &str) -> Value {
    match name {
        "class" => json!({ "type": "string", "enum": FailureClass::ALL.map(FailureClass::as_str) }),
        "state" => {
            let mut known = LetterState::ALL.map(LetterState::as_str).to_vec();
            known.push("all");
            json!({ "type": "string", "enum": known })
        }
        "digest" => json!({ "type": "string", "pattern": "^(sha256:)?[0-9a-f]{64}$" }),
        _ => text(),
    }
}

pub(in crate::http) fn rehearsal() -> Vec<Parameter> {
    let limits = Limits {
        unless_set: rehearse::DEFAULT_LIMIT,
        most: rehearse::MAX_LIMIT,
    };
    let own = [
        Parameter::new(
            "plugin",
            "Whose grants and limits the component gets. Needed, here or in the body.",
            text(),
        ),
        Parameter::new(
            "id",
            "Ids of letters, with commas; then nothing else filters.",
            text(),
        ),
        actor(),
    ];
    let words = filter().into_iter().filter(|word| word.name != "state");
    own.into_iter().chain(page(limits)).chain(words).collect()
}
