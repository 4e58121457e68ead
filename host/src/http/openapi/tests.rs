use super::*;

#[test]
fn the_document_is_committed_as_it_is_generated() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == text(),
        "docs/openapi.json is out of date: `cargo xtask docs` writes it"
    );
}

#[test]
fn no_two_types_share_a_name() {
    let document = document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    assert!(schemas.len() > 30, "only {} schemas", schemas.len());
    let numbered: Vec<&String> = schemas
        .keys()
        .filter(|name| name.ends_with(|c: char| c.is_ascii_digit()))
        .collect();
    assert!(numbered.is_empty(), "give them names of their own: {numbered:?}");
}

#[test]
fn operations_have_ids_of_their_own_and_every_reference_leads_somewhere() {
    let document = document();
    let mut ids = std::collections::BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            assert!(ids.insert(id.to_owned()), "{method} {path}: {id} is taken");
        }
    }
    let text = document.to_string();
    for reference in text
        .split("\"$ref\":\"#")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
    {
        assert!(document.pointer(reference).is_some(), "{reference} leads nowhere");
    }
}
