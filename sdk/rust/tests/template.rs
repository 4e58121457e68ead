//! The handler that `helix new` writes compiles, and its own tests pass.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "written for a crate with lints of its own"
)]

#[path = "../../../host/src/cli/new/template/src/lib.rs"]
mod template;
