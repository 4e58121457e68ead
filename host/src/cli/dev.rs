//! `helix dev`: build, run, watch the sources, rebuild; the host swaps the plugin while messages flow.

mod build;
mod keys;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use notify_debouncer_full::{DebounceEventResult, new_debouncer, notify};
use tokio::sync::mpsc;

use super::{Exit, Global, load, output, run};
use crate::app::App;
use crate::config;
use crate::telemetry::logs;
use build::Project;

#[derive(Debug, Args)]
pub struct Dev {
    /// Address of the HTTP API
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Log filter
    #[arg(
        long,
        value_name = "FILTER",
        default_value = "warn,helix_host::dispatch=debug,helix_host::guest=info,helix_host::app=info"
    )]
    log: String,
}

/// Editors write a file in several steps; a build starts when they have been quiet for so long.
const QUIET: Duration = Duration::from_millis(150);

impl Dev {
    pub async fn run(self, global: &Global) -> Result<(), Exit> {
        logs::install(&self.log, false);
        let flags = self
            .listen
            .map(|listen| ("listen".to_owned(), listen))
            .into_iter()
            .collect();
        let request = load::request(global, flags)?;
        let loaded = config::load(request.clone())?;
        let project = Project::here(&request.cwd, &loaded.settings)?;
        if let Some(project) = &project {
            project
                .build()
                .await
                .map_err(|text| Exit::failed(format!("the handler does not build:\n{text}")))?;
        }
        let (app, tasks) = App::start(loaded, request).await?;
        banner(&app, project.as_ref())?;
        let (changed, changes) = mpsc::channel(1);
        let watcher = project
            .as_ref()
            .map(|project| watch(project, changed))
            .transpose()?;
        let rebuild = tokio::spawn(rebuild(project.clone(), changes));
        let quit = keys::listen(Arc::clone(&app));
        tokio::select! {
            _ = run::signal() => {}
            () = quit => {}
            () = app.failed() => {}
        }
        drop(watcher);
        rebuild.abort();
        app.stop(tasks).await;
        Ok(())
    }
}

type Watcher =
    notify_debouncer_full::Debouncer<notify::RecommendedWatcher, notify_debouncer_full::RecommendedCache>;

fn watch(project: &Project, changed: mpsc::Sender<()>) -> Result<Watcher, Exit> {
    let failed = |error: notify::Error| Exit::failed(format!("cannot watch the sources: {error}"));
    let mut debouncer = new_debouncer(QUIET, None, move |events: DebounceEventResult| {
        let touched = events.is_ok_and(|events| events.iter().any(|event| !event.kind.is_access()));
        if touched {
            // Full means a build is asked for already.
            let _ = changed.try_send(());
        }
    })
    .map_err(failed)?;
    for path in project.sources() {
        debouncer
            .watch(&path, notify::RecursiveMode::Recursive)
            .map_err(failed)?;
    }
    Ok(debouncer)
}

async fn rebuild(project: Option<Project>, mut changes: mpsc::Receiver<()>) {
    let Some(project) = project else { return };
    while changes.recv().await.is_some() {
        if let Err(text) = project.build().await {
            tracing::error!("the handler does not build, the last good version serves:\n{text}");
        }
    }
}

fn banner(app: &App, project: Option<&Project>) -> Result<(), Exit> {
    let settings = app.settings();
    let state = settings.host.state_dir.display();
    output::line(&format!(
        "  Helix {} · dev mode · not for production",
        env!("CARGO_PKG_VERSION")
    ))?;
    output::line(&format!(
        "  Broker    tasks {}, events {} (state in {state}, kept between runs)",
        settings.tasks_broker, settings.events_broker
    ))?;
    output::line(&format!(
        "  API       http://{0}/v1/messaging   Metrics http://{0}/metrics",
        app.address()
    ))?;
    for route in &settings.routes {
        output::line(&format!(
            "  Route     {} {} {} -> {}   retry {}x {:?}..{:?}",
            route.kind.as_str(),
            route.destination,
            route.message_type,
            route.plugin,
            route.retry.max_retries,
            route.retry.delay,
            route.retry.max_delay
        ))?;
    }
    let mut watched: Vec<String> = project
        .map(|p| p.sources().iter().map(|s| short(s)).collect())
        .unwrap_or_default();
    watched.push(format!("{}/", settings.host.plugins_dir.display()));
    output::line(&format!("  Watching  {}", watched.join(" ")))?;
    output::line("  Type t to send a test message, r to reload the configuration, q to quit (and Enter)")
}

fn short(path: &Path) -> String {
    path.file_name().map_or_else(
        || PathBuf::from(path).display().to_string(),
        |name| name.to_string_lossy().into_owned(),
    )
}
