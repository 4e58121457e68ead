//! The composition root: the only file that names concrete brokers and stores. Start order, reload, stop order.

mod dead_letters;
mod gauges;
mod letters;
mod reload;
mod replays;
mod store;
mod targets;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::broker::embedded::{self, Embedded};
use crate::broker::kafka::{self, Kafka};
use crate::broker::rabbitmq::{self, RabbitMq};
use crate::broker::{Broker, Capabilities, Comparison};
use crate::config::valid::{self, Settings};
use crate::config::{Faults, LoadRequest, Loaded};
use crate::dispatch::{self, Context, Dispatcher};
use crate::dlq;
use crate::guest::{self, Plugins};
use crate::http::{self, Api, Gate, Tokens};
use crate::model::{Clock, Digest, MessageKind, Outgoing, SystemClock, UuidIds};
use crate::replay;
use crate::tasks::{Kind, Tasks};
use crate::telemetry::Metrics;

/// A running host.
pub struct App {
    settings: ArcSwap<Settings>,
    request: LoadRequest,
    files: Vec<PathBuf>,
    runtime: guest::Runtime,
    targets: Arc<targets::Known>,
    brokers: HashMap<Arc<str>, Arc<dyn Broker>>,
    store: store::Store,
    dispatcher: Arc<Dispatcher>,
    context: Arc<Context>,
    metrics: Arc<Metrics>,
    stale_config: Arc<ArcSwapOption<String>>,
    /// `[dlq] edit`, as it is now.
    dlq_edit: Arc<AtomicBool>,
    /// `[dlq.auto]`, as it is now.
    dlq_auto: watch::Sender<Option<Arc<valid::DlqAuto>>>,
    /// How long dead letters are kept, as it is now.
    dlq_keep: watch::Sender<valid::Keep>,
    address: SocketAddr,
    /// Ends everything but dispatch, after it.
    tokens: Arc<ArcSwap<Tokens>>,
    stop: CancellationToken,
    /// A task failed that the host cannot do without.
    fatal: CancellationToken,
    stopping: CancellationToken,
    /// No job over dead letters has one under way any more.
    jobs_idle: CancellationToken,
    /// The host itself has no dead letter under way any more.
    auto_idle: CancellationToken,
    /// No replay has a batch under way any more.
    replays_idle: CancellationToken,
    /// No dead letter of a broker is in hand any more, and no copy of one is being sent.
    dead_letters_idle: Vec<CancellationToken>,
    /// Held as long as the host lives.
    _lock: std::fs::File,
}

/// Why a host did not start. Faults of the configuration exit with 3, the rest with 1.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Config(#[from] Faults),
    #[error("{0}")]
    Failed(String),
}

fn failed(what: &str, error: impl std::fmt::Display) -> StartError {
    StartError::Failed(format!("cannot {what}: {error}"))
}

/// The host's own tasks get this long after dispatch has drained.
const JOIN_LIMIT: Duration = Duration::from_secs(5);

