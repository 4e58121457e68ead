//! Builds the handler of this folder and drops it into `plugins/`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use crate::cli::Exit;
use crate::config::valid::Settings;
use crate::error;

const TARGET: &str = "wasm32-wasip2";

/// A Rust handler project: a `Cargo.toml` beside `helix.toml`.
#[derive(Debug, Clone)]
pub struct Project {
    dir: PathBuf,
    plugins_dir: PathBuf,
}

impl Project {
    /// None: no sources here, only plugins that are dropped in.
    pub fn here(dir: &Path, settings: &Settings) -> Result<Option<Self>, Exit> {
        if !dir.join("Cargo.toml").is_file() || !dir.join("src").is_dir() {
            return Ok(None);
        }
        let cargo = std::process::Command::new("cargo")
            .arg("--version")
            .stdout(Stdio::null())
            .status();
        if !cargo.is_ok_and(|status| status.success()) {
            return Err(
                Exit::failed("cargo is not installed; get it from https://rustup.rs").coded(error::CLI_TOOL),
            );
        }
        Ok(Some(Self {
            dir: dir.to_owned(),
            plugins_dir: settings.host.plugins_dir.clone(),
        }))
    }

    pub fn sources(&self) -> Vec<PathBuf> {
        vec![self.dir.join("src"), self.dir.join("Cargo.toml")]
    }

    /// Err is what the compiler said.
    pub async fn build(&self) -> Result<(), String> {
        let output = Command::new("cargo")
            .args([
                "build",
                "--release",
                "--target",
                TARGET,
                "--message-format",
                "json-render-diagnostics",
            ])
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .map_err(|error| format!("cannot run cargo: {error}"))?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            let missing =
                text.contains("can't find crate for `core`") || text.contains("can't find crate for `std`");
            let hint = if missing {
                format!("\n  rustup target add {TARGET}")
            } else {
                String::new()
            };
            return Err(format!("{text}{hint}"));
        }
        let built = artifacts(&output.stdout);
        if built.is_empty() {
            return Err("cargo built no .wasm; is crate-type = [\"cdylib\"] in Cargo.toml?".to_owned());
        }
        built.iter().try_for_each(|wasm| self.drop_in(wasm))
    }

    /// Copied beside its place, then renamed: the watcher never sees half a file.
    fn drop_in(&self, wasm: &Path) -> Result<(), String> {
        let failed =
            |error: std::io::Error| format!("cannot write into {}: {error}", self.plugins_dir.display());
        std::fs::create_dir_all(&self.plugins_dir).map_err(failed)?;
        let stem = wasm
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .replace('_', "-");
        let place = self.plugins_dir.join(format!("{stem}.wasm"));
        let draft = self.plugins_dir.join(format!(".{stem}.wasm.new"));
        std::fs::copy(wasm, &draft).map_err(failed)?;
        std::fs::rename(&draft, &place).map_err(failed)
    }
}

/// The .wasm files in cargo's JSON messages.
fn artifacts(stdout: &[u8]) -> Vec<PathBuf> {
    String::from_utf8_lossy(stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message.get("reason").and_then(Value::as_str) == Some("compiler-artifact"))
        .flat_map(|message| {
            let names = message
                .get("filenames")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            names
                .into_iter()
                .filter_map(|name| name.as_str().map(PathBuf::from))
                .collect::<Vec<_>>()
        })
        .filter(|path| path.extension().is_some_and(|e| e == "wasm"))
        .filter(|path| !path.components().any(|c| c.as_os_str() == "deps"))
        .collect()
}
