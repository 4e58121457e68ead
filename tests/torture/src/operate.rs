//! The observer as those who run the hosts: sends letters again from several hosts at once, discards and releases some, makes
//! jobs and replays, and cancels them in the middle.

mod ask;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::ask::Letter;
use crate::history::{History, Verb, What, Work};
use crate::message::{Dice, Fate, Id, mix};
use crate::observe;

/// Who looks at single letters, so that one who waits for a host that is stopped does not keep the others from it.
const PEOPLE: u64 = 4;
/// Between two rounds of each of them.
const SINGLES_MS: (u64, u64) = (100, 300);
/// Letters that somebody looks at, the newest.
const SHOWN: usize = 50;
/// Those of one round, each asked for on every host at once.
const TOGETHER: usize = 4;
/// Between two jobs, and from making one to cancelling it.
const JOBS_MS: (u64, u64) = (1_500, 3_000);
const JOB_RUNS_MS: (u64, u64) = (100, 800);
/// The same of replays.
const REPLAYS_MS: (u64, u64) = (500, 1_500);
const REPLAY_RUNS_MS: (u64, u64) = (100, 1_000);
/// Letters a second of a job that shall be met while it runs.
const JOB_RATE: u32 = 20;
/// Of a replay: messages in a batch, pause between two, offsets of each partition.
const BATCH: u64 = 20;
const DELAY: &str = "20ms";
const STRETCH: i64 = 100;
/// Letters that are dealt with at a time once everything has ended, and requests under way for them.
const CLEAN: usize = 500;
const AT_ONCE: usize = 32;

pub struct Operators {
    /// Name and URL of each host, whether it runs or not.
    hosts: Vec<(String, String)>,
    /// What is replayed.
    topic: Option<String>,
    routes: Vec<&'static str>,
    history: Arc<History>,
    seed: u64,
    http: reqwest::Client,
    /// Of requests, rounds, jobs and replays: no two are called the same.
    next: AtomicU64,
}

