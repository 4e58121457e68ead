//! `cargo xtask plugins`: sources under plugins/ and tests/guests/ become components where they are looked for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::install;
use crate::run::{quiet, run, say};
use crate::workspace::{cargo, root, target, wasm_target};

const TRIPLE: &str = "wasm32-wasip2";

/// Builds everything: `plugins/<name>.wasm` (what a host watches) and `target/guests/<name>.wasm` (what tests load).
pub fn all() -> Result<()> {
    install::wasm_target()?;
    shipped()?;
    guests()?;
    Ok(())
}

/// The shipped sample handlers, in every language.
pub fn shipped() -> Result<()> {
    install::wasm_target()?;
    let dir = root().join("plugins");
    for artifact in cargo_components(&dir, &[], &[])? {
        place(&artifact.file, &dir.join(format!("{}.wasm", artifact.package)))?;
    }
    foreign(&dir, &dir)
}

/// Components for tests: well-behaved, hostile, and each language's.
pub fn guests() -> Result<()> {
    let dir = root().join("tests/guests");
    let into = guests_folder();
    fs::create_dir_all(&into)?;
    for artifact in cargo_components(&dir, &[], &[])? {
        place(&artifact.file, &into.join(format!("{}.wasm", artifact.package)))?;
    }
    foreign(&dir, &into)
}

pub fn guests_folder() -> PathBuf {
    target().join("guests")
}

/// One shipped Rust plugin with more environment at compile time; answers the component, placed nowhere.
pub fn one(package: &str, env: &[(&str, &str)]) -> Result<PathBuf> {
    let built = cargo_components(&root().join("plugins"), &["--package", package], env)?;
    let found = built.into_iter().find(|artifact| artifact.package == package);
    Ok(found
        .with_context(|| format!("plugins/ has no package {package}"))?
        .file)
}

struct Artifact {
    package: String,
    file: PathBuf,
}

/// `cargo build` of a workspace of guests, release profile.
fn cargo_components(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> Result<Vec<Artifact>> {
    let manifest = dir.join("Cargo.toml");
    if !manifest.exists() {
        say(format!(
            "{} has no Cargo.toml: nothing to build there",
            dir.display()
        ));
        return Ok(Vec::new());
    }
    let whole = if args.is_empty() {
        &["--workspace"][..]
    } else {
        args
    };
    let mut build = Command::new(cargo());
    build
        .args(["build", "--release", "--target", TRIPLE, "--manifest-path"])
        .arg(&manifest)
        .args(whole);
    // The guests' own target folder: building them never waits for the host's build lock.
    run(clean(&mut build)
        .env("CARGO_TARGET_DIR", wasm_target())
        .envs(env.iter().copied()))?;
    let folder = wasm_target().join(TRIPLE).join("release");
    let artifacts = components_of(&manifest)?
        .into_iter()
        .map(|(package, library)| Artifact {
            package,
            file: folder.join(format!("{library}.wasm")),
        });
    Ok(artifacts.collect())
}

/// What cargo set for us is not meant for a build of guests.
pub fn clean(command: &mut Command) -> &mut Command {
    for name in [
        "CARGO_MANIFEST_DIR",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
    ] {
        command.env_remove(name);
    }
    command
}

/// (package, library) of every cdylib.
fn components_of(manifest: &Path) -> Result<Vec<(String, String)>> {
    let mut metadata = Command::new(cargo());
    metadata
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--manifest-path",
        ])
        .arg(manifest);
    let metadata: Value = serde_json::from_str(&quiet(&mut metadata)?)?;
    let mut found = Vec::new();
    for package in list(&metadata, "packages") {
        for target in list(package, "targets") {
            if list(target, "crate_types").iter().any(|kind| kind == "cdylib") {
                let word = |value: &Value| {
                    value
                        .get("name")
                        .and_then(Value::as_str)
                        .unwrap_or_default()
                        .to_owned()
                };
                found.push((word(package), word(target).replace('-', "_")));
            }
        }
    }
    Ok(found)
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

/// Handlers in other languages: `<name>/build.sh <output.wasm>` makes the component and fetches its own tools into
/// `$HELIX_BUILD_DIR`, which is kept between builds.
fn foreign(dir: &Path, into: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries {
        let folder = entry?.path();
        let script = folder.join("build.sh");
        let Some(name) = folder
            .file_name()
            .and_then(|name| name.to_str())
            .filter(|_| script.exists())
        else {
            continue;
        };
        let output = into.join(format!("{name}.wasm"));
        let sources = newest(&folder)?
            .max(newest(&root().join("wit"))?)
            .max(newest(&root().join("sdk"))?);
        if fs::metadata(&output)
            .and_then(|meta| meta.modified())
            .is_ok_and(|built| built > sources)
        {
            continue;
        }
        if folder.join("package.json").exists() {
            install::node()?;
        }
        say(format!("{} → {}", script.display(), output.display()));
        let scratch = wasm_target().join("foreign").join(name);
        fs::create_dir_all(&scratch)?;
        let fresh = scratch.join(format!("{name}.wasm"));
        run(Command::new("bash")
            .arg(&script)
            .arg(&fresh)
            .current_dir(&folder)
            .env("HELIX_BUILD_DIR", &scratch))?;
        if !fresh.exists() {
            bail!(
                "{} succeeded without writing {}",
                script.display(),
                fresh.display()
            );
        }
        place(&fresh, &output)?;
    }
    Ok(())
}

/// Time of the latest change of a source under a folder; what builds leave there does not count.
fn newest(dir: &Path) -> Result<SystemTime> {
    let mut latest = SystemTime::UNIX_EPOCH;
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(latest);
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if ["node_modules", "target", "__pycache__", ".venv"]
            .iter()
            .any(|made| name == *made)
            || Path::new(&name).extension().is_some_and(|ext| ext == "wasm")
        {
            continue;
        }
        let changed = if entry.file_type()?.is_dir() {
            newest(&entry.path())?
        } else {
            entry.metadata()?.modified()?
        };
        latest = latest.max(changed);
    }
    Ok(latest)
}

/// Written beside, then renamed: a watching host sees the old file or the new one, never half of one. The same content
/// is left alone, so that nothing is reloaded for nothing.
pub fn place(from: &Path, to: &Path) -> Result<()> {
    let content = fs::read(from).with_context(|| format!("the build left no {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == content) {
        return Ok(());
    }
    let name = to.file_name().context("a file name")?.to_string_lossy();
    let fresh = to.with_file_name(format!(".{name}.tmp"));
    fs::write(&fresh, content)?;
    fs::rename(&fresh, to)?;
    say(to.display());
    Ok(())
}
