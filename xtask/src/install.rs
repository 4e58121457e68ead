//! Brings a fresh machine what it lacks: apt packages, rustup targets, a Python environment.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run::{quiet, say};
use crate::workspace;

/// Clients of the brokers that are not ours; the end-to-end tests publish with them.
const PYTHON_PACKAGES: [&str; 2] = ["pika==1.4.4", "confluent-kafka==2.16.1"];
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs Debian packages when `missing` says so; without root the error is the line to type.
pub fn apt(packages: &[&str], missing: impl Fn() -> bool) -> Result<()> {
    if !missing() {
        return Ok(());
    }
    let line = format!(
        "apt-get install -y --no-install-recommends {}",
        packages.join(" ")
    );
    if !crate::run::exists("apt-get") {
        bail!(
            "{} not found, and there is no apt-get here: install them by your system's means",
            packages.join(", ")
        );
    }
    // SAFETY: geteuid takes nothing and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        bail!("missing packages, and only root can install them. Run:\n    sudo {line}");
    }
    say(&line);
    let _policy = NoServices::hold()?;
    let install = || {
        quiet(
            Command::new("apt-get")
                .args([
                    "install",
                    "-y",
                    "--no-install-recommends",
                    "-o",
                    "DPkg::Lock::Timeout=300",
                ])
                .args(packages)
                .env("DEBIAN_FRONTEND", "noninteractive"),
        )
    };
    // Package lists of a fresh image are empty or old; they are fetched only when the first try fails.
    if install().is_err() {
        quiet(Command::new("apt-get").args(["update", "-o", "DPkg::Lock::Timeout=300"]))?;
        install()?;
    }
    if missing() {
        bail!("`{line}` succeeded, yet something is still missing");
    }
    Ok(())
}

/// While held, packages must not start the services that they bring.
struct NoServices(bool);

impl NoServices {
    fn hold() -> Result<Self> {
        if Path::new(POLICY).exists() {
            return Ok(Self(false));
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("cannot write {POLICY}"))?;
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        Ok(Self(true))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.0 {
            fs::remove_file(POLICY).ok();
        }
    }
}

/// The compile target of guests.
pub fn wasm_target() -> Result<()> {
    let installed = quiet(Command::new("rustc").args(["--print", "sysroot"])).map(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib/wasm32-wasip2")
            .is_dir()
    })?;
    if installed {
        return Ok(());
    }
    say("rustup target add wasm32-wasip2");
    quiet(
        Command::new("rustup")
            .args(["target", "add", "wasm32-wasip2"])
            .current_dir(workspace::root()),
    )
    .context("the target wasm32-wasip2 is missing and rustup could not add it")?;
    Ok(())
}

/// What librdkafka and the bundled SQLite are compiled with.
pub fn native_build_tools() -> Result<()> {
    apt(
        &["build-essential", "pkg-config", "libssl-dev", "zlib1g-dev"],
        || {
            ["cc", "c++", "make", "pkg-config"]
                .iter()
                .any(|program| !crate::run::exists(program))
                || Command::new("pkg-config")
                    .args(["--exists", "openssl", "zlib"])
                    .status()
                    .map_or(true, |s| !s.success())
        },
    )
}

/// Handlers in JavaScript are built with it.
pub fn node() -> Result<()> {
    apt(&["nodejs", "npm"], || {
        !crate::run::exists("node") || !crate::run::exists("npm")
    })
}

pub fn kcat() -> Result<()> {
    apt(&["kcat"], || !crate::run::exists("kcat"))
}

/// Gives a host of the torture run a wall clock of its own.
pub fn faketime() -> Result<()> {
    apt(&["faketime"], || !crate::run::exists("faketime"))
}

/// A virtual environment under the target folder with the pinned clients; answers its python.
pub fn python() -> Result<PathBuf> {
    let dir = workspace::target().join("venv");
    let python = dir.join("bin/python");
    let stamp = dir.join(".installed");
    let wanted = PYTHON_PACKAGES.join("\n");
    if python.exists() && fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(python);
    }
    let create = || quiet(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&dir));
    if create().is_err() {
        apt(&["python3", "python3-venv"], || create().is_err())?;
    }
    say(format!("pip install {}", PYTHON_PACKAGES.join(" ")));
    quiet(
        Command::new(&python)
            .args(["-m", "pip", "install", "-q"])
            .args(PYTHON_PACKAGES),
    )?;
    fs::write(stamp, wanted)?;
    Ok(python)
}
