//! What the host does with dead letters by itself, and how long they are kept.

use std::time::Duration;

use super::*;
use crate::config::valid::{DlqAuto, OnExhausted};
use crate::model::FailureClass;

fn auto(toml: &str) -> Option<DlqAuto> {
    loaded(toml, &[], &[]).settings.dlq_auto
}

#[test]
fn it_is_off_and_has_the_manuals_defaults() {
    let settings = loaded("", &[], &[]).settings;
    assert_eq!(settings.dlq_auto, None);
    let month = Some(Duration::from_secs(30 * 86_400));
    assert_eq!(
        (settings.dlq_keep.retention, settings.dlq_keep.closed),
        (month, month)
    );
    let auto = auto("[dlq.auto]\nenabled = true\n").unwrap();
    assert_eq!(auto.classes, [FailureClass::Exhausted]);
    assert_eq!((auto.batch_size, auto.poll_interval.as_secs()), (10, 5));
    assert_eq!(auto.processing_timeout.as_secs(), 30);
    let retry = &auto.policy.retry;
    assert_eq!((retry.max_retries, retry.multiplier), (3, 2.0));
    assert_eq!((retry.delay.as_secs(), retry.max_delay.as_secs()), (1, 30));
    assert_eq!(auto.policy.on_exhausted, OnExhausted::Archive);
    let never = loaded("[dlq]\nretention = \"0s\"\nkeep_closed = \"0s\"\n", &[], &[]).settings;
    assert_eq!(never.dlq_keep, Default::default());
}

#[test]
fn of_the_types_the_most_specific_is_first_and_takes_the_rest_from_above() {
    let auto = auto(
        "[dlq.auto]\nenabled = true\nmax_retries = 5\n\
         [[dlq.auto.types]]\ntype = \"*\"\nmax_retries = 1\n\
         [[dlq.auto.types]]\ntype = \"llm.*\"\non_exhausted = \"discard\"\n\
         [[dlq.auto.types]]\ntype = \"llm.request\"\nnever = true\n",
    )
    .unwrap();
    let types: Vec<_> = auto
        .types
        .iter()
        .map(|(pattern, policy)| {
            let policy = policy.as_ref().map(|p| (p.retry.max_retries, p.on_exhausted));
            (pattern.to_string(), policy)
        })
        .collect();
    assert_eq!(
        types,
        [
            ("llm.request".to_owned(), None),
            ("llm.*".to_owned(), Some((5, OnExhausted::Discard))),
            ("*".to_owned(), Some((1, OnExhausted::Archive))),
        ]
    );
}

#[test]
fn what_makes_no_sense_is_named_also_while_it_is_off() {
    let text = faults(
        "[dlq.auto]\ndelay = \"1m\"\nmax_retries = 11\nclasses = [\"expired\", \"exhausted\"]\n\
         [[dlq.auto.types]]\nmax_delay = \"1ms\"\n",
        &[],
    )
    .render(Style::Plain);
    for part in [
        "`dlq.auto.max_retries` is 11",
        "delay 1m is longer than max_delay 30s",
        "`expired` letters cannot be sent again",
        "lacks `type`",
    ] {
        assert!(text.contains(part), "`{part}` is not in:\n{text}");
    }
}
