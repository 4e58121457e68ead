//! Dead letters after they have died: shown, found, sent again, discarded.
//!
//! [`plan`] decides what sending one again means, [`redrive`] does it, [`sweep`] takes back what nobody finished, and
//! [`parked`] lets keys go that must not wait any longer behind one. [`rehearse`] runs letters with nothing carried out,
//! [`edit`] sends a changed copy. Many of them are a job: [`filter`] says which, [`job`] decides which goes next, [`pace`]
//! when, and [`runner`] does it. [`adopt`] takes in what others gave up on, [`export`] gives a copy of each letter to others.
//! What happens unasked: [`auto`] sends letters again by itself, [`keep`] lets those expire that nobody dealt with.

pub mod adopt;
pub mod auto;
pub mod edit;
pub mod export;
pub mod filter;
pub mod job;
pub mod keep;
pub mod pace;
pub mod parked;
pub mod plan;
pub mod redrive;
pub mod rehearse;
pub mod report;
pub mod runner;
pub mod sweep;
pub mod view;

pub use auto::Auto;
pub use keep::Keep;
pub use redrive::{Behalf, Redrive, Refused};
pub use runner::Runner;
