//! The whole path: a folder with files, an environment, flags → settings or faults.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod dlq;
mod environment;
mod faults;
mod files;
mod promises;
mod robust;

use std::path::Path;

use super::*;

/// A working directory with some files.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(helix: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("config/helix.toml", helix);
        folder
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    fn load(&self, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Loaded, Faults> {
        load(LoadRequest {
            path: None,
            flags: pairs(flags),
            env: pairs(env).into_iter().collect(),
            cwd: self.path().into(),
        })
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect()
}

/// Loads or shows why not.
fn loaded(helix: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Loaded {
    Folder::new(helix)
        .load(env, flags)
        .unwrap_or_else(|faults| panic!("{faults}"))
}

fn faults(helix: &str, env: &[(&str, &str)]) -> Faults {
    Folder::new(helix)
        .load(env, &[])
        .map(|l| panic!("no fault in {:?}", l.settings))
        .unwrap_err()
}

/// (value, source) of one line of `config explain`.
fn explained<'a>(loaded: &'a Loaded, path: &str) -> (&'a str, &'a str) {
    let line = loaded
        .explain
        .iter()
        .find(|e| e.path == path)
        .unwrap_or_else(|| panic!("nothing at {path}"));
    (&line.value, &line.source)
}

const ROUTE: &str = "[[routes]]\nqueue = \"helixagent.tasks.llm\"\nplugin = \"p\"\n";

/// The project's root.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}
