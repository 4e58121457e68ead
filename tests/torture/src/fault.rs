//! What can be done to hosts, brokers, connections, disks and clocks; each fault mends itself before the next one begins.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use helix_tests::brokers::control;
use tokio::time::sleep;

use crate::actor::Actor;
use crate::arena::Arena;
use crate::history::{Effect, History, What};
use crate::message::Dice;
use crate::observe;
use crate::proxy::Mode;

/// A row of the fault matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// SIGKILL of a host, started again at once or a little later
    KillHost,
    /// SIGSTOP of a host, for longer than a group waits for it half of the time
    StopHost,
    /// SIGTERM under load, then a new start
    DrainHost,
    /// Two more hosts come and go, one every half second
    JoinLeave,
    /// SIGKILL of RabbitMQ
    KillRabbitmq,
    /// SIGSTOP of RabbitMQ
    StopRabbitmq,
    /// SIGKILL of a node of Kafka
    KillKafka,
    /// SIGSTOP of a node of Kafka
    StopKafka,
    /// All connections of one broker are reset
    ResetConnections,
    /// Connections of one broker stay open and carry nothing
    BlackHole,
    /// New versions of the handler, and files that are none
    SwapPlugin,
    /// Another concurrency, and a configuration that is none
    ReloadConfig,
    /// SIGKILL of the Postgres that hosts share; half of the time a host dies while it is away
    KillPostgres,
    /// SIGSTOP of that Postgres, likewise
    StopPostgres,
    /// Connections to that Postgres stay open and carry nothing, likewise
    BlackHolePostgres,
    /// The store is locked: parking, letters and retries fail
    LockStore,
    /// The embedded broker's file is locked
    LockBroker,
    /// The disk of the first host is full
    FillDisk,
    /// The wall clock jumps forth and back
    JumpClock,
}

impl Fault {
    pub fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self).map_or_else(String::new, |v| v.get_name().to_owned())
    }

    fn effect(self) -> Effect {
        match self {
            Self::KillHost
            | Self::ResetConnections
            | Self::KillRabbitmq
            | Self::KillKafka
            | Self::StopRabbitmq => Effect::Redelivers,
            Self::StopHost | Self::StopKafka | Self::BlackHole => Effect::Stalls,
            Self::DrainHost | Self::JoinLeave => Effect::Rebalance,
            Self::SwapPlugin
            | Self::ReloadConfig
            // What is known to be stored is stored once.
            | Self::KillPostgres
            | Self::StopPostgres
            | Self::BlackHolePostgres
            | Self::LockStore
            | Self::LockBroker
            | Self::FillDisk
            | Self::JumpClock => Effect::None,
        }
    }

    /// Does this arena have what it disturbs?
    pub fn fits(self, arena: &Arena) -> bool {
        match self {
            Self::KillHost | Self::StopHost | Self::DrainHost | Self::SwapPlugin | Self::ReloadConfig => true,
            Self::LockStore => !arena.shares_store(),
            Self::KillPostgres | Self::StopPostgres | Self::BlackHolePostgres => arena.shares_store(),
            Self::JoinLeave => !arena.is_embedded(),
            Self::KillRabbitmq | Self::StopRabbitmq => arena.has("rabbitmq"),
            Self::KillKafka | Self::StopKafka => arena.has("kafka"),
            Self::ResetConnections | Self::BlackHole => !arena.is_embedded(),
            Self::LockBroker => arena.is_embedded(),
            Self::FillDisk => arena.has_small_disk(),
            Self::JumpClock => arena.clock.is_some(),
        }
    }

    /// Excuses nothing: what happens under these is the host's own doing.
    pub fn is_gentle(self) -> bool {
        matches!(self.effect(), Effect::None | Effect::Rebalance)
    }
}

/// Does it, and returns when it is over.
///
/// # Errors
/// When it cannot be done; the run is void then.
pub async fn inflict(fault: Fault, arena: &mut Arena, history: &History, dice: &mut Dice) -> Result<()> {
    history.add(What::Fault {
        kind: fault.name(),
        arena: arena.name.to_owned(),
        effect: fault.effect(),
    });
    let done = act(fault, arena, history, dice).await;
    history.add(What::Mended {
        kind: fault.name(),
        arena: arena.name.to_owned(),
    });
    done
}

fn seconds(dice: &mut Dice, low: u64, high: u64) -> Duration {
    Duration::from_millis(dice.between(low * 1000, high * 1000))
}

