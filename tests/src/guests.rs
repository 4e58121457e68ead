//! Components for tests, built by `cargo xtask plugins`.

use std::path::{Path, PathBuf};

use crate::variable;

/// The built component of `tests/guests/<name>`.
pub fn path(name: &str) -> PathBuf {
    let path = Path::new(&variable("HELIX_TEST_GUESTS")).join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is missing: run `cargo xtask plugins`", path.display());
    path
}

/// The same component with another digest: a custom section that says `n` at its end.
///
/// # Panics
/// When the component cannot be read.
pub fn version(name: &str, n: u32) -> Vec<u8> {
    let mut bytes = std::fs::read(path(name)).unwrap_or_else(|error| panic!("read {name}: {error}"));
    let text = n.to_string();
    let section = [&[4_u8][..], b"test", text.as_bytes()].concat();
    // Section id 0 (custom), then its size as LEB128; below 128 that is one byte.
    bytes.push(0);
    bytes.push(u8::try_from(section.len()).unwrap_or(0));
    bytes.extend(section);
    bytes
}

/// Written beside its place, then renamed, as a build does.
///
/// # Panics
/// When the folder cannot be written.
pub fn install(folder: &Path, name: &str, bytes: &[u8]) {
    let draft = folder.join(format!(".{name}.draft"));
    std::fs::write(&draft, bytes).unwrap_or_else(|error| panic!("write {}: {error}", draft.display()));
    std::fs::rename(&draft, folder.join(format!("{name}.wasm"))).unwrap_or_else(|error| panic!("rename: {error}"));
}
