//! A replay as the API shows it and the command line reads it: the manual's names, and a few more.

use serde::{Deserialize, Serialize};

use crate::model::replay::{Failed, Filter, ReplayStatus};
use crate::model::{Replay, UnixMs};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "Replay")]
pub struct View {
    pub request_id: String,
    #[schemars(with = "ReplayStatus")]
    pub status: String,
    pub topic: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
    /// None: a dry run, or a route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_topic: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_route: Option<String>,
    /// Of a route: what its handler publishes and fetches is carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub side_effects: Option<bool>,
    pub dry_run: bool,
    /// Offsets of the stretch.
    pub total_messages: u64,
    pub replayed_count: u64,
    pub skipped_count: u64,
    pub failed_count: u64,
    /// Offsets that hold no message.
    pub missing_count: u64,
    /// Offsets dealt with: all the counts together.
    pub done: u64,
    /// Of a dry run: would be replayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub matching_count: Option<u64>,
    #[schemars(extend("format" = "date-time"))]
    pub created_time: String,
    #[schemars(extend("format" = "date-time"))]
    pub start_time: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    pub end_time: Option<String>,
    pub current_offset: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_processed_id: Option<String>,
    /// Offsets a second.
    pub rate_per_second: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// Said to people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Filter::is_empty")]
    pub filter: Filter,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<Partition>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
    /// What a route gave up on last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<Failed>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "ReplayPartition")]
pub struct Partition {
    pub partition: u32,
    pub from_offset: u64,
    /// The offset behind the last one.
    pub to_offset: u64,
    pub next_offset: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "ReplaySample")]
pub struct Sample {
    pub id: String,
    #[serde(rename = "type")]
    pub message_type: Option<String>,
    pub partition: u32,
    pub offset: u64,
    #[schemars(extend("format" = "date-time"))]
    pub time: Option<String>,
}

impl View {
    /// Without its partitions and samples, for lists.
    pub fn summary(replay: &Replay) -> Self {
        let (plan, progress) = (&replay.plan, &replay.progress);
        let (total, done, dry) = (replay.total(), progress.done(), plan.options.dry_run);
        let rate = match (replay.started_ms, replay.ended_ms) {
            (Some(start), Some(end)) if end > start => done as f64 * 1000.0 / (end - start) as f64,
            _ => progress.rate_milli as f64 / 1000.0,
        };
        let eta = (!replay.status.is_final() && rate > 0.0)
            .then(|| (total.saturating_sub(done) as f64 / rate).ceil() as u64);
        Self {
            request_id: replay.id.clone(),
            status: replay.status.as_str().to_owned(),
            topic: plan.topic.clone(),
            broker: plan.broker.clone(),
            target_topic: (!dry && plan.route.is_none()).then(|| plan.target.clone()),
            target_route: plan.route.as_ref().map(|route| route.name.clone()),
            side_effects: plan.route.as_ref().map(|route| route.side_effects),
            dry_run: dry,
            total_messages: total,
            replayed_count: if dry { 0 } else { progress.replayed },
            skipped_count: progress.skipped,
            failed_count: progress.failed,
            missing_count: progress.missing,
            done,
            matching_count: dry.then_some(progress.replayed),
            created_time: rfc3339(replay.created_ms),
            start_time: replay.started_ms.map(rfc3339),
            end_time: replay.ended_ms.map(rfc3339),
            current_offset: progress.current_offset,
            error_message: progress.error.clone(),
            last_processed_id: progress.last_id.clone(),
            rate_per_second: (rate * 10.0).round() / 10.0,
            eta_seconds: eta,
            message: (total == 0)
                .then(|| "the stretch holds no messages; there was nothing to replay".to_owned()),
            filter: Filter::default(),
            partitions: Vec::new(),
            samples: Vec::new(),
            failures: Vec::new(),
        }
    }

    pub fn whole(replay: &Replay) -> Self {
        let (plan, progress) = (&replay.plan, &replay.progress);
        let partition = |(stretch, next): (&crate::model::replay::Stretch, &u64)| Partition {
            partition: stretch.partition,
            from_offset: stretch.from,
            to_offset: stretch.to,
            next_offset: *next,
        };
        let sample = |sample: &crate::model::replay::Sample| Sample {
            id: sample.id.clone(),
            message_type: sample.message_type.clone(),
            partition: sample.partition,
            offset: sample.offset,
            time: sample.time_ms.map(rfc3339),
        };
        Self {
            filter: plan.filter.clone(),
            partitions: plan.stretches.iter().zip(&progress.next).map(partition).collect(),
            samples: progress.samples.iter().map(sample).collect(),
            failures: progress.failures.clone(),
            ..Self::summary(replay)
        }
    }

    /// Nothing more will happen.
    pub fn is_final(&self) -> bool {
        matches!(&*self.status, "completed" | "failed" | "cancelled")
    }
}

/// `GET /v1/messaging/replay`.
#[derive(Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "ReplayList")]
pub struct Listing {
    pub count: usize,
    pub replays: Vec<View>,
}

pub fn rfc3339(ms: UnixMs) -> String {
    i64::try_from(ms)
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
        .map_or_else(|| ms.to_string(), |at| at.to_string())
}
