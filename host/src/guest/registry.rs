//! All plugins of this host: which version serves, what is known about the file on disk, and how one replaces the other.

mod candidate;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use wasmtime::component::Linker;

use super::cache::Cache;
use super::call::Loaded;
use super::compiler::Compiler;
use super::component::{self, Source};
use super::engine::TickingEngine;
use super::error::Error;
use super::fetch::Client;
use super::instance::{Instance, Mould, START_LIMIT, StartFault};
use super::log::Gate;
use super::pool::Pool;
use super::sandbox::{Sandbox, Services, Targets};
use super::trap;
use super::{Exports, PluginStatus, Plugins, Version, linker};
use crate::config::valid::Plugin;
use crate::error::{PLUGIN_INVALID, PLUGIN_MISSING};
use crate::model::{Clock, Digest, UnixMs};

/// Room for both versions during a swap, trials, and plugins that a config reload adds.
const SPARE_INSTANCES: usize = 64;
/// Each takes 4 GiB of address space; x86-64 has 128 TiB.
const MOST_INSTANCES: usize = 4096;

pub struct RuntimeOptions {
    pub plugins: BTreeMap<String, Plugin>,
    /// Files outside of this folder are not loaded.
    pub plugins_dir: PathBuf,
    /// Compiled code; made with mode 0700. Nobody else may write there.
    pub cache_dir: PathBuf,
    pub max_wasm_bytes: u64,
    pub max_message_bytes: usize,
    pub clock: Arc<dyn Clock>,
    pub targets: Arc<dyn Targets>,
}

/// What a reload did.
#[derive(Debug, Clone)]
pub struct ReloadReport {
    pub plugin: String,
    pub old: Option<Digest>,
    /// What serves now: the new version, or still the old one.
    pub new: Option<Digest>,
    pub took: Duration,
    /// Why the file was refused.
    pub error: Option<Error>,
}

impl ReloadReport {
    /// Another version serves than before.
    pub fn swapped(&self) -> bool {
        self.old != self.new
    }
}

/// Handed to [`Runtime::on_reload`] for every swap and every refusal; not when the file is the one that serves, and not
/// for the same refusal twice in a row.
pub type ReloadEvent = ReloadReport;

type Callback = Arc<dyn Fn(&ReloadEvent) + Send + Sync>;

/// All plugins. Clones are the same runtime.
#[derive(Clone)]
pub struct Runtime {
    inner: Arc<Inner>,
}

struct Inner {
    engine: Arc<TickingEngine>,
    linker: Linker<Sandbox>,
    compiler: Compiler,
    services: Arc<Services>,
    plugins_dir: PathBuf,
    max_wasm_bytes: u64,
    entries: ArcSwap<BTreeMap<String, Arc<Entry>>>,
    callbacks: Mutex<Vec<Callback>>,
}

pub(super) struct Entry {
    name: String,
    settings: Arc<ArcSwap<Plugin>>,
    gate: ArcSwap<Gate>,
    current: ArcSwapOption<Loaded>,
    /// One reload of a plugin at a time, so that the last file wins.
    reloading: tokio::sync::Mutex<()>,
    notes: Mutex<Notes>,
}

#[derive(PartialEq, Eq)]
pub(super) struct Watched {
    pub(super) file: PathBuf,
    /// The only content that is accepted.
    pub(super) pin: Option<String>,
}

#[derive(Default, Clone)]
struct Notes {
    loaded_ms: Option<UnixMs>,
    stale: Option<String>,
    reloads: u64,
    failed_reloads: u64,
}

impl Entry {
    fn new(plugin: Plugin) -> Self {
        Self {
            name: plugin.name.clone(),
            gate: ArcSwap::from_pointee(Gate::new(&plugin.name, plugin.log_lines)),
            settings: Arc::new(ArcSwap::from_pointee(plugin)),
            current: ArcSwapOption::empty(),
            reloading: tokio::sync::Mutex::new(()),
            notes: Mutex::new(Notes::default()),
        }
    }

