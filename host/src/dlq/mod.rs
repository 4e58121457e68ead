//! Dead letters after they have died: shown, sent again, discarded.
//!
//! [`plan`] decides what sending one again means, [`redrive`] does it, [`sweep`] takes back what nobody finished, and
//! [`parked`] lets keys go that must not wait any longer behind one.

pub mod parked;
pub mod plan;
pub mod redrive;
pub mod sweep;
pub mod view;

pub use redrive::{Redrive, Refused};
