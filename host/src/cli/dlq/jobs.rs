//! `helix dlq jobs`: jobs that send many letters again or discard them; shown, followed, cancelled.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use serde_json::json;

use super::super::client::{Client, segment};
use super::super::output::{self, Format};
use super::super::{Exit, Global};
use super::redrive::actor;
use crate::dlq::report::{JobList, JobView, Results};
use crate::telemetry::logs::printable;

const PATH: &str = "/v1/messaging/dlq/jobs";

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Jobs {
    #[command(subcommand)]
    command: Option<Command>,
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// `next` of the page before
    #[arg(long)]
    cursor: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show one
    Show {
        /// Id from `dlq jobs`
        id: String,
        /// Wait for its end
        #[arg(long)]
        follow: bool,
    },
    /// What became of its letters
    Results {
        /// Id from `dlq jobs`
        id: String,
        /// Only sent, discarded, skipped or failed
        #[arg(long)]
        result: Option<String>,
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// `next` of the page before
        #[arg(long)]
        cursor: Option<String>,
    },
    /// Begin no further letter of it
    Cancel {
        /// Id from `dlq jobs`
        id: String,
    },
}

impl Jobs {
    pub async fn run(self, global: &Global, client: &Client) -> Result<(), Exit> {
        match self.command {
            None => list(global, client, self.limit, self.cursor).await,
            Some(Command::Show { id, follow: false }) => show(global, &get(client, &id).await?),
            Some(Command::Show { id, follow: true }) => follow(global, client, &id).await,
            Some(Command::Results {
                id,
                result,
                limit,
                cursor,
            }) => {
                let mut query = vec![("limit", limit.to_string())];
                query.extend(result.map(|result| ("result", result)));
                query.extend(cursor.map(|cursor| ("cursor", cursor)));
                results(global, client, &id, &query).await
            }
            Some(Command::Cancel { id }) => {
                let path = format!("{PATH}/{}", segment(&id));
                show(global, &client.delete(&path, &json!({ "actor": actor() })).await?)
            }
        }
    }
}

async fn get(client: &Client, id: &str) -> Result<JobView, Exit> {
    client.get(&format!("{PATH}/{}", segment(id)), &[]).await
}

async fn list(global: &Global, client: &Client, limit: usize, cursor: Option<String>) -> Result<(), Exit> {
    let mut query = vec![("limit", limit.to_string())];
    query.extend(cursor.map(|cursor| ("cursor", cursor)));
    let found: JobList = client.get(PATH, &query).await?;
    if global.output == Format::Json {
        return output::json(&found);
    }
    if found.jobs.is_empty() {
        return output::line("no jobs");
    }
    let head = [
        "id", "action", "state", "done", "failed", "skipped", "of", "by", "created",
    ];
    let rows = found.jobs.iter().map(|job| {
        vec![
            job.id.clone(),
            job.action.clone(),
            job.state.clone(),
            job.done.to_string(),
            job.failed.to_string(),
            job.skipped.to_string(),
            job.total.to_string(),
            job.actor.clone(),
            job.created.clone(),
        ]
    });
    output::table(&head, rows.collect())?;
    match found.next {
        Some(next) => output::line(&format!("more: helix dlq jobs --cursor {next}")),
        None => Ok(()),
    }
}

fn show(global: &Global, job: &JobView) -> Result<(), Exit> {
    if global.output == Format::Json {
        return output::json(job);
    }
    let field = |name: &str, value: &str| output::line(&format!("{name:<12}{}", printable(value)));
    field("id", &job.id)?;
    field("action", &job.action)?;
    let by = job.cancelled_by.as_ref().map(|actor| format!(" by {actor}"));
    field("state", &format!("{}{}", job.state, by.unwrap_or_default()))?;
    field("letters", &counts(job))?;
    let filter = job.filter.as_ref().map(ToString::to_string);
    let rate = job.rate.map(|rate| format!("{rate}/s"));
    for (name, value) in [
        ("trouble", &job.trouble),
        ("filter", &filter),
        ("rate", &rate),
        ("reason", &job.reason),
        ("by", &Some(job.actor.clone())),
        ("created", &Some(job.created.clone())),
        ("started", &job.started),
        ("over at", &job.eta),
        ("ended", &job.ended),
    ] {
        if let Some(value) = value {
            field(name, value)?;
        }
    }
    Ok(())
}

fn counts(job: &JobView) -> String {
    if job.state == "preparing" {
        return format!("{} so far; which belong to it is being written down", job.total);
    }
    let mut text = format!("{} of {} {}", job.done, job.total, done_word(job));
    for (count, word) in [
        (job.skipped, "skipped"),
        (job.failed, "failed"),
        (job.left, "left"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {word}"));
        }
    }
    text
}

