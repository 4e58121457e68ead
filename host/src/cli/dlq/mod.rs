//! `helix dlq ls|groups|show|parked|rehearse|reprocess|edit|release|discard|jobs|export`: dead letters of the running host.

mod edit;
mod export;
mod filter;
mod groups;
mod jobs;
mod parked;
mod promote;
mod redrive;
mod rehearse;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};

use self::filter::Filter;
use super::client::{Client, segment};
use super::output::{self, Format};
use super::{Exit, Global};
use crate::dlq::view::Letter;
use crate::telemetry::logs::printable;

#[derive(Debug, Subcommand)]
pub enum Dlq {
    /// List dead letters, newest failure first
    Ls(List),
    /// Group them by what went wrong
    Groups(groups::Groups),
    /// Show one with its message, headers, attempts, and what was done to it
    Show {
        /// Id from `dlq ls`
        id: String,
    },
    /// List keys that wait behind a dead letter (routes with on_dead_letter = "park")
    Parked(parked::Parked),
    /// Run on a new version of their plugin with nothing carried out, and say what would become of them
    Rehearse(rehearse::Rehearse),
    /// Send again: tasks to their queue, events to the route that failed; where a key waits behind it, in its old place
    Reprocess(redrive::Reprocess),
    /// Send a changed copy in a letter's place, where `[dlq] edit = true`
    Edit(edit::Edit),
    /// Let the key behind a dead letter go on without it; the letter stays
    Release(redrive::Release),
    /// Give up on, for good: they stay in the list, with the reason
    Discard(redrive::Discard),
    /// Jobs that send many again or discard them
    Jobs(jobs::Jobs),
    /// Whole letters as JSON lines
    Export(export::Export),
}

