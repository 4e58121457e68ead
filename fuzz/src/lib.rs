//! Fuzz targets of everything that reads hostile bytes: each takes any bytes and asserts what must always hold.
//!
//! `targets/` gives them to libFuzzer, `tests/kept.rs` replays what it found. Inputs are text where that is possible, so
//! that a kept one can be read.

mod component;
mod envelope;
mod headers;
mod message;
mod route;
mod toml;

pub use component::component;
pub use envelope::envelope;
pub use headers::headers;
pub use route::route;
pub use toml::toml;

/// What stands in text for people must not steer their terminal.
fn assert_tame(text: &str) {
    let steering = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t'));
    assert_eq!(steering, None, "a control character in {text:?}");
}
