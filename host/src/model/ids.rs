//! Ids, injected like time.

use std::sync::Arc;

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
