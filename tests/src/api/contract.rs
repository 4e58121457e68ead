//! What docs/openapi.json says of one question and its answer.
//!
//! The document leaves room for new fields in answers; here there is none: a field that is not declared is a fault.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use jsonschema::Validator;
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::{Map, Value, json};

const DOCUMENT: &str = include_str!("../../../docs/openapi.json");
const PROBLEM: &str = "application/problem+json";

static CONTRACT: LazyLock<Contract> = LazyLock::new(|| {
    let document =
        serde_json::from_str(DOCUMENT).unwrap_or_else(|error| panic!("docs/openapi.json: {error}"));
    Contract::new(document)
});

pub(super) fn contract() -> &'static Contract {
    &CONTRACT
}

pub(super) struct Asked {
    pub method: Method,
    pub path: String,
    pub query: Vec<(String, String)>,
    /// Media type of the body.
    pub kind: String,
    /// None when there is none, or when it is a stream.
    pub body: Option<Vec<u8>>,
}

pub(super) struct Answered<'a> {
    pub status: u16,
    pub kind: String,
    pub headers: &'a HeaderMap,
    pub body: &'a [u8],
}

pub(super) struct Contract {
    document: Value,
    /// By schema, as text.
    compiled: Mutex<HashMap<String, Arc<Validator>>>,
}

impl Contract {
    fn new(mut document: Value) -> Self {
        if let Some(schemas) = document
            .pointer_mut("/components/schemas")
            .and_then(Value::as_object_mut)
        {
            for schema in schemas.values_mut() {
                close(schema, false);
            }
        }
        Self {
            document,
            compiled: Mutex::new(HashMap::new()),
        }
    }

    /// The error says what the document does not know.
    pub(super) fn check(&self, asked: &Asked, answered: &Answered<'_>) -> Result<(), String> {
        let Some(methods) = self.methods(&asked.path) else {
            return self.refused(404, "there is no such path", answered);
        };
        let method = asked.method.as_str().to_ascii_lowercase();
        let Some(operation) = methods.get(&method) else {
            return self.refused(405, "the path does not take this method", answered);
        };
        self.check_answer(operation, answered)?;
        if (200..300).contains(&answered.status) {
            // What the host takes, the document allows.
            self.check_question(operation, asked)?;
        }
        Ok(())
    }

    /// Operations of the path that fits best: literally, rather than by a name in braces.
    fn methods(&self, path: &str) -> Option<&Map<String, Value>> {
        let parts: Vec<&str> = path.split('/').collect();
        let named = |part: &str| part.starts_with('{');
        let fits = |pattern: &str| {
            let pattern: Vec<&str> = pattern.split('/').collect();
            pattern.len() == parts.len()
                && pattern
                    .iter()
                    .zip(&parts)
                    .all(|(want, part)| named(want) && !part.is_empty() || want == part)
        };
        let (_, methods) = self.document["paths"]
            .as_object()?
            .iter()
            .filter(|(pattern, _)| fits(pattern))
            .min_by_key(|(pattern, _)| pattern.split('/').filter(|part| named(part)).count())?;
        methods.as_object()
    }

    /// An answer to what nobody should ask.
    fn refused(&self, status: u16, why: &str, answered: &Answered<'_>) -> Result<(), String> {
        if answered.status != status || answered.kind != PROBLEM {
            return Err(format!("{why}, so the answer is {status} and {PROBLEM}"));
        }
        let schema = json!({ "$ref": "#/components/schemas/Problem" });
        self.valid(&schema, &parsed(answered.body)?)
    }

    fn check_answer(&self, operation: &Value, answered: &Answered<'_>) -> Result<(), String> {
        let responses = &operation["responses"];
        let Some(response) = responses.get(answered.status.to_string()) else {
            let known: Vec<&String> = responses
                .as_object()
                .map(|r| r.keys().collect())
                .unwrap_or_default();
            return Err(format!("the status is none of {known:?}"));
        };
        let response = self.resolved(response);
        let headers = response["headers"].as_object();
        for (name, _) in headers
            .into_iter()
            .flatten()
            .filter(|(_, header)| header["required"] == true)
        {
            if !answered.headers.contains_key(name.as_str()) {
                return Err(format!("the header {name} is missing"));
            }
        }
        let Some(media) = response["content"].get(&answered.kind) else {
            let known = &response["content"];
            return Err(format!("the content type `{}` is not in {known}", answered.kind));
        };
        match media.get("schema") {
            Some(schema) if answered.kind.ends_with("json") => self.valid(schema, &parsed(answered.body)?),
            _ => Ok(()),
        }
    }