#[derive(Debug, Args)]
pub struct List {
    #[command(flatten)]
    filter: Filter,
    /// dead, retrying, reprocessed, discarded, expired, all [default: all but reprocessed and discarded]
    #[arg(long)]
    state: Option<String>,
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// `next` of the page before
    #[arg(long)]
    cursor: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Listing {
    count: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    at_least: bool,
    messages: Vec<Letter>,
    next: Option<String>,
}

impl Dlq {
    pub async fn run(self, global: &Global) -> Result<(), Exit> {
        let client = Client::new(global)?;
        match self {
            Self::Ls(list) => list.run(global, &client).await,
            Self::Groups(command) => command.run(global, &client).await,
            Self::Jobs(command) => command.run(global, &client).await,
            Self::Show { id } => show(global, &client, &id).await,
            Self::Parked(list) => list.run(global, &client).await,
            Self::Release(command) => command.run(global, &client).await,
            Self::Reprocess(command) => command.run(global, &client).await,
            Self::Discard(command) => command.run(global, &client).await,
            Self::Rehearse(command) => command.run(global, &client).await,
            Self::Edit(command) => command.run(global, &client).await,
            Self::Export(command) => command.run(&client).await,
        }
    }
}

impl List {
    async fn run(self, global: &Global, client: &Client) -> Result<(), Exit> {
        let mut states = self.state.is_some();
        let mut query = vec![("limit", self.limit.to_string())];
        query.extend(self.filter.words());
        query.extend(self.state.map(|state| ("state", state)));
        query.extend(self.cursor.map(|cursor| ("cursor", cursor)));
        let listing: Listing = client.get("/v1/messaging/dlq", &query).await?;
        if global.output == Format::Json {
            return output::json(&listing);
        }
        if listing.messages.is_empty() {
            return output::line("no dead letters");
        }
        // Who asks for states sees them; so does who would not know that the host has given up on one by itself.
        states |= listing.messages.iter().any(|letter| letter.auto.is_some());
        let head = [
            "id",
            "class",
            "type",
            "from",
            "attempts",
            "last failure",
            "reason",
            "state",
        ];
        let columns = head.len() - usize::from(!states);
        let row = |letter: &Letter| {
            let mut row = vec![
                letter.id.clone(),
                letter.class.clone(),
                letter.message_type.clone().unwrap_or_default(),
                letter.destination.clone(),
                letter.attempts.to_string(),
                letter.last_failure.clone(),
                letter.reason.chars().take(120).collect(),
                match &letter.auto {
                    Some(auto) => format!("{}, auto: {}", letter.state, auto.state),
                    None => letter.state.clone(),
                },
            ];
            row.truncate(columns);
            row
        };
        let rows = listing.messages.iter().map(row).collect();
        output::table(head.get(..columns).unwrap_or(&head), rows)?;
        let more = if listing.at_least { "at least " } else { "" };
        output::line(&format!("{} of {more}{}", listing.messages.len(), listing.count))?;
        match listing.next {
            Some(next) => output::line(&format!("more: helix dlq ls --cursor {next}")),
            None => Ok(()),
        }
    }
}

async fn show(global: &Global, client: &Client, id: &str) -> Result<(), Exit> {
    let letter: Letter = client
        .get(&format!("/v1/messaging/dlq/{}", segment(id)), &[])
        .await?;
    if global.output == Format::Json {
        return output::json(&letter);
    }
    let field = |name: &str, value: &str| output::line(&format!("{name:<14}{}", printable(value)));
    field("id", &letter.id)?;
    field("state", &letter.state)?;
    field("class", &letter.class)?;
    field("reason", &letter.reason)?;
    for (name, value) in [
        ("code", &letter.code),
        ("type", &letter.message_type),
        ("message id", &letter.message_id),
        ("route", &letter.route),
        ("plugin", &letter.plugin),
        ("digest", &letter.digest),
        ("trace", &letter.trace_id),
    ] {
        if let Some(value) = value {
            field(name, value)?;
        }
    }
    if let Some(waiting) = letter.waiting {
        let behind = format!("{waiting} messages of its key wait behind it");
        field("parked", &behind)?;
    }
    if let Some(auto) = &letter.auto {
        let next = auto
            .next
            .as_deref()
            .map(|next| format!(", not again before {next}"));
        let next = next.unwrap_or_default();
        field(
            "auto",
            &format!("{} after {} attempts{next}", auto.state, auto.attempts),
        )?;
    }
    field("origin", &letter.origin)?;
    if let Some(queue) = &letter.found_in {
        field(
            "found in",
            &format!("{queue}, and nothing says where it came from"),
        )?;
    }
    for death in &letter.deaths {
        let time = death.time.as_deref().unwrap_or("at a time that is not said");
        let exchange = if death.exchange.is_empty() {
            "the default exchange"
        } else {
            &death.exchange
        };
        let keys = death.routing_keys.join(", ");
        field(
            "death",
            &format!(
                "{time} {} in {}, {}×, from {exchange} with {keys}",
                death.reason, death.queue, death.count
            ),
        )?;
    }
    field("first failure", &letter.first_failure)?;
    field("last failure", &letter.last_failure)?;
    for attempt in &letter.history {
        let why = attempt
            .outcome
            .failure()
            .map(|f| f.reason.as_str())
            .unwrap_or_default();
        let ms = attempt.duration_us / 1000;
        field(
            &format!("attempt {}", attempt.number),
            &format!("{} after {ms} ms: {why}", attempt.outcome.label()),
        )?;
        for line in &attempt.log {
            field("", &format!("| {line}"))?;
        }
    }
    for step in &letter.trail {
        let why = step.reason.as_deref().map(|reason| format!(": {reason}"));
        field(
            "trail",
            &format!(
                "{} {} by {}, {} → {}{}",
                step.time,
                step.action,
                step.actor,
                step.from,
                step.to,
                why.unwrap_or_default()
            ),
        )?;
    }
    if let Some(original) = &letter.original {
        for (name, value) in &original.headers {
            field("header", &format!("{name}: {value}"))?;
        }
        match (&original.body, &original.body_base64) {
            (Some(text), _) => field("body", text)?,
            (None, Some(encoded)) => field("body (base64)", encoded)?,
            (None, None) => field("body", "(none: a tombstone)")?,
        }
    }
    Ok(())
}
