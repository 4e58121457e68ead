//! (origin, type) → route: the table, and its replacement while messages flow.

mod swap;
mod table;

pub use swap::{Change, Routes};
pub use table::{SourceSpec, Table};
