#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use super::*;

#[test]
fn the_size_limit_is_read_from_the_refusal() {
    let text = "PRECONDITION_FAILED - message size 150000 is larger than configured max size 100000";
    assert_eq!(unacceptable(text), PublishError::TooLarge { limit: 100_000 });
    let other = "PRECONDITION_FAILED - invalid expiration";
    assert_eq!(unacceptable(other), PublishError::Invalid(other.to_owned()));
}

#[test]
fn too_late_is_unknown_once_it_may_be_stored() {
    let item = || {
        Item::new(
            "q".into(),
            Bytes::new(),
            BasicProperties::default(),
            Instant::now(),
        )
    };
    let mut unsent = item();
    unsent.too_late("away");
    assert_eq!(
        unsent.outcome,
        Some(Err(PublishError::Unavailable("away".to_owned())))
    );
    let mut sent = item();
    sent.maybe_stored = true;
    sent.too_late("silent");
    assert_eq!(
        sent.outcome,
        Some(Err(PublishError::Unknown("silent".to_owned())))
    );
}
