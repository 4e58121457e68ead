//! A durable broker on one SQLite file: for one machine, for development, for the outbox.
//!
//! ```text
//!  publisher ─▶ inbox ─▶ writer thread ─▶ one transaction per batch, fsync ─▶ confirms
//!                 ▲                          │ after the commit
//!   acks, offsets │                          ▼
//!  source ◀─ reads rows ◀─ claims ◀─ queue (ready window) · log (ledger per partition)
//! ```
//!
//! Claims write nothing; a crash makes them ready again, in the same order, flagged as redelivered where they may have
//! run. One process owns the folder.

mod batch;
mod housekeeping;
mod inbox;
mod ledger;
mod log;
mod partitioner;
mod publisher;
mod queue;
mod ready;
mod row;
mod scan;
mod schema;
mod source;
mod topology;
mod writer;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::{Semaphore, oneshot};

use self::inbox::{Control, Inbox};
use self::log::Topic;
use self::queue::Queue;
use super::{
    Broker, Capabilities, Error, Health, Publisher, Scan, Source, Subscription, Topology as TopologyTrait,
};
use crate::config::valid;
use crate::error::BROKER_STORAGE;
use crate::model::{BrokerKind, Clock};

pub use self::partitioner::{murmur2, partition_of};

/// The embedded broker. Dropping it without [`Broker::close`] is like a crash: what waits is not written.
pub struct Embedded {
    core: Arc<Core>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What publishers, sources and the writer share.
struct Core {
    name: Arc<str>,
    group: String,
    formats: valid::Formats,
    clock: Arc<dyn Clock>,
    file: PathBuf,
    inbox: Inbox,
    /// KiB that may wait in the inbox.
    room: Arc<Semaphore>,
    catalog: RwLock<Catalog>,
    health: Mutex<Health>,
    phase: Mutex<Phase>,
    commits: AtomicU64,
    /// Sources so far.
    sources: AtomicU64,
    readers: Mutex<Vec<Connection>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Open,
    Closed,
    Failed(String),
}

struct Catalog {
    queues: HashMap<Arc<str>, Arc<Queue>>,
    topics: HashMap<Arc<str>, Arc<Topic>>,
}

impl Embedded {
    /// Opens the broker's folder (`options.path`; a path that ends in `.db` names the file itself), creates what is
    /// missing, and starts the writer thread. Takes milliseconds whatever the backlog.
    ///
    /// # Errors
    /// [`Error::Storage`] when the folder cannot be used, another process owns it, the file is of another version, or the
    /// linked SQLite is too old.
    pub fn open(
        name: &str,
        options: &valid::Embedded,
        formats: valid::Formats,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        let file = schema::database_file(&options.path);
        let lock = schema::lock(&file)?;
        let db = schema::open_writer(&file)?;
        let catalog = schema::load(&db, &file, &options.group)?;
        let core = Arc::new(Core {
            name: name.into(),
            group: options.group.clone(),
            formats,
            clock,
            file,
            inbox: Inbox::default(),
            room: Arc::new(Semaphore::new(publisher::ROOM_KIB)),
            catalog: RwLock::new(catalog),
            health: Mutex::new(Health::Up),
            phase: Mutex::new(Phase::Open),
            commits: AtomicU64::new(0),
            sources: AtomicU64::new(0),
            readers: Mutex::new(Vec::new()),
        });
        let cannot = |error: &dyn std::fmt::Display| {
            schema::storage(
                &core.file,
                "the embedded broker cannot start",
                error,
                "check the disk",
            )
        };
        let writer = writer::Writer::new(Arc::clone(&core), db, lock).map_err(|e| cannot(&e))?;
        let thread = std::thread::Builder::new().name("helix-broker".into());
        let thread = thread.spawn(move || writer.run()).map_err(|e| cannot(&e))?;
        Ok(Self {
            core,
            writer: Mutex::new(Some(thread)),
        })
    }

