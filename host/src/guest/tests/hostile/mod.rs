//! Attacks on the runtime itself, below the SDK: each gets its typed outcome, and the plugin attacked and another one
//! handle a good message afterwards.

mod allocator;
mod bombs;
mod files;
mod flood;
mod publish;
mod results;
mod start;
mod time;
mod wasi;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::wat::{self, OK};
use super::{code, message, plugin, start_all};
use crate::config::valid::Plugin;
use crate::guest::{Completion, Error, Invocation, Plugins, Runtime};
use crate::model::{Envelope, MessageKind, Outcome};

/// Attack when the payload is not empty, so that the same component can show that it still works.
const UNLESS_EMPTY: &str =
    "(if (i32.eqz (i32.load offset=28 (local.get $in))) (then (return (i32.const 16))))";
/// Nothing that is stopped by a limit of its own needs so long, on a busy machine either.
const TIMEOUT: Duration = Duration::from_secs(20);

/// A task handler that runs this code for a message with a payload.
fn attack(imports: &str, data: &str, code: &str) -> Vec<u8> {
    wat::component("task-worker", imports, &body(data, code))
}

fn body(data: &str, code: &str) -> String {
    format!(
        "{data} {}",
        wat::with_code("task", &format!("{UNLESS_EMPTY} {code}"))
    )
}

/// A runtime with the plugin attacked, `p`, and one beside it, `n`.
struct Range {
    runtime: Runtime,
    folder: TempDir,
}

impl Range {
    /// With a neighbour that works and nothing to attack yet.
    async fn empty(change: impl FnOnce(&mut Plugin)) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::create_dir(folder.path().join("plugins")).unwrap();
        let mut attacked = plugin("p");
        attacked.file = file(&folder, "p");
        change(&mut attacked);
        let mut neighbour = plugin("n");
        neighbour.file = file(&folder, "n");
        std::fs::write(&neighbour.file, wat::task(OK)).unwrap();
        let runtime = start_all(&folder, [attacked, neighbour]);
        assert_eq!(runtime.reload("n").await.error, None);
        Self { runtime, folder }
    }

    async fn with(component: &[u8], change: impl FnOnce(&mut Plugin)) -> Self {
        let range = Self::empty(change).await;
        assert_eq!(range.load(component).await, None);
        range
    }

    /// Puts a file in place and says why it was refused.
    async fn load(&self, bytes: &[u8]) -> Option<Error> {
        let place = file(&self.folder, "p");
        let draft = place.with_extension("partial");
        std::fs::write(&draft, bytes).unwrap();
        std::fs::rename(&draft, &place).unwrap();
        self.runtime.reload("p").await.error
    }

    async fn attack(&self) -> Completion {
        self.attack_for(TIMEOUT).await
    }

    async fn attack_for(&self, timeout: Duration) -> Completion {
        self.call("p", &[task("{}")], timeout).await.remove(0)
    }

    async fn call(&self, plugin: &str, envelopes: &[Envelope], timeout: Duration) -> Vec<Completion> {
        let version = self.runtime.current(plugin).expect("a version serves");
        let batch: Vec<_> = envelopes
            .iter()
            .map(|envelope| Invocation {
                envelope,
                attempt: 1,
                max_attempts: 4,
                timeout,
                headers: None,
                fresh: false,
            })
            .collect();
        version.call(&batch).await
    }

    /// A good message is handled by the plugin that was attacked and by the one beside it.
    async fn stands(&self) {
        for plugin in ["p", "n"] {
            let done = self.call(plugin, &[task("")], TIMEOUT).await.remove(0);
            assert_eq!(done.outcome, Outcome::Done, "{plugin}");
        }
    }

    /// The attack ends as `label` with `expected`, and its reason has `part`; then everything goes on.
    async fn ends_as(&self, label: &str, expected: &str, part: &str) {
        let done = self.attack().await;
        assert_eq!(
            (done.outcome.label(), code(&done)),
            (label, expected),
            "{:?}",
            done.outcome
        );
        let reason = done.outcome.failure().map_or("", |f| f.reason.as_str());
        assert!(reason.contains(part), "{part} is not in {reason}");
        assert!(reason.len() <= 4096, "{}", reason.len());
        assert!(done.outputs.is_empty());
        self.stands().await;
    }
}

fn file(folder: &TempDir, plugin: &str) -> PathBuf {
    folder.path().join(format!("plugins/{plugin}.wasm"))
}

fn task(payload: &'static str) -> Envelope {
    let mut envelope = message(MessageKind::Task, "t1");
    envelope.payload = Bytes::from_static(payload.as_bytes());
    envelope
}

fn event(id: &str) -> Envelope {
    message(MessageKind::Event, id)
}

/// A field of /proc/self/status in KiB.
fn status_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Settings of the plugin attacked, changed while it serves.
fn replaced(range: &Range, change: impl FnOnce(&mut Plugin)) {
    let mut plugins = BTreeMap::new();
    for name in ["p", "n"] {
        let mut settings = plugin(name);
        settings.file = file(&range.folder, name);
        plugins.insert(name.to_owned(), settings);
    }
    change(plugins.get_mut("p").unwrap());
    range.runtime.replace_plugins(plugins);
}
