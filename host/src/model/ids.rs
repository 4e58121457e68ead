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
/// (two different messages that share an id stay two).
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
