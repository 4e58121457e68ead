//! Two or three hosts on one Postgres, with a queue of RabbitMQ and a topic of Kafka of which a key waits behind its dead
//! letter; operators deal with the letters while all of it is disturbed.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use helix_tests::{unique, variable};

use super::{Arena, brokers, plugin, route};
use crate::actor::{Actor, Plan};
use crate::message::Stream;
use crate::observe;
use crate::operate::Operators;
use crate::proxy::Proxy;
use crate::publish::Parts;

pub const NAME: &str = "store";
/// Hosts that run from the start; one more comes and goes.
const HOSTS: usize = 2;
const MOST_HOSTS: usize = 3;

pub async fn arena(parts: &Parts, streams: &[Stream], env: &[(String, String)]) -> Result<Arena> {
    let (queue, topic, out, group) = (
        unique("torture-tasks"),
        unique("torture-events"),
        unique("torture-out"),
        unique("torture"),
    );
    let schema = unique("torture").replace('-', "_");
    let mut proxies = brokers::proxies().await?;
    let mut url = reqwest::Url::parse(&variable("HELIX_TEST_POSTGRES_URL"))?;
    let postgres = Proxy::start(0, url.port().unwrap_or(5432)).await?;
    url.set_port(Some(postgres.port))
        .map_err(|()| anyhow!("HELIX_TEST_POSTGRES_URL has no place for a port"))?;
    proxies.postgres = Some(postgres);
    observe::create_topics(&[&topic, &out], brokers::PARTITIONS, proxies.kafka.len()).await?;
    observe::declare_queue(&queue).await?;
    let mut routes = String::new();
    let mut names = Vec::new();
    for stream in streams {
        let (name, from, order, more) = if stream.is_keyed() {
            let parks = "on_dead_letter = \"park\"\n";
            ("events", format!("topic = \"{topic}\""), "key", parks)
        } else {
            ("tasks", format!("queue = \"{queue}\""), "none", "")
        };
        routes.push_str(&route(name, &from, order));
        routes.push_str(more);
        names.push(name);
    }
    let mut env = env.to_vec();
    env.push(("HELIX_STORE_URL".to_owned(), url.to_string()));
    let mut actors = Vec::new();
    for n in 1..=MOST_HOSTS {
        let name = format!("store-{n}");
        let toml = [
            brokers::config(&proxies, &group),
            format!("[store]\nurl = \"env:HELIX_STORE_URL\"\nschema = \"{schema}\"\n"),
            routes.clone(),
            plugin(&name, &out),
        ]
        .concat();
        let plan = Plan {
            name,
            toml,
            topology: brokers::topology(&queue, &[&topic, &out]),
            env: env.clone(),
        };
        actors.push(Actor::new(&plan, &parts.history)?);
    }
    for actor in actors.iter_mut().take(HOSTS) {
        actor.start().await;
    }
    let hosts = actors
        .iter()
        .map(|actor| (actor.name.clone(), actor.url.clone()))
        .collect();
    let replayed = streams.contains(&Stream::StoreEvents).then(|| topic.clone());
    let operators = Operators::new(hosts, replayed, names, &parts.history, parts.orders.seed);
    Ok(Arena {
        name: NAME,
        actors,
        streams: streams.to_vec(),
        proxies,
        clock: None,
        small_disk: None,
        destinations: brokers::destinations(streams, &queue, &topic),
        out,
        group,
        schema,
        operators: Some(operators),
        history: Arc::clone(&parts.history),
    })
}
