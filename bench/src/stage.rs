//! Parts of a host in this process, put together as `app.rs` of the host does it, for what cannot be reached from outside.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use helix_host::broker::Broker;
use helix_host::config::valid::Settings;
use helix_host::config::{self, LoadRequest};
use helix_host::dispatch::{Context, Dispatcher, Parts, Targets};
use helix_host::guest::{self, Plugins, Runtime, RuntimeOptions, Version};
use helix_host::model::{MessageKind, SystemClock, UuidIds};
use helix_host::store::sqlite::SqliteStore;
use helix_host::telemetry::Metrics;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Checked settings of a helix.toml; passwords come from `HELIX_TEST_*`.
pub fn settings(path: &Path) -> Result<Settings> {
    let loaded = config::load(LoadRequest {
        path: Some(path.to_owned()),
        env: std::env::vars()
            .filter(|(name, _)| name.starts_with("HELIX_TEST_"))
            .collect(),
        cwd: path.parent().context("a folder")?.to_owned(),
        ..LoadRequest::default()
    })?;
    Ok(loaded.settings)
}

/// A folder with helix.toml and topology.toml, and what they say.
pub fn folder(toml: &str, topology: &str) -> Result<(TempDir, Settings)> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("helix.toml");
    let host = "[host]\nstate_dir = \"state\"\nplugins_dir = \"plugins\"\n";
    std::fs::write(&path, format!("{host}{toml}"))?;
    std::fs::write(folder.path().join("topology.toml"), topology)?;
    for name in ["plugins", "state"] {
        std::fs::create_dir_all(folder.path().join(name))?;
    }
    let settings = settings(&path)?;
    Ok((folder, settings))
}

/// The dispatcher between one broker and some plugins.
pub struct Stage {
    pub dispatcher: Dispatcher,
    pub metrics: Arc<Metrics>,
    pub store: SqliteStore,
}

impl Stage {
    pub async fn new(
        settings: &Settings,
        state: &Path,
        broker: &Arc<dyn Broker>,
        plugins: Arc<dyn Plugins>,
    ) -> Result<Self> {
        let store = SqliteStore::open(&state.join("store.db"), Arc::new(SystemClock)).await?;
        let metrics = Arc::new(Metrics::new()?);
        let target = (broker.name(), broker.publisher());
        let context = Context::new(Parts {
            clock: Arc::new(SystemClock),
            ids: Arc::new(UuidIds),
            random: Box::new(|| 0.5),
            metrics: Arc::clone(&metrics),
            plugins,
            retries: Arc::new(store.clone()),
            letters: Arc::new(store.clone()),
            held: Arc::new(store.clone()),
            targets: Targets {
                tasks: target.clone(),
                events: target,
            },
            limits: settings.limits.clone(),
            unrouted: settings.unrouted,
            own_brokers: HashSet::new(),
            fatal: CancellationToken::new(),
        });
        Ok(Self {
            dispatcher: Dispatcher::start(Arc::new(context)).await?,
            metrics,
            store,
        })
    }

    pub fn serve(&self, settings: &Settings, broker: &Arc<dyn Broker>) {
        let brokers = HashMap::from([(broker.name(), Arc::clone(broker))]);
        self.dispatcher.apply(settings, &brokers);
    }
}

/// The guest runtime of some settings; nothing is loaded yet.
pub fn runtime(settings: &Settings, folder: &Path) -> Result<Runtime> {
    let runtime = Runtime::start(RuntimeOptions {
        plugins: settings.plugins.clone(),
        plugins_dir: folder.join("plugins"),
        cache_dir: folder.join("state/cache"),
        max_wasm_bytes: settings.limits.wasm_bytes,
        max_message_bytes: settings.limits.message_bytes,
        clock: Arc::new(SystemClock),
        targets: Arc::new(Nowhere),
    })?;
    Ok(runtime)
}

/// Loads the plugin's file as it is now.
pub async fn version(runtime: &Runtime, plugin: &str) -> Result<Arc<dyn Version>> {
    if let Some(error) = runtime.reload(plugin).await.error {
        return Err(error.into());
    }
    runtime.current(plugin).context("no version serves")
}

/// The guests of the bench publish nothing.
struct Nowhere;

impl guest::Targets for Nowhere {
    fn resolve(&self, _: MessageKind, _: &str) -> Option<Arc<str>> {
        None
    }

    fn exists(&self, _: MessageKind, _: &str) -> bool {
        false
    }
}
