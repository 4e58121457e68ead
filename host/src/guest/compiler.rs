//! Compiles components off the dispatch path, behind everything else that wants the processor.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use wasmtime::Engine;
use wasmtime::component::Component;

use super::cache::Cache;
use super::component::{Source, check_header, invalid};
use super::error::Error;
use crate::error::PLUGIN_INVALID;

/// Python components took up to 53 s on a loaded machine, before compiling had a lower priority.
const LIMIT: Duration = Duration::from_secs(300);
/// Traffic keeps its cores while a version is made ready. Where another thread wants the core all the time, a tenth of it is
/// left (Linux's weights: 110 to 1024); at 5 the p99 of traffic rose by a third while versions were swapped.
const NICE: i32 = 10;

/// One component at a time, on as many threads as there are cores.
pub(super) struct Compiler {
    cache: Arc<Cache>,
    one: Arc<Semaphore>,
    /// None: no threads of our own could be had; the compiler takes what there is.
    threads: Option<Arc<rayon::ThreadPool>>,
}

impl Compiler {
    pub(super) fn new(cache: Cache) -> Self {
        Self {
            cache: Arc::new(cache),
            one: Arc::new(Semaphore::new(1)),
            threads: threads()
                .inspect_err(
                    |error| tracing::warn!(%error, "plugins are compiled at the priority of everything else"),
                )
                .ok()
                .map(Arc::new),
        }
    }

    pub(super) async fn compile(&self, engine: &Engine, source: Source) -> Result<Component, Error> {
        check_header(&source.bytes)?;
        let stuck = || {
            Error::new(
                PLUGIN_INVALID,
                format!("compiling {} took more than {LIMIT:?}", source.digest),
                "Make the component smaller, or compile when the machine is less busy",
            )
        };
        let stuck_error = stuck();
        let permit = self.one.clone().acquire_owned().await.map_err(|_| stuck())?;
        let (engine, cache, threads) = (engine.clone(), self.cache.clone(), self.threads.clone());
        let work = tokio::task::spawn_blocking(move || {
            // Held until the work ends, even when nobody waits for it any more.
            let _permit = permit;
            if let Some(component) = cache.load(&engine, source.digest) {
                return Ok(component);
            }
            let compile = || {
                let component = Component::from_binary(&engine, &source.bytes)
                    .map_err(|error| invalid(&source.bytes, &error))?;
                cache.store(&engine, source.digest, &component);
                Ok(component)
            };
            match threads {
                // wasmtime spreads its work over the pool it is called in.
                Some(threads) => threads.install(compile),
                None => compile(),
            }
        });
        match tokio::time::timeout(LIMIT, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(panic)) => Err(Error::new(
                PLUGIN_INVALID,
                format!("the compiler failed: {panic}"),
                "This is a fault of the host; please report it with the file",
            )),
            Err(_) => Err(stuck_error),
        }
    }
}

fn threads() -> Result<rayon::ThreadPool, rayon::ThreadPoolBuildError> {
    rayon::ThreadPoolBuilder::new()
        .thread_name(|n| format!("compile-{n}"))
        .start_handler(|_| {
            // SAFETY: plain integers. On Linux 0 is the calling thread alone (setpriority(2), "C library/kernel
            // differences"). A refusal leaves the priority as it is.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, NICE) };
        })
        .build()
}
