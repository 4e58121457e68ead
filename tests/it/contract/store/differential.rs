//! The same changes and questions, drawn by chance, for both engines: the same answers.

mod audit;
mod dice;
mod end;
mod held;
mod jobs;
mod letters;
mod reach;
mod replays;
mod retries;
mod unasked;

use std::fmt::Debug;
use std::sync::Arc;

use helix_host::model::{Clock, UnixMs};

pub use self::dice::Dice;
use self::reach::Reach;
use super::stage::{Engine, Hands, Stage, Store};

#[derive(Debug)]
enum Step {
    Retries(retries::Step),
    Letters(letters::Step),
    Held(held::Step),
    Jobs(jobs::Step),
    Replays(replays::Step),
    Unasked(unasked::Step),
    Audit(audit::Step),
    Later(u64),
}

fn step(dice: &mut Dice, now: UnixMs, cursors: &[String]) -> Step {
    match dice.below(50) {
        0..11 => Step::Retries(retries::step(dice, now)),
        11..22 => Step::Letters(letters::step(dice, now, cursors)),
        22..30 => Step::Held(held::step(dice, now)),
        30..38 => Step::Jobs(jobs::step(dice, now)),
        38..43 => Step::Replays(replays::step(dice, now)),
        43..47 => Step::Unasked(unasked::step(dice, now)),
        47 => Step::Audit(audit::step(dice, now)),
        _ => Step::Later(dice.below(500) as u64),
    }
}

async fn take(store: &dyn Store, step: &Step) -> String {
    match step {
        Step::Retries(step) => retries::take(store, step).await,
        Step::Letters(step) => letters::take(store, step).await,
        Step::Held(step) => held::take(store, step).await,
        Step::Jobs(step) => jobs::take(store, step).await,
        Step::Replays(step) => replays::take(store, step).await,
        Step::Unasked(step) => unasked::take(store, step).await,
        Step::Audit(step) => audit::take(store, step).await,
        Step::Later(_) => String::new(),
    }
}

/// What it says; of an error that it is one, in the engine's own words.
fn said(answer: Result<impl Debug, impl Debug>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => format!("{error:?}"),
    }
}

/// `HELIX_TEST_SEED` draws another walk than usual.
fn seed(usual: u64) -> u64 {
    std::env::var("HELIX_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(usual)
}

async fn walk(seed: u64, steps: usize, reach: &mut Reach) {
    let clock = Hands::at(1_000);
    let mut both: Vec<(Stage, Arc<dyn Store>)> = Vec::new();
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let stage = Stage::with_clock(engine, Arc::clone(&clock));
        let store = stage.open().await;
        store.export(true, true);
        both.push((stage, store));
    }
    let (lite, post) = (&*both[0].1, &*both[1].1);
    let mut dice = Dice(seed);
    let mut cursors = Vec::new();
    for number in 0..steps {
        let step = step(&mut dice, clock.now_ms(), &cursors);
        if let Step::Later(ms) = step {
            clock.forward(ms);
        }
        let (one, other) = tokio::join!(take(lite, &step), take(post, &step));
        assert_eq!(one, other, "seed {seed}, step {number}: {step:?}");
        reach.saw(&one);
        if let Step::Letters(letters::Step::List(filter, page)) = &step
            && let Ok(found) = lite.list(filter, page).await
            && let Some(next) = found.next
        {
            cursors.push(next);
            if cursors.len() > 8 {
                cursors.remove(0);
            }
        }
    }
    // Every lease is over, and every row is due that waits for no letter.
    clock.forward(10_000);
    let now = clock.now_ms();
    let (one, other) = tokio::join!(end::drained(lite, now, seed), end::drained(post, now, seed));
    assert_eq!(one, other, "seed {seed}, at the end");
    clock.forward(end::MONTH_MS - 20_000);
    let now = clock.now_ms();
    let (one, other) = tokio::join!(end::remembered(lite, now), end::remembered(post, now));
    assert_eq!(one, other, "seed {seed}, a month later");
}

#[tokio::test(flavor = "multi_thread")]
async fn both_engines_say_the_same() {
    let seed = seed(4_711);
    let mut reach = Reach::new();
    for round in 0..4 {
        walk(seed + round, 1_500, &mut reach).await;
    }
    reach.is_wide(seed);
}
