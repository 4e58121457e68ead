//! A replay: a stretch of a topic that is read again as a job, and how far that has come.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::UnixMs;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReplayStatus {
    /// Waits for a host that has a place free.
    Pending,
    Running,
    Completed,
    /// Gave up; the progress says why.
    Failed,
    Cancelled,
}

impl ReplayStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    pub id: String,
    pub plan: Plan,
    pub status: ReplayStatus,
    pub progress: Progress,
    pub created_ms: UnixMs,
    /// When a host first took it.
    pub started_ms: Option<UnixMs>,
    pub ended_ms: Option<UnixMs>,
}

impl Replay {
    /// Offsets of all stretches together.
    pub fn total(&self) -> u64 {
        self.plan.stretches.iter().map(Stretch::len).sum()
    }
}

/// What is read again, and where it goes. Fixed when the replay is made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub topic: String,
    /// The broker it is read from; none: that of events, which was the only one once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
    /// The topic that gets copies; empty when they go to a route.
    pub target: String,
    /// The route whose handler gets the messages, instead of a topic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<RouteTarget>,
    /// How many partitions the target has; none in a dry run, which has no target.
    pub target_partitions: Option<u32>,
    /// Of the source, all of them.
    pub partitions: u32,
    pub stretches: Vec<Stretch>,
    /// Records of an earlier time are left out, should there be any between the offsets.
    pub from_ms: Option<UnixMs>,
    /// The same for this time and later.
    pub to_ms: Option<UnixMs>,
    pub filter: Filter,
    pub options: Options,
}

impl Plan {
    /// The topic or route that gets the messages, for people.
    pub fn target_name(&self) -> &str {
        self.route.as_ref().map_or(&self.target, |route| &route.name)
    }
}

/// A route of the host that runs the replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteTarget {
    pub name: String,
    /// The handler publishes and fetches as ever. Otherwise neither is carried out.
    pub side_effects: bool,
}

/// Offsets `from..to` of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    pub partition: u32,
    pub from: u64,
    pub to: u64,
}

impl Stretch {
    pub fn len(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What is sent: one of the types (all when there is none), with all of the headers and all of the metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "ReplayFilter")]
pub struct Filter {
    pub message_types: Vec<String>,
    pub headers: BTreeMap<String, String>,
    pub metadata: BTreeMap<String, String>,
}

impl Filter {
    pub fn is_empty(&self) -> bool {
        self.message_types.is_empty() && self.headers.is_empty() && self.metadata.is_empty()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    pub batch_size: usize,
    /// Between two batches.
    pub delay: Duration,
    /// Messages a second.
    pub rate: Option<u32>,
    pub dry_run: bool,
    pub preserve_order: bool,
    pub skip_duplicates: bool,
}

/// How far it has come: everything that a host needs to carry on, and what people see. Written as one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// The next offset of each stretch, in the order of the plan.
    pub next: Vec<u64>,
    /// Confirmed by the target, or handled by the route; in a dry run those that would be sent.
    pub replayed: u64,
    /// Left out by filter, time, or as duplicates.
    pub skipped: u64,
    /// Refused by the target for good, or given up on by the route.
    pub failed: u64,
    /// Offsets that hold no message: compacted, deleted by retention before they were read, transaction marks.
    pub missing: u64,
    pub current_offset: Option<u64>,
    pub last_id: Option<String>,
    /// Offsets dealt with, a thousand seconds.
    pub rate_milli: u64,
    /// What is wrong now, or was last.
    pub error: Option<String>,
    /// Of a dry run, the first that would be sent.
    pub samples: Vec<Sample>,
    /// What the route gave up on last.
    pub failures: Vec<Failed>,
}

impl Progress {
    pub fn at_start(plan: &Plan) -> Self {
        Self {
            next: plan.stretches.iter().map(|stretch| stretch.from).collect(),
            ..Self::default()
        }
    }

    /// Offsets dealt with.
    pub fn done(&self) -> u64 {
        self.replayed + self.skipped + self.failed + self.missing
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    pub id: String,
    /// None: it says none, or cannot be read.
    pub message_type: Option<String>,
    pub partition: u32,
    pub offset: u64,
    pub time_ms: Option<UnixMs>,
}

/// What became of a message that was handed to a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Its handler said done, and what it published is confirmed.
    Done,
    Failed(Failed),
}

/// A message that a route gave up on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "ReplayFailure")]
pub struct Failed {
    pub partition: u32,
    pub offset: u64,
    /// None: bytes that are no message, and name none.
    pub id: Option<String>,
    /// As of dead letters; `withheld`: its handler wanted a side effect that this replay does not have.
    pub class: String,
    pub code: Option<String>,
    pub reason: String,
    /// The dead letter that was written; none when there is nothing to repair in the message.
    pub letter: Option<String>,
}
