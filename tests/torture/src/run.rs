//! One torture run: load on all arenas, faults by a schedule that the seed fixes, drain, proof.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::arena::{self, Arena};
use crate::checker::{self, DRAIN_LIMIT_MS, Report};
use crate::fault::{Fault, inflict};
use crate::flow::Flow;
use crate::history::History;
use crate::message::{Dice, Orders, Stream, mix};
use crate::publish::Parts;
use crate::sink::{self, Slow};

#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    /// How long there are faults.
    pub time: Duration,
    pub streams: Vec<Stream>,
    /// None: all that fit.
    pub rows: Vec<Fault>,
    pub slow: Slow,
    /// For hosts.
    pub env: Vec<(String, String)>,
    pub history: PathBuf,
}

pub struct Done {
    pub report: Report,
    pub schedule: Vec<String>,
    pub took: Duration,
}

/// Rough and gentle faults take turns: what happens in a gentle stretch has no excuse. A short run has one of each.
const STRETCH: Duration = Duration::from_secs(30);
/// Between two faults.
const CALM_MS: (u64, u64) = (500, 2_500);
/// Hosts start and take their first messages.
const READY: Duration = Duration::from_secs(60);

/// # Errors
/// When the run is void: something could not be prepared or disturbed. What hosts did wrong is in the report.
pub async fn run(plan: &Plan) -> Result<Done> {
    let began = Instant::now();
    let history = Arc::new(History::create(&plan.history)?);
    let flow = Arc::new(Flow::new(arena::limits()));
    let sink = sink::serve(Arc::clone(&history), Arc::clone(&flow), plan.seed, plan.slow).await?;
    let parts = Parts {
        orders: Orders {
            seed: plan.seed,
            sink,
        },
        history: Arc::clone(&history),
        flow: Arc::clone(&flow),
        stop: CancellationToken::new(),
    };
    let (mut publishers, mut observers) = (JoinSet::new(), JoinSet::new());
    let end = CancellationToken::new();
    let mut arenas = arenas(plan, &parts).await?;
    for arena in &arenas {
        for actor in arena.actors.iter().filter(|actor| actor.host().is_some()) {
            actor.ready(READY).await?;
        }
        arena.watch_commits(&mut observers, &end);
        arena.publish(&parts, &mut publishers);
    }
    let schedule = disturb(plan, &mut arenas, &history, &flow).await?;
    parts.stop.cancel();
    let limit = Duration::from_millis(DRAIN_LIMIT_MS) + Duration::from_secs(30);
    // Publishers finish what they have in doubt; they need the hosts for that.
    if tokio::time::timeout(limit, async { while publishers.join_next().await.is_some() {} })
        .await
        .is_err()
    {
        history.wrong("publishers could not finish: something never answered");
    }
    for arena in &mut arenas {
        if !arena.shares_store() {
            arena.wake().await;
        }
        arena.drained(limit).await;
    }
    end.cancel();
    while observers.join_next().await.is_some() {}
    for arena in &mut arenas {
        arena.finish().await?;
        keep_logs(arena, &plan.history);
    }
    let report = checker::check(plan.seed, arena::WINDOW, &history.events());
    Ok(Done {
        report,
        schedule,
        took: began.elapsed(),
    })
}

/// The folders of hosts go with this process.
fn keep_logs(arena: &Arena, history: &std::path::Path) {
    for actor in &arena.actors {
        let to = history.with_extension(format!("{}.log", actor.name));
        // Not worth failing for: the report stands without it.
        let _ = std::fs::copy(actor.setup.path().join("helix.log"), to);
    }
}

async fn arenas(plan: &Plan, parts: &Parts) -> Result<Vec<Arena>> {
    let mut arenas = Vec::new();
    let of = |arena: &str| -> Vec<Stream> {
        let streams = plan.streams.iter().copied();
        streams.filter(|stream| stream.arena() == arena).collect()
    };
    let (brokers, store) = (of("brokers"), of("store"));
    if !brokers.is_empty() && !store.is_empty() {
        bail!(
            "the arenas `brokers` and `store` kill the same brokers, so they have to run one after the other"
        );
    }
    if !of("embedded").is_empty() {
        arenas.push(
            Arena::embedded(parts, &plan.env)
                .await
                .context("embedded arena")?,
        );
    }
    if !brokers.is_empty() {
        arenas.push(
            Arena::brokers(parts, &brokers, &plan.env)
                .await
                .context("brokers arena")?,
        );
    }
    if !store.is_empty() {
        arenas.push(
            Arena::store(parts, &store, &plan.env)
                .await
                .context("store arena")?,
        );
    }
    if arenas.is_empty() {
        bail!("nothing to torture: no broker was chosen");
    }
    Ok(arenas)
}

/// All arenas side by side, each with its own dice, until the time is over.
async fn disturb(plan: &Plan, arenas: &mut [Arena], history: &History, flow: &Flow) -> Result<Vec<String>> {
    let until = Instant::now() + plan.time;
    let began = Instant::now();
    let stretch = STRETCH.min(plan.time / 2).as_secs().max(1);
    let faults = arenas.iter_mut().enumerate().map(|(n, arena)| {
        let mut dice = Dice::new(mix(plan.seed).wrapping_add(n as u64));
        async move {
            let mut schedule = Vec::new();
            let fitting: Vec<Fault> = <Fault as clap::ValueEnum>::value_variants()
                .iter()
                .copied()
                .filter(|fault| plan.rows.is_empty() || plan.rows.contains(fault))
                .filter(|fault| fault.fits(arena))
                .collect();
            while Instant::now() < until {
                tokio::time::sleep(Duration::from_millis(dice.between(CALM_MS.0, CALM_MS.1))).await;
                let gentle = (began.elapsed().as_secs() / stretch) % 2 == 1;
                let mut choice: Vec<Fault> = fitting
                    .iter()
                    .copied()
                    .filter(|f| f.is_gentle() == gentle)
                    .collect();
                if choice.is_empty() {
                    choice.clone_from(&fitting);
                }
                let chosen = usize::try_from(dice.between(0, choice.len() as u64))?;
                let Some(fault) = choice.get(chosen) else { break };
                schedule.push(format!(
                    "{:.1}s {} {}",
                    began.elapsed().as_secs_f64(),
                    arena.name,
                    fault.name()
                ));
                eprintln!(
                    "torture: {:6.1} s  {:8}  {:18} {} published",
                    began.elapsed().as_secs_f64(),
                    arena.name,
                    fault.name(),
                    flow.published()
                );
                inflict(*fault, arena, history, &mut dice).await?;
                for actor in &mut arena.actors {
                    actor.watch().await;
                }
            }
            anyhow::Ok(schedule)
        }
    });
    let schedules = futures::future::try_join_all(faults).await?;
    Ok(schedules.into_iter().flatten().collect())
}
