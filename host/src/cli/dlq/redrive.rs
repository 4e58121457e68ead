//! `helix dlq reprocess|release|discard`: one request per letter. One that is refused does not stop the others.

use clap::Args;
use serde::Serialize;
use serde_json::{Value, json};

use super::super::client::{Client, segment};
use super::super::output::{self, Format};
use super::super::{Exit, Global};
use crate::dlq::view::Outcome;

#[derive(Debug, Args)]
pub struct Reprocess {
    /// Ids from `dlq ls`
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
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
    /// Ids from `dlq ls`
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    /// Why; kept with the letter
    #[arg(long, value_name = "TEXT")]
    reason: String,
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
        let body = json!({ "actor": actor() });
        each(global, &self.ids, async |id| {
            client
                .post(&format!("/v1/messaging/dlq/{id}/reprocess"), &body)
                .await
        })
        .await
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
        let body = json!({ "actor": actor(), "reason": self.reason });
        each(global, &self.ids, async |id| {
            client
                .delete(&format!("/v1/messaging/dlq/{id}/discard"), &body)
                .await
        })
        .await
    }
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
fn actor() -> Value {
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
