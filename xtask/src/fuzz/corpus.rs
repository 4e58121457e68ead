//! The kept corpus: few and small files that together reach everything that was ever reached.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// It lies in git: so much of each target is kept, the smallest files first.
const MOST_FILES: usize = 200;
const MOST_BYTES: u64 = 300 << 10;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    pub files: usize,
    pub bytes: u64,
}

impl Size {
    pub fn of(folder: &Path) -> Result<Self> {
        let mut size = Self::default();
        for file in files(folder)? {
            size.files += 1;
            size.bytes += file.metadata()?.len();
        }
        Ok(size)
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} KiB)", self.files, self.bytes.div_ceil(1024))
    }
}

/// Files of a folder, sorted.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
        found.push(entry?.path());
    }
    found.sort();
    Ok(found)
}

/// libFuzzer picks from `kept` and `work` what reaches something that no smaller file does; that replaces both. Nothing
/// changes when `merge` says false.
pub fn minimise(
    program: &Path,
    work: &Path,
    kept: &Path,
    merged: &Path,
    merge: impl FnOnce(&mut Command) -> Result<bool>,
) -> Result<()> {
    empty(merged)?;
    let mut command = Command::new(program);
    command
        .args(["-merge=1", "-timeout=10", "-rss_limit_mb=2048"])
        .args([merged, kept, work]);
    if !merge(&mut command)? {
        return Ok(());
    }
    replace(work, &files(merged)?)?;
    replace(kept, &smallest(files(merged)?)?)
}

fn smallest(files: Vec<PathBuf>) -> Result<Vec<PathBuf>> {
    let mut sized = Vec::new();
    for file in files {
        sized.push((file.metadata()?.len(), file));
    }
    sized.sort();
    let mut bytes = 0;
    let kept = sized.into_iter().take(MOST_FILES).take_while(|(size, _)| {
        bytes += size;
        bytes <= MOST_BYTES
    });
    Ok(kept.map(|(_, file)| file).collect())
}

fn empty(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).ok();
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// Names are digests of the content, so what stays the same stays the same for git.
fn replace(folder: &Path, with: &[PathBuf]) -> Result<()> {
    empty(folder)?;
    for file in with {
        let name = file.file_name().context("a file has a name")?;
        fs::copy(file, folder.join(name)).with_context(|| format!("cannot copy {}", file.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn fill(folder: &Path, files: &[(&str, usize)]) {
        fs::create_dir_all(folder).unwrap();
        for (name, size) in files {
            fs::write(folder.join(name), vec![b'x'; *size]).unwrap();
        }
    }

    #[test]
    fn the_smallest_are_kept_up_to_the_bounds() {
        let dir = tempfile::tempdir().unwrap();
        fill(
            dir.path(),
            &[("big", 299 << 10), ("a", 10), ("bigger", 300 << 10)],
        );
        let names = |files: Vec<PathBuf>| -> Vec<String> {
            let name = |f: &PathBuf| f.file_name().unwrap().to_string_lossy().into_owned();
            smallest(files).unwrap().iter().map(name).collect()
        };
        assert_eq!(names(files(dir.path()).unwrap()), ["a", "big"]);
        for n in 0..250 {
            fs::write(dir.path().join(format!("n{n}")), "x").unwrap();
        }
        assert_eq!(names(files(dir.path()).unwrap()).len(), MOST_FILES);
    }

    #[test]
    fn a_merge_replaces_both_folders_and_a_failed_one_none() {
        let dir = tempfile::tempdir().unwrap();
        let [work, kept, merged] = ["work", "kept", "merged"].map(|name| dir.path().join(name));
        fill(&work, &[("w", 1)]);
        fill(&kept, &[("k", 1)]);
        minimise(Path::new("fuzz"), &work, &kept, &merged, |_| Ok(false)).unwrap();
        assert_eq!(files(&kept).unwrap(), [kept.join("k")]);
        minimise(Path::new("fuzz"), &work, &kept, &merged, |command| {
            assert!(command.get_args().any(|arg| arg == "-merge=1"));
            fill(&merged, &[("m", 2)]);
            Ok(true)
        })
        .unwrap();
        assert_eq!(files(&kept).unwrap(), [kept.join("m")]);
        assert_eq!(files(&work).unwrap(), [work.join("m")]);
        assert_eq!(Size::of(&kept).unwrap(), Size { files: 1, bytes: 2 });
    }
}
