//! What is put under load together: hosts, their brokers and proxies, the streams they serve.

mod brokers;
mod embedded;
mod store;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinSet;

use crate::actor::Actor;
use crate::history::{History, What};
use crate::message::{Dice, Stream};
use crate::observe;
use crate::operate::Operators;
use crate::proxy::Proxy;
use crate::publish::Parts;

/// Unsettled deliveries of a host, `limits.in_flight`.
pub const WINDOW: u64 = 400;

/// The route of a stream, with the handler of the run.
fn route(name: &str, from: &str, order: &str) -> String {
    format!(
        "[[routes]]\nname = \"{name}\"\n{from}\nplugin = \"torture\"\norder = \"{order}\"\nconcurrency = 16\ntimeout = \"4s\"\n\
         retry = {{ max_retries = 3, delay = \"100ms\", max_delay = \"1s\", jitter = 0.2 }}\n"
    )
}

fn plugin(instance: &str, out: &str) -> String {
    format!(
        "[plugins.torture]\npublish = [\"{out}\"]\nfetch = [\"127.0.0.1\"]\nfetch_private = true\n\
         env = {{ INSTANCE = \"{instance}\" }}\n[limits]\nin_flight = {WINDOW}\n"
    )
}

pub struct Arena {
    /// The state folder of the first host, when it could be mounted. Before the hosts, so that it goes before their folders.
    small_disk: Option<embedded::SmallDisk>,
    pub name: &'static str,
    pub actors: Vec<Actor>,
    pub streams: Vec<Stream>,
    pub proxies: Proxies,
    /// Faketime's file, when hosts run under it.
    pub clock: Option<std::path::PathBuf>,
    /// Queue or topic of each stream.
    destinations: Vec<(Stream, String)>,
    out: String,
    group: String,
    /// Of the store that hosts share, and who deals with the letters in it.
    schema: String,
    operators: Option<Arc<Operators>>,
    history: Arc<History>,
}

#[derive(Default)]
pub struct Proxies {
    pub rabbitmq: Option<Proxy>,
    /// One for each node.
    pub kafka: Vec<Proxy>,
    /// In front of the store.
    pub postgres: Option<Proxy>,
}

impl Arena {
    /// The first host's disk can be filled up.
    pub fn has_small_disk(&self) -> bool {
        self.small_disk.is_some()
    }

    pub fn is_embedded(&self) -> bool {
        self.name == embedded::NAME
    }

    /// Its hosts have one store, which is not a file of theirs.
    pub fn shares_store(&self) -> bool {
        self.name == store::NAME
    }

    /// # Errors
    /// When something cannot be prepared.
    pub async fn embedded(parts: &Parts, env: &[(String, String)]) -> Result<Self> {
        embedded::arena(parts, env).await
    }

    /// With the streams that are asked for, on as many hosts.
    ///
    /// # Errors
    /// When something cannot be prepared.
    pub async fn brokers(parts: &Parts, streams: &[Stream], env: &[(String, String)]) -> Result<Self> {
        brokers::arena(parts, streams, env).await
    }

    /// With the streams that are asked for, and one store.
    ///
    /// # Errors
    /// When something cannot be prepared.
    pub async fn store(parts: &Parts, streams: &[Stream], env: &[(String, String)]) -> Result<Self> {
        store::arena(parts, streams, env).await
    }

    pub fn publish(&self, parts: &Parts, tasks: &mut JoinSet<()>) {
        if let Some(operators) = &self.operators {
            operators.start(tasks, &parts.stop);
        }
        if self.is_embedded() {
            embedded::publish(self, parts, tasks);
        } else {
            brokers::publish(self, parts, tasks);
        }
    }

    pub fn has(&self, broker: &str) -> bool {
        self.streams.iter().any(|stream| stream.broker() == broker)
    }

    /// One of the proxies, by chance.
    pub fn proxy(&self, dice: &mut Dice) -> Option<&Proxy> {
        let rabbitmq = self.proxies.rabbitmq.iter().filter(|_| self.has("rabbitmq"));
        let kafka = self.proxies.kafka.iter().filter(|_| self.has("kafka"));
        let proxies: Vec<&Proxy> = rabbitmq.chain(kafka).collect();
        let chosen = usize::try_from(dice.between(0, proxies.len() as u64)).ok()?;
        proxies.get(chosen).copied()
    }

    fn destination(&self, stream: Stream) -> &str {
        self.destinations
            .iter()
            .find(|(s, _)| *s == stream)
            .map_or("", |(_, name)| name.as_str())
    }

    /// Notes committed positions until the run ends.
    pub fn watch_commits(&self, tasks: &mut JoinSet<()>, stop: &tokio_util::sync::CancellationToken) {
        if self.is_embedded() {
            if let Some(actor) = self.actors.first() {
                let file = actor.setup.path().join("state/broker.db");
                let topic = self.destination(Stream::EmbeddedEvents).to_owned();
                observe::embedded_commits(file, topic, &self.history, tasks, stop);
            }
        } else if let Some(stream) = self.streams.iter().find(|stream| stream.is_keyed()) {
            let topic = self.destination(*stream).to_owned();
            observe::kafka_commits(*stream, topic, self.group.clone(), &self.history, tasks, stop);
        }
    }

