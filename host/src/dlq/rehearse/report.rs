//! Predictions as the API and the command line show them. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{End, Performed};
use crate::model::{DeadLetter, Failure, FailureClass};

#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Prediction {
    /// It would be handled.
    Pass,
    /// It would be a dead letter again, for what it is one now.
    SameFailure,
    /// It would be a dead letter again, for something else.
    NewFailure,
    /// What happens depends on something that a rehearsal does not do.
    Uncertain,
    /// Sending it again would be refused.
    NotSendable,
    /// Another plugin would run it.
    OtherPlugin,
}

impl Prediction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::SameFailure => "same-failure",
            Self::NewFailure => "new-failure",
            Self::Uncertain => "uncertain",
            Self::NotSendable => "not-sendable",
            Self::OtherPlugin => "other-plugin",
        }
    }
}

/// One letter: what it failed with, and what would become of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "RehearsedLetter")]
pub struct Line {
    pub id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    /// As it failed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<FailureClass>")]
    pub class: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    pub prediction: Prediction,
    /// How it would fail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<FailureClass>")]
    pub new_class: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_code: Option<String>,
    /// Why it would fail, why nobody can tell, or why it cannot be sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Calls that were made.
    pub attempts: u32,
    /// Would publish so many to each target.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub publishes: BTreeMap<String, u64>,
}

impl Line {
    pub(super) fn of(letter: &DeadLetter, performed: Performed) -> Self {
        let mut line = Self {
            attempts: performed.attempts,
            publishes: performed.publishes.into_iter().collect(),
            ..Self::about(letter, Prediction::Pass)
        };
        match performed.end {
            End::Passes => {}
            End::Fails { class, failure } => {
                line.prediction = if same(letter, class, &failure) {
                    Prediction::SameFailure
                } else {
                    Prediction::NewFailure
                };
                line.new_class = Some(class.as_str().to_owned());
                line.new_code = failure.code;
                line.reason = Some(failure.reason);
            }
            End::OtherPlugin(name) => {
                line.prediction = Prediction::OtherPlugin;
                line.reason = Some(format!("its route has plugin `{name}`"));
            }
            End::Open(why) => {
                line.prediction = Prediction::Uncertain;
                line.reason = Some(why);
            }
        }
        line
    }

    pub(super) fn not_sendable(letter: &DeadLetter, why: String) -> Self {
        Self {
            reason: Some(why),
            ..Self::about(letter, Prediction::NotSendable)
        }
    }

    pub(super) fn unknown(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            route: None,
            class: None,
            code: None,
            prediction: Prediction::NotSendable,
            new_class: None,
            new_code: None,
            reason: Some("there is no such letter".to_owned()),
            attempts: 0,
            publishes: BTreeMap::new(),
        }
    }

    fn about(letter: &DeadLetter, prediction: Prediction) -> Self {
        Self {
            route: letter.route.clone(),
            class: Some(letter.class.as_str().to_owned()),
            code: letter.code.clone(),
            prediction,
            reason: None,
            ..Self::unknown(&letter.id)
        }
    }
}

/// Two failures are the same when class and code are. Traps share a few codes, and a handler need not give any: there the
/// reason counts as well, numbers left out, since places in a rebuilt component move.
fn same(letter: &DeadLetter, class: FailureClass, failure: &Failure) -> bool {
    if letter.class != class || letter.code != failure.code {
        return false;
    }
    let telling = failure
        .code
        .as_deref()
        .is_some_and(|code| !code.starts_with("trap."));
    telling || shape(&letter.reason) == shape(&failure.reason)
}

/// Runs of digits, hexadecimal ones after `0x` included, become one `#`.
fn shape(reason: &str) -> String {
    let mut shape = String::with_capacity(reason.len());
    let mut rest = reason.chars().peekable();
    while let Some(c) = rest.next() {
        if !c.is_ascii_digit() {
            shape.push(c);
            continue;
        }
        let hex = c == '0' && rest.next_if_eq(&'x').is_some();
        while rest
            .next_if(|c| {
                if hex {
                    c.is_ascii_hexdigit()
                } else {
                    c.is_ascii_digit()
                }
            })
            .is_some()
        {}
        shape.push('#');
    }
    shape
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "RehearsalCounts")]
pub struct Counts {
    pub rehearsed: u64,
    pub would_pass: u64,
    pub same_failure: u64,
    pub new_failure: u64,
    pub uncertain: u64,
    pub not_sendable: u64,
    pub other_plugin: u64,
}

impl Counts {
    fn add(&mut self, prediction: Prediction) {
        self.rehearsed += 1;
        *match prediction {
            Prediction::Pass => &mut self.would_pass,
            Prediction::SameFailure => &mut self.same_failure,
            Prediction::NewFailure => &mut self.new_failure,
            Prediction::Uncertain => &mut self.uncertain,
            Prediction::NotSendable => &mut self.not_sendable,
            Prediction::OtherPlugin => &mut self.other_plugin,
        } += 1;
    }

    pub fn of(lines: &[Line]) -> Self {
        let mut counts = Self::default();
        for line in lines {
            counts.add(line.prediction);
        }
        counts
    }
}

/// Letters that failed alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "RehearsalGroup")]
pub struct Group {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<FailureClass>")]
    pub class: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    #[serde(flatten)]
    pub counts: Counts,
    /// Of those that would not pass: the first of each prediction and reason, [`SAMPLES`] at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub samples: Vec<Sample>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "RehearsalSample")]
pub struct Sample {
    pub id: String,
    pub prediction: Prediction,
    pub reason: String,
}

pub const SAMPLES: usize = 5;

/// The largest group first.
pub fn groups(lines: &[Line]) -> Vec<Group> {
    type Text<'a> = &'a Option<String>;
    let mut found: BTreeMap<(Text<'_>, Text<'_>, Text<'_>), Group> = BTreeMap::new();
    for line in lines {
        let key = (&line.route, &line.class, &line.code);
        let group = found.entry(key).or_insert_with(|| Group {
            route: line.route.clone(),
            class: line.class.clone(),
            code: line.code.clone(),
            counts: Counts::default(),
            samples: Vec::new(),
        });
        group.counts.add(line.prediction);
        let reason = line.reason.as_deref().unwrap_or_default();
        let known = |s: &Sample| s.prediction == line.prediction && shape(&s.reason) == shape(reason);
        if line.prediction != Prediction::Pass
            && group.samples.len() < SAMPLES
            && !group.samples.iter().any(known)
        {
            group.samples.push(Sample {
                id: line.id.clone(),
                prediction: line.prediction,
                reason: reason.to_owned(),
            });
        }
    }
    let mut groups: Vec<Group> = found.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.counts.rehearsed));
    groups
}

/// The answer to one request: a page.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[schemars(rename = "Rehearsal")]
pub struct Report {
    pub plugin: String,
    /// Of the version that was rehearsed.
    pub digest: String,
    /// All letters that match, not just this page.
    pub matched: u64,
    #[serde(flatten)]
    pub counts: Counts,
    pub groups: Vec<Group>,
    pub letters: Vec<Line>,
    /// `cursor` of the next request; null when all were run.
    pub next: Option<String>,
}
