//! Two to four hosts on RabbitMQ and Kafka, each behind a proxy: competing consumers and a consumer group.

use std::sync::Arc;

use anyhow::{Context, Result};
use helix_tests::{unique, variable};
use tokio::task::JoinSet;

use super::{Arena, Proxies, plugin, route};
use crate::actor::{Actor, Plan};
use crate::message::{Stream, mix};
use crate::observe;
use crate::proxy::Proxy;
use crate::publish::{Desk, Parts, http, kafka, rabbitmq};

pub const NAME: &str = "brokers";
/// Hosts that run from the start; two more come and go.
const HOSTS: usize = 2;
const MOST_HOSTS: usize = 4;
pub const PARTITIONS: i32 = 6;
const KEYS: u32 = 48;
/// Tasks that go through the API of the first host instead of straight to RabbitMQ.
const HTTP_WORKERS: u32 = 4;

pub fn port(name: &str) -> Result<u16> {
    variable(name)
        .parse()
        .with_context(|| format!("{name} is no port"))
}

/// One entry for each node of the cluster.
fn ports(name: &str) -> Result<Vec<u16>> {
    variable(name)
        .split(',')
        .map(|port| {
            port.parse()
                .with_context(|| format!("{name} is no list of ports"))
        })
        .collect()
}

/// One for each node of Kafka, where the node says that it listens.
async fn kafka_proxies() -> Result<Vec<Proxy>> {
    let mut proxies = Vec::new();
    let targets = ports("HELIX_TEST_KAFKA_PROXIED_PORTS")?;
    for (port, target) in ports("HELIX_TEST_KAFKA_PROXY_PORTS")?.into_iter().zip(targets) {
        proxies.push(Proxy::start(port, target).await?);
    }
    Ok(proxies)
}

/// RabbitMQ and each node of Kafka, behind proxies.
pub async fn proxies() -> Result<Proxies> {
    Ok(Proxies {
        rabbitmq: Some(Proxy::start(0, port("HELIX_TEST_RABBITMQ_PORT")?).await?),
        kafka: kafka_proxies().await?,
        postgres: None,
    })
}

/// Both brokers, as helix.toml names them.
pub fn config(proxies: &Proxies, group: &str) -> String {
    let servers: Vec<String> = proxies
        .kafka
        .iter()
        .map(|proxy| format!("\"127.0.0.1:{}\"", proxy.port))
        .collect();
    format!(
        "[messaging]\ntasks = \"rabbitmq\"\nevents = \"kafka\"\n\
         [brokers.rabbitmq]\nkind = \"rabbitmq\"\nhost = \"127.0.0.1\"\nport = {}\nuser = \"{}\"\n\
         password = \"env:HELIX_TEST_RABBITMQ_PASSWORD\"\nheartbeat = \"4s\"\npublish_timeout = \"10s\"\n\
         [brokers.kafka]\nkind = \"kafka\"\nservers = [{}]\ngroup = \"{group}\"\nsession_timeout = \"6s\"\n\
         heartbeat_interval = \"1s\"\npublish_timeout = \"10s\"\n",
        proxies.rabbitmq.as_ref().map_or(0, |proxy| proxy.port),
        variable("HELIX_TEST_RABBITMQ_USER"),
        servers.join(", "),
    )
}

/// Queue, topics and the partitions they have.
pub fn topology(queue: &str, topics: &[&str]) -> String {
    let topics = topics
        .iter()
        .map(|topic| format!("[[topics]]\nname = \"{topic}\"\npartitions = {PARTITIONS}\n"));
    format!("[[queues]]\nname = \"{queue}\"\n{}", topics.collect::<String>())
}

pub async fn arena(parts: &Parts, streams: &[Stream], env: &[(String, String)]) -> Result<Arena> {
    let (queue, topic, out, group) = (
        unique("torture-tasks"),
        unique("torture-events"),
        unique("torture-out"),
        unique("torture"),
    );
    let proxies = proxies().await?;
    observe::create_topics(&[&topic, &out], PARTITIONS, proxies.kafka.len()).await?;
    observe::declare_queue(&queue).await?;
    let mut routes = String::new();
    if streams.contains(&Stream::RabbitTasks) {
        routes.push_str(&route("tasks", &format!("queue = \"{queue}\""), "none"));
    }
    if streams.contains(&Stream::KafkaEvents) {
        routes.push_str(&route("events", &format!("topic = \"{topic}\""), "key"));
    }
    let mut actors = Vec::new();
    for n in 1..=MOST_HOSTS {
        let name = format!("brokers-{n}");
        let toml = [config(&proxies, &group), routes.clone(), plugin(&name, &out)].concat();
        let plan = Plan {
            name,
            toml,
            topology: topology(&queue, &[&topic, &out]),
            env: env.to_vec(),
        };
        actors.push(Actor::new(&plan, &parts.history)?);
    }
    for actor in actors.iter_mut().take(HOSTS) {
        actor.start().await;
    }
    Ok(Arena {
        name: NAME,
        actors,
        streams: streams.to_vec(),
        proxies,
        clock: None,
        small_disk: None,
        destinations: destinations(streams, &queue, &topic),
        out,
        group,
        schema: String::new(),
        operators: None,
        history: Arc::clone(&parts.history),
    })
}

pub fn destinations(streams: &[Stream], queue: &str, topic: &str) -> Vec<(Stream, String)> {
    streams
        .iter()
        .map(|stream| {
            let name = if stream.is_keyed() { topic } else { queue };
            (*stream, name.to_owned())
        })
        .collect()
}

pub fn publish(arena: &Arena, parts: &Parts, tasks: &mut JoinSet<()>) {
    for (stream, destination) in &arena.destinations {
        let desk = Desk::new(*stream, destination, &arena.out, parts);
        match stream {
            Stream::KafkaEvents | Stream::StoreEvents => {
                let seed = mix(parts.orders.seed);
                tasks.spawn(async move {
                    if let Err(error) = kafka::run(Arc::clone(&desk), KEYS, seed).await {
                        desk.history
                            .wrong(format!("the observer cannot publish to Kafka: {error}"));
                    }
                });
            }
            Stream::RabbitTasks | Stream::StoreTasks => {
                if let Some(actor) = arena.actors.first() {
                    http::start(&desk, &actor.url, HTTP_WORKERS, tasks);
                }
                tasks.spawn(rabbitmq::run(desk));
            }
            Stream::EmbeddedTasks | Stream::EmbeddedEvents => {}
        }
    }
}
