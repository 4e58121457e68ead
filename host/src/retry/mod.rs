//! Retry: what an outcome means for a message, and how long it waits.

pub mod policy;

pub use policy::{decide, delay};