impl Operators {
    pub fn new(
        hosts: Vec<(String, String)>,
        topic: Option<String>,
        routes: Vec<&'static str>,
        history: &Arc<History>,
        seed: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            hosts,
            topic,
            routes,
            history: Arc::clone(history),
            seed,
            http: ask::client(),
            next: AtomicU64::new(1),
        })
    }

    pub fn start(self: &Arc<Self>, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        let dice = |n: u64| Dice::new(mix(self.seed ^ n));
        for person in 0..PEOPLE {
            let (own, stopped) = (Arc::clone(self), stop.clone());
            let mut singles = dice(10 + person);
            tasks.spawn(async move {
                while own.pause(&stopped, SINGLES_MS, &mut singles).await {
                    own.single_letters(&mut singles).await;
                }
            });
        }
        let (own, stopped) = (Arc::clone(self), stop.clone());
        let mut jobs = dice(2);
        tasks.spawn(async move {
            while own.pause(&stopped, JOBS_MS, &mut jobs).await {
                own.job(&mut jobs).await;
            }
        });
        if self.topic.is_some() {
            let (own, stopped) = (Arc::clone(self), stop.clone());
            let mut replays = dice(3);
            tasks.spawn(async move {
                while own.pause(&stopped, REPLAYS_MS, &mut replays).await {
                    own.replay(&mut replays).await;
                }
            });
        }
    }

    /// False: there is nothing more to do.
    async fn pause(&self, stop: &CancellationToken, ms: (u64, u64), dice: &mut Dice) -> bool {
        let pause = Duration::from_millis(dice.between(ms.0, ms.1));
        stop.run_until_cancelled(tokio::time::sleep(pause))
            .await
            .is_some()
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Name and URL of one, by chance.
    fn host(&self, dice: &mut Dice) -> (&str, &str) {
        let n = usize::try_from(dice.between(0, self.hosts.len() as u64)).unwrap_or(0);
        self.hosts
            .get(n)
            .map_or(("", ""), |(name, url)| (name.as_str(), url.as_str()))
    }

    /// Some letters, each by several at once; they mostly want the same, and sometimes not.
    async fn single_letters(&self, dice: &mut Dice) {
        let Some((_, mut dead)) = self.any_dead(SHOWN, dice.roll()).await else {
            return;
        };
        for _ in 0..TOGETHER.min(dead.len()) {
            let n = usize::try_from(dice.between(0, dead.len() as u64)).unwrap_or(0);
            let letter = dead.swap_remove(n);
            let verbs: Vec<Verb> = match dice.between(0, 100) {
                0..75 => vec![Verb::Reprocess; self.hosts.len()],
                75..85 => vec![Verb::Reprocess, Verb::Discard],
                85..95 => vec![Verb::Discard; self.hosts.len()],
                _ => vec![Verb::Release],
            };
            self.together(&letter, &verbs).await;
        }
    }

    /// One request on each host, at once, under one name.
    async fn together(&self, letter: &Letter, verbs: &[Verb]) {
        let actor = format!("operator-{}", self.number());
        let asks = verbs
            .iter()
            .zip(self.hosts.iter().cycle())
            .map(|(verb, host)| self.ask(letter, *verb, &actor, host));
        futures::future::join_all(asks).await;
    }

    async fn job(&self, dice: &mut Dice) {
        let route = usize::try_from(dice.between(0, self.routes.len() as u64 + 1)).unwrap_or(0);
        let filter = match self.routes.get(route) {
            Some(route) => json!({ "route": route }),
            None => json!({}),
        };
        // Only one that is cancelled takes its time: another would be at it when the run is over.
        let cancelled = dice.roll().is_multiple_of(2);
        let rate = cancelled.then_some(JOB_RATE);
        let body = json!({ "action": "reprocess", "actor": "night shift", "filter": filter, "rate": rate });
        let (name, url) = self.host(dice);
        let (status, answer) = self.post(&format!("{url}/v1/messaging/dlq/jobs"), &body).await;
        // 202: its letters are still written down.
        self.expect(&[201, 202], status, "making a job");
        let id = answer.get("id").and_then(Value::as_str);
        let Some(id) = id.filter(|_| matches!(status, 201 | 202)) else {
            return;
        };
        self.made(Work::Job, id, name, status);
        if cancelled {
            let path = format!("/v1/messaging/dlq/jobs/{id}");
            self.cancel(Work::Job, id, &path, JOB_RUNS_MS, dice).await;
        }
    }

    /// Asked for on all hosts at once under one id: one of them makes it.
    async fn replay(&self, dice: &mut Dice) {
        let Some(topic) = &self.topic else { return };
        let Some(ends) = observe::kafka_ends(topic).await else {
            return;
        };
        let from: serde_json::Map<String, Value> = ends
            .iter()
            .map(|(partition, low, high)| (partition.to_string(), (high - STRETCH).max(*low).into()))
            .collect();
        let id = format!("replay-{}", self.number());
        let body = json!({
            "id": id, "topic": topic, "from_offsets": from,
            "options": { "batch_size": BATCH, "delay_between": DELAY },
        });
        let asks = self.hosts.iter().map(|(name, url)| {
            let (id, body) = (&id, &body);
            async move {
                let (status, _) = self.post(&format!("{url}/v1/messaging/replay"), body).await;
                self.expect(&[201, 409], status, "making a replay");
                self.made(Work::Replay, id, name, status);
            }
        });
        futures::future::join_all(asks).await;
        if dice.between(0, 100) < 40 {
            let path = format!("/v1/messaging/replay/{id}");
            self.cancel(Work::Replay, &id, &path, REPLAY_RUNS_MS, dice).await;
        }
    }

    fn made(&self, what: Work, id: &str, instance: &str, status: u16) {
        self.history.add(What::Made {
            what,
            id: id.to_owned(),
            instance: instance.to_owned(),
            status,
        });
    }

    /// On whichever host, until one has answered.
    async fn cancel(&self, what: Work, id: &str, path: &str, ms: (u64, u64), dice: &mut Dice) {
        tokio::time::sleep(Duration::from_millis(dice.between(ms.0, ms.1))).await;
        for _ in 0..5 {
            let (_, url) = self.host(dice);
            let status = self.delete(&format!("{url}{path}")).await;
            // 404: the host that was asked to make it did not come to that.
            self.expect(&[200, 404, 409], status, "cancelling");
            match status {
                200 => {
                    return self.history.add(What::Cancelled {
                        what,
                        id: id.to_owned(),
                    });
                }
                404 | 409 => return,
                _ => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }

    /// At the end: what can be repaired is sent again, the rest is discarded. What is left, by name.
    pub async fn clean(&self) -> Vec<(String, i64)> {
        let mut left = Vec::new();
        let Some((host, dead)) = self.any_dead(CLEAN, 0).await else {
            return vec![("letters that nobody can list".to_owned(), 1)];
        };
        let open = i64::try_from(dead.len()).unwrap_or(i64::MAX);
        left.push(("letters that are dead".to_owned(), open));
        let asks = dead.iter().map(|letter| {
            let fate = Id::parse(&letter.id).map(|id| Fate::of(self.seed, &id));
            let verb = match fate {
                Some(Fate::Reject | Fate::Trap) => Verb::Discard,
                _ => Verb::Reprocess,
            };
            let actor = format!("operator-{}", self.number());
            async move { self.ask(letter, verb, &actor, host).await }
        });
        futures::stream::iter(asks)
            .buffer_unordered(AT_ONCE)
            .collect::<()>()
            .await;
        for (what, path, list, over) in [
            (
                "letters that are being sent",
                "/v1/messaging/dlq?state=retrying&limit=100",
                "messages",
                &[][..],
            ),
            (
                "jobs that have not ended",
                "/v1/messaging/dlq/jobs?limit=100",
                "jobs",
                &["completed", "cancelled", "failed"][..],
            ),
            (
                "replays that have not ended",
                "/v1/messaging/replay?limit=1000",
                "replays",
                &["completed", "cancelled", "failed"][..],
            ),
        ] {
            let (status, answer) = self.get(&format!("{}{path}", host.1)).await;
            let open = answer.get(list).and_then(Value::as_array).map(|all| {
                let states = all.iter().map(|one| one.get("state").or(one.get("status")));
                states
                    .filter(|state| {
                        let state = state.and_then(Value::as_str).unwrap_or_default();
                        !over.contains(&state)
                    })
                    .count()
            });
            match open.filter(|_| status == 200) {
                Some(open) => left.push((what.to_owned(), i64::try_from(open).unwrap_or(i64::MAX))),
                None => left.push((format!("{what}: nobody knows"), 1)),
            }
        }
        left
    }

    /// Of the first host that answers, beginning with this one.
    async fn any_dead(&self, limit: usize, first: u64) -> Option<(&(String, String), Vec<Letter>)> {
        let hosts = self.hosts.len();
        let first = usize::try_from(first % (hosts as u64).max(1)).ok()?;
        for host in self.hosts.iter().cycle().skip(first).take(hosts) {
            if let Some(dead) = self.dead(&host.1, limit).await {
                return Some((host, dead));
            }
        }
        None
    }
}