fn done_word(job: &JobView) -> &'static str {
    if job.action == "discard" {
        "discarded"
    } else {
        "sent"
    }
}

async fn results(global: &Global, client: &Client, id: &str, query: &[(&str, String)]) -> Result<(), Exit> {
    let found: Results = client
        .get(&format!("{PATH}/{}/results", segment(id)), query)
        .await?;
    if global.output == Format::Json {
        return output::json(&found);
    }
    let rows = found.results.iter().map(|result| {
        vec![
            result.letter.clone(),
            result.result.clone().unwrap_or_else(|| "(none)".to_owned()),
            result.why.clone().unwrap_or_default(),
            result.time.clone().unwrap_or_default(),
        ]
    });
    output::table(&["letter", "result", "why", "time"], rows.collect())?;
    match found.next {
        Some(next) => output::line(&format!("more: helix dlq jobs results {id} --cursor {next}")),
        None => Ok(()),
    }
}

/// How often the host is asked, and how often somebody who reads a log is told.
const ASK_EVERY: Duration = Duration::from_millis(300);
const SAY_EVERY: Duration = Duration::from_secs(5);
/// A host that starts anew goes on with its jobs.
const HOST_AWAY: Duration = Duration::from_secs(60);

/// Until the job has ended. Ctrl-C ends this command and not the job.
pub(super) async fn follow(global: &Global, client: &Client, id: &str) -> Result<(), Exit> {
    let mut bar = Bar::new();
    let mut answered = Instant::now();
    // One for all questions: an interrupt that comes while the host is asked is seen right after.
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    loop {
        match get(client, id).await {
            Ok(job) if job.has_ended() => {
                bar.end();
                return ended(global, &job);
            }
            Ok(job) => {
                answered = Instant::now();
                bar.show(&job);
            }
            Err(exit) if exit.is_unreachable() && answered.elapsed() < HOST_AWAY => {
                bar.say("the host does not answer; the job goes on when it is back");
            }
            Err(exit) => {
                bar.end();
                return Err(exit);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_EVERY) => {}
            _ = &mut interrupted => {
                bar.end();
                return Err(Exit::failed(format!(
                    "the job goes on at the host\n  follow it: helix dlq jobs show {id} --follow\n  cancel it: helix dlq jobs cancel {id}"
                )));
            }
        }
    }
}

fn ended(global: &Global, job: &JobView) -> Result<(), Exit> {
    if global.output == Format::Json {
        output::json(job)?;
    } else {
        output::line(&format!("{}: {}", job.state, counts(job)))?;
    }
    if job.state == "completed" && job.failed == 0 {
        return Ok(());
    }
    Err(Exit::failed(match (&job.trouble, job.failed) {
        (Some(trouble), _) => format!("the job {} is {}: {}", job.id, job.state, printable(trouble)),
        (None, 0) => format!("the job {} is {}", job.id, job.state),
        (None, failed) => format!(
            "{failed} could not be {}; why: helix dlq jobs results {} --result failed",
            done_word(job),
            job.id
        ),
    }))
}

/// On stderr: one line that is drawn over on a terminal, else a line now and then.
struct Bar {
    terminal: bool,
    drawn: bool,
    said: Option<Instant>,
}

const CELLS: u64 = 30;

impl Bar {
    fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            drawn: false,
            said: None,
        }
    }

    fn show(&mut self, job: &JobView) {
        let mut text = counts(job);
        if let Some(per_second) = job.per_second {
            text.push_str(&format!(", {per_second:.0}/s"));
        }
        if let Some(eta) = &job.eta {
            text.push_str(&format!(", over at {eta}"));
        }
        if let Some(trouble) = &job.trouble {
            text.push_str(&format!("; waits: {}", printable(trouble).replace('\n', " ")));
        }
        if self.terminal {
            let full = (job.total - job.left.min(job.total)) * CELLS / job.total.max(1);
            let cells: String = (0..CELLS)
                .map(|cell| if cell < full { '█' } else { '░' })
                .collect();
            text = format!("{cells} {text}");
        }
        self.say(&text);
    }

    fn say(&mut self, text: &str) {
        if self.terminal {
            // A longer line would break, and the next one not cover it.
            let text: String = text.chars().take(110).collect();
            let mut out = std::io::stderr();
            // A closed stderr is no reason to stop.
            let _ = write!(out, "\r\u{1b}[2K{text}").and_then(|()| out.flush());
            self.drawn = true;
        } else if self.said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
            output::talk(text);
            self.said = Some(Instant::now());
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(std::io::stderr(), "\r\u{1b}[2K");
        }
    }
}
