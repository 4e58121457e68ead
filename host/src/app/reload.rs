//! Reload of the configuration: all or nothing. A bad file leaves the last good one serving and says so everywhere.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use secrecy::ExposeSecret;

use super::{App, capabilities, tokens};
use crate::config::valid::Settings;
use crate::config::{self, Faults};
use crate::http;

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
        let later = at_next_start(&old, &settings);
        if !later.is_empty() {
            tracing::warn!(
                settings = %later.join(", "),
                "these changes take effect at the next start of the host; everything else serves now"
            );
        }
        // What was not taken over must not look as if it were.
        settings.brokers = old.brokers.clone();
        self.runtime.replace_plugins(settings.plugins.clone());
        self.targets.replace(&settings);
        self.context.unrouted.store(Arc::new(settings.unrouted));
        let tokens = tokens(&settings);
        if http::may_bind(self.address, &tokens) {
            self.tokens.store(Arc::new(tokens));
        } else {
            tracing::error!(
                "the configuration has no token any more, and other machines reach the API: the old tokens stay; listen on 127.0.0.1 and start the host again to do without (HX0506)"
            );
        }
        self.dlq_edit.store(settings.dlq_edit, Ordering::Relaxed);
        self.dlq_auto.send_if_modified(|auto| {
            let differs = auto.as_deref() != settings.dlq_auto.as_ref();
            *auto = settings.dlq_auto.clone().map(Arc::new);
            differs
        });
        self.dlq_keep.send_if_modified(|keep| {
            let differs = *keep != settings.dlq_keep;
            *keep = settings.dlq_keep;
            differs
        });
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

/// Settings that are read once, when the host starts, and differ now.
fn at_next_start(old: &Settings, new: &Settings) -> Vec<&'static str> {
    let store = |settings: &Settings| {
        let url = settings
            .store
            .url
            .as_ref()
            .map(|url| url.expose_secret().to_owned());
        (url, settings.store.schema.clone())
    };
    let differs = |a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| format!("{a:?}") != format!("{b:?}");
    let all = [
        ("[brokers]", differs(&old.brokers, &new.brokers)),
        ("[limits]", differs(&old.limits, &new.limits)),
        ("[[formats]]", differs(&old.formats, &new.formats)),
        ("host.listen", old.host.listen != new.host.listen),
        ("host.state_dir", old.host.state_dir != new.host.state_dir),
        ("host.plugins_dir", old.host.plugins_dir != new.host.plugins_dir),
        ("host.log", old.host.log != new.host.log),
        ("[store]", store(old) != store(new)),
        ("messaging.enabled", old.host.messaging != new.host.messaging),
        ("messaging.tasks", old.tasks_broker != new.tasks_broker),
        ("messaging.events", old.events_broker != new.events_broker),
        ("dlq.adopt", old.dlq_adopt != new.dlq_adopt),
        ("dlq.export", old.dlq_export != new.dlq_export),
    ];
    all.into_iter()
        .filter_map(|(name, changed)| changed.then_some(name))
        .collect()
}
