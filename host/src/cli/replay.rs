//! `helix replay start|ls|show|cancel`: reading a stretch of a topic again, on the running host.

mod start;
mod watch;

use clap::Subcommand;

use super::client::{Client, segment};
use super::output::{self, Format};
use super::{Exit, Global};
use crate::replay::view::{Listing, View};
use crate::telemetry::logs::printable;

#[derive(Debug, Subcommand)]
pub enum Replay {
    /// Start one, and show how it goes; Ctrl-C stops showing, not the replay
    Start(Box<start::Start>),
    /// List replays, newest first
    Ls {
        #[arg(long, default_value_t = 50)]
        limit: usize,
    },
    /// Show one: counts, rate, what is left, partition by partition
    Show {
        /// Id from `replay ls`
        id: String,
        /// Stay until it ends
        #[arg(long)]
        watch: bool,
    },
    /// Stop one; at most the batch that is under way is still sent
    Cancel {
        /// Id from `replay ls`
        id: String,
    },
}

impl Replay {
    pub async fn run(self, global: &Global) -> Result<(), Exit> {
        let client = Client::new(global)?;
        match self {
            Self::Start(start) => start.run(global, &client).await,
            Self::Ls { limit } => list(global, &client, limit).await,
            Self::Show { id, watch: true } => {
                let view = client.get(&path(&id), &[]).await?;
                watch::until_it_ends(global, &client, view).await
            }
            Self::Show { id, watch: false } => {
                let view = client.get(&path(&id), &[]).await?;
                print(global, &view)
            }
            Self::Cancel { id } => {
                let view: View = client.delete(&path(&id), &serde_json::json!({})).await?;
                if global.output == Format::Json {
                    return output::json(&view);
                }
                output::line(&format!("{} {}", printable(&view.request_id), view.status))
            }
        }
    }
}

fn path(id: &str) -> String {
    format!("/v1/messaging/replay/{}", segment(id))
}

async fn list(global: &Global, client: &Client, limit: usize) -> Result<(), Exit> {
    let listing: Listing = client
        .get("/v1/messaging/replay", &[("limit", limit.to_string())])
        .await?;
    if global.output == Format::Json {
        return output::json(&listing);
    }
    if listing.replays.is_empty() {
        return output::line("no replays");
    }
    let row = |view: &View| {
        vec![
            view.request_id.clone(),
            view.status.clone(),
            view.topic.clone(),
            target(view),
            format!("{}/{}", view.done, view.total_messages),
            view.replayed_count.to_string(),
            view.skipped_count.to_string(),
            view.failed_count.to_string(),
            view.created_time.clone(),
        ]
    };
    output::table(
        &[
            "id", "status", "topic", "target", "done", "replayed", "skipped", "failed", "created",
        ],
        listing.replays.iter().map(row).collect(),
    )
}

fn target(view: &View) -> String {
    match (&view.target_topic, &view.target_route) {
        _ if view.dry_run => "(dry run)".to_owned(),
        (Some(topic), _) => topic.clone(),
        (None, Some(route)) if view.side_effects == Some(true) => format!("route {route}, with side effects"),
        (None, Some(route)) => format!("route {route}"),
        (None, None) => String::new(),
    }
}

fn print(global: &Global, view: &View) -> Result<(), Exit> {
    if global.output == Format::Json {
        return output::json(view);
    }
    let field = |name: &str, value: &str| output::line(&format!("{name:<10}{}", printable(value)));
    field("id", &view.request_id)?;
    field("status", &view.status)?;
    field("topic", &view.topic)?;
    field("target", &target(view))?;
    field("done", &format!("{} of {}", view.done, view.total_messages))?;
    match view.matching_count {
        Some(matching) => field("matching", &matching.to_string())?,
        None => field("replayed", &view.replayed_count.to_string())?,
    }
    field("skipped", &view.skipped_count.to_string())?;
    field("failed", &view.failed_count.to_string())?;
    if view.missing_count > 0 {
        field("missing", &view.missing_count.to_string())?;
    }
    field("rate", &format!("{}/s", view.rate_per_second))?;
    if let Some(eta) = view.eta_seconds {
        field("eta", &format!("{eta} s"))?;
    }
    for (name, value) in [
        ("created", Some(&view.created_time)),
        ("started", view.start_time.as_ref()),
        ("ended", view.end_time.as_ref()),
        ("last id", view.last_processed_id.as_ref()),
        ("error", view.error_message.as_ref()),
        ("note", view.message.as_ref()),
    ] {
        if let Some(value) = value {
            field(name, value)?;
        }
    }
    for p in &view.partitions {
        field(
            "partition",
            &format!(
                "{}: offsets {} to {}, next {}",
                p.partition, p.from_offset, p.to_offset, p.next_offset
            ),
        )?;
    }
    for failed in &view.failures {
        let id = failed.id.as_deref().unwrap_or("(no id)");
        let letter = failed.letter.as_deref().unwrap_or("none");
        field(
            "failure",
            &format!(
                "{id} (partition {}, offset {}): {}: {}; dead letter: {letter}",
                failed.partition, failed.offset, failed.class, failed.reason
            ),
        )?;
    }
    if view.samples.is_empty() {
        return Ok(());
    }
    let row = |sample: &crate::replay::view::Sample| {
        vec![
            sample.id.clone(),
            sample.message_type.clone().unwrap_or_default(),
            sample.partition.to_string(),
            sample.offset.to_string(),
            sample.time.clone().unwrap_or_default(),
        ]
    };
    output::table(
        &["id", "type", "partition", "offset", "time"],
        view.samples.iter().map(row).collect(),
    )
}
