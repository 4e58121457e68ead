//! `helix replay start`: flags to the body of the request.

use std::collections::BTreeMap;

use clap::Args;

use super::super::client::Client;
use super::super::{Exit, Global, output};
use super::{print, watch};
use crate::config::Span;
use crate::model::clock::duration_ms;
use crate::model::replay::Filter;
use crate::model::{Clock, SystemClock};
use crate::replay::Request;
use crate::replay::request::Asked;
use crate::replay::view::{View, rfc3339};
use crate::telemetry::logs::printable;

#[derive(Debug, Args)]
pub struct Start {
    /// Topic to read again
    topic: String,
    /// Where to begin: a time (2026-11-27T08:00:00Z), or how long ago (2h, 7d)
    #[arg(long, value_name = "TIME", required_unless_present = "from_offset")]
    from: Option<String>,
    /// Where to end: records before this time [default: what is there now]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Instead of --from: offset of one partition, e.g. `0=4711`; may be repeated, other partitions are left out
    #[arg(long, value_name = "PARTITION=OFFSET", value_parser = offset, conflicts_with = "from")]
    from_offset: Vec<(u32, u64)>,
    /// Instead of --to: the offset behind the last one
    #[arg(long, value_name = "PARTITION=OFFSET", value_parser = offset, conflicts_with = "to")]
    to_offset: Vec<(u32, u64)>,
    /// Topic that gets the copies; made if it is missing [default: <TOPIC>.replay]
    #[arg(long, value_name = "TOPIC")]
    target: Option<String>,
    /// Instead of a topic: route of the host whose handler gets the messages; what it publishes and fetches is not carried out
    #[arg(long, value_name = "ROUTE", conflicts_with = "target")]
    route: Option<String>,
    /// With --route: what the handler publishes is sent, what it fetches is fetched
    #[arg(long, requires = "route")]
    side_effects: bool,
    /// Broker that has the topic [default: that of events, then that of tasks]
    #[arg(long, value_name = "NAME")]
    broker: Option<String>,
    /// Only this type; may be repeated
    #[arg(long = "type", value_name = "TYPE")]
    types: Vec<String>,
    /// Only with this header; may be repeated, all must be there
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    header: Vec<(String, String)>,
    /// Only with this in the envelope's `metadata`; may be repeated
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Messages of a batch, 1 to 1000 [default: 100]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    /// Pause between batches [default: 10ms, none with --rate]
    #[arg(long, value_name = "DURATION")]
    delay: Option<Span>,
    /// Messages a second
    #[arg(long, value_name = "N")]
    rate: Option<u32>,
    /// Count and show samples; send nothing
    #[arg(long)]
    dry_run: bool,
    /// Leave a second message of an id out
    #[arg(long)]
    skip_duplicates: bool,
    /// Spread copies without regard to partitions
    #[arg(long)]
    any_order: bool,
    /// Take what is left when retention has deleted the beginning
    #[arg(long)]
    allow_truncated: bool,
    /// Id of the replay [default: the host makes one]
    #[arg(long)]
    id: Option<String>,
    /// Return at once
    #[arg(long)]
    detach: bool,
}

fn offset(text: &str) -> Result<(u32, u64), String> {
    let parsed = text
        .split_once('=')
        .and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    parsed.ok_or_else(|| "a partition and an offset are asked for, e.g. 0=4711".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or_else(|| "a name and a value are asked for, e.g. team=red".to_owned())?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Start {
    pub async fn run(self, global: &Global, client: &Client) -> Result<(), Exit> {
        let detach = self.detach;
        let request = self.request(SystemClock.now_ms());
        let body = serde_json::to_value(&request)
            .map_err(|error| Exit::failed(format!("cannot write JSON: {error}")))?;
        let view: View = client.post("/v1/messaging/replay", &body).await?;
        if detach || view.is_final() {
            return print(global, &view);
        }
        output::talk(&format!("replay {}", printable(&view.request_id)));
        watch::until_it_ends(global, client, view).await
    }

    fn request(self, now: u64) -> Request {
        let some = |offsets: Vec<(u32, u64)>| -> Option<BTreeMap<u32, u64>> {
            (!offsets.is_empty()).then(|| offsets.into_iter().collect())
        };
        Request {
            id: self.id,
            topic: self.topic,
            broker: self.broker,
            from_time: self.from.map(|text| time(text, now)),
            to_time: self.to.map(|text| time(text, now)),
            from_offsets: some(self.from_offset),
            to_offsets: some(self.to_offset),
            target_topic: self.target,
            target_route: self.route,
            filter: Filter {
                message_types: self.types,
                headers: self.header.into_iter().collect(),
                metadata: self.metadata.into_iter().collect(),
            },
            options: Asked {
                batch_size: self.batch_size,
                delay_between: self.delay.map(|span| span.0),
                rate: self.rate,
                dry_run: self.dry_run,
                preserve_order: self.any_order.then_some(false),
                skip_duplicates: self.skip_duplicates,
                allow_truncated: self.allow_truncated,
                side_effects: self.side_effects,
            },
        }
    }
}

/// "2h" is two hours ago; everything else is the host's to judge.
fn time(text: String, now: u64) -> String {
    match text.parse::<Span>() {
        Ok(ago) => rfc3339(now.saturating_sub(duration_ms(ago.0))),
        Err(_) => text,
    }
}