    fn check_question(&self, operation: &Value, asked: &Asked) -> Result<(), String> {
        let parameters = operation["parameters"].as_array();
        for (name, value) in &asked.query {
            let known = parameters
                .into_iter()
                .flatten()
                .find(|parameter| parameter["in"] == "query" && parameter["name"] == *name)
                .ok_or_else(|| format!("it took the parameter `{name}`"))?;
            let schema = &known["schema"];
            let value = match schema["type"].as_str() {
                Some("integer") => value.parse::<u64>().map_or_else(|_| json!(value), |n| json!(n)),
                _ => json!(value),
            };
            self.valid(schema, &value)
                .map_err(|why| format!("it took `{name}`: {why}"))?;
        }
        let Some(body) = asked.body.as_deref().filter(|body| !body.is_empty()) else {
            return match operation["requestBody"]["required"].as_bool() {
                Some(true) if asked.body.is_none() => Err("it took a request without a body".to_owned()),
                _ => Ok(()),
            };
        };
        let Some(content) = operation["requestBody"]["content"].as_object() else {
            // Nobody looks at it.
            return Ok(());
        };
        if asked.kind != "application/json" && content.contains_key(&asked.kind) {
            return Ok(());
        }
        // A host asks for no content type where JSON is all it takes.
        self.valid(&content["application/json"]["schema"], &parsed(body)?)
            .map_err(|why| format!("it took a body that is not valid: {why}"))
    }

    fn resolved<'a>(&'a self, value: &'a Value) -> &'a Value {
        value["$ref"]
            .as_str()
            .and_then(|reference| self.document.pointer(reference.trim_start_matches('#')))
            .unwrap_or(value)
    }

    fn valid(&self, schema: &Value, value: &Value) -> Result<(), String> {
        let validator = self.compiled(schema);
        let faults: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{error} at `{}`", error.instance_path))
            .collect();
        if faults.is_empty() {
            Ok(())
        } else {
            Err(faults.join("; "))
        }
    }

    fn compiled(&self, schema: &Value) -> Arc<Validator> {
        let mut compiled = self.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let validator = compiled.entry(schema.to_string()).or_insert_with(|| {
            let mut root = schema.clone();
            close(&mut root, false);
            if let Some(root) = root.as_object_mut() {
                root.insert("components".to_owned(), self.document["components"].clone());
            }
            let validator = jsonschema::draft202012::options()
                .should_validate_formats(true)
                .build(&root)
                .unwrap_or_else(|error| {
                    panic!("docs/openapi.json has a schema that is none: {error}\n{schema}")
                });
            Arc::new(validator)
        });
        Arc::clone(validator)
    }
}

fn parsed(body: &[u8]) -> Result<Value, String> {
    serde_json::from_slice(body).map_err(|error| format!("it is no JSON: {error}"))
}

