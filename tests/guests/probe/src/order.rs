//! What a message can order: `{"do": "retry", "reason": "busy", "report": "handled.topic"}`.
//!
//! | do | what happens | also read |
//! |---|---|---|
//! | `ok` (default) | done | |
//! | `retry` | retry; `until`: only while the attempt is below it; `lives`: only while it was sent again fewer times | `reason`, `code`, `until`, `lives` |
//! | `retry-after` | retry, not before `ms` | `ms`, `reason`, `code`, `until` |
//! | `reject` | reject | `reason`, `code` |
//! | `huge-reason` | retry with a reason of `bytes` | `bytes` |
//! | `panic` | panics with `reason` | |
//! | `loop` | never returns | |
//! | `spin-ms` | computes for `ms`, then done | `ms` |
//! | `sleep` | sleeps for `ms` in the host, then done | `ms` |
//! | `alloc` | takes `bytes` of memory, touched; without `bytes` until it breaks | `bytes` |
//! | `recurse` | overflows the stack | |
//! | `log-flood` | writes `count` lines to stdout and as many to stderr | `count` |
//! | `publish` | one event to `topic` (type `probe.event`), and one task to `queue` where given | `topic`, `queue`, `key`, `body` |
//! | `publish-denied` | as `publish`, but a refusal is reported in the `handled` event instead of returned | `topic` |
//! | `publish-many` | `count` events to `topic` | `topic`, `count` |
//! | `huge-publish` | one event of `bytes` to `topic` | `topic`, `bytes` |
//! | `publish-retry` | publishes as `publish`, then retries: nothing may be sent | as both |
//! | `fetch` | GET `url`; body and status go into the report | `url`, `ms` = timeout |
//! | `read-file` | reads `path`; content or error go into the report | `path` |
//! | `env` | reads variable `name`; value or null go into the report | `name` |
//! | `state` | reports how many messages this instance has had, this one included | |
//! | `echo` | reports all it knows of the message | |
//!
//! On done, and with `report` given, an event of type `handled` goes to that topic:
//! `{"id", "type", "attempt", "version", "found"}`; its key is the key of the message, else its id.

use std::cell::Cell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use helix_sdk::prelude::*;
use serde_json::{Value, json};

/// Names the build, so that a test can tell two apart.
const VERSION: &str = match option_env!("PROBE_VERSION") {
    Some(version) => version,
    None => "0",
};

thread_local! {
    static CALLS: Cell<u64> = const { Cell::new(0) };
}

#[derive(Deserialize)]
#[serde(default)]
pub struct Order {
    #[serde(rename = "do")]
    action: String,
    report: Option<String>,
    reason: String,
    code: Option<String>,
    until: Option<u32>,
    lives: Option<u32>,
    ms: u64,
    count: u64,
    bytes: Option<usize>,
    topic: Option<String>,
    queue: Option<String>,
    key: Option<String>,
    body: Value,
    url: String,
    path: String,
    name: String,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            action: "ok".into(),
            report: None,
            reason: "ordered".into(),
            code: None,
            until: None,
            lives: None,
            ms: 0,
            count: 0,
            bytes: None,
            topic: None,
            queue: None,
            key: None,
            body: json!({ "from": "probe" }),
            url: String::new(),
            path: String::new(),
            name: String::new(),
        }
    }
}

impl Order {
    pub fn obey(&self, context: &Context) -> Handled {
        CALLS.set(CALLS.get() + 1);
        let found = self.act(context)?;
        let Some(topic) = &self.report else { return Ok(()) };
        let report = json!({
            "id": context.id(),
            "type": context.message_type(),
            "attempt": context.attempt(),
            "version": VERSION,
            "found": found,
        });
        publish::event("handled")
            .topic(topic)
            .key(context.key().unwrap_or(context.id().as_bytes()))
            .json(&report)?
            .send()?;
        Ok(())
    }