    fn note(&self, change: impl FnOnce(&mut Notes)) {
        change(&mut self.notes.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn notes(&self) -> Notes {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn status(&self) -> PluginStatus {
        let notes = self.notes();
        let current = self.current.load();
        let loaded = current.as_deref();
        PluginStatus {
            name: self.name.clone(),
            digest: loaded.map(|l| l.digest.to_string()),
            exports: loaded.map_or(Exports::default(), |l| l.exports),
            imports: loaded.map(Loaded::import_status).unwrap_or_default(),
            loaded_ms: notes.loaded_ms,
            stale: notes.stale,
            reloads: notes.reloads,
            failed_reloads: notes.failed_reloads,
        }
    }
}

impl Runtime {
    /// Makes the engine; loads nothing yet.
    ///
    /// # Errors
    /// The machine has no room for that many instances.
    pub fn start(options: RuntimeOptions) -> Result<Self, Error> {
        let wanted: usize = options.plugins.values().map(|p| p.instances.max(1)).sum();
        let instances = wanted
            .saturating_mul(2)
            .saturating_add(SPARE_INSTANCES)
            .min(MOST_INSTANCES);
        let engine = TickingEngine::start(u32::try_from(instances).unwrap_or(u32::MAX))?;
        let linker = linker::linker(&engine.engine).map_err(|e| {
            Error::new(
                PLUGIN_INVALID,
                format!("the host's own imports do not fit together: {e:#}"),
                "This is a fault of the host; please report it",
            )
        })?;
        let services = Services {
            clock: options.clock,
            targets: options.targets,
            fetch: Client::new(),
            max_message_bytes: options.max_message_bytes,
        };
        let entries = options
            .plugins
            .into_iter()
            .map(|(name, plugin)| (name, Arc::new(Entry::new(plugin))))
            .collect();
        let inner = Inner {
            engine: Arc::new(engine),
            linker,
            compiler: Compiler::new(Cache::open(&options.cache_dir)),
            services: Arc::new(services),
            plugins_dir: options.plugins_dir,
            max_wasm_bytes: options.max_wasm_bytes,
            entries: ArcSwap::from_pointee(entries),
            callbacks: Mutex::new(Vec::new()),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Reloads every plugin, in order of name. A plugin that cannot be loaded does not stop the others.
    pub async fn load_all(&self) -> Vec<ReloadReport> {
        let names: Vec<String> = self.inner.entries.load().keys().cloned().collect();
        let mut reports = Vec::with_capacity(names.len());
        for name in names {
            reports.push(self.reload(&name).await);
        }
        reports
    }

    /// Reads the plugin's file, and lets it serve from the next message on if it is sound. Otherwise what served goes on.
    pub async fn reload(&self, name: &str) -> ReloadReport {
        let started = Instant::now();
        let Some(entry) = self.inner.entries.load().get(name).cloned() else {
            let error = Error::new(
                PLUGIN_MISSING,
                format!("there is no plugin `{name}`"),
                format!("Add [plugins.{name}] or a route that names it to config/helix.toml"),
            );
            return ReloadReport {
                plugin: name.to_owned(),
                old: None,
                new: None,
                took: started.elapsed(),
                error: Some(error),
            };
        };
        let _turn = entry.reloading.lock().await;
        let old = entry.current.load().as_ref().map(|l| l.digest);
        let (new, error) = match self.inner.load_file(&entry, old).await {
            Ok(None) => (old, None),
            Ok(Some(loaded)) => {
                let new = loaded.digest;
                entry.current.store(Some(Arc::new(loaded)));
                (Some(new), None)
            }
            Err(error) => (old, Some(error)),
        };
        let report = ReloadReport {
            plugin: name.to_owned(),
            old,
            new,
            took: started.elapsed(),
            error,
        };
        let refusal = report.error.as_ref().map(Error::to_string);
        // The same file looked at again is no second failure.
        let refused = refusal.is_some() && refusal != entry.notes().stale;
        // Told before it shows in the status: who reads there that something happened finds it in the log and the metrics.
        if report.swapped() || refused {
            self.tell(&report);
        }
        let now = self.inner.services.clock.now_ms();
        entry.note(|notes| {
            notes.stale = refusal;
            notes.failed_reloads += u64::from(refused);
            if report.swapped() {
                notes.loaded_ms = Some(now);
                notes.reloads += u64::from(old.is_some());
            }
        });
        report
    }

    fn tell(&self, report: &ReloadEvent) {
        let callbacks = self
            .inner
            .callbacks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for callback in callbacks {
            callback(report);
        }
    }

    /// Takes over new settings. Grants and limits hold for calls that start from now on; plugins that are new or whose
    /// file or pin changed have to be loaded ([`Runtime::load_all`], or the watch does it); those that are gone serve no
    /// new message.
    pub fn replace_plugins(&self, plugins: BTreeMap<String, Plugin>) {
        let old = self.inner.entries.load_full();
        let mut entries = BTreeMap::new();
        for (name, plugin) in plugins {
            let entry = match old.get(&name) {
                Some(entry) => {
                    if **entry.settings.load() != plugin {
                        entry
                            .gate
                            .store(Arc::new(Gate::new(&plugin.name, plugin.log_lines)));
                        entry.settings.store(Arc::new(plugin));
                    }
                    entry.clone()
                }
                None => Arc::new(Entry::new(plugin)),
            };
            entries.insert(name, entry);
        }
        self.inner.entries.store(Arc::new(entries));
    }

    /// Called after every swap and every refusal, for log and metrics. Must not block.
    pub fn on_reload(&self, callback: impl Fn(&ReloadEvent) + Send + Sync + 'static) {
        self.inner
            .callbacks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::new(callback));
    }

    /// By name, what decides whether a plugin has to be loaded again.
    pub(super) fn files(&self) -> BTreeMap<String, Watched> {
        let entries = self.inner.entries.load();
        let watched = |entry: &Entry| {
            let settings = entry.settings.load();
            Watched {
                file: settings.file.clone(),
                pin: settings.digest.clone(),
            }
        };
        entries
            .iter()
            .map(|(name, entry)| (name.clone(), watched(entry)))
            .collect()
    }

    pub(super) fn plugins_dir(&self) -> &Path {
        &self.inner.plugins_dir
    }

    /// The file is away; what serves goes on.
    pub(super) fn file_removed(&self, name: &str) {
        if let Some(entry) = self.inner.entries.load().get(name) {
            entry.note(|n| {
                n.stale = Some("the file was removed; the version loaded from it goes on serving".into());
            });
        }
    }

    /// What `plugin inspect` and `check` show: everything a reload would do, except the swap.
    ///
    /// # Errors
    /// Why a reload would refuse these bytes.
    pub async fn inspect(&self, bytes: Vec<u8>, plugin: Plugin) -> Result<PluginStatus, Error> {
        let entry = Entry::new(plugin);
        let loaded = self.inner.load(&entry, Source::new(bytes)).await?;
        entry.current.store(Some(Arc::new(loaded)));
        Ok(entry.status())
    }
}

impl Inner {
    /// None = the file is what serves.
    async fn load_file(&self, entry: &Entry, serving: Option<Digest>) -> Result<Option<Loaded>, Error> {
        let folder = self.plugins_dir.clone();
        let file = entry.settings.load().file.clone();
        let limit = self.max_wasm_bytes;
        let read = tokio::task::spawn_blocking(move || component::read(&folder, &file, limit));
        let source = read
            .await
            .map_err(|e| Error::new(PLUGIN_INVALID, format!("reading failed: {e}"), "Try again"))??;
        component::check_pin(&entry.settings.load(), source.digest)?;
        if serving == Some(source.digest) {
            return Ok(None);
        }
        self.load(entry, source).await.map(Some)
    }

    async fn load(&self, entry: &Entry, source: Source) -> Result<Loaded, Error> {
        let (mould, imports) = self
            .mould(source, entry.gate.load_full(), self.services.clone())
            .await?;
        self.start(mould, imports, &entry.name, entry.settings.clone())
            .await
    }

    /// Compiled and checked: what instances are made from, and the interfaces it imports.
    async fn mould(
        &self,
        source: Source,
        gate: Arc<Gate>,
        services: Arc<Services>,
    ) -> Result<(Mould, Vec<String>), Error> {
        let digest = source.digest;
        let component = self.compiler.compile(&self.engine.engine, source).await?;
        let checked = component::check(&self.linker, &component)?;
        let imports = |name: &str| checked.imports.iter().any(|import| import.starts_with(name));
        let reaches_out = imports("helix:messaging/fetch@") || imports("wasi:http/outgoing-handler@");
        let speaks = reaches_out || imports("helix:messaging/publisher@");
        let mould = Mould {
            pre: checked.pre,
            indices: checked.indices,
            digest,
            services,
            gate,
            speaks,
            reaches_out,
        };
        Ok((mould, checked.imports))
    }

    /// Tried before it serves; a sound one waits warm for the first message.
    async fn start(
        &self,
        mould: Mould,
        imports: Vec<String>,
        name: &str,
        settings: Arc<ArcSwap<Plugin>>,
    ) -> Result<Loaded, Error> {
        let first = Instance::start(&mould, settings.load_full())
            .await
            .map_err(|fault| untried(name, fault))?;
        Ok(Loaded {
            digest: mould.digest,
            exports: mould.indices.exports(),
            imports,
            pool: Pool::new(mould, settings, Some(first)),
            _engine: self.engine.clone(),
        })
    }
}

fn untried(name: &str, fault: StartFault) -> Error {
    let starts = "Make it start without input, time or rights: constructors run before any grant";
    match fault {
        StartFault::Guest(fault, log) => {
            let text = trap::outcome(fault, &log, START_LIMIT)
                .failure()
                .map(|f| f.reason.clone())
                .unwrap_or_default();
            Error::new(
                PLUGIN_INVALID,
                format!("plugin `{name}` failed while it started: {text}"),
                starts,
            )
        }
        StartFault::Contract(text) => component::contract(&text),
        StartFault::Room(text) => Error::new(
            PLUGIN_INVALID,
            format!("no room for another instance: {text}"),
            "Lower `instances` of the plugins and restart the host",
        ),
    }
}

impl Plugins for Runtime {
    fn current(&self, plugin: &str) -> Option<Arc<dyn Version>> {
        let loaded = self.inner.entries.load().get(plugin)?.current.load_full()?;
        Some(loaded)
    }

    fn list(&self) -> Vec<PluginStatus> {
        self.inner
            .entries
            .load()
            .values()
            .map(|entry| entry.status())
            .collect()
    }
}

/// Checks one component without a running host: `plugin inspect`, `check`.
///
/// # Errors
/// Why the host would refuse it.
pub async fn inspect(bytes: Vec<u8>, plugin: Plugin, cache_dir: &Path) -> Result<PluginStatus, Error> {
    struct Nowhere;
    impl Targets for Nowhere {
        fn resolve(&self, _: crate::model::MessageKind, _: &str) -> Option<Arc<str>> {
            None
        }
        fn exists(&self, _: crate::model::MessageKind, _: &str) -> bool {
            false
        }
    }
    let runtime = Runtime::start(RuntimeOptions {
        plugins: BTreeMap::new(),
        plugins_dir: PathBuf::new(),
        cache_dir: cache_dir.to_owned(),
        max_wasm_bytes: u64::MAX,
        max_message_bytes: 1 << 20,
        clock: Arc::new(crate::model::SystemClock),
        targets: Arc::new(Nowhere),
    })?;
    component::check_pin(&plugin, Source::new(bytes.clone()).digest)?;
    runtime.inspect(bytes, plugin).await
}
