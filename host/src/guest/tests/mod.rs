//! The runtime as the rest of the host sees it, with guests written as text.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod calls;
mod candidate;
mod files;
mod hostile;
mod publish;
mod wat;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::config::valid::{Pattern, Plugin};
use crate::model::{Headers, MessageKind, Origin, SystemClock};

pub fn envelope(origin: Origin, id: &str, headers: Headers) -> Envelope {
    Envelope {
        id: id.into(),
        message_type: "test.done".into(),
        origin,
        payload: Bytes::from_static(b"{}"),
        tombstone: false,
        content_type: None,
        schema: None,
        source: None,
        subject: None,
        priority: 0,
        key: None,
        time_ms: 0,
        deadline_ms: None,
        correlation_id: Some("c-1".into()),
        reply_to: None,
        trace: None,
        headers,
        redelivered: false,
        reprocessed: 0,
        replay: None,
    }
}

pub fn message(kind: MessageKind, id: &str) -> Envelope {
    let origin = Origin {
        broker: "local".into(),
        kind,
        destination: "in".into(),
        partition: None,
        offset: None,
    };
    envelope(origin, id, Headers::new())
}

pub fn plugin(name: &str) -> Plugin {
    Plugin {
        name: name.into(),
        file: PathBuf::new(),
        publish: Vec::new(),
        fetch: Vec::new(),
        fetch_private: false,
        fetch_timeout: Duration::from_secs(2),
        env: BTreeMap::new(),
        memory_bytes: 8 << 20,
        table_elements: 20_000,
        handles: 1000,
        outputs: 2,
        output_bytes: 1 << 20,
        log_lines: 100,
        instances: 2,
        calls_per_instance: 1000,
        digest: None,
        declared_at: "config/helix.toml:12".into(),
    }
}

/// Queues `out` and `other`, topic `facts`; type `test.todo` goes to `out`.
struct Topology;

impl Targets for Topology {
    fn resolve(&self, kind: MessageKind, message_type: &str) -> Option<Arc<str>> {
        (kind == MessageKind::Task && message_type == "test.todo").then(|| "out".into())
    }

    fn exists(&self, kind: MessageKind, name: &str) -> bool {
        match kind {
            MessageKind::Task => ["out", "other"].contains(&name),
            MessageKind::Event => name == "facts",
        }
    }
}

/// A runtime over a folder of its own, with one plugin `p`.
pub struct Bench {
    pub runtime: Runtime,
    pub folder: TempDir,
}

impl Bench {
    pub fn new(change: impl FnOnce(&mut Plugin)) -> Self {
        let folder = TempDir::new().unwrap();
        let mut p = plugin("p");
        p.file = folder.path().join("plugins/p.wasm");
        std::fs::create_dir(folder.path().join("plugins")).unwrap();
        change(&mut p);
        let runtime = start(&folder, p);
        Self { runtime, folder }
    }

    /// With this component loaded.
    pub async fn with(component: &[u8], change: impl FnOnce(&mut Plugin)) -> Self {
        let bench = Self::new(change);
        bench.put(component);
        let report = bench.runtime.reload("p").await;
        assert_eq!(report.error, None);
        bench
    }

    pub fn file(&self) -> PathBuf {
        self.folder.path().join("plugins/p.wasm")
    }

    pub fn put(&self, bytes: &[u8]) {
        let partial = self.file().with_extension("partial");
        std::fs::write(&partial, bytes).unwrap();
        std::fs::rename(&partial, self.file()).unwrap();
    }

    pub async fn call(&self, envelopes: &[Envelope]) -> Vec<Completion> {
        self.call_with(envelopes, Duration::from_secs(10), false).await
    }

    pub async fn call_with(&self, envelopes: &[Envelope], timeout: Duration, fresh: bool) -> Vec<Completion> {
        let version = self.runtime.current("p").expect("a version serves");
        let batch: Vec<_> = envelopes
            .iter()
            .map(|envelope| Invocation {
                envelope,
                attempt: 1,
                max_attempts: 4,
                timeout,
                headers: None,
                fresh,
            })
            .collect();
        version.call(&batch).await
    }

    pub async fn task(&self) -> Completion {
        self.call(&[message(MessageKind::Task, "t1")]).await.remove(0)
    }
}

impl Runtime {
    /// The only plugin of these tests.
    pub fn list_one(&self) -> PluginStatus {
        self.list().remove(0)
    }
}

pub fn start(folder: &TempDir, p: Plugin) -> Runtime {
    start_all(folder, [p])
}

pub fn start_all<const N: usize>(folder: &TempDir, plugins: [Plugin; N]) -> Runtime {
    Runtime::start(RuntimeOptions {
        plugins: plugins.map(|p| (p.name.clone(), p)).into(),
        plugins_dir: folder.path().join("plugins"),
        cache_dir: folder.path().join("cache"),
        max_wasm_bytes: 1 << 20,
        max_message_bytes: 1 << 20,
        clock: Arc::new(SystemClock),
        targets: Arc::new(Topology),
    })
    .unwrap()
}

pub fn grants(names: &[&str]) -> Vec<Pattern> {
    names.iter().map(|n| Pattern::new(*n)).collect()
}

pub fn code(completion: &Completion) -> &str {
    completion
        .outcome
        .failure()
        .and_then(|f| f.code.as_deref())
        .unwrap_or("")
}