    fn act(&self, context: &Context) -> Result<Value, Failure> {
        match self.action.as_str() {
            "ok" => {}
            "retry" => self.fail(context, retry(&self.reason))?,
            "retry-after" => self.fail(context, retry_after(Duration::from_millis(self.ms), &self.reason))?,
            "reject" => self.fail(context, reject(&self.reason))?,
            "huge-reason" => self.fail(context, retry("x".repeat(self.bytes.unwrap_or(0))))?,
            "panic" => panic!("{}", self.reason),
            "loop" => loop {
                black_box(());
            },
            "spin-ms" => {
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(self.ms) {
                    black_box(());
                }
            }
            "sleep" => std::thread::sleep(Duration::from_millis(self.ms)),
            "alloc" => allocate(self.bytes.unwrap_or(usize::MAX)),
            "recurse" => {
                black_box(recurse(0));
            }
            "log-flood" => {
                for line in 0..self.count {
                    println!("flood {line} of {}", context.id());
                    eprintln!("flood {line} of {}", context.id());
                }
            }
            "publish" => self.publish()?,
            "publish-denied" => {
                return Ok(self
                    .publish()
                    .err()
                    .map_or(Value::Null, |error| json!(error.to_string())));
            }
            "publish-many" => {
                for number in 0..self.count {
                    self.event().json(&json!({ "number": number }))?.send()?;
                }
            }
            "huge-publish" => {
                self.event().bytes(vec![b'x'; self.bytes.unwrap_or(0)]).send()?;
            }
            "publish-retry" => {
                self.publish()?;
                self.fail(context, retry(&self.reason))?;
            }
            "fetch" => {
                let mut request = fetch::get(&self.url);
                if self.ms > 0 {
                    request = request.timeout(Duration::from_millis(self.ms));
                }
                let answer = request.send()?;
                return Ok(json!({ "status": answer.status, "body": answer.text() }));
            }
            "read-file" => {
                return Ok(match std::fs::read_to_string(&self.path) {
                    Ok(text) => json!({ "text": text }),
                    Err(error) => json!({ "error": error.to_string() }),
                });
            }
            "env" => return Ok(json!(std::env::var(&self.name).ok())),
            "state" => return Ok(json!(CALLS.get())),
            "echo" => return Ok(echo(context)),
            other => {
                return Err(reject(format_args!("the probe does not know {other:?}")).code("probe.unknown"));
            }
        }
        Ok(Value::Null)
    }

    fn fail(&self, context: &Context, failure: Failure) -> Handled {
        let enough = self.until.is_some_and(|until| context.attempt() >= until)
            || self.lives.is_some_and(|lives| context.reprocessed() >= lives);
        if enough {
            return Ok(());
        }
        Err(match &self.code {
            Some(code) => failure.code(code.clone()),
            None => failure,
        })
    }

    fn event(&self) -> publish::NewEvent {
        let event = publish::event("probe.event");
        let event = match &self.topic {
            Some(topic) => event.topic(topic),
            None => event,
        };
        match &self.key {
            Some(key) => event.key(key.as_str()),
            None => event,
        }
    }

    fn publish(&self) -> Result<(), publish::PublishError> {
        if self.topic.is_some() || self.queue.is_none() {
            self.event().json(&self.body)?.send()?;
        }
        if let Some(queue) = &self.queue {
            publish::task("probe.task")
                .queue(queue)
                .json(&self.body)?
                .send()?;
        }
        Ok(())
    }
}

fn echo(context: &Context) -> Value {
    let headers: Vec<_> = context
        .headers()
        .map(|(name, value)| json!([name, String::from_utf8_lossy(value)]))
        .collect();
    json!({
        "destination": context.destination(),
        "payload_bytes": context.payload().len(),
        "content_type": context.content_type(),
        "schema": context.schema(),
        "priority": context.priority(),
        "key": context.key().map(String::from_utf8_lossy),
        "time_ms": millis(context.time()),
        "deadline_ms": context.deadline().map(millis),
        "max_attempts": context.max_attempts(),
        "last": context.is_last_attempt(),
        "redelivered": context.redelivered(),
        "reprocessed": context.reprocessed(),
        "replay": context.replay(),
        "correlation_id": context.correlation_id(),
        "reply_to": context.reply_to(),
        "traceparent": context.traceparent(),
        "tracestate": context.tracestate(),
        "source": context.source(),
        "subject": context.subject(),
        "partition": context.partition(),
        "offset": context.offset(),
        "tombstone": context.tombstone(),
        "headers": headers,
    })
}

fn millis(time: std::time::SystemTime) -> u64 {
    time.duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64
}

/// In pieces of 1 MiB, each page written to, so that no limit is passed on paper only.
fn allocate(bytes: usize) {
    const PIECE: usize = 1 << 20;
    let mut pieces: Vec<Vec<u8>> = Vec::new();
    while pieces.len() * PIECE < bytes {
        pieces.push(vec![1; PIECE]);
    }
    black_box(&pieces);
}

#[expect(unconditional_recursion, reason = "that is the order")]
fn recurse(depth: u64) -> u64 {
    let frame = black_box([depth; 64]);
    recurse(depth + 1) + black_box(frame)[0]
}
