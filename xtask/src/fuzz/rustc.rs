//! xtask in the place of rustc: cargo starts it for the workspace's own crates, and it adds the coverage that libFuzzer
//! reads. With RUSTFLAGS the dependencies would be compiled again too, five minutes of them.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

/// Set for cargo: what is called with it is to be rustc.
pub const MARK: &str = "HELIX_XTASK_RUSTC";

/// As cargo-fuzz passes them. No sanitizer: that needs a nightly compiler, and the host's own code is safe Rust.
/// Optimised a little, for more runs a second; the checks of a build for development stay.
const COVERAGE: [&str; 8] = [
    "-Copt-level=1",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

pub fn asked() -> bool {
    std::env::var_os(MARK).is_some()
}

/// Becomes rustc; comes back only when that is not possible.
pub fn become_rustc() -> Result<i32> {
    let mut args = std::env::args_os().skip(1);
    let rustc = args.next().context("cargo names rustc first")?;
    let args: Vec<OsString> = args.collect();
    let mut command = Command::new(rustc);
    command.args(&args);
    if is_covered(&args) {
        command.args(COVERAGE);
    }
    Err(command.exec()).context("cannot start rustc")
}

/// Build scripts and macros run inside the build, where nothing counts; `___` is cargo asking what rustc can do.
fn is_covered(args: &[OsString]) -> bool {
    let after = |flag: &str| {
        let at = args.iter().position(|arg| arg == flag)?;
        args.get(at + 1)?.to_str()
    };
    after("--crate-name").is_some_and(|name| name != "___" && !name.starts_with("build_script_"))
        && after("--crate-type") != Some("proc-macro")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_runs_is_covered() {
        for (line, covered) in [
            ("--crate-name helix_host --crate-type lib", true),
            ("--crate-name fuzz_route --crate-type bin", true),
            ("--crate-name build_script_build --crate-type bin", false),
            ("--crate-name helix_sdk_macro --crate-type proc-macro", false),
            ("- --crate-name ___ --print=file-names --crate-type bin", false),
            ("-vV", false),
        ] {
            let args: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            assert_eq!(is_covered(&args), covered, "{line}");
        }
    }
}
