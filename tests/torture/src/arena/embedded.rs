//! One host on the embedded broker: a queue and an ordered topic, published to over HTTP.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::Result;
use tokio::task::JoinSet;

use super::{Arena, Proxies, plugin, route};
use crate::actor::{Actor, Plan};
use crate::message::Stream;
use crate::publish::{Desk, Parts, http};

pub const NAME: &str = "embedded";
const QUEUE: &str = "torture.tasks";
const TOPIC: &str = "torture.events";
const OUT: &str = "torture.out";
/// A key is published by one task, one message at a time.
const KEYS: u32 = 32;
const WORKERS: u32 = 16;
/// Of the file system that is filled up.
const DISK: &str = "1g";
/// Debian's package libfaketime.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

pub async fn arena(parts: &Parts, env: &[(String, String)]) -> Result<Arena> {
    let toml = [
        route("tasks", &format!("queue = \"{QUEUE}\""), "none"),
        route("events", &format!("topic = \"{TOPIC}\""), "key"),
        plugin("embedded-1", OUT),
    ]
    .concat();
    let topology = format!(
        "[[queues]]\nname = \"{QUEUE}\"\n[[topics]]\nname = \"{TOPIC}\"\npartitions = 4\n[[topics]]\nname = \"{OUT}\"\npartitions = 2\n"
    );
    let mut env = env.to_vec();
    let clock = fake_clock(&mut env)?;
    let plan = Plan {
        name: "embedded-1".to_owned(),
        toml,
        topology,
        env,
    };
    let mut actor = Actor::new(&plan, &parts.history)?;
    let small_disk = SmallDisk::mount(&actor.setup.path().join("state"));
    actor.start().await;
    Ok(Arena {
        name: NAME,
        actors: vec![actor],
        streams: vec![Stream::EmbeddedTasks, Stream::EmbeddedEvents],
        proxies: Proxies::default(),
        clock,
        small_disk,
        destinations: vec![
            (Stream::EmbeddedTasks, QUEUE.to_owned()),
            (Stream::EmbeddedEvents, TOPIC.to_owned()),
        ],
        out: OUT.to_owned(),
        group: String::new(),
        schema: String::new(),
        operators: None,
        history: Arc::clone(&parts.history),
    })
}

pub fn publish(arena: &Arena, parts: &Parts, tasks: &mut JoinSet<()>) {
    let Some(actor) = arena.actors.first() else { return };
    for (stream, destination) in &arena.destinations {
        let desk = Desk::new(*stream, destination, OUT, parts);
        let workers = if stream.is_keyed() { KEYS } else { WORKERS };
        http::start(&desk, &actor.url, workers, tasks);
    }
}

/// The wall clock of the host is what a file says; its monotonic clock is real.
fn fake_clock(env: &mut Vec<(String, String)>) -> Result<Option<PathBuf>> {
    if !Path::new(FAKETIME).exists() {
        return Ok(None);
    }
    let file = std::env::temp_dir().join(format!("helix-torture-clock-{}", std::process::id()));
    std::fs::write(&file, "+0")?;
    for (name, value) in [
        ("LD_PRELOAD", FAKETIME),
        ("FAKETIME_TIMESTAMP_FILE", &file.display().to_string()),
        // Looked at once a second.
        ("FAKETIME_CACHE_DURATION", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ] {
        env.push((name.to_owned(), value.to_owned()));
    }
    Ok(Some(file))
}

/// A file system of its own, small enough to be filled. Gone when this is dropped, also when the run fails.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// None: only root may mount.
    fn mount(folder: &Path) -> Option<Self> {
        std::fs::create_dir_all(folder).ok()?;
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={DISK}"), "helix-torture"])
            .arg(folder)
            .stderr(std::process::Stdio::null())
            .status();
        mounted
            .is_ok_and(|status| status.success())
            .then(|| Self(folder.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