/// Lets an object have no field that is not declared. `within`: a schema around this one looks at the same object.
fn close(schema: &mut Value, within: bool) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    let fields = schema.contains_key("properties");
    if fields && !within && !schema.contains_key("additionalProperties") {
        schema.insert("unevaluatedProperties".to_owned(), false.into());
    }
    for (key, value) in schema.iter_mut() {
        match (key.as_str(), value) {
            ("oneOf" | "anyOf" | "allOf", Value::Array(all)) => {
                all.iter_mut().for_each(|schema| close(schema, within || fields));
            }
            ("prefixItems", Value::Array(all)) => all.iter_mut().for_each(|schema| close(schema, false)),
            ("properties" | "patternProperties" | "$defs", Value::Object(all)) => {
                all.values_mut().for_each(|schema| close(schema, false));
            }
            ("items" | "additionalProperties", schema) => close(schema, false),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = "application/json";

    fn ask(method: Method, path: &str) -> Asked {
        Asked {
            method,
            path: path.to_owned(),
            query: Vec::new(),
            kind: String::new(),
            body: None,
        }
    }

    fn check(asked: &Asked, status: u16, kind: &str, body: &Value) -> Result<(), String> {
        let mut headers = HeaderMap::new();
        headers.insert("retry-after", reqwest::header::HeaderValue::from_static("1"));
        let body = body.to_string();
        let answered = Answered {
            status,
            kind: kind.to_owned(),
            headers: &headers,
            body: body.as_bytes(),
        };
        contract().check(asked, &answered)
    }

    fn problem(status: u16) -> Value {
        json!({ "type": "t", "title": "t", "status": status, "detail": "d", "code": "HX0501" })
    }

    fn letter() -> Value {
        json!({
            "id": "1", "state": "dead", "class": "rejected", "reason": "no", "origin": "o", "destination": "d",
            "attempts": 1, "reprocessed": 0,
            "first_failure": "2026-11-23T21:51:34.245Z", "last_failure": "2026-11-23T21:51:34.245Z",
            "history": [{
                "number": 1, "started_ms": 1, "duration_us": 1, "outcome": "retry", "digest": null, "log": [],
                "failure": { "reason": "no", "code": null }, "after": null
            }]
        })
    }

    #[test]
    fn what_is_declared_is_good() {
        let show = ask(Method::GET, "/v1/messaging/dlq/1");
        assert_eq!(check(&show, 200, JSON, &letter()), Ok(()));
        assert_eq!(check(&show, 404, PROBLEM, &problem(404)), Ok(()));
        assert_eq!(check(&show, 429, PROBLEM, &problem(429)), Ok(()));
        let nowhere = ask(Method::GET, "/v1/messaging/nowhere");
        assert_eq!(check(&nowhere, 404, PROBLEM, &problem(404)), Ok(()));
        let put = ask(Method::PUT, "/v1/messaging/dlq/1");
        assert_eq!(check(&put, 405, PROBLEM, &problem(405)), Ok(()));
    }

    #[test]
    fn a_field_that_is_not_declared_or_missing_or_wrong_is_a_fault() {
        let show = ask(Method::GET, "/v1/messaging/dlq/1");
        for (pointer, name, value) in [
            ("", "shoe_size", Some(json!(43))),
            ("/history/0", "shoe_size", Some(json!(43))),
            ("/history/0/failure", "shoe_size", Some(json!(43))),
            ("", "reason", None),
            ("", "state", Some(json!("asleep"))),
            ("", "attempts", Some(json!(-1))),
            ("", "last_failure", Some(json!("yesterday"))),
            ("/history/0", "outcome", Some(json!("perhaps"))),
        ] {
            let mut letter = letter();
            let object = letter
                .pointer_mut(pointer)
                .and_then(Value::as_object_mut)
                .expect("an object");
            match value {
                Some(value) => object.insert(name.to_owned(), value),
                None => object.remove(name),
            };
            let checked = check(&show, 200, JSON, &letter);
            assert!(checked.is_err(), "{pointer}/{name}");
        }
    }

    #[test]
    fn another_status_content_type_path_or_method_is_a_fault() {
        let show = ask(Method::GET, "/v1/messaging/dlq/1");
        for (asked, status, kind, body) in [
            (&show, 202, JSON, letter()),
            (&show, 200, "text/plain", letter()),
            (&show, 404, JSON, problem(404)),
            (&show, 404, PROBLEM, letter()),
            (&ask(Method::GET, "/v1/messaging/nowhere"), 200, JSON, letter()),
            (&ask(Method::PUT, "/v1/messaging/dlq/1"), 200, JSON, letter()),
            (
                &ask(Method::PUT, "/v1/messaging/dlq/1"),
                404,
                PROBLEM,
                problem(404),
            ),
        ] {
            let checked = check(asked, status, kind, &body);
            assert!(checked.is_err(), "{} {status} {kind}", asked.path);
        }
    }

    #[test]
    fn what_a_host_takes_is_allowed() {
        let done = json!({ "id": "1", "broker": "b", "destination": "d", "partition": null, "offset": null });
        let publish = |body: &Value| {
            let asked = Asked {
                body: Some(body.to_string().into_bytes()),
                ..ask(Method::POST, "/v1/messaging/tasks/q")
            };
            check(&asked, 202, JSON, &done)
        };
        assert_eq!(publish(&json!({ "type": "t", "payload": null })), Ok(()));
        assert_eq!(publish(&json!({ "type": "t", "data": [1] })), Ok(()));
        assert!(publish(&json!({ "type": "t", "payload": 1, "shoe_size": 43 })).is_err());
        assert!(publish(&json!({ "type": "t", "payload": 1, "priority": 11 })).is_err());
        assert!(publish(&json!({ "payload": 1 })).is_err());
        let list = |name: &str, value: &str| {
            let asked = Asked {
                query: vec![(name.to_owned(), value.to_owned())],
                ..ask(Method::GET, "/v1/messaging/dlq")
            };
            check(
                &asked,
                200,
                JSON,
                &json!({ "count": 0, "messages": [], "next": null }),
            )
        };
        assert_eq!(list("limit", "1000"), Ok(()));
        assert_eq!(list("state", "all"), Ok(()));
        assert!(list("limit", "1001").is_err());
        assert!(list("shoe", "43").is_err());
    }
}
