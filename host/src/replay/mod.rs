//! Reads a stretch of a topic again, as a job: checkpointed, resumable, at a pace, beside the groups that consume the topic.
//!
//! ```text
//!  request ─▶ plan ─▶ store ─▶ runner ─▶ run: Scan ─▶ job (filter, seen) ─▶ copies, confirmed ─▶ checkpoint
//!  what was    offsets,  the job   places                              └▶ routes, to their end ─▶ │
//!  asked       target             └────────────────── pace ◀──────────────────────────────────────┘
//! ```
//! A checkpoint holds counts and offsets together and is written after the confirms of its batch, or the
//! ends of its messages, so a crash sends one batch
//! again at most, and nothing is counted twice.

mod desk;
mod filter;
mod job;
mod pace;
mod plan;
pub mod request;
mod routes;
mod run;
pub mod runner;
mod seen;
pub mod view;

pub use desk::{Desk, Place, Refused};
pub use request::Request;
pub use routes::{Order, Routes, Waits};
