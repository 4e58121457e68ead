//! Dead letters: what may stand in `[dlq]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::Span;
use crate::config::valid::OnExhausted;
use crate::model::FailureClass;

/// Dead letters.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Dlq {
    /// True: whoever may use the API may send a changed copy of a dead letter (`helix dlq edit`). The letter keeps who did it
    /// and why; what was sent differs from what the producer wrote.
    pub edit: bool,
    /// Queue of RabbitMQ that it dead-letters to. What is in it (expired, queue full, rejected by foreign consumers, put there by
    /// other programs) becomes dead letters of this host and is taken out. Nothing is adopted while there is no such queue; the
    /// host makes none. An empty name switches it off, and so does a topology without the queue, or a route that takes it.
    pub adopt: String,
    /// True: a copy of each new dead letter is published to the topics below, as JSON in the manual's shape. Copies wait in the
    /// store until they are confirmed.
    pub export: bool,
    /// Topic for copies of tasks; an empty name: none.
    pub export_tasks: String,
    /// Topic for copies of events; an empty name: none.
    pub export_events: String,
    /// A letter that failed last so long ago, and that nobody dealt with, is `expired`: it stays visible for `keep_closed`.
    /// Not one that a key waits behind. "0s": never.
    #[schemars(extend("x-maximum" = "3650d"))]
    pub retention: Span,
    /// A letter that was sent again, discarded or expired so long ago is deleted for good. "0s": never.
    #[schemars(extend("x-maximum" = "3650d"))]
    pub keep_closed: Span,
    /// Sending dead letters again without being asked.
    pub auto: Auto,
}

impl Default for Dlq {
    fn default() -> Self {
        Self {
            edit: false,
            adopt: "helixagent.dlq".into(),
            export: false,
            export_tasks: "helixagent.dlq.tasks".into(),
            export_events: "helixagent.dlq.events".into(),
            retention: Span::secs(30 * 86_400),
            keep_closed: Span::secs(30 * 86_400),
            auto: Auto::default(),
        }
    }
}

/// Sending dead letters again without being asked. At most `batch_size` letters every `poll_interval`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Auto {
    /// True: the host sends letters again by itself, also those that are there already.
    pub enabled: bool,
    /// Why a message was given up on; others are left alone. By default those that a retry may mend: a handler said that
    /// `rejected` ones are never any good.
    pub classes: Vec<FailureClass>,
    /// Attempts with one letter. Each runs the message anew, with all retries of its route. A letter that was sent again 10
    /// times, by whomever, is not sent by itself.
    #[schemars(range(max = 10))]
    pub max_retries: u32,
    /// From the failure to the first attempt.
    #[schemars(extend("x-maximum" = "30d"))]
    pub delay: Span,
    /// What each further delay grows by.
    #[schemars(range(min = 1.0, max = 100.0))]
    pub multiplier: f64,
    /// No delay is longer.
    #[schemars(extend("x-maximum" = "30d"))]
    pub max_delay: Span,
    /// For the broker's confirm. Without one the attempt counts, and the letter is tried again later.
    #[schemars(extend("x-minimum" = "10ms", "x-maximum" = "10m"))]
    pub processing_timeout: Span,
    /// Letters under way at a time.
    #[schemars(range(min = 1, max = 1000))]
    pub batch_size: usize,
    /// How often it is looked for letters that are due.
    #[schemars(extend("x-minimum" = "10ms", "x-maximum" = "1h"))]
    pub poll_interval: Span,
    /// When the attempts are used up: `archive` keeps the letter dead and visible, for a person; `discard` gives up on it,
    /// and a key that waits behind it goes on.
    pub on_exhausted: OnExhausted,
    /// What is different for messages of some types.
    pub types: Vec<AutoType>,
}

impl Default for Auto {
    fn default() -> Self {
        Self {
            enabled: false,
            classes: vec![FailureClass::Exhausted],
            max_retries: 3,
            delay: Span::secs(1),
            multiplier: 2.0,
            max_delay: Span::secs(30),
            processing_timeout: Span::secs(30),
            batch_size: 10,
            poll_interval: Span::secs(5),
            on_exhausted: OnExhausted::Archive,
            types: Vec::new(),
        }
    }
}

/// What is different for messages of some types. The most specific one wins: a literal type over a pattern, then the longer
/// pattern, then the earlier line. What is not set here is as in `[dlq.auto]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["type"]))]
pub struct AutoType {
    /// Message types; `*` stands for anything.
    #[serde(rename = "type")]
    #[schemars(extend("default" = null, "examples" = ["llm.*"]))]
    pub message_type: String,
    /// True: these are left alone.
    pub never: bool,
    /// Attempts with one letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 10), extend("examples" = [5]))]
    pub max_retries: Option<u32>,
    /// From the failure to the first attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-maximum" = "30d", "examples" = ["1m"]))]
    pub delay: Option<Span>,
    /// What each further delay grows by.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1.0, max = 100.0), extend("examples" = [2.0]))]
    pub multiplier: Option<f64>,
    /// No delay is longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-maximum" = "30d", "examples" = ["10m"]))]
    pub max_delay: Option<Span>,
    /// When the attempts are used up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["discard"]))]
    pub on_exhausted: Option<OnExhausted>,
}
