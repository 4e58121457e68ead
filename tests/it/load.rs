//! Messages that keep coming, from several senders at once, until told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use helix_tests::Host;
use serde_json::Value;
use tokio::task::JoinSet;

/// Between two messages of a sender.
const PACE: Duration = Duration::from_millis(4);

/// The ids that were accepted, or those and why it went no further.
type Sent = Result<Vec<String>, (Vec<String>, String)>;

pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    senders: JoinSet<Sent>,
}

impl Load {
    /// `body` makes the n-th message; its `id` is ours, so that an answer that gets lost is no riddle.
    pub fn start(host: &Host, path: &str, senders: usize, body: fn(u64) -> Value) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..senders {
            let (url, stop, sent) = (
                format!("{}{path}", host.url()),
                Arc::clone(&stop),
                Arc::clone(&sent),
            );
            tasks.spawn(async move {
                let http = helix_tests::Client::default();
                let mut accepted = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    // A steady stream; as fast as possible would only measure the machine.
                    tokio::time::sleep(PACE).await;
                    let message = body(sent.fetch_add(1, Ordering::Relaxed));
                    let id = message["id"].as_str().unwrap_or_default().to_owned();
                    match http.post(&url).json(&message).send().await {
                        Ok(answer) if answer.status() == 202 => accepted.push(id),
                        Ok(answer) => return Err((accepted, format!("{id}: {}", answer.status()))),
                        Err(error) => return Err((accepted, format!("{id}: {error}"))),
                    }
                }
                Ok(accepted)
            });
        }
        Self {
            stop,
            sent,
            senders: tasks,
        }
    }

    /// Messages sent so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// The ids that were accepted; every one must have been.
    pub async fn stop(self) -> Vec<String> {
        let (accepted, refused) = self.end().await;
        assert!(refused.is_empty(), "not accepted: {refused:?}");
        accepted
    }

    /// The ids that were accepted, when the host may have gone meanwhile; and what the others got.
    pub async fn end(mut self) -> (Vec<String>, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut accepted, mut refused) = (Vec::new(), Vec::new());
        while let Some(ended) = self.senders.join_next().await {
            match ended.unwrap() {
                Ok(ids) => accepted.extend(ids),
                Err((ids, error)) => {
                    accepted.extend(ids);
                    refused.push(error);
                }
            }
        }
        (accepted, refused)
    }
}
