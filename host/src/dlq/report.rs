//! Failure groups and jobs as JSON.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::view::{Letter, time};
use crate::model::{FailureClass, UnixMs};
use crate::store::{self, Action, Ending, Job, JobResult, JobState};

/// Letters that failed alike.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "FailureGroup")]
pub struct Group {
    pub id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    #[schemars(with = "FailureClass")]
    pub class: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// What the reasons have in common. Missing for letters from before there were groups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    pub count: u64,
    /// There are more: `count` is of those that were looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_least: bool,
    #[schemars(extend("format" = "date-time"))]
    pub first_seen: String,
    #[schemars(extend("format" = "date-time"))]
    pub last_seen: String,
    /// No older version of the plugin failed like that.
    pub since_version: bool,
    /// The version before, when it failed like that as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub previous_digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample: Option<Sample>,
}

/// One letter of a group.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "FailureSample")]
pub struct Sample {
    pub id: String,
    pub reason: String,
}

impl From<store::Group> for Group {
    fn from(group: store::Group) -> Self {
        Self {
            // Where nothing ran, or messages were not compared, nothing is known of versions.
            since_version: group.digest.is_some()
                && group.message.is_some()
                && group.previous_digest.is_none(),
            id: group.id,
            route: group.route,
            class: group.class.as_str().to_owned(),
            code: group.code,
            message: group.message,
            digest: group.digest,
            count: group.count,
            at_least: group.at_least,
            first_seen: time(group.first_ms),
            last_seen: time(group.last_ms),
            previous_digest: group.previous_digest,
            sample: group.sample.map(|(id, reason)| Sample { id, reason }),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "FailureGroupList")]
pub struct Groups {
    /// All that match, not just these.
    pub count: u64,
    /// There may be more: letters were not all looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_least: bool,
    pub groups: Vec<Group>,
}

/// What a job would do.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "JobDryRun")]
pub struct DryRun {
    pub dry_run: bool,
    #[schemars(with = "Action")]
    pub action: String,
    pub count: u64,
    /// There are more: `count` is of those that were looked at.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub at_least: bool,
    /// Some of them, newest failure first.
    pub samples: Vec<Letter>,
}

/// A job over dead letters.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "Job")]
pub struct JobView {
    pub id: String,
    #[schemars(with = "Action")]
    pub action: String,
    #[schemars(with = "JobState")]
    pub state: String,
    /// As somebody wrote it; missing when the letters were given by id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filter: Option<Value>,
    /// Letters a second that were asked for; missing: as fast as it goes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u32>,
    pub force: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub actor: String,
    /// While it is `preparing`: those that were found so far.
    pub total: u64,
    /// Sent or discarded.
    pub done: u64,
    pub failed: u64,
    pub skipped: u64,
    pub left: u64,
    /// Letters a second since it started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_second: Option<f64>,
    /// When it is over if it goes on like that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub eta: Option<String>,
    #[schemars(extend("format" = "date-time"))]
    pub created: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub started: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub ended: Option<String>,
    /// Who cancelled it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<String>,
    /// Why it does not go on now, or why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

impl JobView {
    pub fn new(job: &Job, now: UnixMs) -> Self {
        let ended = job.done + job.failed + job.skipped;
        let left = job.total.saturating_sub(ended);
        let elapsed = job
            .started_ms
            .map(|started| job.ended_ms.unwrap_or(now).saturating_sub(started).max(1));
        #[allow(clippy::cast_precision_loss, reason = "for people")]
        let per_second = elapsed
            .filter(|_| ended > 0)
            .map(|ms| (ended as f64 * 100_000.0 / ms as f64).round() / 100.0);
        // Beyond the range of time there is no answer.
        let eta = elapsed
            .filter(|_| ended > 0 && job.state == JobState::Running)
            .and_then(|ms| now.checked_add(ms.checked_mul(left)? / ended));
        Self {
            id: job.id.clone(),
            action: job.action.as_str().to_owned(),
            state: job.state.as_str().to_owned(),
            filter: job
                .filter
                .as_deref()
                .and_then(|filter| serde_json::from_str(filter).ok()),
            rate: job.rate,
            force: job.force,
            reason: job.reason.clone(),
            actor: job.actor.clone(),
            total: job.total,
            done: job.done,
            failed: job.failed,
            skipped: job.skipped,
            left,
            per_second,
            eta: eta.map(time),
            created: time(job.created_ms),
            started: job.started_ms.map(time),
            ended: job.ended_ms.map(time),
            cancelled_by: job.cancelled_by.clone(),
            trouble: job.trouble.clone(),
        }
    }

    pub fn has_ended(&self) -> bool {
        !matches!(self.state.as_str(), "preparing" | "pending" | "running")
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
pub struct JobList {
    pub jobs: Vec<JobView>,
    /// `cursor` of the next page; null on the last.
    pub next: Option<String>,
}

/// What became of one letter.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "JobResult")]
pub struct ResultView {
    pub letter: String,
    /// `sent`, `discarded`, `skipped`, `failed`; missing: not yet, or never when the job was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Ending>")]
    pub result: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub time: Option<String>,
}

impl From<JobResult> for ResultView {
    fn from(result: JobResult) -> Self {
        Self {
            letter: result.letter,
            result: result.ending.map(|ending: Ending| ending.as_str().to_owned()),
            why: result.why,
            time: result.at_ms.map(time),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "JobResultList")]
pub struct Results {
    pub results: Vec<ResultView>,
    pub next: Option<String>,
}
