//! Reload of the configuration: all or nothing. A bad file leaves the last good one serving and says so everywhere.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{App, capabilities};
use crate::config::valid::Settings;
use crate::config::{self, Faults};

/// How often the files' times are looked at. Polling works on NFS and on Kubernetes' symlink swaps too, and two files cost
/// nothing.
const POLL: Duration = Duration::from_millis(500);

pub(super) async fn watch(app: Arc<App>) -> Result<(), String> {
    let mut seen = stamps(&app.files);
    let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
        .map_err(|error| format!("listen for SIGHUP: {error}"))?;
    loop {
        tokio::select! {
            () = app.stop.cancelled() => return Ok(()),
            _ = hangup.recv() => {}
            () = tokio::time::sleep(POLL) => {
                let now = stamps(&app.files);
                if now == seen {
                    continue;
                }
                seen = now;
            }
        }
        match app.reload() {
            Ok(()) => tracing::info!("configuration reloaded"),
            Err(faults) => {
                tracing::error!("the configuration on disk was refused, the last good one serves:\n{faults}");
            }
        }
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<(SystemTime, u64)>> {
    files
        .iter()
        .map(|file| {
            std::fs::metadata(file)
                .ok()
                .and_then(|m| Some((m.modified().ok()?, m.len())))
        })
        .collect()
}

impl App {
    /// Reads the files again; either everything in them serves afterwards, or nothing changes.
    ///
    /// # Errors
    /// Every fault of the new configuration.
    pub fn reload(&self) -> Result<(), Faults> {
        let accepted = config::load(self.request.clone()).and_then(|loaded| {
            loaded.check_promises(|name| capabilities(&self.brokers, name))?;
            Ok(loaded.settings)
        });
        match accepted {
            Ok(settings) => {
                self.apply(settings);
                self.stale_config.store(None);
                self.metrics.config_generation.inc();
                Ok(())
            }
            Err(faults) => {
                let first = faults.0.first().map_or_else(String::new, |f| {
                    format!("{}: {} ({})", f.place, f.message, f.code)
                });
                self.stale_config.store(Some(Arc::new(first)));
                self.metrics.config_reload_failures.inc();
                Err(faults)
            }
        }
    }

    fn apply(&self, mut settings: Settings) {
        let old = self.settings.load_full();
        if format!("{:?}", old.brokers) != format!("{:?}", settings.brokers)
            || old.host.listen != settings.host.listen
            || old.host.state_dir != settings.host.state_dir
        {
            tracing::warn!(
                "changes under [brokers] and [host] take effect at the next start; everything else serves now"
            );
            settings.brokers = old.brokers.clone();
        }
        self.runtime.replace_plugins(settings.plugins.clone());
        self.targets.replace(&settings);
        self.context.unrouted.store(Arc::new(settings.unrouted));
        if settings.host.messaging {
            self.dispatcher.apply(&settings, &self.brokers);
        }
        // What is new, pinned anew, or was gone for a moment has to be read; the file itself did not change, so the watch
        // would not look.
        let (runtime, dispatcher) = (self.runtime.clone(), Arc::clone(&self.dispatcher));
        tokio::spawn(async move {
            runtime.load_all().await;
            dispatcher.plugins_changed();
        });
        self.settings.store(Arc::new(settings));
    }
}
