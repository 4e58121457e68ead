//! Everything the observer saw, in the order it saw it; one JSON value a line.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::message::Stream;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Milliseconds since the run began.
    pub t: u64,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "e", rename_all = "kebab-case")]
pub enum What {
    /// About to be published; `again`: nobody knows what became of an earlier try.
    Sent { id: String, again: bool },
    /// A broker or a 202 says that it is on disk.
    Confirmed {
        id: String,
        partition: Option<i64>,
        offset: Option<i64>,
    },
    /// Certainly refused; it may be there all the same, since an earlier try of it may have come through.
    GivenUp { id: String },
    /// A handler ran and told what it will say.
    Ran {
        id: String,
        attempt: u32,
        said: Said,
        instance: String,
    },
    /// Two handlers ran for one key at a time.
    Overlap { id: String, other: String },
    Fault {
        kind: String,
        arena: String,
        /// What it does to deliveries.
        effect: Effect,
    },
    /// The last fault of that kind is over.
    Mended { kind: String, arena: String },
    /// A dead letter, read from the store of a host that has left.
    Letter {
        id: String,
        class: String,
        instance: String,
    },
    /// An event that a handler published, read from its topic at the end.
    Output { id: String, attempt: u32, said: Said },
    /// A committed position of our group: everything below it is said to be finished.
    Committed {
        stream: Stream,
        partition: i64,
        offset: i64,
    },
    /// What should be zero once everything is drained, and is not.
    Left { what: String, count: i64 },
    /// Something that must not happen whatever is disturbed: a host that ends by itself, an unclean exit.
    Wrong { what: String },
    /// From the end of the last fault until nothing was left.
    Drained { arena: String, ms: u64 },
    /// An operator asks a host to do something with a dead letter: `reprocess`, `discard`, `release`. `id` is its message's.
    Asked {
        n: u64,
        id: String,
        letter: String,
        verb: Verb,
        actor: String,
        instance: String,
    },
    /// What became of that; 0: nobody knows.
    Answered { n: u64, status: u16 },
    /// A host was asked to make a job or replay of that id.
    Made {
        what: Work,
        id: String,
        instance: String,
        status: u16,
    },
    /// A host has answered that it is cancelled.
    Cancelled { what: Work, id: String },
    /// A letter as it is at the end, in the store that hosts share.
    Kept {
        id: String,
        letter: String,
        class: String,
        state: String,
        trail: Vec<Step>,
    },
    /// A job as it is at the end.
    Job {
        id: String,
        state: String,
        total: u64,
        /// Results of all kinds.
        done: u64,
    },
    /// A replay as it is at the end.
    Replay {
        id: String,
        state: String,
        batch: u64,
        total: u64,
        replayed: u64,
        /// Offsets dealt with.
        done: u64,
        /// When it was made and when it ended.
        from: u64,
        to: u64,
        /// Partition, first offset, and the one behind the last.
        stretches: Vec<(i64, i64, i64)>,
    },
    /// A copy in the target of a replay, with the place of its original.
    Copy {
        replay: String,
        partition: i64,
        offset: i64,
        /// When it was sent.
        at: u64,
    },
}

/// What an operator does with one letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    Reprocess,
    Discard,
    Release,
}

impl Verb {
    /// As the API and the trail of a letter name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reprocess => "reprocess",
            Self::Discard => "discard",
            Self::Release => "release",
        }
    }
}

/// What hosts do in the background because somebody asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    Job,
    Replay,
}

/// One change of a letter, as its trail has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub at: u64,
    pub actor: String,
    pub action: String,
    pub from: String,
    pub to: String,
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    Done,
    Retry,
    Reject,
    Trap,
    Loop,
}

impl Said {
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "done" => Self::Done,
            "retry" => Self::Retry,
            "reject" => Self::Reject,
            "trap" => Self::Trap,
            "loop" => Self::Loop,
            _ => return None,
        })
    }
}

/// What a fault may excuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Nothing: swaps, reloads, orderly stops, a store that is slow.
    None,
    /// Partitions move in good order: what was finished behind an unfinished message runs again.
    Rebalance,
    /// What was in flight or not acknowledged yet comes again.
    Redelivers,
    /// The same, and handlers that were running lose their time.
    Stalls,
}

pub struct History {
    began: Instant,
    /// The same in Unix milliseconds.
    began_ms: u64,
    inner: Mutex<Inner>,
}

struct Inner {
    events: Vec<Event>,
    file: BufWriter<File>,
}

impl History {
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self {
            began: Instant::now(),
            began_ms: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX)),
            inner: Mutex::new(Inner {
                events: Vec::new(),
                file: BufWriter::new(file),
            }),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, what: What) {
        let mut inner = self.lock();
        // Under the lock: time in the file never goes back.
        let t = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let event = Event { t, what };
        if let Ok(line) = serde_json::to_string(&event) {
            // A history that cannot be written is still checked from memory.
            let _ = writeln!(inner.file, "{line}");
        }
        inner.events.push(event);
    }

    pub fn wrong(&self, what: impl Into<String>) {
        self.add(What::Wrong { what: what.into() });
    }

    /// What others measured in Unix milliseconds.
    pub fn at(&self, unix_ms: u64) -> u64 {
        unix_ms.saturating_sub(self.began_ms)
    }

    /// All so far.
    pub fn events(&self) -> Vec<Event> {
        let mut inner = self.lock();
        let _ = inner.file.flush();
        inner.events.clone()
    }
}

/// # Errors
/// When the file cannot be read, or is no history.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    BufReader::new(file)
        .lines()
        .map(|line| Ok(serde_json::from_str(&line?)?))
        .collect()
}