impl App {
    /// Everything that can be wrong is found before the first message is pulled.
    ///
    /// # Errors
    /// A promise no broker can keep, a port that is taken, a state folder that cannot be used.
    pub async fn start(loaded: Loaded, request: LoadRequest) -> Result<(Arc<Self>, Tasks), StartError> {
        let settings = &loaded.settings;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let metrics = Arc::new(Metrics::new().map_err(|error| failed("register metrics", error))?);
        // First of all: what says "in use" should be this, and not a file of the broker or a port.
        let lock = lock_state(&settings.host.state_dir)?;
        let brokers = connect(settings, &clock)?;
        loaded.check_promises(|name| capabilities(&brokers, name))?;
        let tokens = tokens(settings);
        let listener = bind(settings.host.listen, &tokens).await?;
        let address = listener
            .local_addr()
            .map_err(|error| failed("read the HTTP address", error))?;
        let store = store::Store::open(settings, Arc::clone(&clock), &UuidIds).await?;
        let targets = Arc::new(targets::Known::new(settings));
        let runtime = guest::Runtime::start(guest::RuntimeOptions {
            plugins: settings.plugins.clone(),
            plugins_dir: settings.host.plugins_dir.clone(),
            cache_dir: settings.host.state_dir.join("cache"),
            max_wasm_bytes: settings.limits.wasm_bytes,
            max_message_bytes: settings.limits.message_bytes,
            clock: Arc::clone(&clock),
            targets: Arc::clone(&targets) as Arc<dyn guest::Targets>,
        })
        .map_err(|error| failed("start the guest runtime", error))?;
        let fatal = CancellationToken::new();
        let context = Arc::new(Context::new(dispatch::Parts {
            clock: Arc::clone(&clock),
            ids: Arc::new(UuidIds),
            random: Box::new(random),
            metrics: Arc::clone(&metrics),
            plugins: Arc::new(runtime.clone()),
            retries: Arc::clone(&store.retries),
            letters: Arc::clone(&store.letters),
            held: Arc::clone(&store.held),
            targets: publishers(settings, &brokers)?,
            limits: settings.limits.clone(),
            unrouted: settings.unrouted,
            own_brokers: brokers
                .iter()
                .filter(|(_, broker)| !broker.capabilities().shared)
                .map(|(name, _)| Arc::clone(name))
                .collect(),
            fatal: fatal.clone(),
        }));
        let dispatcher = Arc::new(
            Dispatcher::start(Arc::clone(&context))
                .await
                .map_err(|error| failed("read parked retries", error))?,
        );
        let dead_letters_idle = dead_letters::idle(settings, &brokers);
        let app = Arc::new(Self {
            settings: ArcSwap::from_pointee(settings.clone()),
            // The file that was found is the one that is read again: when it is gone, no other place is looked at.
            request: LoadRequest {
                path: loaded.files.first().cloned().or(request.path),
                ..request
            },
            files: loaded.files.clone(),
            runtime,
            targets,
            brokers,
            store,
            dispatcher,
            context,
            metrics,
            stale_config: Arc::new(ArcSwapOption::empty()),
            dlq_edit: Arc::new(AtomicBool::new(settings.dlq_edit)),
            dlq_auto: watch::Sender::new(settings.dlq_auto.clone().map(Arc::new)),
            dlq_keep: watch::Sender::new(settings.dlq_keep),
            address,
            tokens: Arc::new(ArcSwap::from_pointee(tokens)),
            stop: CancellationToken::new(),
            fatal,
            stopping: CancellationToken::new(),
            jobs_idle: CancellationToken::new(),
            auto_idle: CancellationToken::new(),
            replays_idle: CancellationToken::new(),
            dead_letters_idle,
            _lock: lock,
        });
        app.follow_plugins();
        // Before anybody can ask for them.
        gauges::of_store(&app).await;
        app.prepare().await;
        let tasks = app.spawn(listener, clock);
        Ok((app, tasks))
    }

