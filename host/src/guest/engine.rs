//! The wasmtime engine of this host and the thread that advances its epoch.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use wasmtime::{
    Config, Enabled, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig, Strategy,
};

use super::error::Error;
use crate::error::PLUGIN_INVALID;

/// A guest that computes gives way to others this often, and is stopped at most this late.
const TICK: Duration = Duration::from_millis(2);

/// Address space for one memory. 4 GiB lets Cranelift leave bounds checks out; less costs 20-30 % on JSON.
const RESERVATION: u64 = 4 << 30;

const WASM_STACK: usize = 512 << 10;
const FIBER_STACK: usize = 2 << 20;

/// Kept mapped in a free slot, so that reuse is a memset instead of madvise and page faults.
const KEEP_RESIDENT: usize = 2 << 20;

/// Core instances and tables in one component: adapters and shims of Python and JavaScript components stay below 40.
const CORE_INSTANCES: u32 = 64;

/// An engine that ticks. Stopping is dropping it: the thread is joined.
pub(super) struct TickingEngine {
    pub(super) engine: Engine,
    _ticker: Ticker,
}

impl TickingEngine {
    /// `instances` is the most components alive at a time.
    pub(super) fn start(instances: u32) -> Result<Self, Error> {
        let engine = Engine::new(&config(instances)).map_err(|e| {
            Error::new(
                PLUGIN_INVALID,
                format!("the WebAssembly engine cannot reserve room for {instances} instances: {e:#}"),
                "Lower `instances` of the plugins, or raise the limit of virtual memory (ulimit -v)",
            )
        })?;
        let ticker = Ticker::start(&engine)?;
        Ok(Self {
            engine,
            _ticker: ticker,
        })
    }
}

fn config(instances: u32) -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES))
        .total_memories(instances.saturating_mul(2))
        .total_tables(instances.saturating_mul(6).max(CORE_INSTANCES))
        .total_stacks(instances)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(8)
        .max_tables_per_component(CORE_INSTANCES)
        .max_component_instance_size(4 << 20)
        .max_core_instance_size(4 << 20)
        // The limiter of each store decides; componentize-py needs 5,674.
        .table_elements(64 << 10)
        .linear_memory_keep_resident(KEEP_RESIDENT)
        .table_keep_resident(64 << 10);
    // With the ioctl (Linux 6.7) a fresh instance costs 9.6 us instead of 18 and scales over threads.
    if PoolingAllocationConfig::is_pagemap_scan_available() {
        pool.pagemap_scan(Enabled::Yes);
    } else {
        pool.decommit_batch_size(32);
    }

    let mut config = Config::new();
    config
        .strategy(Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        // Leaves cores to the dispatch path while a big component (Python: 12 s) compiles.
        .parallel_compilation(false)
        // The machinery for WASI 0.3 costs 1.8x on every call, and the contract is synchronous.
        .concurrency_support(false)
        .epoch_interruption(true)
        .consume_fuel(false)
        .wasm_component_model(true)
        .memory_reservation(RESERVATION)
        .max_wasm_stack(WASM_STACK)
        .async_stack_size(FIBER_STACK)
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    config
}

struct Ticker {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    fn start(engine: &Engine) -> Result<Self, Error> {
        let stop = Arc::new(AtomicBool::new(false));
        let weak = engine.weak();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("helix-epoch".into())
            .spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    std::thread::park_timeout(TICK);
                    match weak.upgrade() {
                        Some(engine) => engine.increment_epoch(),
                        None => break,
                    }
                }
            })
            .map_err(|e| {
                Error::new(
                    PLUGIN_INVALID,
                    format!("no thread could be started to time handlers out: {e}"),
                    "Raise the limit of processes (ulimit -u)",
                )
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the epoch thread panicked");
            }
        }
    }
}
