//! `helix dlq rehearse`: what a new component would make of the letters, group by group; with `--promote` it then serves and
//! gets those that it would handle.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::super::client::{Answer, Client};
use super::super::output::{self, Format};
use super::super::{Exit, Global};
use super::filter::Filter;
use super::promote::{self, Redriven};
use super::redrive::actor;
use crate::dlq::rehearse::{Counts, Group, Line, MAX_LIMIT, Prediction, Report, groups};
use crate::error;
use crate::guest::PluginStatus;
use crate::telemetry::logs::printable;

const PATH: &str = "/v1/messaging/dlq/rehearse";
/// Ids in one URL: 64 KiB of it are read.
const IDS: usize = 500;
/// While the host compiles, or another rehearsal runs, it says so after some seconds.
const PATIENCE: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
#[command(
    after_help = "Nothing is published, fetched or changed. Example:\n  helix dlq rehearse --route orders --with target/orders.wasm\n  helix dlq rehearse --route orders --with target/orders.wasm --promote"
)]
pub struct Rehearse {
    /// Only these letters
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// The new component; without it the version that serves
    #[arg(long, value_name = "FILE")]
    with: Option<PathBuf>,
    /// Whose grants and limits it has, and whose part it takes [default: the name of the file]
    #[arg(long, value_name = "NAME")]
    plugin: Option<String>,
    /// Letters to run, newest failure first
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Then put the file into the plugins folder and send those again that would pass
    #[arg(long, requires = "with")]
    promote: bool,
    /// Promote also when there are new failures, or nothing would pass
    #[arg(long, requires = "promote")]
    force: bool,
}

/// All pages together.
#[derive(Debug, Serialize)]
struct Whole {
    plugin: String,
    digest: String,
    matched: u64,
    #[serde(flatten)]
    counts: Counts,
    groups: Vec<Group>,
    letters: Vec<Line>,
    #[serde(skip_serializing_if = "Option::is_none")]
    redriven: Option<Redriven>,
}

impl Rehearse {
    pub async fn run(self, global: &Global, client: &Client) -> Result<(), Exit> {
        let component = match &self.with {
            Some(file) => Some(std::fs::read(file).map_err(|error| {
                Exit::failed(format!("cannot read {}: {error}", file.display())).coded(error::CLI_FILE)
            })?),
            None => None,
        };
        let plugin = self.plugin(client).await?;
        let mut whole = self.all(client, &plugin, component.as_deref()).await?;
        if global.output == Format::Text {
            print(&whole)?;
        }
        match component.filter(|_| self.promote) {
            Some(component) => {
                promote::allowed(&whole.counts, self.force).map_err(Exit::failed)?;
                promote::serve(global, client, &plugin, &component, &whole.digest).await?;
                let passing: Vec<&str> = whole
                    .letters
                    .iter()
                    .filter(|line| line.prediction == Prediction::Pass)
                    .map(|line| line.id.as_str())
                    .collect();
                let redriven = promote::redrive(client, &passing, global.output == Format::Text).await?;
                let refused = redriven.refused.len();
                whole.redriven = Some(redriven);
                if global.output == Format::Json {
                    output::json(&whole)?;
                }
                match refused {
                    0 => Ok(()),
                    n => Err(Exit::failed(format!("{n} letters could not be sent again"))),
                }
            }
            None if global.output == Format::Json => output::json(&whole),
            None => self.hint(&plugin, &whole.counts),
        }
    }

    /// As it is said; else the file's name, where a plugin has it; else the only plugin there is.
    async fn plugin(&self, client: &Client) -> Result<String, Exit> {
        if let Some(name) = &self.plugin {
            return Ok(name.clone());
        }
        let list: Vec<PluginStatus> = client.get("/v1/messaging/plugins", &[]).await?;
        let stem = self.with.as_ref().and_then(|file| file.file_stem());
        let names: Vec<&str> = list.iter().map(|plugin| plugin.name.as_str()).collect();
        let named = names.iter().find(|name| stem.is_some_and(|stem| stem == **name));
        match (named, names.as_slice()) {
            (Some(name), _) | (None, [name]) => Ok((*name).to_owned()),
            _ => Err(Exit::usage(format!(
                "whose part does it take? say --plugin NAME; there are: {}",
                names.join(", ")
            ))),
        }
    }

