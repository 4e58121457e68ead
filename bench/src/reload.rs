//! A file dropped into plugins/ → the first message on the new version, under traffic; and what the traffic notices.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::host::{Folder, Host};
use crate::native::clock::now_ns;
use crate::stats::{Goal, Row, percentile};
use crate::{Bench, Measure};

const COLD: &str = "file dropped to first message on the new version, Rust guest, cold";
const CACHED: &str = "file dropped to first message on the new version, Rust guest, cached";
const P99: &str = "p99 of traffic while versions are swapped";

/// Between two messages of the traffic. Also the grain of the first two rows.
const PACE: Duration = Duration::from_millis(4);
/// "Unmoved": within the scatter of a p99 of some hundred messages.
const UNMOVED: f64 = 1.25;

pub fn measures() -> Vec<Measure> {
    vec![Measure::new(&[COLD, CACHED, P99], rows)]
}

fn rows(bench: &Bench) -> Result<Vec<Row>> {
    let toml = "[[routes]]\ntopic = \"bench\"\nplugin = \"bench-clock\"\nconcurrency = 1\n[plugins.bench-clock]\ninstances = 1\nlog_lines = 100000\n";
    let topology = "[[topics]]\nname = \"bench\"\npartitions = 6\nretention = \"1d\"\n";
    let folder = bench.folder(toml, topology, &["bench-clock"])?;
    let mut host = folder.start()?;
    host.ready()?;
    let drop_in = Drop {
        folder: &folder,
        content: std::fs::read(folder.path("plugins/bench-clock.wasm"))?,
    };
    let swaps = bench.count(10, 3);
    let stop = AtomicBool::new(false);
    let (mut cold, mut cached, mut rest, mut busy) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    std::thread::scope(|scope| {
        let traffic = scope.spawn(|| traffic(&host, &stop));
        let measured = (|| {
            // The first message has been handled before anything is measured.
            drop_in.wait_for_first(0)?;
            for round in 0..bench.rounds {
                let from = folder.log_size();
                std::thread::sleep(Duration::from_secs(bench.count(4, 1) as u64));
                rest.push(p99(&folder, from)?);
                let from = folder.log_size();
                for swap in 0..swaps {
                    let fresh = format!("{round}-{swap}-{}", now_ns());
                    cold.push(drop_in.swap(fresh.as_bytes())?);
                    std::thread::sleep(Duration::from_millis(200));
                }
                // Both contents are known after the first two.
                for swap in 0..swaps + 2 {
                    let took = drop_in.swap(if swap % 2 == 0 { b"even" } else { b"odd" })?;
                    if swap >= 2 {
                        cached.push(took);
                    }
                    std::thread::sleep(Duration::from_millis(200));
                }
                busy.push(p99(&folder, from)?);
            }
            anyhow::Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        let sent = traffic
            .join()
            .map_err(|_| anyhow::anyhow!("the traffic panicked"))?;
        measured.and(sent)
    })?;
    let row = |name: &str, goal, ours, baseline, against| Row {
        name: name.to_owned(),
        unit: "ms",
        goal,
        ours,
        baseline,
        against,
        note: String::new(),
        details: serde_json::Value::Null,
    };
    Ok(vec![
        row(COLD, Goal::AtMost(150.0), cold, Vec::new(), ""),
        row(CACHED, Goal::AtMost(20.0), cached, Vec::new(), ""),
        row(
            P99,
            Goal::RatioAtMost(UNMOVED),
            busy,
            rest,
            "the same traffic at rest",
        ),
    ])
}

/// One message each [`PACE`], published over HTTP.
fn traffic(host: &Host<'_>, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        let body = format!(r#"{{"type":"bench.each","payload":{}}}"#, now_ns());
        let (status, answer) = host.request("POST", "/v1/messaging/events/bench", &body)?;
        ensure!(status == 202, "{status} {answer}");
        std::thread::sleep(PACE.saturating_sub(started.elapsed()));
    }
    Ok(())
}

struct Drop<'a> {
    folder: &'a Folder,
    content: Vec<u8>,
}

impl Drop<'_> {
    /// Milliseconds from the rename to the first line that a new instance printed.
    fn swap(&self, mark: &[u8]) -> Result<f64> {
        let from = self.folder.log_size();
        let (fresh, target) = (
            self.folder.path("plugins/.fresh"),
            self.folder.path("plugins/bench-clock.wasm"),
        );
        std::fs::write(&fresh, with_section(&self.content, mark))?;
        let dropped = Instant::now();
        std::fs::rename(&fresh, &target)?;
        self.wait_for_first(from)?;
        Ok(dropped.elapsed().as_secs_f64() * 1e3)
    }

    /// Until a new instance has printed its first line, after `from` bytes of the log.
    fn wait_for_first(&self, from: u64) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !self.folder.log_from(from).contains(" first") {
            ensure!(
                Instant::now() < deadline,
                "no new version:\n{}",
                self.folder.log()
            );
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }
}

/// The 99th percentile of what the guest printed since then, milliseconds.
fn p99(folder: &Folder, from: u64) -> Result<f64> {
    let log = folder.log_from(from);
    let mut times: Vec<f64> = log
        .split("took_ns=")
        .skip(1)
        .filter_map(|rest| {
            rest.split(|c: char| !c.is_ascii_digit())
                .next()?
                .parse::<f64>()
                .ok()
        })
        .map(|ns| ns / 1e6)
        .collect();
    times.sort_by(f64::total_cmp);
    percentile(&times, 0.99).context("no message was handled")
}

/// The same component with another digest: a custom section at its end, which means nothing.
pub fn with_section(component: &[u8], content: &[u8]) -> Vec<u8> {
    let name = b"bench";
    let size = 1 + name.len() + content.len();
    let mut out = component.to_vec();
    // Section id 0, its size, then a name with its length; one byte holds numbers below 128.
    out.extend([0, u8::try_from(size).unwrap_or(127), 5]);
    out.extend(name);
    out.extend(content);
    out
}