    fn spawn(self: &Arc<Self>, listener: tokio::net::TcpListener, clock: Arc<dyn Clock>) -> Tasks {
        let settings = self.settings.load_full();
        let mut tasks = Tasks::new(self.fatal.clone());
        let replays = Arc::new(replays::desk(self, &clock));
        let redrive = Arc::new(letters::redrive(self, &clock));
        let nudge = Arc::new(tokio::sync::Notify::new());
        if settings.host.messaging {
            tasks.spawn(Kind::Jobs, letters::runner(self, &redrive, &nudge).run());
            tasks.spawn(Kind::AutoRedrive, letters::auto(self, &redrive).run());
        } else {
            self.jobs_idle.cancel();
            self.auto_idle.cancel();
        }
        tasks.spawn(Kind::Keep, letters::keep(self, &clock).run(self.stop.clone()));
        let swept = Arc::clone(&clock);
        // The envelope around the payload: names, ids, headers, base64 of a binary payload.
        let body_limit = settings.limits.message_bytes.saturating_mul(4) / 3 + 64 * 1024;
        let wasm_limit = usize::try_from(settings.limits.wasm_bytes).unwrap_or(usize::MAX);
        dead_letters::spawn(self, &clock, &mut tasks);
        let api = Arc::new(Api {
            brokers: self.brokers.clone(),
            targets: self.context.targets.clone(),
            plugins: Arc::new(self.runtime.clone()),
            candidates: Arc::new(self.runtime.clone()),
            letters: Arc::clone(&self.store.letters),
            auto: Arc::clone(&self.store.auto),
            held: Arc::clone(&self.store.held),
            redrive,
            jobs: Arc::clone(&self.store.jobs),
            nudge,
            retries: Arc::clone(&self.store.retries),
            replays: Arc::clone(&replays),
            dispatcher: Arc::clone(&self.dispatcher),
            metrics: Arc::clone(&self.metrics),
            clock,
            ids: Arc::new(UuidIds),
            tokens: Arc::clone(&self.tokens),
            gate: Gate::new(body_limit, wasm_limit),
            audit: Arc::clone(&self.store.audit),
            stale_config: Arc::clone(&self.stale_config),
            dlq_edit: Arc::clone(&self.dlq_edit),
            rehearsing: dlq::rehearse::Turn::default(),
            messaging: settings.host.messaging,
            body_limit,
            message_limit: settings.limits.message_bytes,
            wasm_limit,
            stopping: self.stopping.clone(),
        });
        tasks.spawn(Kind::Http, http::serve(listener, api, self.stop.clone()));
        let app = Arc::clone(self);
        tasks.spawn(Kind::PluginWatch, async move { app.load_and_watch().await });
        tasks.spawn(Kind::ConfigWatch, reload::watch(Arc::clone(self)));
        tasks.spawn(Kind::Gauges, gauges::run(Arc::clone(self)));
        let audit = Arc::clone(&self.store.audit);
        tasks.spawn(
            Kind::Audit,
            http::audit::forget(audit, Arc::new(SystemClock), self.stop.clone()),
        );
        let letters = Arc::clone(&self.store.letters);
        tasks.spawn(Kind::Sweep, dlq::sweep::run(letters, self.stop.clone()));
        // Without messaging there are no routes, and nothing is known about them.
        if settings.host.messaging {
            let (stopping, idle) = (self.stopping.clone(), self.replays_idle.clone());
            tasks.spawn(Kind::Replay, async move {
                let ended = replay::runner::run(replays, stopping).await;
                idle.cancel();
                ended
            });
            let sweep = dlq::parked::Sweep {
                letters: Arc::clone(&self.store.letters),
                held: Arc::clone(&self.store.held),
                routes: letters::routes(self),
                clock: swept,
            };
            tasks.spawn(Kind::Sweep, sweep.run(self.stop.clone()));
        } else {
            self.replays_idle.cancel();
        }
        tasks
    }

    /// Before anybody can publish: queues and topics of the embedded broker, routes, intake.
    async fn prepare(&self) {
        let settings = self.settings.load_full();
        if settings.host.messaging {
            self.create_own_topology(&settings).await;
            self.dispatcher.apply(&settings, &self.brokers);
        } else {
            tracing::warn!("messaging is switched off (MESSAGING_ENABLED=false): health and metrics only");
        }
    }

    /// Routes wait for their plugins; `/readyz` says so.
    async fn load_and_watch(self: Arc<Self>) -> Result<(), String> {
        self.runtime.load_all().await;
        self.dispatcher.plugins_changed();
        let watch = self.runtime.watch(self.stop.clone());
        watch.await.map_err(|error| format!("watch plugins: {error}"))
    }

    /// The embedded broker is ours alone: everything the topology names exists there. Real brokers get only what routes
    /// consume (at intake) or what `helix topology apply` is asked for.
    async fn create_own_topology(&self, settings: &Settings) {
        for destination in &settings.topology {
            let name = match destination.kind {
                MessageKind::Task => &settings.tasks_broker,
                MessageKind::Event => &settings.events_broker,
            };
            let embedded = matches!(settings.brokers.get(name), Some(valid::Broker::Embedded(_)));
            let Some(broker) = self.brokers.get(name.as_str()).filter(|_| embedded) else {
                continue;
            };
            let topology = broker.topology();
            let result = match topology.compare(destination).await {
                Ok(Comparison::Missing) => topology.create(destination).await,
                Ok(Comparison::Same | Comparison::Differs { .. }) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                tracing::error!(destination = %destination.name, %error, "cannot create it on the embedded broker (HX0204)");
            }
        }
    }

