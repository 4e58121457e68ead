//! What one instance can see of the host: the data of its store.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use super::fetch::Client;
use super::grants::Denial;
use super::limits::Limits;
use super::log::{Capture, Gate, Stream};
use super::outgoing_http::OutgoingHttp;
use crate::config::valid::Plugin;
use crate::model::{Clock, Digest, Envelope, MessageKind, Outgoing, TraceContext};

/// Where messages of guests go: the topology, as the guest runtime needs to know it.
pub trait Targets: Send + Sync + 'static {
    /// The queue or topic that messages of this type are sent to when the guest names none.
    fn resolve(&self, kind: MessageKind, message_type: &str) -> Option<Arc<str>>;
    /// Is there a queue (task) or topic (event) of this name?
    fn exists(&self, kind: MessageKind, name: &str) -> bool;
}

/// What all instances of this host share.
pub(super) struct Services {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) targets: Arc<dyn Targets>,
    pub(super) fetch: Client,
    /// Largest single message.
    pub(super) max_message_bytes: usize,
}

pub(super) struct Sandbox {
    wasi: WasiCtx,
    table: ResourceTable,
    http: WasiHttpCtx,
    hooks: OutgoingHttp,
    pub(super) limits: Limits,
    pub(super) log: Capture,
    pub(super) plugin: Arc<Plugin>,
    pub(super) digest: Digest,
    pub(super) services: Arc<Services>,
    pub(super) call: Call,
}

/// The call that runs now.
pub(super) struct Call {
    pub(super) deadline: Instant,
    /// Several messages at once: outputs must say which one they belong to.
    pub(super) batch: bool,
    pub(super) inputs: Vec<Input>,
    pub(super) staged: Vec<(usize, Outgoing)>,
    pub(super) denied: Denied,
    pub(super) withheld: Withheld,
}

/// The first refusal of a call. Shared with requests that run beside the guest.
#[derive(Clone, Default)]
pub(super) struct Denied(Arc<Mutex<Option<Denial>>>);

impl Denied {
    pub(super) fn record(&self, denial: &Denial) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| denial.clone());
    }

    pub(super) fn take(&self) -> Option<Denial> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The first place that a call wanted to reach during a rehearsal. Shared as [`Denied`] is.
#[derive(Clone, Default)]
pub(super) struct Withheld(Arc<Mutex<Option<String>>>);

impl Withheld {
    pub(super) fn record(&self, place: String) {
        let mut first = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert(place);
    }

    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What the host has to know about a message to stamp what is published for it.
pub(super) struct Input {
    pub(super) id: String,
    pub(super) correlation_id: Option<String>,
    pub(super) trace: Option<TraceContext>,
    pub(super) outputs: u32,
    pub(super) bytes: u64,
}

impl Input {
    pub(super) fn of(envelope: &Envelope) -> Self {
        Self {
            id: envelope.id.clone(),
            correlation_id: envelope.correlation_id.clone(),
            trace: envelope.trace.clone(),
            outputs: 0,
            bytes: 0,
        }
    }
}

impl Sandbox {
    pub(super) fn new(plugin: Arc<Plugin>, digest: Digest, services: Arc<Services>, gate: Arc<Gate>) -> Self {
        let log = Capture::new(gate);
        let mut wasi = WasiCtxBuilder::new();
        // No preopens, no arguments, stdin at its end; addresses and names are refused by default, said here all the same.
        wasi.stdout(log.stream(Stream::Stdout))
            .stderr(log.stream(Stream::Stderr))
            .allow_tcp(false)
            .allow_udp(false)
            .allow_ip_name_lookup(false)
            .max_random_size(64 << 10);
        for (name, value) in &plugin.env {
            wasi.env(name, value);
        }
        let mut table = ResourceTable::new();
        table.set_max_capacity(plugin.handles);
        let denied = Denied::default();
        let withheld = Withheld::default();
        Self {
            wasi: wasi.build(),
            table,
            http: WasiHttpCtx::new(),
            hooks: OutgoingHttp::new(plugin.clone(), services.clone(), denied.clone(), withheld.clone()),
            limits: Limits::new(&plugin),
            log,
            plugin,
            digest,
            services,
            call: Call {
                deadline: Instant::now(),
                batch: false,
                inputs: Vec::new(),
                staged: Vec::new(),
                denied,
                withheld,
            },
        }
    }

    /// Called before the guest is entered.
    pub(super) fn begin(&mut self, deadline: Instant, batch: bool, inputs: Vec<Input>) {
        let trace = inputs.first().and_then(|input| input.trace.clone());
        self.hooks.begin(deadline, trace);
        self.limits.memory_refused = false;
        self.call.deadline = deadline;
        self.call.batch = batch;
        self.call.inputs = inputs;
    }

    pub(super) fn remaining(&self) -> Duration {
        self.call.deadline.saturating_duration_since(Instant::now())
    }

    /// The trace that requests belong to: that of the message, or of the first in a batch.
    pub(super) fn trace(&self) -> Option<TraceContext> {
        self.call.inputs.first().and_then(|input| input.trace.clone())
    }
}

impl WasiView for Sandbox {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView {
            ctx: &mut self.wasi,
            table: &mut self.table,
        }
    }
}

impl WasiHttpView for Sandbox {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView {
            ctx: &mut self.http,
            table: &mut self.table,
            hooks: &mut self.hooks,
        }
    }
}
