//! Watches the files of plugins and reloads those that changed and then stayed as they are.

use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::registry::{Runtime, Watched};

/// Looks without being told: network file systems and some container mounts report nothing.
const POLL: Duration = Duration::from_secs(2);
/// Between two looks at a file that changed.
const SETTLE: Duration = Duration::from_millis(50);

/// What a file looks like from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
        })
    }
}

/// Decides when a file is ready: it differs from what was loaded, and it looks the same twice or was renamed into its place,
/// which nobody does with half a file. Pure.
#[derive(Debug, Default)]
struct Follower {
    loaded: Option<Stamp>,
    seen: Option<Stamp>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// Look again soon.
    Unsettled,
    Reload,
    Removed,
}

impl Follower {
    fn look(&mut self, now: Option<Stamp>, renamed: bool) -> Step {
        let before = std::mem::replace(&mut self.seen, now);
        if now == self.loaded {
            return Step::Nothing;
        }
        if now != before && !renamed {
            return Step::Unsettled;
        }
        self.loaded = now;
        match now {
            Some(_) => Step::Reload,
            None => Step::Removed,
        }
    }
}

/// By plugin; begun anew when the configuration names another file or pins another content.
type Followers = BTreeMap<String, (Watched, Follower)>;

impl Runtime {
    /// Watches until cancelled. Every plugin is loaded once at the beginning if nothing serves yet, so that no change
    /// between [`Runtime::load_all`] and this call is missed.
    pub fn watch(&self, stop: CancellationToken) -> JoinHandle<()> {
        let runtime = self.clone();
        tokio::spawn(async move {
            let (wake, mut woken) = mpsc::channel(1);
            let mut folders = Folders {
                watcher: None,
                watched: Vec::new(),
                renamed: Arc::default(),
                wake,
            };
            let mut followers = Followers::new();
            let mut pause = Duration::ZERO;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = woken.recv() => {}
                    () = tokio::time::sleep(pause) => {}
                }
                folders.follow(&runtime);
                let renamed = folders.renamed();
                let unsettled = round(&runtime, &mut followers, &renamed).await;
                pause = if unsettled { SETTLE } else { POLL };
            }
        })
    }
}

/// One look at all files; true when one of them is still changing.
async fn round(runtime: &Runtime, followers: &mut Followers, renamed: &HashSet<PathBuf>) -> bool {
    let files = runtime.files();
    followers.retain(|name, (watched, _)| files.get(name) == Some(watched));
    let mut unsettled = false;
    for (name, watched) in files {
        let now = Stamp::of(&watched.file);
        let renamed = renamed.contains(&watched.file);
        // A plugin seen for the first time counts as changed: reading a file that serves already changes nothing.
        let (_, follower) = followers
            .entry(name.clone())
            .or_insert_with(|| (watched, Follower::default()));
        match follower.look(now, renamed) {
            Step::Nothing => {}
            Step::Unsettled => unsettled = true,
            Step::Removed => runtime.file_removed(&name),
            Step::Reload => {
                runtime.reload(&name).await;
            }
        }
    }
    unsettled
}

/// The folders that are watched: not their subfolders, since handlers are built there.
struct Folders {
    watcher: Option<RecommendedWatcher>,
    watched: Vec<PathBuf>,
    /// Files that were renamed into their places since the last look.
    renamed: Arc<Mutex<HashSet<PathBuf>>>,
    wake: mpsc::Sender<()>,
}

impl Folders {
    fn renamed(&self) -> HashSet<PathBuf> {
        std::mem::take(&mut *self.renamed.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn follow(&mut self, runtime: &Runtime) {
        let mut wanted: Vec<PathBuf> = vec![runtime.plugins_dir().to_owned()];
        wanted.extend(
            runtime
                .files()
                .into_values()
                .filter_map(|watched| watched.file.parent().map(Path::to_owned)),
        );
        wanted.sort();
        wanted.dedup();
        if self.watched == wanted {
            return;
        }
        self.watched.clone_from(&wanted);
        let (wake, renamed) = (self.wake.clone(), Arc::clone(&self.renamed));
        let told = move |event: notify::Result<notify::Event>| {
            if let Ok(event) = event {
                match event.kind {
                    EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
                    // Reading is no change, and we read.
                    EventKind::Access(_) => return,
                    EventKind::Modify(ModifyKind::Name(RenameMode::To)) => renamed
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(event.paths),
                    _ => {}
                }
            }
            // Full means that a look is due already.
            let _ = wake.try_send(());
        };
        match notify::recommended_watcher(told) {
            Ok(mut watcher) => {
                for folder in &wanted {
                    if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                        tracing::warn!(folder = %folder.display(), %error, "not watched; looked at every 2 s instead");
                    }
                }
                self.watcher = Some(watcher);
            }
            Err(error) => tracing::warn!(%error, "files are not watched; looked at every 2 s instead"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(size: u64) -> Option<Stamp> {
        Some(Stamp {
            inode: 1,
            size,
            modified: (0, 0),
        })
    }

    #[test]
    fn a_file_is_reloaded_once_it_stays_the_same() {
        let mut f = Follower {
            loaded: stamp(1),
            seen: stamp(1),
        };
        assert_eq!(f.look(stamp(1), false), Step::Nothing);
        assert_eq!(f.look(stamp(2), false), Step::Unsettled);
        assert_eq!(f.look(stamp(3), false), Step::Unsettled);
        assert_eq!(f.look(stamp(3), false), Step::Reload);
        assert_eq!(f.look(stamp(3), false), Step::Nothing);
    }

    #[test]
    fn a_file_that_was_renamed_into_its_place_is_reloaded_at_once() {
        let mut f = Follower {
            loaded: stamp(1),
            seen: stamp(1),
        };
        assert_eq!(f.look(stamp(2), true), Step::Reload);
        assert_eq!(f.look(stamp(2), false), Step::Nothing);
        assert_eq!(f.look(stamp(2), true), Step::Nothing);
    }

    #[test]
    fn a_file_that_goes_and_comes_back() {
        let mut f = Follower {
            loaded: stamp(1),
            seen: stamp(1),
        };
        assert_eq!(f.look(None, false), Step::Unsettled);
        assert_eq!(f.look(None, false), Step::Removed);
        assert_eq!(f.look(None, false), Step::Nothing);
        assert_eq!(f.look(stamp(2), false), Step::Unsettled);
        assert_eq!(f.look(stamp(2), false), Step::Reload);
        // Written and undone between two looks.
        assert_eq!(f.look(stamp(9), false), Step::Unsettled);
        assert_eq!(f.look(stamp(2), false), Step::Nothing);
    }
}
