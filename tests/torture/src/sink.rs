//! Where handlers tell what they do. It is never disturbed, so what it has seen has happened.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use serde::Deserialize;
use tokio::net::TcpListener;

use crate::flow::Flow;
use crate::history::{History, Said, What};
use crate::message::{Fate, Id, Stream, mix};

/// Which messages of a key keep their handler busy, so that there is always something in flight.
#[derive(Debug, Clone, Copy)]
pub struct Slow {
    /// One in so many.
    pub every: u64,
    pub time: Duration,
}

impl Default for Slow {
    fn default() -> Self {
        Self {
            every: 50,
            time: Duration::from_millis(30),
        }
    }
}

pub struct Sink {
    pub history: Arc<History>,
    pub flow: Arc<Flow>,
    pub seed: u64,
    pub slow: Slow,
    /// Which message of a key is being handled.
    running: Mutex<HashMap<Key, String>>,
}

type Key = (Stream, u32);

#[derive(Deserialize)]
struct Ran {
    id: String,
    attempt: u32,
    said: String,
    #[serde(default)]
    instance: String,
}

/// Answers its URL.
///
/// # Errors
/// When no port is free.
pub async fn serve(history: Arc<History>, flow: Arc<Flow>, seed: u64, slow: Slow) -> Result<String> {
    let sink = Arc::new(Sink {
        history,
        flow,
        seed,
        slow,
        running: Mutex::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    let router = Router::new().route("/ran", get(ran)).with_state(sink);
    // Ends with the process.
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(url)
}

async fn ran(State(sink): State<Arc<Sink>>, Query(ran): Query<Ran>) -> StatusCode {
    let (Some(said), Some(id)) = (Said::parse(&ran.said), Id::parse(&ran.id)) else {
        sink.history.wrong(format!("a handler told of {:?}", ran.id));
        return StatusCode::NO_CONTENT;
    };
    let attempt = ran.attempt;
    sink.history.add(What::Ran {
        id: ran.id.clone(),
        attempt,
        said,
        instance: ran.instance,
    });
    let fate = Fate::of(sink.seed, &id);
    if said == Said::Done || fate.gives_up(attempt) {
        sink.flow.leave(&id);
    }
    if id.stream.is_keyed() {
        sink.alone(id, &ran.id);
        if mix(id.sequence).is_multiple_of(sink.slow.every) {
            let _busy = Busy::new(&sink, id, ran.id);
            tokio::time::sleep(sink.slow.time).await;
        }
    }
    StatusCode::NO_CONTENT
}

impl Sink {
    fn running(&self) -> MutexGuard<'_, HashMap<Key, String>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self, id: Id, text: &str) {
        if let Some(other) = self.running().get(&(id.stream, id.key)) {
            self.history.add(What::Overlap {
                id: text.to_owned(),
                other: other.clone(),
            });
        }
    }
}

/// While a handler waits for its answer, no other of its key may run. Dropped as well when its host goes away.
struct Busy<'a> {
    sink: &'a Sink,
    key: Key,
    id: String,
}

impl<'a> Busy<'a> {
    fn new(sink: &'a Sink, id: Id, text: String) -> Self {
        let key = (id.stream, id.key);
        sink.running().insert(key, text.clone());
        Self { sink, key, id: text }
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut running = self.sink.running();
        if running.get(&self.key) == Some(&self.id) {
            running.remove(&self.key);
        }
    }
}
