#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

fn key(n: usize) -> Key {
    (format!("id{n}"), "q".to_owned())
}

#[test]
fn a_return_on_another_confirm_finds_its_message() {
    let sent = [(key(0), Answer::Ack(Some(key(1)))), (key(1), Answer::Ack(None))];
    assert_eq!(fates(&sent), [Fate::Stored, Fate::Unroutable]);
}

#[test]
fn with_confirms_missing_a_foreign_return_proves_nothing_about_its_carrier() {
    let sent = [
        (key(0), Answer::Ack(Some(key(1)))),
        (key(1), Answer::Silent),
        (key(2), Answer::Ack(None)),
    ];
    assert_eq!(fates(&sent), [Fate::Unknown, Fate::Unknown, Fate::Stored]);
}

#[test]
fn a_negative_confirm_is_refused_and_a_broken_channel_unknown() {
    let sent = [(key(0), Answer::Nack(None)), (key(1), Answer::Broken)];
    assert_eq!(fates(&sent), [Fate::Refused, Fate::Unknown]);
}

/// The library's side: returns wait in a queue; each confirm that completes takes the first of them.
fn library(kinds: &[u8], order: &[usize], cut: usize, early: &[bool]) -> Vec<(Key, Answer)> {
    let mut answers = vec![Answer::Silent; kinds.len()];
    let mut waiting = VecDeque::new();
    // Some returns arrive long before their confirm, the others right before it.
    waiting.extend((0..kinds.len()).filter(|&n| kinds[n] == 1 && early[n]));
    for &n in order.iter().take(cut) {
        if kinds[n] == 1 && !early[n] {
            waiting.push_back(n);
        }
        let taken = waiting.pop_front().map(key);
        answers[n] = if kinds[n] == 2 {
            Answer::Nack(taken)
        } else {
            Answer::Ack(taken)
        };
    }
    answers
        .into_iter()
        .enumerate()
        .map(|(n, answer)| (key(n), answer))
        .collect()
}

proptest! {
    /// Kinds: 0 stored, 1 unroutable, 2 refused. Whatever order confirms come in and wherever they stop, nothing is called
    /// stored that was not; when all have come, every fate is exact.
    #[test]
    fn never_calls_stored_what_is_not(
        (kinds, early, order, cut) in (1..24_usize).prop_flat_map(|n| (
            prop::collection::vec(0..3_u8, n),
            prop::collection::vec(any::<bool>(), n),
            Just((0..n).collect::<Vec<_>>()).prop_shuffle(),
            0..=n,
        ))
    ) {
        let found = fates(&library(&kinds, &order, cut, &early));
        for (kind, fate) in kinds.iter().zip(&found) {
            match fate {
                Fate::Stored => prop_assert_eq!(*kind, 0),
                Fate::Unroutable => prop_assert_eq!(*kind, 1),
                Fate::Refused => prop_assert_eq!(*kind, 2),
                Fate::Unknown => prop_assert!(cut < kinds.len()),
            }
        }
    }
}
