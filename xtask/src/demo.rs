//! `cargo xtask demo`: the main job on one machine, in a fresh folder, told in a page.

mod host;
mod report;
mod traffic;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::run::run;
use crate::workspace::{cargo, host_binary, root, target};
use crate::{install, plugins, signals};
use host::Host;
use report::{Counts, Tally};
use traffic::Traffic;

/// The handler that is replaced while it works.
const SWAPPED: &str = "llm-request";
const LLM: &str = "/v1/messaging/tasks/helixagent.tasks.llm";
const NOTIFICATIONS: &str = "/v1/messaging/tasks/helixagent.tasks.notifications";
const VERIFICATIONS: &str = "/v1/messaging/events/helixagent.events.verification.results";

pub fn main() -> Result<()> {
    signals::catch();
    let started = Instant::now();
    let home = target().join("demo");
    step(
        1,
        "building the handlers in plugins/ and the host (the first time takes minutes)",
    );
    build()?;
    let plugins_dir = fresh_folder(&home)?;

    step(2, "starting `helix run` on the embedded broker");
    let mut host = Host::start(&home, &plugins_dir)?;
    host.ready(Duration::from_secs(180))?;

    step(3, "sending messages of several types over HTTP");
    let mut tally = Tally::default();
    various(&host, &mut tally)?;

    step(
        4,
        "swapping a handler while messages flow: rebuild, rename into the folder, nothing restarted",
    );
    let swap = swap(&mut host, &plugins_dir, &mut tally)?;

    step(5, "waiting until every message is settled");
    let counts = settled(&host, &tally)?;

    step(6, "what came of it");
    let letters = host.helix(&["dlq", "ls"])?;
    let complete = report::print(&tally, &counts, &swap, &letters);
    println!(
        "\nThe host ran on http://{} with its state in {}; {:.0} s in all.",
        host.address,
        home.display(),
        started.elapsed().as_secs_f64()
    );
    println!(
        "Next: `helix run`, then drop a .wasm into plugins/. `helix new my-handler` makes a project, `helix dev` keeps it live\n\
         while you edit it. config/helix.toml routes messages to handlers; README.md goes on from here."
    );
    host.stop()?;
    if complete {
        Ok(())
    } else {
        bail!("messages are missing: see {}", home.join("helix.log").display())
    }
}

fn step(number: u8, what: &str) {
    println!("[{number}/6] {what}");
}

fn build() -> Result<()> {
    install::native_build_tools()?;
    plugins::shipped()?;
    run(Command::new(cargo())
        .args(["build", "--workspace", "--bin", "helix"])
        .current_dir(root()))?;
    anyhow::ensure!(
        host_binary().exists(),
        "cargo left no {}",
        host_binary().display()
    );
    Ok(())
}

/// An empty state folder with a copy of the plugins: the swap must not touch those of the checkout.
fn fresh_folder(home: &Path) -> Result<PathBuf> {
    if home.exists() {
        fs::remove_dir_all(home).with_context(|| format!("cannot empty {}", home.display()))?;
    }
    let plugins_dir = home.join("plugins");
    fs::create_dir_all(&plugins_dir)?;
    for entry in fs::read_dir(root().join("plugins"))? {
        let file = entry?.path();
        if let Some(name) = file
            .file_name()
            .filter(|_| file.extension().is_some_and(|ext| ext == "wasm"))
        {
            fs::copy(&file, plugins_dir.join(name))?;
        }
    }
    Ok(plugins_dir)
}

fn various(host: &Host, tally: &mut Tally) -> Result<()> {
    let address = &host.address;
    for n in 0..20 {
        let score = 0.6 + 0.02 * f64::from(n);
        let payload = json!({ "verification_id": format!("v-{n}"), "score": score });
        tally.send(address, VERIFICATIONS, "verification.completed", &payload)?;
        let payload = json!({ "channel": "log", "subject": "hello", "text": format!("notification {n}") });
        tally.send(address, NOTIFICATIONS, "notification", &payload)?;
    }
    // Fails at the first attempt, is retried, succeeds.
    tally.send(
        address,
        NOTIFICATIONS,
        "notification",
        &json!({ "text": "try me twice", "flaky": true }),
    )?;
    // No retry can help: the handler rejects them, or there is none.
    tally.send(
        address,
        NOTIFICATIONS,
        "notification",
        &json!({ "text": "x", "channel": "invalid" }),
    )?;
    tally.send(address, LLM, "llm.request", &json!({ "prompt": "" }))?;
    tally.send(address, LLM, "mystery.type", &json!({ "anyone": "there?" }))
}

/// The version before and after, and how many messages each of them finished.
pub struct Swap {
    pub plugin: &'static str,
    pub old: String,
    pub new: String,
    pub handled_by_old: u64,
    pub seconds: f64,
}

fn swap(host: &mut Host, plugins_dir: &Path, tally: &mut Tally) -> Result<Swap> {
    let old = host.digest(SWAPPED)?;
    let traffic = Traffic::start(&host.address, LLM, "llm.request");
    let swapped = (|| {
        traffic.until(50)?;
        let fresh = plugins::one(SWAPPED, &[("HELIX_DEMO_VERSION", "2")])?;
        let file = plugins_dir.join(format!("{SWAPPED}.wasm"));
        anyhow::ensure!(
            fs::read(&fresh)? != fs::read(&file)?,
            "the rebuilt {SWAPPED} is the same file: its source must read option_env!(\"HELIX_DEMO_VERSION\")"
        );
        plugins::place(&fresh, &file)?;
        let placed = Instant::now();
        let new = host.changed(SWAPPED, &old, Duration::from_secs(60))?;
        let handled_by_old = Counts::read(host)?.handled("llm.request");
        let seconds = placed.elapsed().as_secs_f64();
        traffic.until(traffic.accepted() + 50)?;
        Ok(Swap {
            plugin: SWAPPED,
            old,
            new,
            handled_by_old,
            seconds,
        })
    })();
    // Also after a failure: the sender must not outlive us.
    let accepted = traffic.stop();
    tally.add("llm.request", accepted?);
    swapped
}

/// Polls until every accepted message is handled or dead.
fn settled(host: &Host, tally: &Tally) -> Result<Counts> {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let counts = Counts::read(host)?;
        if counts.finished(tally) || Instant::now() > deadline {
            return Ok(counts);
        }
        if signals::interrupted() {
            bail!("interrupted");
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
