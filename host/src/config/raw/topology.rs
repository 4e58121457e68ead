//! What may stand in topology.toml.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::units::Span;

/// config/topology.toml: what queues and topics should be like. `helix topology plan` compares, `apply` creates what is missing.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Topology {
    /// Queues: one consumer gets each message.
    pub queues: Vec<Queue>,
    /// Topics: every group gets each message.
    pub topics: Vec<Topic>,
}

/// One queue.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name"]))]
pub struct Queue {
    /// Its name.
    #[schemars(extend("default" = null))]
    pub name: String,
    /// 0 = no priorities.
    #[schemars(range(max = 255))]
    pub max_priority: u8,
    /// How long a message may wait. Unless set: for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Span>,
    /// Arguments of the broker, passed on as they are (`x-queue-type`).
    pub arguments: BTreeMap<String, Scalar>,
}

/// One topic.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["name"]))]
pub struct Topic {
    /// Its name.
    #[schemars(extend("default" = null))]
    pub name: String,
    /// Parts that are read independently; order holds inside one.
    #[schemars(range(min = 1, max = 10000))]
    pub partitions: u32,
    /// How long events are kept. Unless set: as the broker does by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<Span>,
    /// Arguments of the broker, passed on as they are (`cleanup.policy`).
    pub arguments: BTreeMap<String, Scalar>,
}

impl Default for Topic {
    fn default() -> Self {
        Self {
            name: String::new(),
            partitions: 1,
            retention: None,
            arguments: BTreeMap::new(),
        }
    }
}

/// A string, a whole number, or true or false.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Scalar {
    Text(String),
    Number(i64),
    Flag(bool),
}

impl std::fmt::Display for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(v) => f.write_str(v),
            Self::Number(v) => write!(f, "{v}"),
            Self::Flag(v) => write!(f, "{v}"),
        }
    }
}