    /// Hosts that have left come back for what they have parked, where each has a store of its own.
    pub async fn wake(&mut self) {
        for actor in &mut self.actors {
            if actor.setup.path().join("state/store.db").exists() {
                actor.start().await;
            }
        }
    }

    /// Everything runs, is ready, and has nothing left to do; how long that took.
    pub async fn drained(&mut self, limit: Duration) {
        let from = tokio::time::Instant::now();
        let mut left = vec![("hosts that did not answer".to_owned(), 1)];
        // What an operator has just sent again is nowhere for a moment.
        let mut calm = 0;
        while from.elapsed() < limit && calm < 2 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            left = self.left().await;
            // The letters that hosts share, and what they do in the background.
            if let Some(operators) = &self.operators {
                left.extend(operators.clean().await);
                left.retain(|(_, count)| *count != 0);
            }
            calm = if left.is_empty() { calm + 1 } else { 0 };
        }
        for (what, count) in left {
            self.history.add(What::Left {
                what: format!("{what} ({})", self.name),
                count,
            });
        }
        self.history.add(What::Drained {
            arena: self.name.to_owned(),
            ms: u64::try_from(from.elapsed().as_millis()).unwrap_or(u64::MAX),
        });
    }

    async fn left(&mut self) -> Vec<(String, i64)> {
        let mut left = Vec::new();
        for actor in self.actors.iter_mut().filter(|actor| actor.host().is_some()) {
            actor.watch().await;
            match actor.unfinished().await {
                Some((0, 0.0)) => {}
                Some((retries, in_flight)) => {
                    left.push((
                        format!("retries pending on {}", actor.name),
                        i64::try_from(retries).unwrap_or(i64::MAX),
                    ));
                    #[allow(clippy::cast_possible_truncation, reason = "a small number")]
                    left.push((format!("in flight on {}", actor.name), in_flight as i64));
                }
                None => left.push((format!("{} does not answer", actor.name), 1)),
            }
        }
        for stream in &self.streams {
            let depth = match stream {
                Stream::EmbeddedTasks | Stream::EmbeddedEvents => self.embedded_depth(*stream).await,
                Stream::RabbitTasks | Stream::StoreTasks => {
                    observe::rabbitmq_depth(self.destination(*stream)).await
                }
                Stream::KafkaEvents | Stream::StoreEvents => {
                    observe::kafka_lag(self.destination(*stream), &self.group).await
                }
            };
            match depth {
                Some(0) => {}
                Some(n) => left.push((format!("messages in {stream:?}"), n)),
                None => left.push((format!("depth of {stream:?} is not known"), 1)),
            }
        }
        left.retain(|(_, count)| *count != 0);
        left
    }

    async fn embedded_depth(&self, stream: Stream) -> Option<i64> {
        let file = self.actors.first()?.setup.path().join("state/broker.db");
        observe::embedded_depth(&file, stream, self.destination(stream))
    }

    /// Hosts leave in good order; what they kept and published goes into the history.
    ///
    /// # Errors
    /// When a store or a topic cannot be read.
    pub async fn finish(&mut self) -> Result<()> {
        for actor in &mut self.actors {
            actor.drain().await;
        }
        for actor in &self.actors {
            observe::letters(&actor.setup.path().join("state"), &actor.name, &self.history).await?;
        }
        if self.is_embedded() {
            if let Some(actor) = self.actors.first() {
                observe::embedded_outputs(
                    &actor.setup.path().join("state/broker.db"),
                    &self.out,
                    &self.history,
                )?;
            }
        } else {
            observe::kafka_outputs(&self.out, &self.history).await?;
        }
        if self.shares_store() {
            observe::shared_store(&self.schema, &self.history).await?;
            if self.streams.contains(&Stream::StoreEvents) {
                let target = format!("{}.replay", self.destination(Stream::StoreEvents));
                observe::kafka_copies(&target, &self.history).await?;
            }
        }
        self.small_disk = None;
        Ok(())
    }
}

/// Messages of a stream that may be under way. More than a window on the embedded broker, so that lanes that wait for a
/// retry have to give their permits back; less with Kafka, whose hosts have a store each and promise no order beyond, and
/// with keys that wait for an operator.
pub fn limits() -> [(Stream, usize); 6] {
    [
        (Stream::EmbeddedTasks, 800),
        (Stream::EmbeddedEvents, 800),
        (Stream::RabbitTasks, 800),
        (Stream::KafkaEvents, 200),
        (Stream::StoreTasks, 200),
        (Stream::StoreEvents, 200),
    ]
}
