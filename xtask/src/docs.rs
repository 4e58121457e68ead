//! `cargo xtask docs`: reference pages that are made from the code.

use std::fs;
use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{quiet, run, say};
use crate::workspace::{cargo, host_binary, root, target};

/// (file, arguments of the binary that prints it)
const PAGES: [(&str, &[&str]); 4] = [
    ("config/helix.schema.json", &["config", "schema"]),
    ("config/helix.reference.toml", &["config", "reference"]),
    ("docs/metrics.md", &["docs", "metrics"]),
    ("docs/openapi.json", &["docs", "openapi"]),
];

#[derive(clap::Args)]
pub struct Args {
    /// Write nothing; fail with a diff when a file is not what the code says
    #[arg(long)]
    check: bool,
}

/// Fails with a diff when a generated page is not what the code says.
pub fn check() -> Result<()> {
    main(&Args { check: true })
}

pub fn main(args: &Args) -> Result<()> {
    run(Command::new(cargo())
        .args(["build", "--quiet", "--workspace", "--bin", "helix"])
        .current_dir(root()))?;
    let mut stale = Vec::new();
    for (file, command) in PAGES {
        let made = quiet(Command::new(host_binary()).args(command).current_dir(root()))?;
        let path = root().join(file);
        if fs::read_to_string(&path).is_ok_and(|have| have == made) {
            continue;
        }
        if args.check {
            let fresh = target().join("docs-check");
            fs::write(&fresh, &made)?;
            // The diff is for the reader; its exit code says no more than we know.
            crate::run::status(Command::new("diff").arg("-u").arg(&path).arg(&fresh))?;
            stale.push(file);
        } else {
            fs::write(&path, made)?;
            say(format!("wrote {file}"));
        }
    }
    if stale.is_empty() {
        return Ok(());
    }
    bail!(
        "out of date: {}; `cargo xtask docs` writes them",
        stale.join(", ")
    )
}
