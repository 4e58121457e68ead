//! A rehearsed component becomes the one that serves, and gets the letters that it would handle.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::{Value, json};

use super::super::client::{Client, segment};
use super::super::output;
use super::super::{Exit, Global, load};
use super::redrive::actor;
use crate::dlq::rehearse::Counts;
use crate::dlq::view::Outcome;
use crate::error;
use crate::guest::PluginStatus;

/// Its code is compiled already, by the rehearsal.
const SERVING: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);

/// What became of the letters that would pass.
#[derive(Debug, Default, Serialize)]
pub(super) struct Redriven {
    pub sent: Vec<String>,
    pub refused: Vec<Refused>,
}

#[derive(Debug, Serialize)]
pub(super) struct Refused {
    pub id: String,
    pub error: String,
}

/// `Err`: why not.
pub(super) fn allowed(counts: &Counts, force: bool) -> Result<(), String> {
    if force {
        return Ok(());
    }
    if counts.new_failure > 0 {
        return Err(format!(
            "not promoted: {} letters would fail in a new way; --force promotes it all the same",
            counts.new_failure
        ));
    }
    if counts.would_pass == 0 {
        return Err("not promoted: no letter would pass; --force promotes it all the same".to_owned());
    }
    Ok(())
}

/// Puts the rehearsed bytes in the plugin's place, and waits until they serve.
pub(super) async fn serve(
    global: &Global,
    client: &Client,
    plugin: &str,
    component: &[u8],
    digest: &str,
) -> Result<(), Exit> {
    let before = status(client, plugin).await?;
    if before.digest.as_deref() == Some(digest) {
        return Ok(());
    }
    let loaded = load::load(global).map_err(|exit| {
        Exit::invalid(format!(
            "where is the plugins folder? --promote needs the host's configuration (--config):\n{}",
            exit.message()
        ))
    })?;
    let file = loaded
        .settings
        .plugins
        .get(plugin)
        .map(|plugin| plugin.file.clone());
    let file = file.ok_or_else(|| {
        Exit::invalid(format!(
            "the configuration has no plugin `{plugin}`; is it the host's?"
        ))
        .coded(error::PLUGIN_MISSING)
    })?;
    replace(&file, component).map_err(|error| {
        Exit::failed(format!("cannot write {}: {error}", file.display())).coded(error::CLI_FILE)
    })?;
    let started = Instant::now();
    loop {
        let now = status(client, plugin).await?;
        if now.digest.as_deref() == Some(digest) {
            output::talk(&format!("{} serves {digest}", now.name));
            return Ok(());
        }
        if let Some(why) = now.stale.filter(|why| before.stale.as_ref() != Some(why)) {
            return Err(Exit::failed(format!(
                "the host refuses {}, the version before serves: {why}",
                file.display()
            )));
        }
        if started.elapsed() > SERVING {
            return Err(Exit::failed(format!(
                "{} is written, but the host does not serve {digest} after {SERVING:?}; does it run with this configuration, \
                 on this machine? No letter was sent again",
                file.display()
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn status(client: &Client, plugin: &str) -> Result<PluginStatus, Exit> {
    let list: Vec<PluginStatus> = client.get("/v1/messaging/plugins", &[]).await?;
    list.into_iter()
        .find(|status| status.name == plugin)
        .ok_or_else(|| {
            Exit::invalid(format!("the host has no plugin `{plugin}`")).coded(error::PLUGIN_MISSING)
        })
}

/// The watch sees the old file or the new one, and nothing between.
fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = file.parent().unwrap_or_else(|| Path::new("."));
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder.join(format!(".{name}.{}", std::process::id()));
    let written = write(&draft, bytes).and_then(|()| fs::rename(&draft, file));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written?;
    File::open(folder)?.sync_all()
}

fn write(draft: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(draft)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// One by one; one that is refused does not stop the others, a host that does not answer does.
pub(super) async fn redrive(client: &Client, ids: &[&str], talk: bool) -> Result<Redriven, Exit> {
    let body: Value = json!({ "actor": actor() });
    let mut redriven = Redriven::default();
    for id in ids {
        let path = format!("/v1/messaging/dlq/{}/reprocess", segment(id));
        match client.post::<Outcome>(&path, &body).await {
            Ok(_) => redriven.sent.push((*id).to_owned()),
            Err(exit) if exit.is_unreachable() => {
                let left = ids.len() - redriven.sent.len() - redriven.refused.len();
                output::talk(&format!(
                    "{} letters were sent again, {left} were not tried: {id} and those after it",
                    redriven.sent.len()
                ));
                return Err(exit);
            }
            Err(exit) => {
                output::talk(exit.message());
                redriven.refused.push(Refused {
                    id: (*id).to_owned(),
                    error: exit.message().to_owned(),
                });
            }
        }
    }
    if talk {
        output::line(&format!("{} letters sent again", redriven.sent.len()))?;
    }
    Ok(redriven)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_better_and_nowhere_worse_is_promoted() {
        let counts = |would_pass, same_failure, new_failure| Counts {
            would_pass,
            same_failure,
            new_failure,
            ..Counts::default()
        };
        for (counts, ok) in [
            (counts(1, 5, 0), true),
            (counts(5, 0, 0), true),
            (counts(0, 5, 0), false),
            (counts(5, 0, 1), false),
            (counts(0, 0, 0), false),
        ] {
            assert_eq!(allowed(&counts, false).is_ok(), ok, "{counts:?}");
            assert!(allowed(&counts, true).is_ok());
        }
    }
}
