//! Steps of replays: who runs one, and how far it has come.

use std::time::Duration;

use helix_host::model::replay::{Failed, Filter, Options, Plan, Progress, RouteTarget, Sample, Stretch};
use helix_host::model::{Replay, ReplayStatus, UnixMs};
use helix_host::store::{Replays, Submitted};

use super::super::stage::{LEASE, Store};
use super::dice::{Dice, HOLDERS, WORDS};
use super::said;

/// One more than may be open.
const TOO_MANY: usize = 101;

#[derive(Debug)]
pub enum Step {
    Submit(Box<Replay>),
    Find(String),
    Newest(usize),
    Take(&'static str),
    Record(Which, &'static str, Duration, Progress),
    Holds(Which, &'static str),
    Finish(Which, &'static str, ReplayStatus, Progress),
    GiveBack(Which, &'static str),
    /// And what whoever runs it is told then.
    Cancel(Which, &'static str, Progress),
    /// As many as may be open and one more, which are cancelled at once.
    Fill(UnixMs),
}

#[derive(Debug)]
pub enum Which {
    /// The one there is to take.
    Taken,
    Named(String),
    /// Of those in that state so many came after it.
    In(ReplayStatus, usize),
}

impl Dice {
    fn replay_id(&mut self) -> String {
        format!("{}{}", self.of(&WORDS), self.below(8))
    }

    fn which(&mut self) -> Which {
        let newer = self.below(3);
        match self.below(10) {
            0..3 => Which::Taken,
            3..7 => Which::In(ReplayStatus::Running, newer),
            7 => Which::In(ReplayStatus::Pending, newer),
            8 => Which::In(ReplayStatus::Cancelled, newer),
            _ => Which::Named(self.replay_id()),
        }
    }

    fn made(&mut self, so_far: u64) -> Progress {
        Progress {
            next: (0..self.below(3)).map(|n| so_far + n as u64).collect(),
            replayed: so_far,
            skipped: self.below(3) as u64,
            current_offset: self.chance(50).then_some(u64::MAX),
            last_id: self.maybe(),
            error: self.maybe(),
            samples: vec![Sample {
                id: self.word(),
                message_type: self.maybe(),
                partition: 0,
                offset: so_far,
                time_ms: None,
            }],
            failures: vec![Failed {
                partition: 1,
                offset: 7,
                id: self.maybe(),
                class: self.word(),
                code: None,
                reason: self.word(),
                letter: self.maybe(),
            }],
            ..Progress::default()
        }
    }

    fn plan(&mut self) -> Plan {
        Plan {
            topic: self.word(),
            broker: self.maybe(),
            target: self.word(),
            route: self.chance(50).then(|| RouteTarget {
                name: self.word(),
                side_effects: self.chance(50),
            }),
            target_partitions: self.chance(50).then_some(3),
            partitions: 2,
            stretches: vec![Stretch {
                partition: 1,
                from: self.below(9) as u64,
                to: u64::MAX,
            }],
            from_ms: self.chance(50).then_some(7),
            to_ms: None,
            filter: Filter {
                message_types: vec![self.word()],
                headers: [(self.word(), self.word())].into(),
                ..Filter::default()
            },
            options: Options {
                batch_size: self.below(200),
                delay: Duration::from_nanos(10_000_001),
                rate: self.chance(50).then_some(3),
                dry_run: self.chance(50),
                preserve_order: true,
                skip_duplicates: false,
            },
        }
    }

    pub fn replay(&mut self, now: UnixMs) -> Replay {
        let plan = self.plan();
        let over = self.chance(10).then_some(now);
        Replay {
            id: self.replay_id(),
            progress: Progress::at_start(&plan),
            plan,
            status: match over {
                Some(_) => ReplayStatus::Completed,
                None => ReplayStatus::Pending,
            },
            // Few times, so that ids have to decide.
            created_ms: now / 1_000 * 1_000,
            started_ms: over,
            ended_ms: over,
        }
    }
}

pub fn step(dice: &mut Dice, now: UnixMs) -> Step {
    let holder = dice.of(&HOLDERS);
    match dice.below(20) {
        0..4 => Step::Submit(Box::new(dice.replay(now))),
        4..6 => Step::Take(holder),
        6..10 => {
            let lease = dice.of(&[LEASE, LEASE, Duration::ZERO]);
            let so_far = dice.below(1_000) as u64;
            Step::Record(dice.which(), holder, lease, dice.made(so_far))
        }
        10..13 => Step::Holds(dice.which(), holder),
        13..15 => {
            let status = dice.of(&[ReplayStatus::Completed, ReplayStatus::Failed]);
            Step::Finish(dice.which(), holder, status, dice.made(2_000))
        }
        15 => Step::GiveBack(dice.which(), holder),
        16 => Step::Cancel(dice.which(), holder, dice.made(3_000)),
        17 => Step::Find(dice.replay_id()),
        18 if dice.chance(40) => Step::Fill(now),
        _ => Step::Newest(dice.below(9)),
    }
}

/// None: there is none in that state.
async fn id_of(store: &dyn Store, which: &Which, holder: &str) -> String {
    match which {
        Which::Taken => {
            let taken = Replays::take(store, holder, LEASE).await.unwrap();
            taken.map_or("none".to_owned(), |replay| replay.id)
        }
        Which::Named(id) => id.clone(),
        Which::In(status, newer) => {
            let all = store.newest(50).await.unwrap();
            let mut all = all.into_iter().filter(|replay| replay.status == *status);
            all.nth(*newer).map_or("none".to_owned(), |replay| replay.id)
        }
    }
}

async fn fill(store: &dyn Store, now: UnixMs) -> String {
    let mut plan = Dice(0).plan();
    plan.stretches.clear();
    let replay = |number: usize| Replay {
        id: format!("fill {now} {number}"),
        progress: Progress::default(),
        plan: plan.clone(),
        status: ReplayStatus::Pending,
        // Older than all others, and so not in their way where the newest are looked for.
        created_ms: 0,
        started_ms: None,
        ended_ms: None,
    };
    let mut text = String::new();
    for number in 0..TOO_MANY {
        let submitted = store.submit(&replay(number)).await.unwrap();
        if submitted != Submitted::Done {
            text = format!("{number} {submitted:?}");
            break;
        }
    }
    for number in 0..TOO_MANY {
        Replays::cancel(store, &replay(number).id).await.unwrap();
    }
    text
}

pub async fn take(store: &dyn Store, step: &Step) -> String {
    match step {
        Step::Submit(replay) => said(store.submit(replay).await),
        Step::Find(id) => said(Replays::find(store, id).await),
        Step::Newest(limit) => said(store.newest(*limit).await),
        Step::Take(holder) => "replay ".to_owned() + &said(Replays::take(store, holder, LEASE).await),
        Step::Record(which, holder, lease, progress) => {
            let id = id_of(store, which, holder).await;
            let hold = Replays::record(store, &id, holder, *lease, progress).await;
            format!("recorded {} {id}", said(hold))
        }
        Step::Holds(which, holder) => {
            let id = id_of(store, which, holder).await;
            format!("holds {} {id}", said(store.holds(&id, holder).await))
        }
        Step::Finish(which, holder, status, progress) => {
            let id = id_of(store, which, holder).await;
            let hold = store.finish(&id, holder, *status, progress).await;
            format!("finished {} {id}", said(hold))
        }
        Step::GiveBack(which, holder) => {
            let id = id_of(store, which, holder).await;
            let given = store.give_back(&id, holder).await;
            said(given) + &said(Replays::find(store, &id).await)
        }
        Step::Cancel(which, holder, progress) => {
            let id = id_of(store, which, holder).await;
            let cancelled = said(Replays::cancel(store, &id).await);
            let held = said(store.holds(&id, holder).await);
            let hold = Replays::record(store, &id, holder, LEASE, progress).await;
            format!("cancelled {cancelled} holds {held} recorded {}", said(hold))
        }
        Step::Fill(now) => fill(store, *now).await,
    }
}
