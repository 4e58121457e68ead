//! The whole pipeline under a virtual clock: the real lanes, verdicts, receipts, permits and the real bookkeeping of Kafka
//! and of RabbitMQ, between a model of a broker and a model of the store. A seed decides everything that happens: arrivals,
//! outcomes, slow or full disks, crashes, rebalances, lost connections.
//!
//! A seed that fails is printed. `HELIX_SIM_SEED=<n>` runs only that one and tells every step; `HELIX_SIM_SEEDS=<n>` runs
//! that many.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

mod broker;
mod dice;
mod host;
mod journal;
mod message;
mod queue;
mod store;
mod topic;
mod world;

use std::sync::Arc;

use self::broker::Broker;
use self::dice::{Clock, Dice};
use self::queue::Queue;
use self::topic::Topic;
use self::world::World;

/// For each of the two brokers.
const SEEDS: u64 = 10_000;

/// Says how to see a failure again.
struct Replay(u64);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {0}: replay with HELIX_SIM_SEED={0}", self.0);
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{variable}={value} is no number")),
    )
}

fn simulate<B: Broker>(broker: impl Fn(&Arc<Clock>, &mut Dice) -> B) {
    let (first, count, trace) = match number("HELIX_SIM_SEED") {
        Some(seed) => (seed, 1, true),
        None => (0, number("HELIX_SIM_SEEDS").unwrap_or(SEEDS), false),
    };
    for seed in first..first + count {
        let _replay = Replay(seed);
        let clock = Arc::new(Clock::new());
        let mut dice = Dice::new(seed);
        let broker = broker(&clock, &mut dice);
        let mut world = World::new(dice, clock, broker, trace);
        world.live();
        world.drain();
    }
}

#[test]
fn simulation_of_a_topic() {
    simulate(|_, _| Topic::new());
}

#[test]
fn simulation_of_a_queue() {
    simulate(|clock, dice| Queue::new(clock, dice.between(2, 12)));
}