    /// Page after page, until all letters were run or as many as were asked for.
    async fn all(&self, client: &Client, plugin: &str, component: Option<&[u8]>) -> Result<Whole, Exit> {
        let limit = usize::try_from(self.limit).unwrap_or(MAX_LIMIT);
        let mut whole = Whole {
            plugin: plugin.to_owned(),
            digest: String::new(),
            matched: 0,
            counts: Counts::default(),
            groups: Vec::new(),
            letters: Vec::new(),
            redriven: None,
        };
        let parts: Vec<&[String]> = if self.ids.is_empty() {
            vec![&[]]
        } else {
            self.ids.chunks(IDS).collect()
        };
        for ids in parts {
            let mut cursor: Option<String> = None;
            let mut matched = 0;
            loop {
                let left = limit.saturating_sub(whole.letters.len());
                if left == 0 {
                    break;
                }
                let mut query = self.filter.words();
                query.push(("plugin", plugin.to_owned()));
                query.push(("limit", left.to_string()));
                query.push(("actor", actor().as_str().unwrap_or_default().to_owned()));
                let more = [
                    ("id", (!ids.is_empty()).then(|| ids.join(","))),
                    ("cursor", cursor.take()),
                ];
                query.extend(more.into_iter().filter_map(|(name, value)| Some((name, value?))));
                let page = ask(client, &query, component).await?;
                if !whole.digest.is_empty() && whole.digest != page.digest {
                    return Err(Exit::failed(
                        "another version serves than when the rehearsal began; start it again",
                    ));
                }
                whole.digest = page.digest;
                matched = matched.max(page.matched);
                whole.letters.extend(page.letters);
                match page.next {
                    Some(next) => {
                        output::talk(&format!("{} of {matched} letters", whole.letters.len()));
                        cursor = Some(next);
                    }
                    None => break,
                }
            }
            whole.matched += matched;
        }
        whole.counts = Counts::of(&whole.letters);
        whole.groups = groups(&whole.letters);
        Ok(whole)
    }

    fn hint(&self, plugin: &str, counts: &Counts) -> Result<(), Exit> {
        if counts.would_pass == 0 {
            return Ok(());
        }
        let Some(file) = &self.with else {
            return output::line("send them again: helix dlq reprocess ID …");
        };
        let mut command = format!(
            "helix dlq rehearse --with {} --plugin {plugin}",
            quoted(&file.to_string_lossy())
        );
        for (name, value) in self.filter.words() {
            command.push_str(&format!(" --{name} {}", quoted(&value)));
        }
        command.push_str(&format!(" --limit {} --promote", self.limit));
        for id in &self.ids {
            command.push_str(&format!(" {}", quoted(id)));
        }
        if promote::allowed(counts, false).is_err() {
            command.push_str(" --force");
        }
        output::line(&format!(
            "put it in place and send those again that would pass:\n  {command}"
        ))
    }
}

async fn ask(client: &Client, query: &[(&str, String)], component: Option<&[u8]>) -> Result<Report, Exit> {
    let mut patience = PATIENCE;
    loop {
        match client
            .post_bytes(PATH, query, component.unwrap_or_default())
            .await?
        {
            Answer::Ok(report) => return Ok(report),
            Answer::NotNow(exit) if patience == 0 => return Err(exit),
            Answer::NotNow(exit) => {
                patience -= 1;
                output::talk(exit.message());
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

fn print(whole: &Whole) -> Result<(), Exit> {
    if whole.letters.is_empty() {
        return output::line("no dead letters");
    }
    let head = [
        "route",
        "class",
        "code",
        "letters",
        "would pass",
        "same failure",
        "new failure",
        "uncertain",
        "not sendable",
        "other plugin",
    ];
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let row = |group: &Group| {
        let c = &group.counts;
        let numbers = [
            c.rehearsed,
            c.would_pass,
            c.same_failure,
            c.new_failure,
            c.uncertain,
            c.not_sendable,
            c.other_plugin,
        ];
        let mut row = vec![text(&group.route), text(&group.class), text(&group.code)];
        row.extend(numbers.iter().map(u64::to_string));
        row
    };
    output::table(&head, whole.groups.iter().map(row).collect())?;
    for sample in whole.groups.iter().flat_map(|group| &group.samples) {
        let reason: String = sample.reason.chars().take(200).collect();
        let said = format!("{} {}: {reason}", sample.id, sample.prediction.as_str());
        output::line(&format!("  {}", printable(&said)))?;
    }
    let mut published = std::collections::BTreeMap::<&str, u64>::new();
    for (target, n) in whole.letters.iter().flat_map(|line| &line.publishes) {
        *published.entry(target).or_default() += n;
    }
    for (target, n) in published {
        output::line(&format!("  would publish {n} to {}", printable(target)))?;
    }
    output::line(&format!(
        "{} of {} letters rehearsed with {}: {} would pass; nothing was sent or changed",
        whole.letters.len(),
        whole.matched,
        whole.digest,
        whole.counts.would_pass
    ))
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "-_./:@".contains(c));
    if plain {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_command_can_be_pasted_into_a_shell() {
        assert_eq!(quoted("orders.created"), "orders.created");
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        assert_eq!(quoted(""), "''");
    }
}
