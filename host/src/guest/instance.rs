//! One live instance of a component: made, entered for one call at a time, thrown away after a fault.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wasmtime::component::InstancePre;
use wasmtime::{Store, UpdateDeadline};

use super::bindings::exports::helix::messaging::{
    event_batch_handler, event_handler, packed_handler, task_handler,
};
use super::bindings::helix::messaging::messages;
use super::log::{Gate, Stream};
use super::sandbox::{Input, Sandbox, Services};
use super::trap::{self, DeadlinePassed, Fault};
use super::{Exports, Invocation, convert, packed};
use crate::config::valid::Plugin;
use crate::model::{Digest, Outgoing};
use crate::planted::{self, Bug};

/// Making an instance runs guest code (constructors, engines of JavaScript); Python takes 1 ms.
pub(super) const START_LIMIT: Duration = Duration::from_secs(5);

/// Memory that a warm instance keeps for the next packed batch; a hundred messages of 1 KiB need 150 KiB.
const BUFFER: usize = 256 << 10;

/// A guest that waits inside a host function is not reached by the epoch. So long after its deadline it is dropped.
const BACKSTOP: Duration = Duration::from_millis(25);

/// Where the handlers are inside the component.
#[derive(Clone)]
pub(super) struct Indices {
    pub(super) task: Option<task_handler::GuestIndices>,
    pub(super) event: Option<event_handler::GuestIndices>,
    pub(super) event_batch: Option<event_batch_handler::GuestIndices>,
    pub(super) packed: Option<packed_handler::GuestIndices>,
}

impl Indices {
    pub(super) fn exports(&self) -> Exports {
        Exports {
            task: self.task.is_some(),
            event: self.event.is_some(),
            event_batch: self.event_batch.is_some(),
            packed: self.packed.is_some(),
        }
    }
}

/// Which function to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    Task,
    Event,
    Batch,
    Packed,
}

/// Everything an instance is made from.
pub(super) struct Mould {
    pub(super) pre: InstancePre<Sandbox>,
    pub(super) indices: Indices,
    pub(super) digest: Digest,
    pub(super) services: Arc<Services>,
    pub(super) gate: Arc<Gate>,
    /// The guest can reach `publisher`, `fetch` or `wasi:http`: who the input is has to be kept.
    pub(super) speaks: bool,
    /// The guest can reach `fetch` or `wasi:http`: running it again has effects outside.
    pub(super) reaches_out: bool,
}

/// Why an instance could not be made.
pub(super) enum StartFault {
    /// The guest's own code failed.
    Guest(Fault, Vec<(Stream, String)>),
    /// A handler has another type than ours.
    Contract(String),
    /// The host has no room.
    Room(String),
}

pub(super) struct Instance {
    store: Store<Sandbox>,
    task: Option<task_handler::Guest>,
    event: Option<event_handler::Guest>,
    event_batch: Option<event_batch_handler::Guest>,
    packed: Option<packed_handler::Guest>,
    /// Packed batches are laid out here.
    buffer: Vec<u8>,
    pub(super) calls: u64,
}

/// What one entry into the guest brought.
pub(super) struct Ended {
    /// One per message, same order.
    pub(super) said: Result<Vec<packed::Said>, Fault>,
    pub(super) staged: Vec<(usize, Outgoing)>,
    pub(super) denied: Option<super::grants::Denial>,
    /// Where it wanted to and did not get, in a rehearsal.
    pub(super) withheld: Option<String>,
    pub(super) log: Vec<(Stream, String)>,
}

impl Instance {
    pub(super) async fn start(mould: &Mould, plugin: Arc<Plugin>) -> Result<Self, StartFault> {
        let fuel = mould.services.max_message_bytes.saturating_mul(4).max(1 << 20);
        let handles = plugin.handles;
        let sandbox = Sandbox::new(plugin, mould.digest, mould.services.clone(), mould.gate.clone());
        let mut store = Store::new(mould.pre.engine(), sandbox);
        store.limiter(|sandbox| &mut sandbox.limits);
        // Bytes that one host call may copy out of the guest; the default is 128 MiB.
        store.set_hostcall_fuel(fuel);
        store.set_max_component_handles(handles);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(|context| {
            let now = if planted::is(Bug::WallClockDeadline) {
                planted::wall_instant()
            } else {
                Instant::now()
            };
            if now >= context.data().call.deadline {
                Err(DeadlinePassed.into())
            } else {
                // tokio's yield lets the worker look at sockets and timers before this guest goes on. wasmtime's own wakes
                // at once, and tokio looks at them only every 61 polls: with a loop on each worker, every 61 ticks.
                Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
            }
        });
        let deadline = Instant::now() + START_LIMIT;
        store.data_mut().begin(deadline, false, Vec::new());
        let started = tokio::time::timeout_at(
            (deadline + BACKSTOP).into(),
            mould.pre.instantiate_async(&mut store),
        )
        .await;
        let instance = match started {
            Ok(Ok(instance)) => instance,
            Ok(Err(error)) if error.is::<wasmtime::PoolConcurrencyLimitError>() => {
                return Err(StartFault::Room(error.to_string()));
            }
            Ok(Err(error)) => {
                let sandbox = store.data();
                return Err(StartFault::Guest(
                    trap::classify(&error, sandbox.limits.memory_refused),
                    sandbox.log.take(),
                ));
            }
            Err(_) => return Err(StartFault::Guest(Fault::Timeout, store.data().log.take())),
        };
        let Indices {
            task,
            event,
            event_batch,
            packed,
        } = &mould.indices;
        let contract = |error: wasmtime::Error| StartFault::Contract(format!("{error:#}"));
        Ok(Self {
            task: task
                .as_ref()
                .map(|i| i.load(&mut store, &instance))
                .transpose()
                .map_err(contract)?,
            event: event
                .as_ref()
                .map(|i| i.load(&mut store, &instance))
                .transpose()
                .map_err(contract)?,
            event_batch: event_batch
                .as_ref()
                .map(|i| i.load(&mut store, &instance))
                .transpose()
                .map_err(contract)?,
            packed: packed
                .as_ref()
                .map(|i| i.load(&mut store, &instance))
                .transpose()
                .map_err(contract)?,
            store,
            buffer: Vec::new(),
            calls: 0,
        })
    }

