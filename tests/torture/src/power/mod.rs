//! Power loss under the embedded broker: SQLite writes to a disk in memory, the power goes in the middle of some operation,
//! what was not synced is there, torn or gone, and the broker opens what is left.
//!
//! ```text
//!  publishers, consumers ─▶ broker ─▶ SQLite ─▶ vfs ─▶ disk ── cut ──▶ image ─▶ broker ─▶ check
//!           │                                                                               ▲
//!           └──────────────────── model: what was asked, what was answered ─────────────────┘
//! ```
//!
//! A seed decides the work, the point of the cut and what survives it. The threads of the broker run as they like, so the
//! same seed is the same plan, not the same interleaving.

mod check;
mod disk;
mod file;
mod image;
mod model;
mod shm;
mod vfs;
mod work;

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use helix_host::broker::embedded::Embedded;
use helix_host::broker::{Broker, Health};
use helix_host::config::valid;
use helix_host::model::{Clock, UnixMs};

pub use self::check::counters;
pub use self::disk::{Counts, Disk};
use self::model::Model;
pub use self::vfs::Attached;
pub use self::work::message;

const START: UnixMs = 1_700_000_000_000;

/// What a run has seen.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Summary {
    pub seeds: u64,
    pub cuts: u64,
    /// Cuts that fell into the opening of the broker.
    pub cuts_while_opening: u64,
    pub confirmed: u64,
    pub acked: u64,
    /// Changes that the disks were asked for.
    pub steps: u64,
}

#[derive(Debug, Clone)]
pub struct Failure {
    pub seed: u64,
    pub text: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (again with HELIX_POWER_SEED={})", self.text, self.seed)
    }
}

impl std::error::Error for Failure {}

/// Wall time that stands still until it is moved.
pub struct Hands(AtomicU64);

impl Hands {
    pub fn start() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(START)))
    }

    pub fn advance(&self, ms: u64) {
        self.0.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn now_ms(&self) -> UnixMs {
        self.0.load(Ordering::SeqCst)
    }

    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// Opens a broker in `folder`, which is on an attached disk.
pub fn open(folder: &Path, clock: &Arc<Hands>) -> Result<Embedded, String> {
    let options = valid::Embedded {
        path: folder.to_owned(),
        group: "g".into(),
    };
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    Embedded::open("power", &options, valid::Formats::default(), clock).map_err(|e| e.to_string())
}

/// Runs every seed; stops at the first that fails. Blocks, and has a runtime of its own: not to be called inside another.
pub fn run(seeds: Range<u64>) -> Result<Summary, Failure> {
    let failure = |seed, text: String| Failure { seed, text };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build();
    let runtime = runtime.map_err(|e| failure(seeds.start, e.to_string()))?;
    let mut summary = Summary::default();
    for seed in seeds {
        let one = runtime.block_on(life(seed, &mut summary));
        one.map_err(|text| failure(seed, text))?;
        summary.seeds += 1;
    }
    Ok(summary)
}

/// A broker from an empty disk over some power cuts to an end in good order.
async fn life(seed: u64, summary: &mut Summary) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
    let folder = folder.path();
    let mut rng = fastrand::Rng::with_seed(seed);
    let (clock, model) = (Hands::start(), Arc::new(Model::default()));
    let mut disk = Attached::new(Disk::new(folder));
    for cut in 0..rng.u64(1..4) {
        let during = match generation(folder, &disk, &clock, &model, &mut rng).await {
            Ok(()) => "work",
            Err(text) if !disk.is_off() => return Err(format!("after {cut} cuts: {text}")),
            Err(_) => "opening",
        };
        disk.cut_now();
        summary.cuts += 1;
        summary.cuts_while_opening += u64::from(during == "opening");
        summary.steps += disk.counts().steps;
        let after = disk.reboot(&mut rng);
        drop(disk);
        disk = Attached::new(after);
        // Whatever was delayed is due.
        clock.advance(7_200_000);
    }
    let end = last(folder, &clock, &model, &mut rng).await;
    end.map_err(|text| format!("at the end: {text}"))?;
    let known = model.known();
    summary.confirmed += known.confirmed;
    summary.acked += known.acked;
    Ok(())
}

/// Opens, checks, works until the power goes. Err: something is wrong, or the power went before the work began.
async fn generation(
    folder: &Path,
    disk: &Disk,
    clock: &Arc<Hands>,
    model: &Arc<Model>,
    rng: &mut fastrand::Rng,
) -> Result<(), String> {
    let while_opening = rng.u8(..4) == 0;
    if while_opening {
        disk.cut_in(rng.u64(1..60));
    }
    let broker = Arc::new(open(folder, clock)?);
    work::create(&broker).await?;
    check::check(&broker, &folder.join("broker.db"), model).await?;
    if !while_opening {
        let most = rng.choice([30, 120, 500]).unwrap_or(500);
        disk.cut_in(rng.u64(1..most));
    }
    work::work(&broker, model, rng, clock.now_ms()).await;
    if !disk.is_off() && broker.health() != Health::Up {
        return Err(format!(
            "the broker stopped with the power on: {:?}",
            broker.health()
        ));
    }
    Ok(())
}

/// The broker works on as if nothing had happened, and ends in good order.
async fn last(
    folder: &Path,
    clock: &Arc<Hands>,
    model: &Arc<Model>,
    rng: &mut fastrand::Rng,
) -> Result<(), String> {
    let file = folder.join("broker.db");
    let broker = Arc::new(open(folder, clock)?);
    work::create(&broker).await?;
    check::check(&broker, &file, model).await?;
    work::work(&broker, model, rng, clock.now_ms()).await;
    if broker.health() != Health::Up {
        return Err(format!("the broker does not work on: {:?}", broker.health()));
    }
    broker.close().await;
    drop(broker);
    clock.advance(7_200_000);
    let broker = open(folder, clock)?;
    check::check(&broker, &file, model).await?;
    broker.close().await;
    Ok(())
}
