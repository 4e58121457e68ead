//! What brokers and stores say, asked from outside of the hosts.

mod embedded;
mod kafka;
mod rabbitmq;
mod store;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use helix_host::model::clock::SystemClock;
use helix_host::store::sqlite::SqliteStore;
use helix_host::store::{DeadLetters, LetterFilter, Page};
use serde_json::Value;

pub use embedded::{commits as embedded_commits, depth as embedded_depth, lock, outputs as embedded_outputs};
pub use kafka::{
    commits as kafka_commits, copies as kafka_copies, create_topics, ends as kafka_ends, lag as kafka_lag,
    outputs as kafka_outputs,
};
pub use rabbitmq::{declare as declare_queue, depth as rabbitmq_depth};
pub use store::all as shared_store;

use crate::history::{History, Said, What};

/// How often committed positions are read.
const COMMITS_EVERY: Duration = Duration::from_millis(200);

/// Dead letters of a host that has left.
///
/// # Errors
/// When its store cannot be read.
pub async fn letters(state: &Path, instance: &str, history: &History) -> Result<()> {
    let file = state.join("store.db");
    if !file.exists() {
        return Ok(());
    }
    let store = SqliteStore::open(&file, Arc::new(SystemClock)).await?;
    let mut cursor = None;
    loop {
        let page = Page {
            limit: 500,
            offset: 0,
            cursor,
        };
        let found = store.list(&LetterFilter::default(), &page).await?;
        for letter in found.letters {
            history.add(What::Letter {
                id: letter.message_id.unwrap_or(letter.id),
                class: letter.class.as_str().to_owned(),
                instance: instance.to_owned(),
            });
        }
        cursor = found.next;
        if cursor.is_none() {
            break;
        }
    }
    store.close().await;
    Ok(())
}

/// An output of a handler in the flat JSON that hosts publish by default.
fn output(body: &[u8], history: &History) {
    let event: Value = serde_json::from_slice(body).unwrap_or_default();
    let data = event.get("data").cloned().unwrap_or_default();
    let text = |name: &str| data.get(name).and_then(Value::as_str);
    match (
        text("id"),
        data.get("attempt").and_then(Value::as_u64),
        text("said").and_then(Said::parse),
    ) {
        (Some(id), Some(attempt), Some(said)) => history.add(What::Output {
            id: id.to_owned(),
            attempt: u32::try_from(attempt).unwrap_or(u32::MAX),
            said,
        }),
        _ => history.wrong(format!("no output of ours: {}", String::from_utf8_lossy(body))),
    }
}
