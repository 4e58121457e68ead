//! What fuzzing kept, run again without libFuzzer: seeds, corpus and everything that once failed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "tests"
)]

use std::fs;
use std::path::Path;

/// Runs `target` on all its files. The last name printed is the one that failed.
fn replay(name: &str, target: fn(&[u8])) {
    let mut seen = 0;
    for kind in ["seeds", "corpus", "regressions"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(name);
        let Ok(files) = fs::read_dir(&folder) else {
            // Nothing has failed yet.
            assert_eq!(kind, "regressions", "{} is missing", folder.display());
            continue;
        };
        for file in files {
            let path = file.unwrap().path();
            let data = fs::read(&path).unwrap();
            println!("{}", path.display());
            target(&data);
            seen += 1;
        }
    }
    assert!(seen >= 5, "{seen} inputs of {name}");
}

#[test]
fn envelope() {
    replay("envelope", helix_fuzz::envelope);
}

#[test]
fn headers() {
    replay("headers", helix_fuzz::headers);
}

#[test]
fn toml() {
    replay("toml", helix_fuzz::toml);
}

#[test]
fn route() {
    replay("route", helix_fuzz::route);
}

#[test]
fn component() {
    replay("component", helix_fuzz::component);
}