async fn act(fault: Fault, arena: &mut Arena, history: &History, dice: &mut Dice) -> Result<()> {
    // Only those that are meant to run: the first ones.
    let hosts = arena
        .actors
        .iter()
        .filter(|actor| actor.host().is_some())
        .count()
        .max(1);
    let victim = usize::try_from(dice.between(0, hosts as u64))?;
    match fault {
        Fault::KillHost => {
            if let Some(actor) = arena.actors.get_mut(victim) {
                actor.kill();
                sleep(Duration::from_millis(dice.between(0, 500))).await;
                actor.start().await;
            }
        }
        Fault::StopHost => {
            let pause = if dice.roll().is_multiple_of(2) {
                seconds(dice, 7, 10)
            } else {
                seconds(dice, 1, 3)
            };
            if let Some(actor) = arena.actors.get(victim) {
                actor.signal(libc::SIGSTOP);
                sleep(pause).await;
                actor.signal(libc::SIGCONT);
            }
        }
        Fault::DrainHost => {
            if let Some(actor) = arena.actors.get_mut(victim) {
                leave(actor, arena.name, history).await;
                actor.start().await;
            }
        }
        Fault::JoinLeave => join_leave(arena, hosts, history, dice).await,
        Fault::KillRabbitmq => broker(&["kill", "restart"], "rabbitmq", 1, seconds(dice, 0, 2)).await?,
        Fault::KillKafka => {
            let node = node(arena, dice);
            broker(&["kill", "restart"], "kafka", node, seconds(dice, 0, 2)).await?;
        }
        Fault::StopRabbitmq => broker(&["pause", "resume"], "rabbitmq", 1, seconds(dice, 2, 8)).await?,
        Fault::StopKafka => {
            let node = node(arena, dice);
            broker(&["pause", "resume"], "kafka", node, seconds(dice, 2, 8)).await?;
        }
        Fault::ResetConnections => {
            if let Some(proxy) = arena.proxy(dice) {
                proxy.cut();
            }
        }
        Fault::BlackHole => {
            let pause = seconds(dice, 3, 12);
            if let Some(proxy) = arena.proxy(dice) {
                proxy.set(Mode::BlackHole);
                sleep(pause).await;
                // What was lost on the way does not come back: the connections are dead.
                proxy.cut();
                proxy.set(Mode::Pass);
            }
        }
        Fault::KillPostgres => {
            control_postgres("kill").await?;
            let victim = without_store(arena, victim, history, dice).await;
            control_postgres("restart").await?;
            revive(arena, victim, history).await;
        }
        Fault::StopPostgres => {
            control_postgres("pause").await?;
            let victim = without_store(arena, victim, history, dice).await;
            control_postgres("resume").await?;
            revive(arena, victim, history).await;
        }
        Fault::BlackHolePostgres => {
            if let Some(proxy) = &arena.proxies.postgres {
                proxy.set(Mode::BlackHole);
            }
            let victim = without_store(arena, victim, history, dice).await;
            if let Some(proxy) = &arena.proxies.postgres {
                // What was lost on the way does not come back: the connections are dead.
                proxy.cut();
                proxy.set(Mode::Pass);
            }
            revive(arena, victim, history).await;
        }
        Fault::SwapPlugin => {
            for n in 0..dice.between(3, 8) {
                for actor in &mut arena.actors {
                    if n % 3 == 2 {
                        actor.spoil()?;
                    } else {
                        actor.swap();
                    }
                }
                sleep(Duration::from_millis(200)).await;
            }
            for actor in &mut arena.actors {
                actor.swap();
            }
        }
        Fault::ReloadConfig => reload(arena, dice).await?,
        Fault::LockStore => lock(arena, victim, "state/store.db", seconds(dice, 2, 8)).await?,
        Fault::LockBroker => lock(arena, victim, "state/broker.db", seconds(dice, 2, 8)).await?,
        Fault::FillDisk => {
            if let Some(actor) = arena.actors.first() {
                let state = actor.setup.path().join("state");
                fill(&state)?;
                sleep(seconds(dice, 2, 6)).await;
                std::fs::remove_file(state.join(BALLAST))?;
            }
        }
        Fault::JumpClock => {
            if let Some(clock) = &arena.clock {
                let jump = if dice.roll().is_multiple_of(2) {
                    "+1h"
                } else {
                    "-1h"
                };
                std::fs::write(clock, jump)?;
                sleep(seconds(dice, 3, 6)).await;
                std::fs::write(clock, "+0")?;
            }
        }
    }
    Ok(())
}

