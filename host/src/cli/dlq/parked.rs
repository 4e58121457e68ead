//! `helix dlq parked`: keys that wait behind a dead letter.

use clap::Args;
use serde::{Deserialize, Serialize};

use super::super::client::Client;
use super::super::output::{self, Format};
use super::super::{Exit, Global};
use crate::dlq::view::ParkedKey;

#[derive(Debug, Args)]
pub struct Parked {
    /// Only of this route
    #[arg(long)]
    route: Option<String>,
    #[arg(long, default_value_t = 50)]
    limit: usize,
    /// `next` of the page before
    #[arg(long)]
    cursor: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Listing {
    count: u64,
    keys: Vec<ParkedKey>,
    next: Option<String>,
}

impl Parked {
    pub async fn run(self, global: &Global, client: &Client) -> Result<(), Exit> {
        let mut query = vec![("limit", self.limit.to_string())];
        let optional = [("route", self.route), ("cursor", self.cursor)];
        query.extend(
            optional
                .into_iter()
                .filter_map(|(name, value)| Some((name, value?))),
        );
        let listing: Listing = client.get("/v1/messaging/dlq/parked", &query).await?;
        if global.output == Format::Json {
            return output::json(&listing);
        }
        if listing.keys.is_empty() {
            return output::line("no key waits behind a dead letter");
        }
        let row = |held: &ParkedKey| {
            let encoded = held.key_base64.as_ref().map(|key| format!("base64:{key}"));
            let withheld = if held.withheld { "(withheld)" } else { "" };
            vec![
                held.letter.clone(),
                held.route.clone(),
                held.destination.clone().unwrap_or_default(),
                held.key
                    .clone()
                    .or(encoded)
                    .unwrap_or_else(|| withheld.to_owned()),
                held.waiting.to_string(),
                held.since.clone(),
            ]
        };
        let head = ["letter", "route", "from", "key", "waiting", "since"];
        output::table(&head, listing.keys.iter().map(row).collect())?;
        output::line(&format!("{} of {}", listing.keys.len(), listing.count))?;
        match listing.next {
            Some(next) => output::line(&format!("more: helix dlq parked --cursor {next}")),
            None => Ok(()),
        }
    }
}
