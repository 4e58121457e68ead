//! What the document says of one operation.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::Place;
use super::parameters::Parameter;

type SchemaOf = fn(&mut SchemaGenerator) -> Schema;

fn schema_of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// Status, name in the document, meaning.
pub(super) const PROBLEMS: [(u16, &str, &str); 11] = [
    (
        400,
        "BadRequest",
        "Body or parameters are not understood. Nothing was changed.",
    ),
    (401, "Unauthorized", "The token is missing or wrong."),
    (
        403,
        "Forbidden",
        "The token may not do that, or the configuration does not allow it.",
    ),
    (404, "NotFound", "There is no such thing. Nothing was changed."),
    (
        408,
        "TooSlow",
        "The request came too slowly, or took longer than a request may take.",
    ),
    (
        409,
        "Conflict",
        "Its state forbids it; `state` says which one it is in. Nothing was changed.",
    ),
    (413, "TooLarge", "The body is too large. Nothing was changed."),
    (
        422,
        "Unprocessable",
        "Understood, and it cannot be done as asked.",
    ),
    (
        429,
        "TooMany",
        "More requests than the host takes. Nothing was changed.",
    ),
    (
        503,
        "Unavailable",
        "Not possible now: a broker or the store is away.",
    ),
    (507, "DiskFull", "The disk of broker or store is full."),
];

pub(in crate::http) enum Content {
    /// As a type is written.
    Json(SchemaOf),
    /// JSON that has no schema here.
    Any(&'static str),
    Text(&'static str),
}

struct Answer {
    status: u16,
    says: &'static str,
    content: Content,
    header: Option<(&'static str, &'static str)>,
}

pub(in crate::http) struct Operation {
    tag: &'static str,
    id: &'static str,
    summary: &'static str,
    parameters: Vec<Parameter>,
    body: Option<SchemaOf>,
    body_needed: bool,
    /// Media type of a body of bytes.
    bytes: Option<&'static str>,
    answers: Vec<Answer>,
    fails: Vec<u16>,
}

impl Operation {
    pub fn new(tag: &'static str, id: &'static str, summary: &'static str) -> Self {
        Self {
            tag,
            id,
            summary,
            parameters: Vec::new(),
            body: None,
            body_needed: false,
            bytes: None,
            answers: Vec::new(),
            fails: Vec::new(),
        }
    }

    /// In the query.
    pub fn asks(mut self, parameters: Vec<Parameter>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    pub fn takes<T: JsonSchema>(self) -> Self {
        Self {
            body_needed: true,
            ..self.may_take::<T>()
        }
    }

    pub fn may_take<T: JsonSchema>(self) -> Self {
        Self {
            body: Some(schema_of::<T>),
            ..self
        }
    }

    pub fn may_bring(self, kind: &'static str) -> Self {
        Self {
            bytes: Some(kind),
            ..self
        }
    }

    pub fn answers<T: JsonSchema>(self, status: u16, says: &'static str) -> Self {
        self.answers_with(status, says, Content::Json(schema_of::<T>))
    }

    pub fn answers_with(mut self, status: u16, says: &'static str, content: Content) -> Self {
        self.answers.push(Answer {
            status,
            says,
            content,
            header: None,
        });
        self
    }

    /// Of the answer that was named last.
    pub fn with_header(mut self, name: &'static str, says: &'static str) -> Self {
        if let Some(answer) = self.answers.last_mut() {
            answer.header = Some((name, says));
        }
        self
    }

    /// Beside what every route of its kind may be answered.
    pub fn fails(mut self, statuses: &[u16]) -> Self {
        self.fails.extend(statuses);
        self
    }

    pub(super) fn shown(
        &self,
        place: &Place,
        written: &mut SchemaGenerator,
        read: &mut SchemaGenerator,
    ) -> Value {
        let in_path = place.names.iter().map(|name| Parameter::in_path(name).shown());
        let parameters: Vec<Value> = in_path
            .chain(self.parameters.iter().map(Parameter::shown))
            .collect();
        let mut shown = json!({
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
            "parameters": parameters,
            "responses": self.responses(place, written),
            "security": place.role.map(|role| json!({ "token": [role.as_str()] })).into_iter().collect::<Vec<_>>(),
            "x-role": place.role.map_or("none", crate::model::Role::as_str),
        });
        if let (Some(body), Some(shown)) = (self.request_body(read), shown.as_object_mut()) {
            shown.insert("requestBody".to_owned(), body);
        }
        shown
    }

    fn request_body(&self, read: &mut SchemaGenerator) -> Option<Value> {
        let mut content = Map::new();
        if let Some(body) = self.body {
            content.insert("application/json".to_owned(), json!({ "schema": body(read) }));
        }
        if let Some(kind) = self.bytes {
            content.insert(kind.to_owned(), json!({}));
        }
        (!content.is_empty()).then(|| json!({ "content": content, "required": self.body_needed }))
    }

    fn responses(&self, place: &Place, written: &mut SchemaGenerator) -> BTreeMap<String, Value> {
        let mut responses = BTreeMap::new();
        for status in self.problems(place) {
            let name = PROBLEMS
                .iter()
                .find(|(known, ..)| *known == status)
                .map_or("", |(_, name, _)| name);
            let reference = json!({ "$ref": format!("#/components/responses/{name}") });
            responses.insert(status.to_string(), reference);
        }
        for answer in &self.answers {
            responses.insert(answer.status.to_string(), answer.shown(written));
        }
        responses
    }

    fn problems(&self, place: &Place) -> Vec<u16> {
        let mut problems = self.fails.clone();
        problems.push(408);
        if place.role.is_some() {
            problems.extend([401, 403, 429]);
        }
        // A body is read wherever something may change.
        if place.changes {
            problems.extend([400, 413]);
        }
        if !place.names.is_empty() || !self.parameters.is_empty() {
            problems.push(400);
        }
        problems
    }
}

impl Answer {
    fn shown(&self, written: &mut SchemaGenerator) -> Value {
        let (kind, media) = match self.content {
            Content::Json(schema) => ("application/json", json!({ "schema": schema(written) })),
            Content::Any(kind) => (kind, json!({})),
            Content::Text(kind) => (kind, json!({ "schema": { "type": "string" } })),
        };
        let mut shown = json!({ "description": self.says, "content": { kind: media } });
        if let (Some((name, says)), Some(shown)) = (self.header, shown.as_object_mut()) {
            let header = json!({ "description": says, "required": true, "schema": { "type": "string" } });
            shown.insert("headers".to_owned(), json!({ name: header }));
        }
        shown
    }
}
