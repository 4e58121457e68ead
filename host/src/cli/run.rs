//! `helix run`: the host, until SIGTERM or ctrl-c, then a drain; a second signal ends it at once.

use std::sync::Arc;

use clap::Args;

use super::{Exit, Global, load};
use crate::app::App;
use crate::config;
use crate::telemetry::logs;

#[derive(Debug, Args)]
pub struct Run {
    /// Address of the HTTP API, e.g. `127.0.0.1:7061`; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Where the embedded broker, the store and the cache of compiled plugins live
    #[arg(long, value_name = "DIR")]
    state_dir: Option<String>,
    /// The drop folder
    #[arg(long, value_name = "DIR")]
    plugins_dir: Option<String>,
    /// Log filter, e.g. `debug` or `helix_host=debug`
    #[arg(long, value_name = "FILTER")]
    log: Option<String>,
    /// Log lines as JSON
    #[arg(long)]
    log_json: bool,
}

impl Run {
    pub async fn run(self, global: &Global) -> Result<(), Exit> {
        let flags = [
            ("listen", self.listen),
            ("state-dir", self.state_dir),
            ("plugins-dir", self.plugins_dir),
            ("log", self.log),
        ];
        let flags = flags
            .into_iter()
            .filter_map(|(name, value)| Some((name.to_owned(), value?)))
            .collect();
        let request = load::request(global, flags)?;
        let loaded = config::load(request.clone())?;
        logs::install(&loaded.settings.host.log, self.log_json);
        let (app, tasks) = App::start(loaded, request).await?;
        announce(&app);
        let reason = until_stopped(&app).await?;
        tracing::info!(reason, "stopping");
        let drained = app.stop(tasks);
        tokio::pin!(drained);
        tokio::select! {
            () = &mut drained => {}
            _ = signal() => return Err(Exit::failed("stopped at the second signal; what was running will be delivered again")),
        }
        if reason == FATAL {
            Err(Exit::failed(
                "a task failed that the host cannot do without; see the log",
            ))
        } else {
            Ok(())
        }
    }
}

const FATAL: &str = "a task failed";

async fn until_stopped(app: &App) -> Result<&'static str, Exit> {
    tokio::select! {
        name = signal() => name.map_err(|error| Exit::failed(format!("cannot listen for signals: {error}"))),
        () = app.failed() => Ok(FATAL),
    }
}

pub(super) async fn signal() -> std::io::Result<&'static str> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result.map(|()| "ctrl-c"),
        _ = terminate.recv() => Ok("SIGTERM"),
    }
}

pub(super) fn announce(app: &Arc<App>) {
    let settings = app.settings();
    tracing::info!(
        http = %format!("http://{}", app.address()),
        tasks = %settings.tasks_broker,
        events = %settings.events_broker,
        routes = settings.routes.len(),
        plugins = %settings.host.plugins_dir.display(),
        state = %settings.host.state_dir.display(),
        "helix {} runs", env!("CARGO_PKG_VERSION")
    );
}