    pub(super) fn plugin(&self) -> &Arc<Plugin> {
        &self.store.data().plugin
    }

    /// Past its number of calls or close to its memory limit.
    pub(super) fn worn_out(&self) -> bool {
        let sandbox = self.store.data();
        self.calls >= sandbox.plugin.calls_per_instance || sandbox.limits.nearly_full()
    }

    /// Enters the guest once. After a fault the instance must be dropped.
    pub(super) async fn run(
        &mut self,
        entry: Entry,
        batch: &[Invocation<'_>],
        limit: Duration,
        speaks: bool,
    ) -> Ended {
        self.calls += 1;
        let now = Instant::now();
        let deadline = now
            .checked_add(limit)
            .unwrap_or_else(|| now + Duration::from_secs(86_400));
        let inputs = if speaks {
            batch.iter().map(|i| Input::of(i.envelope)).collect()
        } else {
            Vec::new()
        };
        let many = matches!(entry, Entry::Batch | Entry::Packed);
        self.store.data_mut().begin(deadline, many, inputs);
        self.store.set_epoch_deadline(1);

        let result = tokio::time::timeout_at((deadline + BACKSTOP).into(), self.enter(entry, batch)).await;
        let sandbox = self.store.data_mut();
        let said = match result {
            Ok(Ok(said)) => said.map_err(|text| Fault::trap("trap.results", text)),
            Ok(Err(error)) => Err(trap::classify(&error, sandbox.limits.memory_refused)),
            Err(_) => Err(Fault::Timeout),
        };
        Ended {
            said,
            staged: std::mem::take(&mut sandbox.call.staged),
            denied: sandbox.call.denied.take(),
            withheld: sandbox.call.withheld.take(),
            log: sandbox.log.take(),
        }
    }

    /// The inner error is a result of the wrong shape.
    async fn enter(
        &mut self,
        entry: Entry,
        batch: &[Invocation<'_>],
    ) -> wasmtime::Result<Result<Vec<packed::Said>, String>> {
        let missing = || wasmtime::Error::msg("the component does not export that handler");
        let store = &mut self.store;
        match entry {
            Entry::Task => {
                let guest = self.task.as_ref().ok_or_else(missing)?;
                let invocation = batch.first().ok_or_else(missing)?;
                let headers = convert::header_list(invocation);
                let said = guest
                    .call_handle(store, convert::task(invocation, &headers))
                    .await?;
                Ok(Ok(vec![said.into()]))
            }
            Entry::Event => {
                let guest = self.event.as_ref().ok_or_else(missing)?;
                let invocation = batch.first().ok_or_else(missing)?;
                let headers = convert::header_list(invocation);
                let said = guest
                    .call_handle(store, convert::event(invocation, &headers))
                    .await?;
                Ok(Ok(vec![said.into()]))
            }
            Entry::Batch => {
                let guest = self.event_batch.as_ref().ok_or_else(missing)?;
                let headers: Vec<_> = batch.iter().map(convert::header_list).collect();
                let events: Vec<_> = batch
                    .iter()
                    .zip(&headers)
                    .map(|(i, h)| convert::event(i, h))
                    .collect();
                let said = guest.call_handle(store, &events).await?;
                if said.len() != batch.len() {
                    return Ok(Err(format!("{} results for {} events", said.len(), batch.len())));
                }
                Ok(Ok(said.into_iter().map(Into::into).collect()))
            }
            Entry::Packed => {
                let guest = self.packed.as_ref().ok_or_else(missing)?;
                packed::encode(&mut self.buffer, batch)
                    .ok_or_else(|| wasmtime::Error::msg("the batch is too large to pack"))?;
                let out = guest.call_handle(store, &self.buffer).await?;
                self.buffer.clear();
                self.buffer.shrink_to(BUFFER);
                Ok(packed::decode(&out, batch.len()))
            }
        }
    }
}

impl From<Result<(), messages::Failure>> for packed::Said {
    fn from(said: Result<(), messages::Failure>) -> Self {
        match said {
            Ok(()) => Self::Ok,
            Err(messages::Failure::Retry(r)) => Self::Retry {
                after_ms: r.after_ms,
                reason: r.reason,
                code: r.code,
            },
            Err(messages::Failure::Reject(r)) => Self::Reject {
                reason: r.reason,
                code: r.code,
            },
        }
    }
}
