//! Warm instances of one version: lent to one call at a time, bounded, retired when worn out.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::instance::{Instance, Mould, StartFault};
use crate::config::valid::Plugin;

pub(super) struct Pool {
    pub(super) mould: Mould,
    /// The grants of now; an instance made under others is not lent again.
    settings: Arc<ArcSwap<Plugin>>,
    warm: Mutex<Vec<Instance>>,
    permits: Semaphore,
    /// Permits there are, lent ones included.
    size: AtomicUsize,
}

impl Pool {
    pub(super) fn new(mould: Mould, settings: Arc<ArcSwap<Plugin>>, first: Option<Instance>) -> Self {
        let size = settings.load().instances.max(1);
        Self {
            mould,
            settings,
            warm: Mutex::new(first.into_iter().collect()),
            permits: Semaphore::new(size),
            size: AtomicUsize::new(size),
        }
    }

    /// The right to have one instance at work. Waits while all are.
    pub(super) async fn permit(&self) -> Option<SemaphorePermit<'_>> {
        self.resize();
        // Never closed.
        self.permits.acquire().await.ok()
    }

    /// Follows `instances` of the settings, which may have been replaced.
    fn resize(&self) {
        let wanted = self.settings.load().instances.max(1);
        let size = self.size.load(Ordering::Relaxed);
        if wanted > size {
            if self
                .size
                .compare_exchange(size, wanted, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
            {
                self.permits.add_permits(wanted - size);
            }
        } else if wanted < size {
            // Those at work are taken away at a later call, when they have come back.
            let taken = self.permits.forget_permits(size - wanted);
            self.size.fetch_sub(taken, Ordering::Relaxed);
        }
    }

    /// The instance used last, or a new one. Its caches are warm, and those below it can go cold.
    pub(super) async fn lend(&self, fresh: bool) -> Result<Instance, StartFault> {
        let plugin = self.settings.load_full();
        if !fresh {
            while let Some(instance) = self.pop() {
                if Arc::ptr_eq(instance.plugin(), &plugin) {
                    return Ok(instance);
                }
            }
        }
        Instance::start(&self.mould, plugin).await
    }

    fn pop(&self) -> Option<Instance> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    pub(super) fn give_back(&self, instance: Instance) {
        if instance.worn_out() || !Arc::ptr_eq(instance.plugin(), &self.settings.load()) {
            return;
        }
        self.warm
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(instance);
    }

    pub(super) fn settings(&self) -> Arc<Plugin> {
        self.settings.load_full()
    }
}
