//! Which messages of a batch were stored, from the confirms and returns of their channel. Pure.
//!
//! A returned message arrives before the confirm of the same message, but the client library hangs it on whichever confirm
//! completes next. So a return found on one confirm may speak of another message; it names it by id and queue.

use std::collections::HashSet;

/// What came of one message that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// `basic.ack`, with the return that the library hung on it.
    Ack(Option<Key>),
    /// `basic.nack`: not stored, send it again.
    Nack(Option<Key>),
    /// The channel or connection broke first.
    Broken,
    /// Nothing in time.
    Silent,
}

/// Message id and queue.
pub type Key = (String, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Stored,
    Unroutable,
    /// Certainly not stored.
    Refused,
    /// Stored or not.
    Unknown,
}

/// One fate for each of `sent`, same order.
pub fn fates(sent: &[(Key, Answer)]) -> Vec<Fate> {
    let returned: HashSet<&Key> = sent
        .iter()
        .filter_map(|(_, answer)| match answer {
            Answer::Ack(Some(key)) | Answer::Nack(Some(key)) => Some(key),
            _ => None,
        })
        .collect();
    let complete = sent
        .iter()
        .all(|(_, answer)| matches!(answer, Answer::Ack(_) | Answer::Nack(_)));
    sent.iter()
        .map(|(key, answer)| match answer {
            Answer::Ack(_) if returned.contains(key) => Fate::Unroutable,
            // Its own return would have been handed out with this confirm or an earlier one.
            Answer::Ack(None) => Fate::Stored,
            // It got another's return: its own, if there is one, hangs on a confirm still to come.
            Answer::Ack(Some(_)) if complete => Fate::Stored,
            Answer::Ack(Some(_)) | Answer::Broken | Answer::Silent => Fate::Unknown,
            Answer::Nack(_) => Fate::Refused,
        })
        .collect()
}

#[cfg(test)]
mod tests;