    fn follow_plugins(self: &Arc<Self>) {
        let dispatcher = Arc::downgrade(&self.dispatcher);
        let metrics = Arc::clone(&self.metrics);
        self.runtime.on_reload(move |event| {
            let plugin = event.plugin.as_str();
            match &event.error {
                None => {
                    tracing::info!(plugin, old = %short(event.old), new = %short(event.new), took_ms = %event.took.as_millis(), "plugin swapped in");
                    metrics.plugin_reloads.with_label_values(&[plugin]).inc();
                    if let Some(old) = &event.old {
                        let _ = metrics.plugin_info.remove_label_values(&[plugin, &old.to_string()]);
                    }
                    if let Some(new) = &event.new {
                        metrics.plugin_info.with_label_values(&[plugin, &new.to_string()]).set(1.0);
                    }
                }
                Some(error) => {
                    match event.new {
                        Some(serving) => tracing::error!(plugin, %error, serving = %serving.short(), "plugin file refused; the last good version serves"),
                        None => tracing::error!(plugin, %error, "plugin file refused; no version serves, its messages wait"),
                    }
                    metrics.plugin_reload_failures.with_label_values(&[plugin]).inc();
                }
            }
            if let Some(dispatcher) = dispatcher.upgrade() {
                dispatcher.plugins_changed();
            }
        });
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    pub fn plugins(&self) -> Vec<guest::PluginStatus> {
        self.runtime.list()
    }

    /// What `t` in `helix dev` sends: an empty JSON object to the first route.
    ///
    /// # Errors
    /// Says why the broker did not take it.
    pub async fn send_test_message(&self) -> Result<String, String> {
        let settings = self.settings.load();
        let route = settings.routes.first().ok_or("there is no route")?;
        let (_, publisher) = self.context.targets.of(route.kind);
        let now = self.context.clock.now_ms();
        let message = Outgoing {
            kind: route.kind,
            destination: Arc::clone(&route.destination.0),
            id: self.context.ids.next(),
            message_type: if route.message_type.is_literal() {
                route.message_type.to_string()
            } else {
                "test".to_owned()
            },
            payload: bytes::Bytes::from_static(b"{}"),
            tombstone: false,
            content_type: Some("application/json".to_owned()),
            schema: None,
            source: Some("helix dev".to_owned()),
            subject: None,
            priority: None,
            key: None,
            time_ms: now,
            not_before_ms: None,
            deadline_ms: None,
            correlation_id: None,
            reply_to: None,
            trace: None,
            headers: crate::model::Headers::new(),
        };
        let sent = format!("{} to {}", message.message_type, message.destination);
        match publisher.publish(vec![message]).await.pop() {
            Some(Ok(_)) => Ok(sent),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("no answer".to_owned()),
        }
    }

    /// Resolves when a task failed that the host cannot do without.
    pub async fn failed(&self) {
        self.fatal.cancelled().await;
    }

    /// Not ready → stop pulling → finish what runs → settle → leave the brokers → stop serving.
    pub async fn stop(&self, mut tasks: Tasks) {
        let limit = self.settings.load().host.drain;
        self.stopping.cancel();
        tracing::info!(limit_s = limit.as_secs(), "draining");
        let jobs = tokio::time::timeout(limit, self.jobs_idle.cancelled());
        let auto = tokio::time::timeout(limit, self.auto_idle.cancelled());
        let replays = tokio::time::timeout(limit, self.replays_idle.cancelled());
        // Those that are not idle by then are taken up again at the next start.
        let others = async {
            for idle in &self.dead_letters_idle {
                idle.cancelled().await;
            }
        };
        let others = tokio::time::timeout(limit, others);
        let _ = tokio::join!(self.dispatcher.drain(limit), jobs, auto, replays, others);
        for broker in self.brokers.values() {
            broker.close().await;
        }
        self.stop.cancel();
        tasks.join(JOIN_LIMIT).await;
        self.store.close().await;
        tracing::info!("stopped");
    }
}

fn short(digest: Option<Digest>) -> String {
    digest.map_or_else(|| "none".to_owned(), |digest| digest.short())
}

/// One host per state folder: two would take each other's parked retries.
fn lock_state(state_dir: &std::path::Path) -> Result<std::fs::File, StartError> {
    let path = state_dir.join("host.lock");
    std::fs::create_dir_all(state_dir).map_err(|error| failed("make the state folder", error))?;
    let file =
        std::fs::File::create(&path).map_err(|error| failed(&format!("open {}", path.display()), error))?;
    file.try_lock().map_err(|_| {
        StartError::Failed(format!(
            "another host runs with the state folder {}; stop it, or choose another with --state-dir",
            state_dir.display()
        ))
    })?;
    Ok(file)
}

fn tokens(settings: &Settings) -> Tokens {
    let mut tokens = Tokens::default();
    for token in &settings.host.tokens {
        tokens.add(
            token.secret.expose_secret(),
            &token.name,
            token.role,
            token.payloads,
        );
    }
    tokens
}

async fn bind(address: SocketAddr, tokens: &Tokens) -> Result<tokio::net::TcpListener, StartError> {
    if !http::may_bind(address, tokens) {
        return Err(StartError::Failed(format!(
            "HX0506: [host] listen = \"{address}\" is reachable from other machines and no token is set; \
             set [host] token = \"env:HELIX_API_TOKEN\", or listen on 127.0.0.1"
        )));
    }
    tokio::net::TcpListener::bind(address).await.map_err(|error| {
        StartError::Failed(format!(
            "cannot listen on {address}: {error}; another host may be running (`helix run --listen 127.0.0.1:0` takes a free port)"
        ))
    })
}

/// Builds the brokers that something uses. None of them fails because its server is away.
pub(crate) fn connect(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
) -> Result<HashMap<Arc<str>, Arc<dyn Broker>>, StartError> {
    let mut used: std::collections::BTreeSet<&str> =
        settings.routes.iter().map(|route| &*route.broker).collect();
    used.insert(&settings.tasks_broker);
    used.insert(&settings.events_broker);
    let mut brokers: HashMap<Arc<str>, Arc<dyn Broker>> = HashMap::new();
    for (name, options) in settings
        .brokers
        .iter()
        .filter(|(name, _)| used.contains(name.as_str()))
    {
        let formats = settings.formats.clone();
        let broker: Result<Arc<dyn Broker>, crate::broker::Error> = match options {
            valid::Broker::Embedded(options) => Embedded::open(name, options, formats, Arc::clone(clock))
                .map(|b| Arc::new(b) as Arc<dyn Broker>),
            valid::Broker::RabbitMq(options) => {
                RabbitMq::new(name, options, formats).map(|b| Arc::new(b) as Arc<dyn Broker>)
            }
            valid::Broker::Kafka(options) => {
                Kafka::new(name, options, formats).map(|b| Arc::new(b) as Arc<dyn Broker>)
            }
        };
        let broker = broker.map_err(|error| failed(&format!("use broker `{name}`"), error))?;
        brokers.insert(name.as_str().into(), broker);
    }
    Ok(brokers)
}

/// docs/openapi.json, generated.
pub fn openapi() -> String {
    http::openapi::text()
}

/// What a broker that is not there can do.
pub(crate) const NO_CAPABILITIES: Capabilities = Capabilities {
    kind: crate::model::BrokerKind::Embedded,
    tasks: false,
    events: false,
    shared: false,
    key_order_shared: false,
    priorities: false,
    delays: false,
    scan: false,
    redelivery_flag: false,
    tombstones: false,
};

fn capabilities(brokers: &HashMap<Arc<str>, Arc<dyn Broker>>, name: &str) -> Capabilities {
    brokers
        .get(name)
        .map_or(NO_CAPABILITIES, |broker| broker.capabilities())
}

/// What the configured brokers can do, without connecting to any or opening a file.
pub(crate) fn declared_capabilities(settings: &Settings) -> HashMap<String, Capabilities> {
    settings
        .brokers
        .iter()
        .map(|(name, options)| {
            let capabilities = match options {
                valid::Broker::Embedded(_) => embedded::CAPABILITIES,
                valid::Broker::RabbitMq(options) => rabbitmq::capabilities(options.single_active_consumer),
                valid::Broker::Kafka(_) => kafka::CAPABILITIES,
            };
            (name.clone(), capabilities)
        })
        .collect()
}

fn publishers(
    settings: &Settings,
    brokers: &HashMap<Arc<str>, Arc<dyn Broker>>,
) -> Result<dispatch::Targets, StartError> {
    let find = |name: &str| {
        brokers
            .get(name)
            .map(|broker| (broker.name(), broker.publisher()))
            .ok_or_else(|| StartError::Failed(format!("no broker named `{name}`")))
    };
    Ok(dispatch::Targets {
        tasks: find(&settings.tasks_broker)?,
        events: find(&settings.events_broker)?,
    })
}

/// Jitter needs no quality: the low bits of a random UUID.
fn random() -> f64 {
    let bits = uuid::Uuid::now_v7().as_u128() & u128::from(u32::MAX);
    f64::from(u32::try_from(bits).unwrap_or_default()) / f64::from(u32::MAX)
}
