//! Ids, injected like time.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use super::RawMessage;

pub trait Ids: Send + Sync + 'static {
    /// A new unique id. Sortable by time in production.
    fn next(&self) -> String;
}

/// UUID version 7 (RFC 9562 §5.7).
#[derive(Debug, Clone, Copy, Default)]
pub struct UuidIds;

impl Ids for UuidIds {
    fn next(&self) -> String {
        uuid::Uuid::now_v7().to_string()
    }
}

/// The id of the n-th output of a message: the same in every attempt, so that receivers can drop doubles.
pub fn output_id(input_id: &str, position: usize) -> String {
    format!("{input_id}/{position}")
}

/// The id of a message whose producer gave none, on brokers with stable positions.
pub fn positional_id(destination: &str, partition: u32, offset: u64) -> Arc<str> {
    format!("{destination}/{partition}/{offset}").into()
}

/// The id of a message's row in the store: the same when a crash makes the broker deliver it again, so that it gets one row
/// and not two. Where the broker has stable positions they are the identity; elsewhere the producer's id and the content are
/// (two different messages that share an id stay two), and how often it was sent again: a late delivery of the life before
/// must not stand for the one that is on its way, whose retry would be lost with it.
pub fn stable_id(raw: &RawMessage, message_id: Option<&str>) -> String {
    let origin = &raw.origin;
    let mut name = Sha256::new();
    let mut part = |bytes: &[u8]| {
        name.update((bytes.len() as u64).to_be_bytes());
        name.update(bytes);
    };
    part(origin.broker.as_bytes());
    part(origin.destination.as_bytes());
    match (origin.partition, origin.offset) {
        (partition, Some(offset)) => {
            part(&partition.unwrap_or_default().to_be_bytes());
            part(&offset.to_be_bytes());
        }
        (_, None) => {
            part(message_id.unwrap_or_default().as_bytes());
            part(raw.body.as_deref().unwrap_or_default());
            let life = raw.reprocessed();
            if life > 0 {
                part(&life.to_be_bytes());
            }
        }
    }
    named(name)
}

/// The id of the letter of a message that failed in a replay: another one than that of the live message, which has its own
/// story, and the same when the batch runs again after a crash.
pub fn replayed_id(raw: &RawMessage, replay: &str) -> String {
    let mut name = Sha256::new();
    name.update(stable_id(raw, None).as_bytes());
    name.update(replay.as_bytes());
    named(name)
}

fn named(name: Sha256) -> String {
    let digest: [u8; 32] = name.finalize().into();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(digest.first_chunk::<16>().unwrap_or(&[0; 16]));
    uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Headers, MessageKind, Origin, header};

    fn task(offset: Option<u64>, life: u32) -> RawMessage {
        let mut headers = Headers::new();
        if life > 0 {
            headers.push(header::REPROCESSED, life.to_string());
        }
        RawMessage {
            origin: Origin {
                broker: Arc::from("rabbitmq"),
                kind: MessageKind::Task,
                destination: Arc::from("work"),
                partition: None,
                offset,
            },
            body: Some("x".into()),
            key: None,
            headers,
            props: crate::model::raw::Properties::default(),
            timestamp_ms: None,
            redelivered: false,
        }
    }

    /// Without this the row of a retry of the first life took in the one of the second, and went with its letter.
    #[test]
    fn without_a_position_each_life_has_a_row_of_its_own() {
        let id = |life, redelivered| {
            let raw = RawMessage {
                redelivered,
                ..task(None, life)
            };
            stable_id(&raw, Some("m"))
        };
        assert_eq!(id(0, false), id(0, true));
        assert_eq!(id(1, false), id(1, true));
        assert_ne!(id(0, false), id(1, false));
        assert_ne!(id(1, false), id(2, false));
    }

    #[test]
    fn with_a_position_that_is_all() {
        let id = |offset, life| stable_id(&task(Some(offset), life), Some("m"));
        assert_eq!(id(7, 0), id(7, 1));
        assert_ne!(id(7, 0), id(8, 0));
    }
}
