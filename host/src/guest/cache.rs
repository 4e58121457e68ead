//! Compiled components on disk: a private folder, keyed by content and engine, checked before anything is trusted.
//!
//! Machine code from this folder runs unchecked, so it is only read when nobody else can write there and the SHA-256
//! in front of it is right. What guests bring themselves is never taken for compiled code.

use std::collections::hash_map::DefaultHasher;
use std::fs::{self, DirBuilder};
use std::hash::{Hash, Hasher};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::model::Digest;

/// Python components are 34 MiB each.
const KEPT_FILES: usize = 64;
const LARGEST: u64 = 512 << 20;
const CHECKSUM: usize = 32;

pub(super) struct Cache {
    /// None when the folder cannot be made or is not private: everything is compiled each time.
    folder: Option<PathBuf>,
}

impl Cache {
    pub(super) fn open(folder: &Path) -> Self {
        match private(folder) {
            Ok(()) => Self {
                folder: Some(folder.to_owned()),
            },
            Err(error) => {
                tracing::warn!(folder = %folder.display(), %error, "compiled plugins are not cached");
                Self { folder: None }
            }
        }
    }

    fn path(&self, engine: &Engine, digest: Digest) -> Option<PathBuf> {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Some(
            self.folder
                .as_ref()?
                .join(format!("{}-{:016x}.cwasm", digest.hex(), hasher.finish())),
        )
    }

    /// None = compile it.
    pub(super) fn load(&self, engine: &Engine, digest: Digest) -> Option<Component> {
        let path = self.path(engine, digest)?;
        let bytes = read(&path)
            .inspect_err(|error| {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(file = %path.display(), %error, "a cached plugin cannot be used and is compiled again");
                }
            })
            .ok()?;
        // SAFETY: the bytes were written by `store` below from `Component::serialize`: they lie in a folder that belongs to
        // this user and that nobody else may write (checked when opened), and the checksum in front was verified on these
        // very bytes in memory, not on the file. wasmtime itself refuses another version or configuration.
        let component = unsafe { Component::deserialize(engine, &bytes) };
        component
            .inspect_err(
                |error| tracing::debug!(file = %path.display(), %error, "cached code is of another engine"),
            )
            .ok()
    }

    /// Failing to store costs time later, nothing else.
    pub(super) fn store(&self, engine: &Engine, digest: Digest, component: &Component) {
        let Some(path) = self.path(engine, digest) else {
            return;
        };
        let result = component
            .serialize()
            .map_err(io::Error::other)
            .and_then(|code| write(&path, &code));
        if let Err(error) = result {
            tracing::warn!(file = %path.display(), %error, "a compiled plugin could not be cached");
        }
        if let Some(folder) = &self.folder
            && let Err(error) = prune(folder)
        {
            tracing::debug!(%error, "old compiled plugins could not be removed");
        }
    }
}

/// Makes the folder if need be; an error unless it is ours alone.
fn private(folder: &Path) -> io::Result<()> {
    if let Some(parent) = folder.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let meta = fs::symlink_metadata(folder)?;
    // SAFETY: geteuid has no preconditions and cannot fail.
    let me = unsafe { libc::geteuid() };
    if !meta.is_dir() || meta.uid() != me || meta.mode() & 0o077 != 0 {
        return Err(io::Error::other(
            "the folder must belong to this user alone (mode 0700, no symbolic link)",
        ));
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let file = fs::File::open(path)?;
    if file.metadata()?.len() > LARGEST {
        return Err(io::Error::other("too large"));
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes)?;
    if bytes.len() < CHECKSUM {
        return Err(io::Error::other("too short"));
    }
    let code = bytes.split_off(CHECKSUM);
    if checksum(&code)[..] != bytes {
        return Err(io::Error::other("the checksum is wrong"));
    }
    Ok(code)
}

fn checksum(code: &[u8]) -> [u8; CHECKSUM] {
    Sha256::digest(code).into()
}

fn write(path: &Path, code: &[u8]) -> io::Result<()> {
    let partial = path.with_extension(format!("{}.partial", std::process::id()));
    let mut file = fs::File::create(&partial)?;
    let written = file
        .write_all(&checksum(code))
        .and_then(|()| file.write_all(code));
    written
        .and_then(|()| fs::rename(&partial, path))
        .inspect_err(|_| {
            let _ = fs::remove_file(&partial);
        })
}

/// Removes the files that were written longest ago.
fn prune(folder: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|e| e == "cwasm") {
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    files.sort();
    for (_, path) in files.iter().rev().skip(KEPT_FILES) {
        fs::remove_file(path)?;
    }
    Ok(())
}
