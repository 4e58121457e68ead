//! A process that outlives us, known by pid and start time so that a reused pid is never signalled.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Process {
    pub pid: i32,
    /// Clock ticks after boot (field 22 of `/proc/<pid>/stat`).
    started: u64,
}

impl Process {
    /// Starts in a process group of its own (a ^C at our terminal must not reach it), output to `log`.
    pub fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let out = OpenOptions::new().create(true).append(true).open(log)?;
        let err = out.try_clone()?;
        let mut child = command
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .spawn()
            .with_context(|| format!("cannot start `{}`", crate::run::shown(command)))?;
        let pid = i32::try_from(child.id())?;
        // Collects the exit status for as long as we live; after that init does.
        std::thread::spawn(move || child.wait());
        match stat(pid) {
            Some(Stat { started, .. }) => Ok(Self { pid, started }),
            None => bail!(
                "`{}` ended at once, see {}",
                crate::run::shown(command),
                log.display()
            ),
        }
    }

    pub fn alive(self) -> bool {
        stat(self.pid).is_some_and(|stat| stat.started == self.started && !matches!(stat.state, 'Z' | 'X'))
    }

    /// Sends a signal; false when the process is gone.
    pub fn signal(self, signal: i32) -> bool {
        // SAFETY: kill takes plain integers; the pid was just checked to be still the process we started.
        self.alive() && unsafe { libc::kill(self.pid, signal) } == 0
    }

    /// SIGKILL, and waits until the kernel is done with it.
    pub fn kill(self) -> Result<()> {
        self.signal(libc::SIGKILL);
        if self.gone_within(Duration::from_secs(10)) {
            return Ok(());
        }
        bail!("process {} survives SIGKILL", self.pid)
    }

    /// The same for what it has started, while it cannot start more.
    pub fn kill_with_children(self) -> Result<()> {
        self.signal(libc::SIGSTOP);
        let children = self.children();
        for child in &children {
            child.signal(libc::SIGKILL);
        }
        self.kill()?;
        children.into_iter().try_for_each(Self::kill)
    }

    /// What it has started and still runs.
    pub fn children(self) -> Vec<Self> {
        let Ok(all) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        all.flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter_map(|pid| {
                let stat = stat(pid)?;
                (stat.parent == self.pid).then_some(Self {
                    pid,
                    started: stat.started,
                })
            })
            .collect()
    }

    /// `signal` asks it to end; SIGKILL after `grace`.
    pub fn end(self, signal: i32, grace: Duration) -> Result<()> {
        self.signal(signal);
        if self.gone_within(grace) {
            Ok(())
        } else {
            self.kill()
        }
    }

    fn gone_within(self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while self.alive() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        true
    }

    /// Resident memory in MiB.
    pub fn rss_mib(self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        kib.trim()
            .trim_end_matches(" kB")
            .parse::<u64>()
            .ok()
            .map(|kib| kib / 1024)
    }
}

struct Stat {
    /// `R`unning, `S`leeping, …
    state: char,
    parent: i32,
    started: u64,
}

fn stat(pid: i32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name stands in parentheses and may hold spaces: fields are counted after the last one.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(Stat {
        state,
        parent,
        started,
    })
}

/// Waits until `log` holds `line`; fails with the log's tail when the process ends or the time is over.
pub fn await_line(process: Process, log: &Path, line: &str, also: &Path, limit: Duration) -> Result<()> {
    let deadline = Instant::now() + limit;
    loop {
        if fs::read(log).is_ok_and(|text| String::from_utf8_lossy(&text).contains(line)) {
            return Ok(());
        }
        if !process.alive() {
            bail!("it ended while starting\n{}", tail(also));
        }
        if Instant::now() >= deadline {
            bail!("not ready after {} s\n{}", limit.as_secs(), tail(also));
        }
        if crate::signals::interrupted() {
            bail!("interrupted");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines
        .iter()
        .skip(lines.len().saturating_sub(30))
        .copied()
        .collect::<Vec<_>>()
        .join("\n");
    format!("{last}\n(whole log: {})", log.display())
}

/// True when nothing listens there.
pub fn free(port: u16) -> bool {
    std::net::TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// Keeps the log of the run before, so that a fresh one tells when this run is ready.
pub fn rotate(log: &Path) -> Result<()> {
    if log.exists() {
        fs::rename(log, log.with_extension("previous.log"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn a_process_is_known_by_more_than_its_pid() {
        let log = std::env::temp_dir().join(format!("helix-process-{}.log", std::process::id()));
        let process = Process::spawn(Command::new("sleep").arg("60"), &log).unwrap();
        assert!(process.alive());
        let other = Process {
            started: process.started + 1,
            ..process
        };
        assert!(!other.alive(), "a reused pid is somebody else");
        assert!(!other.signal(libc::SIGKILL));
        process.kill().unwrap();
        assert!(!process.alive());
        fs::remove_file(log).unwrap();
    }
}
