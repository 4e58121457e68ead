//! Dead letters after they have died: shown, sent again, discarded.
//!
//! [`plan`] decides what sending one again means, [`redrive`] does it, [`sweep`] takes back what nobody finished. [`rehearse`]
//! runs letters with nothing carried out, [`edit`] sends a changed copy.

pub mod edit;
pub mod plan;
pub mod redrive;
pub mod rehearse;
pub mod sweep;
pub mod view;

pub use redrive::{Redrive, Refused};