    /// Commits with messages or settlements so far; many messages share one.
    pub fn commits(&self) -> u64 {
        self.core.commits.load(Ordering::Relaxed)
    }
}

/// Known without opening anything.
pub const CAPABILITIES: Capabilities = Capabilities {
    kind: BrokerKind::Embedded,
    tasks: true,
    events: true,
    shared: false,
    key_order_shared: false,
    priorities: true,
    delays: true,
    scan: true,
    redelivery_flag: true,
    tombstones: true,
};

#[async_trait]
impl Broker for Embedded {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.core.name)
    }

    fn capabilities(&self) -> Capabilities {
        CAPABILITIES
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn Source>, Error> {
        Ok(Box::new(
            source::EmbeddedSource::open(Arc::clone(&self.core), subscription).await?,
        ))
    }

    fn publisher(&self) -> Arc<dyn Publisher> {
        Arc::new(publisher::EmbeddedPublisher(Arc::clone(&self.core)))
    }

    fn topology(&self) -> Arc<dyn TopologyTrait> {
        Arc::new(topology::EmbeddedTopology(Arc::clone(&self.core)))
    }

    fn scan(&self) -> Option<Arc<dyn Scan>> {
        Some(Arc::new(scan::EmbeddedScan(Arc::clone(&self.core))))
    }

    fn health(&self) -> Health {
        guard(&self.core.health).clone()
    }

    async fn close(&self) {
        let (reply, answer) = oneshot::channel();
        if self.core.inbox.control(Control::Close(reply)).is_ok() {
            // An error means that the writer stopped by itself; it has said why.
            let _ = answer.await;
        }
        let writer = guard(&self.writer).take();
        if let Some(writer) = writer {
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let writer = guard(&self.writer).take();
        if let Some(writer) = writer {
            self.core.inbox.stop();
            // At most one commit long; afterwards the folder is free.
            let _ = writer.join();
        }
    }
}

impl Core {
    fn catalog(&self) -> RwLockReadGuard<'_, Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn catalog_mut(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.catalog.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self, name: &str) -> Option<Arc<Queue>> {
        self.catalog().queues.get(name).cloned()
    }

    fn topic(&self, name: &str) -> Option<Arc<Topic>> {
        self.catalog().topics.get(name).cloned()
    }

    fn has_unsettled_runs(&self) -> bool {
        let catalog = self.catalog();
        catalog.queues.values().any(|q| q.has_unsettled_runs())
            || catalog.topics.values().any(|t| t.has_unsettled_runs())
    }

    fn set_health(&self, health: Health) {
        let mut now = guard(&self.health);
        if *now == health {
            return;
        }
        match &health {
            Health::Up => tracing::info!(broker = %self.name, "the embedded broker writes again"),
            Health::Degraded { reason } => tracing::warn!(broker = %self.name, "{reason}"),
            // Logged with its cause by whoever ended it.
            Health::Down { .. } => {}
        }
        *now = health;
    }

    /// Ok(true): closed in good order. Err: the writer stopped, and why.
    fn is_closed(&self) -> Result<bool, Error> {
        match &*guard(&self.phase) {
            Phase::Open => Ok(false),
            Phase::Closed => Ok(true),
            Phase::Failed(reason) => Err(Error::Storage(reason.clone())),
        }
    }

    fn closed(&self) {
        self.end(Phase::Closed, "closed".into());
    }

    fn failed(&self, reason: &str) {
        let what = "the embedded broker stopped after an error of its disk or file";
        let next = "nothing unconfirmed counts as stored; check the disk, then start helix again";
        let reason = format!(
            "{BROKER_STORAGE} {what} ({}): {reason}; {next}",
            self.file.display()
        );
        self.end(Phase::Failed(reason.clone()), reason);
    }

    /// The first end counts.
    fn end(&self, phase: Phase, reason: String) {
        let mut now = guard(&self.phase);
        if *now == Phase::Open {
            if let Phase::Failed(reason) = &phase {
                tracing::error!(broker = %self.name, "{reason}");
            }
            *now = phase;
            self.set_health(Health::Down { reason });
        }
        drop(now);
        let catalog = self.catalog();
        catalog.queues.values().for_each(|q| q.ready.notify_waiters());
        catalog.topics.values().for_each(|t| t.ready.notify_waiters());
    }

    /// Hands a control to the writer and waits for its answer.
    async fn ask(&self, control: Control, answer: oneshot::Receiver<Result<(), Error>>) -> Result<(), Error> {
        let stopped = || Error::Storage(format!("{BROKER_STORAGE} the embedded broker has stopped"));
        self.inbox.control(control).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Runs a read on a blocking thread with a connection of its own.
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Core, &Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let core = Arc::clone(self);
        let work = move || {
            let idle = guard(&core.readers).pop();
            let db = match idle {
                Some(db) => db,
                None => schema::open_reader(&core.file)?,
            };
            let result = read(&core, &db);
            let result = result.map_err(|e| {
                schema::storage(&core.file, "reading failed", schema::cause(&e), "check the disk")
            })?;
            guard(&core.readers).push(db);
            Ok(result)
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|error| Error::Other(error.to_string()))?
    }
}

/// A panic elsewhere leaves consistent data behind these locks: every change under them is one assignment or insertion.
fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// SQLite's integers are signed; no key, offset or time of ours reaches the sign.
fn sql(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn unsql(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}
