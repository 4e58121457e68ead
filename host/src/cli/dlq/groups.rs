//! `helix dlq groups`: dead letters by what went wrong.

use clap::Args;

use super::super::client::Client;
use super::super::output::{self, Format};
use super::super::{Exit, Global};
use super::filter::Filter;
use crate::dlq::report::{Group, Groups as Found};

#[derive(Debug, Args)]
pub struct Groups {
    #[command(flatten)]
    filter: Filter,
    /// dead, retrying, reprocessed, discarded, expired, all [default: all but reprocessed and discarded]
    #[arg(long)]
    state: Option<String>,
    #[arg(long, default_value_t = 50)]
    limit: usize,
}

impl Groups {
    pub async fn run(self, global: &Global, client: &Client) -> Result<(), Exit> {
        let mut query = vec![("limit", self.limit.to_string())];
        query.extend(self.filter.words());
        query.extend(self.state.map(|state| ("state", state)));
        let found: Found = client.get("/v1/messaging/dlq/groups", &query).await?;
        if global.output == Format::Json {
            return output::json(&found);
        }
        if found.groups.is_empty() && !found.at_least {
            return output::line("no dead letters");
        }
        let head = [
            "group",
            "letters",
            "route",
            "class",
            "code",
            "message",
            "version",
            "first seen",
            "last seen",
        ];
        let rows = found.groups.iter().map(row).collect();
        output::table(&head, rows)?;
        let more = if found.at_least { "at least " } else { "" };
        output::line(&format!("{} of {more}{}", found.groups.len(), found.count))?;
        output::talk(
            "send one again with `helix dlq reprocess --group GROUP`; its letters: `helix dlq ls --group GROUP`",
        );
        Ok(())
    }
}

fn row(group: &Group) -> Vec<String> {
    vec![
        group.id.clone(),
        format!("{}{}", group.count, if group.at_least { "+" } else { "" }),
        group.route.clone().unwrap_or_default(),
        group.class.clone(),
        group.code.clone().unwrap_or_default(),
        group
            .message
            .as_deref()
            .unwrap_or("(from before an upgrade: not compared)")
            .chars()
            .take(80)
            .collect(),
        version(group),
        group.first_seen.clone(),
        group.last_seen.clone(),
    ]
}

fn version(group: &Group) -> String {
    match (&group.digest, &group.previous_digest) {
        (None, _) => String::new(),
        (Some(digest), Some(previous)) => format!("{}, before it {}", short(digest), short(previous)),
        (Some(digest), None) if group.since_version => format!("began with {}", short(digest)),
        (Some(digest), None) => short(digest),
    }
}

/// As plugins are shown elsewhere: the first eight hex digits.
fn short(digest: &str) -> String {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.chars().take(8).collect()
}
