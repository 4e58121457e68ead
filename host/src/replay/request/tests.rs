#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn check(body: &Value) -> Result<Checked, Fault> {
    serde_json::from_value::<Request>(body.clone()).unwrap().check()
}

fn wrong(body: &Value) -> &'static str {
    check(body).unwrap_err().field
}

#[test]
fn the_manuals_request_with_its_defaults() {
    let checked = check(&json!({ "topic": "t", "from_time": "2026-11-27T08:00:00Z" })).unwrap();
    assert_eq!(
        (&*checked.target, checked.from, checked.to),
        ("t.replay", From::Time(1_795_766_400_000), To::End)
    );
    let options = checked.options;
    assert_eq!(
        (options.batch_size, options.delay, options.rate),
        (100, Duration::from_millis(10), None)
    );
    assert!(options.preserve_order && !options.dry_run && !options.skip_duplicates);
}

#[test]
fn a_pause_is_text_or_nanoseconds_and_a_rate_takes_its_place() {
    let delay = |options: Value| {
        let body = json!({ "topic": "t", "from_time": "2026-11-27T08:00:00Z", "options": options });
        check(&body).unwrap().options.delay
    };
    assert_eq!(
        delay(json!({ "delay_between": "25ms" })),
        Duration::from_millis(25)
    );
    assert_eq!(
        delay(json!({ "delay_between": 10_000_000 })),
        Duration::from_millis(10)
    );
    assert_eq!(delay(json!({ "delay_between": 0 })), Duration::ZERO);
    assert_eq!(delay(json!({ "rate": 5 })), Duration::ZERO);
    assert_eq!(
        delay(json!({ "rate": 5, "delay_between": "1s" })),
        Duration::from_secs(1)
    );
}

#[test]
fn each_wrong_field_is_named() {
    let body = |changes: Value| {
        let mut body = json!({ "topic": "t", "from_time": "2026-11-27T08:00:00+01:00" });
        for (name, value) in changes.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    for (changes, field) in [
        (json!({ "topic": "" }), "topic"),
        (json!({ "topic": "a\u{1b}" }), "topic"),
        (json!({ "id": "x".repeat(257) }), "id"),
        (json!({ "from_time": null }), "from_time"),
        (json!({ "from_time": "yesterday" }), "from_time"),
        (json!({ "from_time": "1969-01-01T00:00:00Z" }), "from_time"),
        (json!({ "to_time": "2026-11-27T07:00:00Z" }), "to_time"),
        (json!({ "to_time": "2026-11-26T07:00:00Z" }), "to_time"),
        (json!({ "from_offsets": { "0": 1 } }), "from_offsets"),
        (json!({ "from_time": null, "from_offsets": {} }), "from_offsets"),
        (
            json!({ "from_time": null, "from_offsets": { "0": 5 }, "to_offsets": { "0": 4 } }),
            "to_offsets",
        ),
        (
            json!({ "from_time": null, "from_offsets": { "0": 5 }, "to_offsets": { "1": 9 } }),
            "to_offsets",
        ),
        (json!({ "target_topic": "t" }), "target_topic"),
        (
            json!({ "target_route": "r", "target_topic": "x" }),
            "target_route",
        ),
        (
            json!({ "options": { "side_effects": true } }),
            "options.side_effects",
        ),
        (json!({ "broker": "a\u{0}b" }), "broker"),
        (json!({ "options": { "batch_size": 1001 } }), "options.batch_size"),
        (json!({ "options": { "rate": 0 } }), "options.rate"),
        (
            json!({ "options": { "delay_between": "25h" } }),
            "options.delay_between",
        ),
        (
            json!({ "filter": { "message_types": vec!["a"; 101] } }),
            "filter.message_types",
        ),
    ] {
        assert_eq!(wrong(&body(changes.clone())), field, "{changes}");
    }
}

/// The command line writes what the host reads.
#[test]
fn a_request_is_read_as_it_was_written() {
    let request = Request {
        topic: "t".into(),
        from_offsets: Some([(3, 7)].into()),
        filter: Filter {
            message_types: vec!["a".into()],
            ..Filter::default()
        },
        options: Asked {
            delay_between: Some(Duration::from_millis(1_500)),
            rate: Some(9),
            ..Asked::default()
        },
        ..Request::default()
    };
    let text = serde_json::to_string(&request).unwrap();
    assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), request, "{text}");
}

#[test]
fn unknown_fields_are_not_understood() {
    for body in [
        r#"{"topic":"t","frm_time":"x"}"#,
        r#"{"topic":"t","options":{"speed":1}}"#,
        r#"{"topic":"t","filter":{"types":[]}}"#,
        r#"{"from_time":"2026-11-27T08:00:00Z"}"#,
        r#"{"topic":"t","options":{"delay_between":-1}}"#,
        r#"{"topic":"t","options":{"delay_between":"10"}}"#,
    ] {
        assert!(serde_json::from_str::<Request>(body).is_err(), "{body}");
    }
}

proptest! {
    /// Whatever is understood is checked without a panic, and the source is never the target.
    #[test]
    fn any_text_is_answered(topic in ".{0,20}", target in proptest::option::of(".{0,20}"), from in ".{0,30}") {
        let request = Request {
            topic,
            target_topic: target,
            from_time: Some(from),
            ..Request::default()
        };
        if let Ok(checked) = request.check() {
            prop_assert_ne!(checked.topic, checked.target);
        }
    }
}
