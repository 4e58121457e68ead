//! Processes that are measured from outside, and how they end.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// What a loop in a process of its own found out about itself, printed as one line of JSON.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Figures {
    /// Messages a second, from the first to the last.
    pub rate: f64,
    /// CPU time of the whole process a message, microseconds, over the same stretch.
    pub cpu_us: f64,
    /// Milliseconds, when the loop measures how long messages were under way or a publish took.
    #[serde(default)]
    pub p50_ms: f64,
    #[serde(default)]
    pub p99_ms: f64,
    /// Resident memory after a tenth of the work, and at its end.
    #[serde(default)]
    pub rss_mib: (f64, f64),
}

/// Runs `helix-bench <args>` to its end.
pub fn child(args: &[&str]) -> Result<Figures> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(args);
    figures(&mut command)
}

/// Runs any program to its end; its last line is [`Figures`].
pub fn figures(command: &mut Command) -> Result<Figures> {
    said(command)
}

/// Runs any program to its end; its last line is JSON.
pub fn said<T: serde::de::DeserializeOwned>(command: &mut Command) -> Result<T> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(output.status.success(), "{command:?} failed: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().last().unwrap_or_default();
    serde_json::from_str(line).with_context(|| format!("{command:?} said: {text}"))
}

/// A child that does not outlive us.
pub struct Running(pub Child);

impl Running {
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// An error when it has ended by itself.
    pub fn check(&mut self) -> Result<()> {
        match self.0.try_wait()? {
            Some(status) => bail!("it ended: {status}"),
            None => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already, or ends now; nothing is left to do about an error.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// User and system time of a process so far, seconds. Grain: a clock tick, 10 ms.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = PathBuf::from(format!("/proc/{pid}/stat"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    // The name in parentheses may hold spaces; utime and stime are the 12th and 13th field after it.
    let fields = text.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|n| n.parse::<u64>().unwrap_or(0))
        .sum();
    // SAFETY: sysconf takes a plain number.
    let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1);
    #[allow(clippy::cast_precision_loss, reason = "ticks stay far below 2^53")]
    Ok(ticks as f64 / per_second as f64)
}

/// Resident memory of a process, MiB.
pub fn rss_mib(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|value| value.split_whitespace().next())
        .context("no VmRSS")?
        .parse()?;
    Ok(kib / 1024.0)
}

/// CPU time of this process so far, seconds.
pub fn own_cpu_seconds() -> f64 {
    seconds(libc::CLOCK_PROCESS_CPUTIME_ID)
}

/// CPU time of this thread so far, seconds.
pub fn thread_cpu_seconds() -> f64 {
    seconds(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn seconds(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live timespec; the clocks asked for exist on every Linux.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    #[allow(clippy::cast_precision_loss, reason = "seconds of one run")]
    let seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    seconds
}

/// Messages a second and CPU time a message between two points.
pub struct Meter {
    started: std::time::Instant,
    cpu: f64,
}

impl Meter {
    /// At the first message.
    pub fn start() -> Self {
        Self {
            started: std::time::Instant::now(),
            cpu: own_cpu_seconds(),
        }
    }

    /// After `messages` more.
    pub fn stop(&self, messages: usize) -> Figures {
        #[allow(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
        let messages = messages as f64;
        Figures {
            rate: messages / self.started.elapsed().as_secs_f64(),
            cpu_us: (own_cpu_seconds() - self.cpu) * 1e6 / messages,
            ..Figures::default()
        }
    }
}
