//! The harness on trial: hosts with one bug each, all of which it has to find.

use std::time::{Duration, Instant};

use anyhow::Result;
use helix_host::planted::Bug;
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::message::{Stream, mix};
use crate::run::{Plan, run};
use crate::sink::Slow;

#[derive(Debug, Serialize, Deserialize)]
pub struct Trial {
    pub bug: String,
    pub commit: String,
    pub caught: bool,
    pub seconds: f64,
    /// What gave it away.
    pub by: String,
}

/// What shows a bug soonest. Everything else stays as in any run.
fn lure(bug: Bug) -> (Vec<Stream>, Vec<Fault>) {
    use Stream::{EmbeddedEvents, EmbeddedTasks, KafkaEvents, RabbitTasks, StoreEvents, StoreTasks};
    let embedded = vec![EmbeddedTasks, EmbeddedEvents];
    match bug {
        Bug::AckBeforeHandle | Bug::DeadLetterAfterAck | Bug::RetryRowAfterAck => {
            (embedded, vec![Fault::KillHost])
        }
        // A stop puts the keys that wait for a retry into the store.
        Bug::ParkForgottenOverRestart => (vec![EmbeddedEvents], vec![Fault::DrainHost]),
        Bug::CommitMaximum => (vec![KafkaEvents], vec![Fault::KillHost]),
        Bug::NoFence => (vec![KafkaEvents, RabbitTasks], vec![Fault::JoinLeave]),
        Bug::OutputBeforeDone | Bug::PermitLeakedOnTrap => (embedded, vec![Fault::ReloadConfig]),
        Bug::NonAtomicSwap => (embedded, vec![Fault::SwapPlugin]),
        Bug::WallClockDeadline => (embedded, vec![Fault::JumpClock]),
        Bug::CheckpointBeforeConfirm => (vec![StoreEvents], vec![Fault::KillHost]),
        Bug::LetterRemovedBeforeConfirm => (vec![StoreTasks], vec![Fault::KillHost]),
        // Nothing has to break for these: it is enough that several ask.
        Bug::RedriveWithoutCompareAndSet => (vec![StoreTasks], vec![Fault::ReloadConfig]),
        Bug::CancelOnlyFlipsAFlag => (vec![StoreTasks, StoreEvents], vec![Fault::ReloadConfig]),
        // No kill shows this one: power has to fail.
        Bug::FsyncSkipped => (Vec::new(), Vec::new()),
    }
}

/// What runs without a right to is seen when it runs long enough to meet who has it.
fn slow(bug: Bug) -> Slow {
    match bug {
        Bug::NoFence => Slow {
            every: 1,
            time: Duration::from_millis(300),
        },
        _ => Slow::default(),
    }
}

/// # Errors
/// When a run is void.
pub async fn trial(
    bug: Bug,
    seed: u64,
    time: Duration,
    folder: &std::path::Path,
    commit: &str,
) -> Result<Trial> {
    let began = Instant::now();
    let (streams, rows) = lure(bug);
    let found = if streams.is_empty() {
        power_loss().await?
    } else {
        let plan = Plan {
            seed: mix(seed ^ bug as u64),
            time,
            streams,
            rows,
            slow: slow(bug),
            env: vec![("HELIX_PLANTED".to_owned(), bug.name().to_owned())],
            history: folder.join(format!("history-{}.jsonl", bug.name())),
        };
        run(&plan).await?.report.faults_found()
    };
    Ok(Trial {
        bug: bug.name().to_owned(),
        commit: commit.to_owned(),
        caught: !found.is_empty(),
        seconds: began.elapsed().as_secs_f64(),
        by: found.join("; "),
    })
}

/// Power cuts of the embedded broker in a process of its own, which has the bug as well.
async fn power_loss() -> Result<Vec<String>> {
    let ended = tokio::process::Command::new(std::env::current_exe()?)
        .arg("--power")
        .env("HELIX_PLANTED", Bug::FsyncSkipped.name())
        .output()
        .await?;
    if ended.status.success() {
        return Ok(Vec::new());
    }
    let said = String::from_utf8_lossy(&ended.stderr);
    Ok(vec![said.lines().next().unwrap_or("no reason given").to_owned()])
}
