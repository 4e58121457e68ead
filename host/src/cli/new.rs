//! `helix new`: a handler project that builds, is tested, and runs with `helix dev`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::output;
use super::{Exit, Global};
use crate::error;

#[derive(Debug, Args)]
pub struct New {
    /// Name of the project and its plugin: letters, digits, `-`
    name: String,
    #[arg(long, value_enum, default_value_t = Language::Rust)]
    lang: Language,
    /// Folder to make [default: ./NAME]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A checkout of helix-sdk to depend on by path, instead of the published crate
    #[arg(long, value_name = "DIR", env = "HELIX_SDK")]
    sdk: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Language {
    Rust,
}

/// (path in the project, content). `{{name}}`, `{{crate}}` and `{{sdk}}` are replaced.
const RUST: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("new/template/Cargo.toml.in")),
    ("src/lib.rs", include_str!("new/template/src/lib.rs")),
    ("helix.toml", include_str!("new/template/helix.toml")),
    ("topology.toml", include_str!("new/template/topology.toml")),
    (".gitignore", include_str!("new/template/gitignore.in")),
    ("README.md", include_str!("new/template/README.md")),
];

impl New {
    pub fn run(self, _global: &Global) -> Result<(), Exit> {
        let valid = self.name.starts_with(|c: char| c.is_ascii_alphabetic())
            && self
                .name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if !valid {
            return Err(Exit::usage(format!(
                "`{}` is no project name: letters, digits, `-` and `_`, a letter first",
                self.name
            )));
        }
        let dir = self.dir.clone().unwrap_or_else(|| PathBuf::from(&self.name));
        if dir.exists() && std::fs::read_dir(&dir).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(
                Exit::failed(format!("{} exists and is not empty", dir.display())).coded(error::CLI_FILE)
            );
        }
        let sdk = self.dependency()?;
        let files = match self.lang {
            Language::Rust => RUST,
        };
        for (path, content) in files {
            let content = content
                .replace("{{name}}", &self.name)
                .replace("{{crate}}", &self.name.replace('-', "_"))
                .replace("{{sdk}}", &sdk);
            write(&dir.join(path), &content)?;
        }
        std::fs::create_dir_all(dir.join("plugins")).map_err(|error| unwritable(&dir, &error))?;
        output::line(&format!(
            "made {}\n  next: cd {} && helix dev",
            dir.display(),
            dir.display()
        ))
    }

    /// The value of `helix-sdk` in Cargo.toml.
    fn dependency(&self) -> Result<String, Exit> {
        let from_checkout = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../sdk/rust"));
        let path = match &self.sdk {
            Some(path) => Some(path.clone()),
            // A binary built from a checkout uses that checkout; an installed one the published crate.
            None => from_checkout
                .join("Cargo.toml")
                .is_file()
                .then_some(from_checkout),
        };
        match path {
            None => Ok(format!("\"{}\"", env!("CARGO_PKG_VERSION"))),
            Some(path) => {
                let path = path.canonicalize().map_err(|error| {
                    Exit::failed(format!("cannot use the SDK at {}: {error}", path.display()))
                        .coded(error::CLI_FILE)
                })?;
                Ok(format!("{{ path = {:?} }}", path.display().to_string()))
            }
        }
    }
}

fn write(path: &Path, content: &str) -> Result<(), Exit> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| unwritable(path, &error))?;
    }
    std::fs::write(path, content).map_err(|error| unwritable(path, &error))
}

fn unwritable(path: &Path, error: &std::io::Error) -> Exit {
    Exit::failed(format!("cannot write {}: {error}", path.display())).coded(error::CLI_FILE)
}
