//! `helix plugin ls` asks the running host; `helix plugin inspect` looks into a file.

use std::path::PathBuf;

use clap::Subcommand;

use super::client::Client;
use super::output::{self, Format};
use super::{Exit, Global, call, load};
use crate::config::valid;
use crate::error;
use crate::guest::{self, PluginStatus};

#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// What serves: version, handlers, stale files
    Ls,
    /// Handlers, imports and grants of a component file or of a configured plugin
    Inspect {
        /// A .wasm file, or the name of a plugin of the configuration
        plugin: String,
    },
}

impl Plugin {
    pub async fn run(self, global: &Global) -> Result<(), Exit> {
        match self {
            Self::Ls => ls(global).await,
            Self::Inspect { plugin } => inspect(global, &plugin).await,
        }
    }
}

async fn ls(global: &Global) -> Result<(), Exit> {
    let list: Vec<PluginStatus> = Client::new(global)?.get("/v1/messaging/plugins", &[]).await?;
    if global.output == Format::Json {
        return output::json(&list);
    }
    let rows = list
        .iter()
        .map(|p| {
            let state = match (&p.digest, &p.stale) {
                (Some(_), Some(why)) => format!("STALE: {why}"),
                (None, Some(why)) => format!("REFUSED: {why}"),
                (None, None) => "loading".to_owned(),
                (Some(_), None) => "serving".to_owned(),
            };
            let denied: Vec<&str> = p
                .imports
                .iter()
                .filter(|i| !i.granted)
                .map(|i| i.interface.as_str())
                .collect();
            vec![
                p.name.clone(),
                p.digest.as_deref().map(short).unwrap_or_default(),
                handlers(p),
                state,
                if denied.is_empty() {
                    String::new()
                } else {
                    format!("not granted: {}", denied.join(", "))
                },
                format!("{} ok, {} refused", p.reloads, p.failed_reloads),
            ]
        })
        .collect();
    output::table(
        &["plugin", "digest", "handlers", "state", "imports", "loads"],
        rows,
    )
}

fn short(digest: &str) -> String {
    digest.chars().take("sha256:".len() + 12).collect()
}

fn handlers(status: &PluginStatus) -> String {
    let e = status.exports;
    [
        (e.task, "task"),
        (e.event, "event"),
        (e.event_batch, "event batch"),
        (e.packed, "packed"),
    ]
    .into_iter()
    .filter_map(|(has, name)| has.then_some(name))
    .collect::<Vec<_>>()
    .join(", ")
}

async fn inspect(global: &Global, plugin: &str) -> Result<(), Exit> {
    let as_file = PathBuf::from(plugin);
    let settings = load::load(global).ok().map(|loaded| loaded.settings);
    let configured = settings.as_ref().and_then(|s| {
        s.plugins
            .get(plugin)
            .or_else(|| {
                s.plugins
                    .values()
                    .find(|p| p.file.file_name() == as_file.file_name())
            })
            .cloned()
    });
    let name = as_file
        .file_stem()
        .map_or_else(|| plugin.to_owned(), |stem| stem.to_string_lossy().into_owned());
    let mut grants = configured.unwrap_or_else(|| valid::Plugin::without_grants(&name, as_file.clone()));
    if as_file.is_file() {
        grants.file = as_file;
    }
    if !grants.file.is_file() {
        return Err(
            Exit::invalid(format!("no file and no configured plugin named `{plugin}`"))
                .coded(error::PLUGIN_MISSING),
        );
    }
    let status = inspect_file(grants).await?;
    if global.output == Format::Json {
        return output::json(&status);
    }
    output::line(&format!("plugin    {}", status.name))?;
    output::line(&format!(
        "digest    {}",
        status.digest.as_deref().unwrap_or_default()
    ))?;
    output::line(&format!("handlers  {}", handlers(&status)))?;
    let rows = status
        .imports
        .iter()
        .map(|i| {
            let state = if i.granted { "granted" } else { "refused when used" };
            vec![
                i.interface.clone(),
                state.to_owned(),
                i.grant.clone().unwrap_or_default(),
            ]
        })
        .collect();
    output::table(&["imports", "", "would be granted by"], rows)
}

/// Everything a reload would do, except the swap.
pub(super) async fn inspect_file(plugin: valid::Plugin) -> Result<PluginStatus, Exit> {
    let bytes = std::fs::read(&plugin.file).map_err(|e| {
        Exit::failed(format!("cannot read {}: {e}", plugin.file.display())).coded(error::CLI_FILE)
    })?;
    guest::inspect(bytes, plugin, &call::cache_dir())
        .await
        .map_err(|refused| Exit::invalid(refused.to_string()))
}
