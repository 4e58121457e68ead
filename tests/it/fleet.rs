//! Three hosts on one Postgres, both real brokers, every message a failure, hosts killed at random: each message becomes one
//! letter, and after a filtered redrive each letter has come to one end.
//!
//! The handler that is installed first knows none of these messages; the redrive runs after it was repaired. How many
//! messages is set by HELIX_TEST_FLEET, so that the figure of 100,000 can be taken with the same test.

mod publish;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use helix_tests::{Host, Setup, brokers, guests, unique, until, variable};
use serde_json::{Value, json};

use crate::kafka_client;

const HOSTS: usize = 3;
const PARTITIONS: i32 = 6;
const MESSAGES: usize = 3_000;
/// While messages fail, and again while they are sent again.
const KILLS: usize = 4;
/// What sending again takes at least, for the kills to fall into it on a machine of any speed.
const SENDING_S: usize = 20;
/// For each phase; grows with what is asked for.
const LIMIT: Duration = Duration::from_secs(300);
const JOBS: &str = "/v1/messaging/dlq/jobs";

struct Fleet {
    setups: Vec<Setup>,
    hosts: Vec<Host>,
    rng: fastrand::Rng,
}

impl Fleet {
    async fn start(config: &str, topology: &str, seed: u64) -> Self {
        let mut setups = Vec::new();
        let mut hosts = Vec::new();
        for _ in 0..HOSTS {
            let setup = Setup::new(config, &[])
                .topology(topology)
                .env("HELIX_STORE_URL", &variable("HELIX_TEST_POSTGRES_URL"));
            install(&setup, "torture");
            hosts.push(setup.start().await);
            setups.push(setup);
        }
        Self {
            setups,
            hosts,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Any host answers for all.
    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.hosts[0].get(path).await;
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    async fn letters(&self, filter: &str) -> u64 {
        let path = format!("/v1/messaging/dlq?limit=1&{filter}");
        self.get(&path).await["count"].as_u64().unwrap()
    }

    /// SIGKILL, and another host in its place on the same folder.
    async fn kill_one(&mut self) {
        let victim = self.rng.usize(..HOSTS);
        self.hosts.remove(victim).kill();
        let host = self.setups[victim].start().await;
        self.hosts.insert(victim, host);
    }

    /// Kills hosts while `progress` goes from 0 to `goal`, evenly, and waits for the goal.
    async fn killing(
        &mut self,
        what: &str,
        goal: u64,
        limit: Duration,
        progress: impl AsyncFn(&Self) -> u64,
    ) {
        let deadline = Instant::now() + limit;
        let mut kills = 0;
        loop {
            let done = progress(self).await;
            if done >= goal {
                break;
            }
            let next = goal * (kills as u64 + 1) / (KILLS as u64 + 1);
            if kills < KILLS && done >= next {
                self.kill_one().await;
                kills += 1;
            }
            assert!(
                Instant::now() < deadline,
                "{what}: {done} of {goal} after {limit:?}"
            );
            tokio::time::sleep(Duration::from_millis(100)).await; // the pace of polling
        }
        assert_eq!(kills, KILLS, "{what} was over before the kills");
    }
}

fn install(setup: &Setup, guest: &str) {
    let bytes = std::fs::read(guests::path(guest)).unwrap();
    guests::install(&setup.plugins(), "handler", &bytes);
}

fn count() -> usize {
    std::env::var("HELIX_TEST_FLEET").map_or(MESSAGES, |n| n.parse().expect("HELIX_TEST_FLEET is a number"))
}

fn id(n: usize) -> String {
    format!("fleet-{n:06}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[allow(clippy::print_stdout, reason = "the figures are part of the result")]
async fn every_failed_message_is_one_letter_with_one_end_though_hosts_are_killed() {
    let messages = count();
    let limit = LIMIT * u32::try_from(messages / 20_000 + 1).unwrap();
    let seed =
        std::env::var("HELIX_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    let (queue, topic, report, group) = (
        unique("fleet"),
        unique("fleet"),
        unique("fleet-reports"),
        unique("fleet"),
    );
    kafka_client::create(&[&topic, &report], PARTITIONS).await;
    let rabbit = publish::Rabbit::fill(&queue, (0..messages).filter(|n| n % 2 == 0), &report).await;
    publish::kafka(&topic, (0..messages).filter(|n| n % 2 == 1), &report).await;
    let config = format!(
        "[messaging]\ntasks = \"rabbitmq\"\nevents = \"kafka\"\n\
         [store]\nurl = \"env:HELIX_STORE_URL\"\nschema = \"{}\"\n{}{}\
         [[routes]]\nname = \"tasks\"\nqueue = \"{queue}\"\nplugin = \"handler\"\nretry = {{ max_retries = 0 }}\n\
         [[routes]]\nname = \"events\"\ntopic = \"{topic}\"\nplugin = \"handler\"\nretry = {{ max_retries = 0 }}\n\
         [plugins.handler]\npublish = [\"{report}\"]\n",
        unique("fleet").replace('-', "_"),
        brokers::rabbitmq_toml(),
        brokers::kafka_toml(&group),
    );
    let topology: String = [&topic, &report]
        .map(|t| format!("[[topics]]\nname = \"{t}\"\npartitions = {PARTITIONS}\n"))
        .concat()
        + &format!("[[queues]]\nname = \"{queue}\"\n");
    let mut fleet = Fleet::start(&config, &topology, seed).await;
    let begun = Instant::now();
    let goal = messages as u64;
    fleet
        .killing("all fail", goal, limit, async |fleet| {
            fleet.letters("state=dead").await
        })
        .await;
    let failed = begun.elapsed();
    // What the last kill had under way fails again, and a letter that fails again moves to the front of the list: a walk that
    // it overtakes does not see it.
    let letters = until("a walk over all letters is not overtaken", limit, || async {
        let letters = all_letters(&fleet, "state=all").await;
        (letters.len() >= messages).then_some(letters)
    })
    .await;
    let expected: BTreeSet<String> = (0..messages).map(id).collect();
    let counted = fleet.letters("state=all").await;
    assert_eq!(counted, goal, "seed {seed}: more letters than messages");
    assert_eq!(
        letters.keys().cloned().collect::<BTreeSet<_>>(),
        expected,
        "seed {seed}"
    );

    for (setup, host) in fleet.setups.iter().zip(&fleet.hosts) {
        let swaps = [("plugin", "handler")];
        let before = host.metric("messaging_plugin_reloads_total", &swaps).await;
        install(setup, "probe");
        host.wait_metric("messaging_plugin_reloads_total", &swaps, before + 1.0)
            .await;
    }
    let begun = Instant::now();
    for route in ["tasks", "events"] {
        let asked = json!({
            "action": "reprocess", "filter": { "route": route }, "actor": "night shift",
            "rate": messages / 2 / SENDING_S,
        });
        let (status, job) = fleet.hosts[0].post(JOBS, &asked).await;
        assert!(matches!(status, 201 | 202), "{status}: {job}");
        let path = format!("{JOBS}/{}", job["id"].as_str().unwrap());
        let job = until("its letters are written down", limit, async || {
            let job = fleet.get(&path).await;
            (job["state"] != "preparing").then_some(job)
        })
        .await;
        assert_eq!(job["total"], goal / 2, "{job}");
    }
    fleet
        .killing("all are sent again", goal, limit, async |fleet| {
            let jobs = fleet.get(JOBS).await;
            let jobs = jobs["jobs"].as_array().unwrap();
            jobs.iter().map(|job| job["done"].as_u64().unwrap()).sum()
        })
        .await;
    let report_of = async || {
        let bodies = tokio::task::block_in_place(|| kafka_client::read(&report, PARTITIONS));
        let mut handled = BTreeMap::<String, usize>::new();
        for body in bodies {
            let event: Value = serde_json::from_slice(&body).unwrap();
            *handled
                .entry(event["data"]["id"].as_str().unwrap().to_owned())
                .or_default() += 1;
        }
        handled
    };
    let deadline = Instant::now() + limit;
    loop {
        let waiting = fleet.get("/v1/messaging/health").await["retries_pending"].as_u64();
        let (sent, handled) = (fleet.letters("state=reprocessed").await, report_of().await.len());
        if waiting == Some(0) && sent == goal && handled == messages {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "seed {seed}: {sent} sent again, {handled} handled, {waiting:?} wait in the store"
        );
        tokio::time::sleep(Duration::from_millis(200)).await; // the pace of polling
    }
    let sent = begun.elapsed();
    let jobs = fleet.get(JOBS).await;
    for job in jobs["jobs"].as_array().unwrap() {
        assert_eq!(job["state"], "completed", "{job}");
        assert_eq!(job["done"], goal / 2, "{job}");
    }
    let handled = report_of().await;
    assert_eq!(
        handled.keys().cloned().collect::<BTreeSet<_>>(),
        expected,
        "seed {seed}"
    );
    let ends = all_letters(&fleet, "state=all").await;
    assert!(ends.values().all(|state| state == "reprocessed"), "seed {seed}");
    assert_eq!(ends.len(), messages, "seed {seed}");
    let twice = handled.values().filter(|n| **n > 1).count();
    println!(
        "fleet: {messages} letters in {:.1} s, sent again and handled in {:.1} s, {} kills, {twice} handled more than once, seed {seed}",
        failed.as_secs_f64(),
        sent.as_secs_f64(),
        2 * KILLS,
    );
    // What was under way at a kill: claimed letters of the job, messages in flight at the consumers.
    assert!(
        twice <= KILLS * 1_000,
        "seed {seed}: {twice} were handled more than once"
    );
    drop(fleet);
    rabbit.delete().await;
    kafka_client::delete(&[&topic, &report]).await;
}

/// Message id → state. Fails when two letters are of one message.
async fn all_letters(fleet: &Fleet, filter: &str) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut cursor = String::new();
    loop {
        let page = fleet
            .get(&format!("/v1/messaging/dlq?limit=1000&{filter}{cursor}"))
            .await;
        for letter in page["messages"].as_array().unwrap() {
            let text = |key: &str| letter[key].as_str().unwrap_or_default().to_owned();
            let before = all.insert(text("message_id"), text("state"));
            assert!(before.is_none(), "two letters of {}", text("message_id"));
        }
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}