/// For longer than a statement may take, half of the time; and half of the time a host dies in the middle of it: what it had
/// acknowledged by then has to be on disk. The one that died.
async fn without_store(
    arena: &mut Arena,
    victim: usize,
    history: &History,
    dice: &mut Dice,
) -> Option<usize> {
    let pause = seconds(dice, 2, 7);
    sleep(pause).await;
    let dies = dice.roll().is_multiple_of(2);
    if dies && let Some(actor) = arena.actors.get_mut(victim) {
        history.add(What::Fault {
            kind: Fault::KillHost.name(),
            arena: arena.name.to_owned(),
            effect: Fault::KillHost.effect(),
        });
        actor.kill();
    }
    sleep(pause / 4).await;
    dies.then_some(victim)
}

async fn revive(arena: &mut Arena, victim: Option<usize>, history: &History) {
    if let Some(actor) = victim.and_then(|victim| arena.actors.get_mut(victim)) {
        actor.start().await;
        history.add(What::Mended {
            kind: Fault::KillHost.name(),
            arena: arena.name.to_owned(),
        });
    }
}

async fn control_postgres(verb: &'static str) -> Result<()> {
    tokio::task::spawn_blocking(move || control(&[verb, "postgres"])).await?;
    Ok(())
}

/// Hosts beyond those that always run join and leave in good order.
async fn join_leave(arena: &mut Arena, hosts: usize, history: &History, dice: &mut Dice) {
    for _ in 0..dice.between(6, 12) {
        let extra = arena.actors.len().saturating_sub(hosts).max(1) as u64;
        let index = hosts + usize::try_from(dice.between(0, extra)).unwrap_or(0);
        if let Some(actor) = arena.actors.get_mut(index) {
            if actor.host().is_some() {
                leave(actor, arena.name, history).await;
            } else {
                actor.start().await;
            }
        }
        sleep(Duration::from_millis(500)).await;
    }
    for actor in arena.actors.iter_mut().skip(hosts) {
        leave(actor, arena.name, history).await;
    }
}

/// A drain that its limit ended brings back what was not settled, as a kill does, and the host has said so. A fault of its
/// own, so that a report shows how many there were.
async fn leave(actor: &mut Actor, arena: &str, history: &History) {
    if !actor.drain().await {
        let (kind, arena) = (LATE_DRAIN.to_owned(), arena.to_owned());
        history.add(What::Fault {
            kind: kind.clone(),
            arena: arena.clone(),
            effect: Effect::Redelivers,
        });
        history.add(What::Mended { kind, arena });
    }
}

const LATE_DRAIN: &str = "late-drain";

/// One of Kafka's nodes. A single one takes no dice, so that a seed means the same as ever.
fn node(arena: &Arena, dice: &mut Dice) -> u64 {
    match arena.proxies.kafka.len() as u64 {
        nodes @ 2.. => dice.between(1, nodes + 1),
        _ => 1,
    }
}

async fn broker(
    verbs: &'static [&'static str; 2],
    kind: &'static str,
    node: u64,
    pause: Duration,
) -> Result<()> {
    let [harm, mend] = *verbs;
    let order = move |verb: &'static str| {
        tokio::task::spawn_blocking(move || control(&[verb, kind, "--node", &node.to_string()]))
    };
    order(harm).await?;
    sleep(pause).await;
    order(mend).await?;
    Ok(())
}

async fn reload(arena: &Arena, dice: &mut Dice) -> Result<()> {
    let concurrency = dice.between(4, 24);
    for actor in arena.actors.iter().filter(|actor| actor.host().is_some()) {
        let before =
            actor.edit(|toml| toml.replace("concurrency = 16", &format!("concurrency = {concurrency}")))?;
        sleep(Duration::from_millis(700)).await;
        actor.edit(|_| format!("{before}\n[[routes]]\nqueue = 7\n"))?;
        sleep(Duration::from_millis(700)).await;
        actor.edit(|_| before)?;
    }
    Ok(())
}

async fn lock(arena: &Arena, victim: usize, file: &str, pause: Duration) -> Result<()> {
    if let Some(actor) = arena.actors.get(victim) {
        let held = observe::lock(&actor.setup.path().join(file))?;
        sleep(pause).await;
        drop(held);
    }
    Ok(())
}

const BALLAST: &str = "ballast";

/// Takes all that is left of the file system.
fn fill(folder: &Path) -> Result<()> {
    use std::io::Write;
    let mut ballast = std::fs::File::create(folder.join(BALLAST))?;
    let zeros = vec![0; 1 << 20];
    // In ever smaller pieces, until not one byte is left.
    let mut piece = zeros.len();
    while piece > 0 {
        match zeros.get(..piece).map(|bytes| ballast.write(bytes)) {
            Some(Ok(n)) if n > 0 => {}
            _ => piece /= 2,
        }
    }
    Ok(())
}
