//! Settings: file < environment < flags, checked as a whole, with every fault reported at once.
//!
//! ```text
//! file ─▶ tree ◀─ env, flags      values with their places
//!          │ walk                 every unknown key and wrong value, by the schema of raw
//!          ▼
//!         raw ─ check ─▶ valid    what belongs together, names that refer to something, secrets
//! ```

mod check;
mod env;
mod explain;
mod fault;
mod load;
mod promises;
mod raw;
mod reference;
mod schema;
mod source;
mod suggest;
#[cfg(test)]
mod tests;
mod topology;
mod tree;
mod units;
pub mod valid;
mod walk;

pub use explain::Explained;
pub use fault::{Fault, Faults, Style};
pub use load::{FLAGS, LoadRequest, Loaded, load};
pub use promises::check_promises;
pub use source::{Place, SourceFile};
pub use topology::manual as manual_topology;
pub use units::Span;

/// Files that are made from the code: (path from the project's root, content).
pub fn generated() -> Vec<(&'static str, String)> {
    vec![
        ("config/helix.schema.json", schema::helix_text()),
        ("config/helix.reference.toml", reference::text()),
    ]
}
