//! The OpenAPI 3.1 document of the API, made of its routes and of the very types that are read and written.
//!
//! Schemas come from `schemars`: those of OpenAPI 3.1 are JSON Schema 2020-12, which it writes, and it keeps apart what is
//! read (a missing `Option` is fine) and what is written (only what serde may leave out is optional).

mod operation;
pub(super) mod parameters;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use axum::http::header;
use axum::response::IntoResponse;
use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

pub(super) use self::operation::{Content, Operation};
use super::problem::Problem;
use super::routes::{self, Route};

const ABOUT: &str = "The HTTP API of a Helix host; docs/http.md tells it at length.\n\n\
    Bodies are JSON in UTF-8, times RFC 3339. Fields may be added to answers; a field that is not known is an error in a request.\n\n\
    Errors are problem details (RFC 9457) with a `code` that has a page in docs/errors. A path that is not here is answered 404, \
    and a method that is not here 405.\n\n\
    Where the configuration names no token, everything is open, on loopback only. Otherwise each operation needs a token whose \
    role is that of `x-role` or above: viewer, operator, admin.";

static TEXT: LazyLock<String> = LazyLock::new(text);

pub(super) async fn show() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str())
}

/// As docs/openapi.json has it.
pub fn text() -> String {
    format!("{:#}\n", document())
}

fn document() -> Value {
    let mut written = SchemaSettings::draft2020_12()
        .for_serialize()
        .with(|settings| {
            settings.definitions_path = "/components/schemas".into();
            settings.meta_schema = None;
        })
        .into_generator();
    // What is read stands where it is used: the same type may have another schema when it is written.
    let mut read = SchemaSettings::draft2020_12()
        .for_deserialize()
        .with(|settings| {
            settings.inline_subschemas = true;
            settings.meta_schema = None;
        })
        .into_generator();
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for route in routes::all() {
        let method = route.method.as_str().to_ascii_lowercase();
        let operation = route.operation.shown(&Place::of(&route), &mut written, &mut read);
        paths.entry(route.path).or_default().insert(method, operation);
    }
    let problem = written.subschema_for::<Problem>();
    let responses: Map<String, Value> = operation::PROBLEMS
        .iter()
        .map(|(status, name, says)| {
            (
                (*name).to_owned(),
                problem_response(*status, says, problem.as_value()),
            )
        })
        .collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Helix",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "description": ABOUT,
        },
        "servers": [{ "url": "http://127.0.0.1:7061" }],
        "paths": paths,
        "components": {
            "schemas": definitions(&mut written),
            "responses": responses,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn definitions(generator: &mut SchemaGenerator) -> Map<String, Value> {
    generator.take_definitions(true)
}

fn problem_response(status: u16, says: &str, schema: &Value) -> Value {
    let mut response = json!({
        "description": says,
        "content": { "application/problem+json": { "schema": schema } },
    });
    if let (429, Some(response)) = (status, response.as_object_mut()) {
        let seconds = json!({ "description": "Seconds.", "schema": { "type": "integer", "minimum": 0 } });
        response.insert("headers".to_owned(), json!({ "Retry-After": seconds }));
    }
    response
}

/// What a route says of each of its operations.
struct Place {
    role: Option<crate::model::Role>,
    /// In the path, in order.
    names: Vec<&'static str>,
    changes: bool,
}

impl Place {
    fn of(route: &Route) -> Self {
        Self {
            role: route.role,
            names: route
                .path
                .split('/')
                .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
                .collect(),
            changes: route.method != axum::http::Method::GET,
        }
    }
}

#[cfg(test)]
mod tests;
