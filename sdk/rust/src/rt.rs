//! What the attributes generate code against. Not for people: it changes without notice.

pub use crate::batch::{Pending, extract};
#[cfg(target_family = "wasm")]
pub use crate::bindings;
#[cfg(target_family = "wasm")]
pub use wit_bindgen;

use crate::context::Context;
use crate::failure::Handled;

/// Which interface a handler is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Task,
    Event,
}

/// A function with `#[task]` or `#[event]`: the attribute makes a type of the same name that implements this.
pub trait Handler {
    const KIND: Kind;
    fn call(context: &Context<'_>) -> Handled;
}

/// A function with `#[event_batch]`.
pub trait BatchHandler {
    fn call(contexts: &[Context<'_>]) -> Vec<Handled>;
}
