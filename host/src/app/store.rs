//! Opens the store that is configured, and hands it on as what the rooms know of it.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{StartError, failed};
use crate::config::valid::Settings;
use crate::error::{STORE_STORAGE, STORE_UNREACHABLE};
use crate::model::{Clock, Ids};
use crate::store::postgres::{self, PostgresStore};
use crate::store::sqlite::SqliteStore;
use crate::store::{
    Audit, AutoLetters, DeadLetters, Error, Exports, HeldKeys, Jobs, KeepLetters, Replays, Retries,
};

/// How long a start waits for a database that is away: a restart or a failover of it, or a whole site that starts at once.
/// Not for ever: whoever started the host hears of it and starts it again. And not "ready later": what waits in the store comes
/// before what waits on the brokers, so before it is read nothing can be pulled, and there is nothing to serve.
const PATIENCE: Duration = Duration::from_secs(60);
const AGAIN: Duration = Duration::from_secs(1);
/// A stop does not wait longer for a store that is away.
const LET_GO: Duration = Duration::from_secs(2);

/// The store, whichever it is.
pub(super) struct Store {
    pub retries: Arc<dyn Retries>,
    pub letters: Arc<dyn DeadLetters>,
    pub held: Arc<dyn HeldKeys>,
    pub exports: Arc<dyn Exports>,
    pub auto: Arc<dyn AutoLetters>,
    pub keep: Arc<dyn KeepLetters>,
    pub audit: Arc<dyn Audit>,
    pub jobs: Arc<dyn Jobs>,
    pub replays: Arc<dyn Replays>,
    engine: Engine,
}

enum Engine {
    Sqlite(SqliteStore),
    Postgres(PostgresStore),
}

impl Store {
    /// What an earlier run of this host had claimed is due again.
    pub(super) async fn open(
        settings: &Settings,
        clock: Arc<dyn Clock>,
        ids: &dyn Ids,
    ) -> Result<Self, StartError> {
        let state_dir = &settings.host.state_dir;
        let opened = match &settings.store.url {
            None => SqliteStore::open(&state_dir.join("store.db"), clock)
                .await
                .map(Self::sqlite),
            Some(url) => {
                let options = postgres::Options {
                    url: url.clone(),
                    schema: settings.store.schema.clone(),
                    host: host_name(state_dir, ids)?.into(),
                };
                let open = || PostgresStore::open(&options, Arc::clone(&clock));
                patiently(open, |error| matches!(error, Error::Away { .. }))
                    .await
                    .map(Self::postgres)
            }
        };
        let store = opened.map_err(|error| {
            let code = match error {
                Error::Away { .. } => STORE_UNREACHABLE,
                _ => STORE_STORAGE,
            };
            StartError::Failed(format!("{error} ({code})"))
        })?;
        if settings.host.messaging {
            let export = &settings.dlq_export;
            store
                .exports
                .export(export.tasks.is_some(), export.events.is_some());
        }
        store.take_back().await?;
        Ok(store)
    }

    fn sqlite(store: SqliteStore) -> Self {
        Self {
            retries: Arc::new(store.clone()),
            letters: Arc::new(store.clone()),
            held: Arc::new(store.clone()),
            exports: Arc::new(store.clone()),
            auto: Arc::new(store.clone()),
            keep: Arc::new(store.clone()),
            audit: Arc::new(store.clone()),
            jobs: Arc::new(store.clone()),
            replays: Arc::new(store.clone()),
            engine: Engine::Sqlite(store),
        }
    }

    fn postgres(store: PostgresStore) -> Self {
        Self {
            retries: Arc::new(store.clone()),
            letters: Arc::new(store.clone()),
            held: Arc::new(store.clone()),
            exports: Arc::new(store.clone()),
            auto: Arc::new(store.clone()),
            keep: Arc::new(store.clone()),
            audit: Arc::new(store.clone()),
            jobs: Arc::new(store.clone()),
            replays: Arc::new(store.clone()),
            engine: Engine::Postgres(store),
        }
    }

    /// A database may go away in between, or another session may have the rows locked: a host that was killed in the middle of a
    /// change, one whose transaction is slow. Nothing but the file's owner comes between a host and its file.
    async fn take_back(&self) -> Result<(), StartError> {
        let (passes, code) = match self.engine {
            Engine::Sqlite(_) => (false, STORE_STORAGE),
            Engine::Postgres(_) => (true, STORE_UNREACHABLE),
        };
        patiently(|| self.reclaim(), |_| passes)
            .await
            .map(drop)
            .map_err(|error| failed("take leases of the last run back", format!("{error} ({code})")))
    }

    async fn reclaim(&self) -> Result<u64, Error> {
        match &self.engine {
            Engine::Sqlite(store) => store.reclaim().await,
            Engine::Postgres(store) => store.reclaim().await,
        }
    }

    /// Nothing of this process acts on what it has claimed any more: others that share the store need not wait for its leases.
    pub(super) async fn close(&self) {
        match tokio::time::timeout(LET_GO, self.reclaim()).await {
            Ok(Ok(_)) => {}
            // Who reads this has been told before that the store is away.
            Ok(Err(error)) => {
                tracing::info!(%error, "what this host has claimed in the store is free when its leases end");
            }
            Err(_) => tracing::info!("what this host has claimed in the store is free when its leases end"),
        }
        match &self.engine {
            Engine::Sqlite(store) => store.close().await,
            Engine::Postgres(store) => store.close().await,
        }
    }
}

/// Tries again while what is in the way may pass, for [`PATIENCE`].
async fn patiently<T, F>(attempt: impl Fn() -> F, passes: impl Fn(&Error) -> bool) -> Result<T, Error>
where
    F: Future<Output = Result<T, Error>>,
{
    let since = Instant::now();
    let mut said = false;
    loop {
        let error = match attempt().await {
            Err(error) if passes(&error) && since.elapsed() < PATIENCE => error,
            decided => return decided,
        };
        if !said {
            said = true;
            tracing::warn!(%error, patience_s = PATIENCE.as_secs(), "waiting for the store; nothing is pulled before it answers ({STORE_UNREACHABLE})");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// A name of this host for as long as its state folder lasts: leases in a shared database say whose they are, and after a
/// crash their host takes them back at once. Whoever has no folder that lasts waits until they run out.
fn host_name(state_dir: &Path, ids: &dyn Ids) -> Result<String, StartError> {
    let path = state_dir.join("host.id");
    let cannot = |error| {
        failed(
            &format!("keep the name of this host in {}", path.display()),
            error,
        )
    };
    match std::fs::read_to_string(&path) {
        Ok(name) if !name.trim().is_empty() => return Ok(name.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(cannot(error)),
    }
    let name = ids.next();
    // Whole or not at all: half a name would be another host's.
    let draft = path.with_extension("id.new");
    std::fs::write(&draft, &name).map_err(cannot)?;
    std::fs::rename(&draft, &path).map_err(cannot)?;
    Ok(name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::model::UuidIds;

    #[test]
    fn a_host_keeps_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let name = host_name(folder.path(), &UuidIds).unwrap();
        assert_eq!(host_name(folder.path(), &UuidIds).unwrap(), name);
        std::fs::write(folder.path().join("host.id"), "\n").unwrap();
        let other = host_name(folder.path(), &UuidIds).unwrap();
        assert!(!other.is_empty() && other != name);
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = host_name(&file, &UuidIds).unwrap_err().to_string();
        assert!(error.contains("host.id"), "{error}");
    }
}
