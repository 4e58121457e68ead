//! One request of an operator, and what it means for the history.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::Operators;
use crate::history::{Verb, What};

/// Longer than a host waits for its store; one that is stopped is given up on sooner than it comes back.
const ANSWER: Duration = Duration::from_secs(15);

/// A dead letter as a list has it.
pub(super) struct Letter {
    /// Of its message.
    pub id: String,
    pub letter: String,
}

pub(super) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .timeout(ANSWER)
        // A host that is killed takes its connections along; a pool would only hide that.
        .pool_max_idle_per_host(0)
        .build()
        .unwrap_or_default()
}

impl Operators {
    /// Status (0: no answer) and JSON body (null: none).
    async fn send(&self, method: Method, url: &str, body: Option<&Value>) -> (u16, Value) {
        let mut request = self.http.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        match request.send().await {
            Ok(answer) => (
                answer.status().as_u16(),
                answer.json().await.unwrap_or(Value::Null),
            ),
            Err(_) => (0, Value::Null),
        }
    }

    pub(super) async fn get(&self, url: &str) -> (u16, Value) {
        self.send(Method::GET, url, None).await
    }

    pub(super) async fn post(&self, url: &str, body: &Value) -> (u16, Value) {
        self.send(Method::POST, url, Some(body)).await
    }

    pub(super) async fn delete(&self, url: &str) -> u16 {
        self.send(Method::DELETE, url, None).await.0
    }

    /// "Not now" is always a good answer: hosts start and stop, brokers and the store are away.
    pub(super) fn expect(&self, good: &[u16], status: u16, what: &str) {
        if !good.contains(&status) && ![0, 429, 500, 503, 504, 507].contains(&status) {
            self.history.wrong(format!("{what} was answered {status}"));
        }
    }

    /// None: the host does not answer.
    pub(super) async fn dead(&self, url: &str, limit: usize) -> Option<Vec<Letter>> {
        let (status, answer) = self
            .get(&format!("{url}/v1/messaging/dlq?state=dead&limit={limit}"))
            .await;
        let letters = answer.get("messages")?.as_array().filter(|_| status == 200)?;
        let text = |of: &Value, name: &str| Some(of.get(name)?.as_str()?.to_owned());
        Some(
            letters
                .iter()
                .filter_map(|of| {
                    Some(Letter {
                        id: text(of, "message_id").or(text(of, "id"))?,
                        letter: text(of, "id")?,
                    })
                })
                .collect(),
        )
    }

    pub(super) async fn ask(&self, letter: &Letter, verb: Verb, actor: &str, host: &(String, String)) {
        let (name, url) = host;
        let n = self.number();
        self.history.add(What::Asked {
            n,
            id: letter.id.clone(),
            letter: letter.letter.clone(),
            verb,
            actor: actor.to_owned(),
            instance: name.clone(),
        });
        let of = format!("{url}/v1/messaging/dlq/{}", letter.letter);
        let because = json!({ "actor": actor, "reason": "torture" });
        let (good, status) = match verb {
            Verb::Reprocess => (202, self.post(&format!("{of}/reprocess"), &because).await.0),
            Verb::Release => (200, self.post(&format!("{of}/release"), &because).await.0),
            Verb::Discard => (200, self.send(Method::DELETE, &of, Some(&because)).await.0),
        };
        self.expect(&[good, 409], status, verb.as_str());
        self.history.add(What::Answered { n, status });
    }
}
