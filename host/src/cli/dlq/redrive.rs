//! `helix dlq reprocess|release|discard`: given ids, one request per letter, and one that is refused does not stop the others;
//! given a filter, a job at the host that is followed.

use std::io::{BufRead, IsTerminal};

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::super::client::{Client, segment};
use super::super::output::{self, Format};
use super::super::{Exit, Global};
use super::filter::Filter;
use super::jobs::follow;
use crate::dlq::report::{DryRun, JobView};
use crate::dlq::view::Outcome;

#[derive(Debug, Args)]
pub struct Reprocess {
    #[command(flatten)]
    which: Which,
    /// Letters a second; without it as fast as it goes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    /// Letters as well that were sent again ten times and failed each time
    #[arg(long)]
    force: bool,
    /// Why; kept with the job
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct Release {
    /// Ids from `dlq parked`
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Why; kept with the letter
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct Discard {
    #[command(flatten)]
    which: Which,
    /// Why; kept with the letters
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

#[derive(Debug, Args)]
struct Which {
    /// Ids from `dlq ls`
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    filter: Filter,
    /// All that are dead
    #[arg(long)]
    all: bool,
    /// Only say which letters it would be
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// One line of the JSON output.
#[derive(Debug, Serialize)]
struct Line {
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Reprocess {
    pub async fn run(self, global: &Global, client: &Client) -> Result<(), Exit> {
        let single = self.rate.is_none() && !self.force && self.reason.is_none() && !self.which.dry_run;
        if self.which.are_ids()? && single {
            let body = json!({ "actor": actor() });
            return each(global, &self.which.ids, async |id| {
                client
                    .post(&format!("/v1/messaging/dlq/{id}/reprocess"), &body)
                    .await
            })
            .await;
        }
        let mut asked = self.which.asked("reprocess");
        asked.insert("force".into(), json!(self.force));
        if let Some(rate) = self.rate {
            asked.insert("rate".into(), json!(rate));
        }
        if let Some(reason) = &self.reason {
            asked.insert("reason".into(), json!(reason));
        }
        self.which.job(global, client, asked, "sent again").await
    }
}

impl Release {
    pub async fn run(self, global: &Global, client: &Client) -> Result<(), Exit> {
        let body = json!({ "actor": actor(), "reason": self.reason });
        each(global, &self.ids, async |id| {
            client
                .post(&format!("/v1/messaging/dlq/{id}/release"), &body)
                .await
        })
        .await
    }
}

impl Discard {
    pub async fn run(self, global: &Global, client: &Client) -> Result<(), Exit> {
        if self.which.are_ids()? && !self.which.dry_run {
            let body = json!({ "actor": actor(), "reason": self.reason });
            return each(global, &self.which.ids, async |id| {
                client
                    .delete(&format!("/v1/messaging/dlq/{id}/discard"), &body)
                    .await
            })
            .await;
        }
        let mut asked = self.which.asked("discard");
        asked.insert("reason".into(), json!(self.reason));
        self.which.job(global, client, asked, "discarded").await
    }
}

impl Which {
    /// Ids, or a filter, or all; nothing else, and not two of them.
    fn are_ids(&self) -> Result<bool, Exit> {
        let filtered = !self.filter.words().is_empty();
        match (!self.ids.is_empty(), filtered, self.all) {
            (true, false, false) => Ok(true),
            (false, true, false) | (false, false, true) => Ok(false),
            (false, false, false) => Err(Exit::usage(
                "error: which letters? Give ids, a filter like `--group` or `--route`, or `--all`",
            )),
            _ => Err(Exit::usage("error: give either ids, or a filter, or `--all`")),
        }
    }

    fn asked(&self, action: &str) -> Map<String, Value> {
        let mut asked = Map::new();
        asked.insert("action".into(), json!(action));
        asked.insert("actor".into(), actor());
        if self.ids.is_empty() {
            let words: Map<String, Value> = self
                .filter
                .words()
                .into_iter()
                .map(|(name, value)| (name.to_owned(), json!(value)))
                .collect();
            asked.insert("filter".into(), words.into());
        } else {
            asked.insert("ids".into(), json!(self.ids));
        }
        asked
    }

    async fn job(
        &self,
        global: &Global,
        client: &Client,
        mut asked: Map<String, Value>,
        done: &str,
    ) -> Result<(), Exit> {
        const PATH: &str = "/v1/messaging/dlq/jobs";
        if self.dry_run || !self.yes {
            asked.insert("dry_run".into(), json!(true));
            let found: DryRun = client.post(PATH, &asked.clone().into()).await?;
            if self.dry_run {
                return show(global, &found, done);
            }
            if found.count == 0 && !found.at_least {
                return match global.output {
                    Format::Json => output::json(&found),
                    Format::Text => output::line("no dead letter matches"),
                };
            }
            confirm(&found, done)?;
            asked.insert("dry_run".into(), json!(false));
        }
        let job: JobView = client.post(PATH, &asked.into()).await?;
        output::talk(&format!("job {}", job.id));
        follow(global, client, &job.id).await
    }
}

fn show(global: &Global, found: &DryRun, done: &str) -> Result<(), Exit> {
    if global.output == Format::Json {
        return output::json(found);
    }
    output::line(&format!("{} would be {done}", counted(found)))?;
    if found.samples.is_empty() {
        return Ok(());
    }
    let rows = found.samples.iter().map(|letter| {
        vec![
            letter.id.clone(),
            letter.class.clone(),
            letter.message_type.clone().unwrap_or_default(),
            letter.destination.clone(),
            letter.last_failure.clone(),
            letter.reason.chars().take(120).collect(),
        ]
    });
    let head = ["id", "class", "type", "from", "last failure", "reason"];
    output::table(&head, rows.collect())
}

fn counted(found: &DryRun) -> String {
    let more = if found.at_least { "at least " } else { "" };
    format!("{more}{}", found.count)
}

fn confirm(found: &DryRun, done: &str) -> Result<(), Exit> {
    let count = counted(found);
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Exit::usage(format!(
            "error: {count} letters would be {done}; say `--yes`, or look first with `--dry-run`"
        )));
    }
    output::talk(&format!("{count} letters will be {done}. Go on? [y/N]"));
    let mut answer = String::new();
    let read = stdin.lock().read_line(&mut answer);
    if read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes") {
        return Ok(());
    }
    Err(Exit::failed("nothing was done"))
}

/// Ends with the exit code of the first that failed.
async fn each(
    global: &Global,
    ids: &[String],
    request: impl AsyncFn(String) -> Result<Outcome, Exit>,
) -> Result<(), Exit> {
    let mut lines = Vec::with_capacity(ids.len());
    let mut failed: Option<Exit> = None;
    for id in ids {
        let line = |status, error| Line {
            id: id.clone(),
            status,
            error,
        };
        match request(segment(id)).await {
            Ok(outcome) => {
                if global.output == Format::Text {
                    output::line(&format!("{id} {}", outcome.status))?;
                }
                lines.push(line(Some(outcome.status), None));
            }
            Err(exit) => {
                lines.push(line(None, Some(exit.message().to_owned())));
                let hopeless = exit.is_unreachable();
                let text = global.output == Format::Text || hopeless;
                if text {
                    output::talk(exit.message());
                }
                failed.get_or_insert(exit);
                if hopeless {
                    break;
                }
            }
        }
    }
    let left = ids.len() - lines.len();
    if left > 0 {
        output::talk(&format!("{left} more were not tried"));
    }
    if global.output == Format::Json {
        output::json(&lines)?;
    }
    // Each was said when it happened, or stands in the JSON.
    failed.map_or(Ok(()), |exit| Err(exit.silent()))
}

/// Who sits here, for the trail.
pub(super) fn actor() -> Value {
    let user = ["USER", "LOGNAME"]
        .into_iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    // The host takes 128 bytes.
    let user: String = user
        .unwrap_or_else(|| "cli".to_owned())
        .chars()
        .take(30)
        .collect();
    json!(user)
}
