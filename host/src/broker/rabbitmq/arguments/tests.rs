#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::time::Duration;

use super::*;
use crate::model::MessageKind;

fn want(max_priority: u8, ttl: Option<u64>, arguments: &[(&str, &str)]) -> Destination {
    Destination {
        kind: MessageKind::Task,
        name: "q".into(),
        max_priority,
        ttl: ttl.map(Duration::from_millis),
        partitions: 0,
        arguments: arguments
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect(),
    }
}

fn shape(want: &Destination) -> Vec<(String, AMQPValue)> {
    let shape = Shape::of(want).unwrap();
    assert!(shape.durable && !shape.exclusive && !shape.auto_delete);
    shape
        .arguments
        .inner()
        .iter()
        .map(|(name, value)| (name.to_string(), value.clone()))
        .collect()
}

#[test]
fn a_queue_as_the_topology_file_says() {
    let arguments = [
        ("x-max-length", "10"),
        ("x-single-active-consumer", "true"),
        ("x-overflow", "reject-publish"),
    ];
    assert_eq!(
        shape(&want(10, Some(86_400_000), &arguments)),
        [
            ("x-max-length".to_owned(), AMQPValue::LongLongInt(10)),
            ("x-max-priority".to_owned(), AMQPValue::LongLongInt(10)),
            ("x-message-ttl".to_owned(), AMQPValue::LongLongInt(86_400_000)),
            (
                "x-overflow".to_owned(),
                AMQPValue::LongString("reject-publish".into())
            ),
            ("x-single-active-consumer".to_owned(), AMQPValue::Boolean(true)),
        ]
    );
    assert_eq!(shape(&want(0, None, &[])), []);
}

#[test]
fn quorum_queues_have_no_priorities() {
    let quorum = shape(&want(10, None, &[("x-queue-type", "quorum")]));
    assert_eq!(
        quorum,
        [("x-queue-type".to_owned(), AMQPValue::LongString("quorum".into()))]
    );
}

fn read(complaint: &str) -> (String, Option<String>, Option<String>) {
    let text = format!("PRECONDITION_FAILED - inequivalent arg {complaint}");
    let found = difference(&text).unwrap();
    (found.name, found.wanted, found.there)
}

#[test]
fn the_brokers_complaints_are_read() {
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(
        read(
            "'x-max-priority' for queue 'q' in vhost '/': received the value '5' of type 'signedint' but current is the value '10' of type 'long'"
        ),
        ("x-max-priority".to_owned(), some("5"), some("10"))
    );
    assert_eq!(
        read(
            "'x-dead-letter-exchange' for queue 'a received b' in vhost '/': received none but current is the value 'it's' of type 'longstr'"
        ),
        ("x-dead-letter-exchange".to_owned(), None, some("it's"))
    );
    assert_eq!(
        read("'durable' for queue 'q' in vhost '/': received 'true' but current is 'false'"),
        ("durable".to_owned(), some("true"), some("false"))
    );
    assert_eq!(difference("PRECONDITION_FAILED - something else"), None);
}

#[test]
fn adopting_a_difference_changes_exactly_that() {
    let mut shape = Shape::of(&want(5, None, &[("x-max-length", "3")])).unwrap();
    let found = |name: &str, there: Option<&str>| Difference {
        name: name.to_owned(),
        wanted: None,
        there: there.map(str::to_owned),
    };
    assert!(shape.adopt(&found("x-max-priority", Some("10"))));
    assert!(shape.adopt(&found("x-max-length", None)));
    assert!(shape.adopt(&found("durable", Some("false"))));
    assert!(
        !shape.adopt(&found("durable", Some("false"))),
        "no change: looking on would not end"
    );
    assert!(!shape.durable);
    assert_eq!(shape.arguments.inner().len(), 1);
    assert_eq!(found("x", None).line(), "x: wanted not set, is not set");
}
