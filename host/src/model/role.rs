//! What a caller of the API may do.

use serde::{Deserialize, Serialize};

/// Each may do what those before it may.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks: lists, groups, jobs, plugins.
    #[default]
    Viewer,
    /// Publishes, sends again, discards one letter, replays, cancels.
    Operator,
    /// Discards many, edits, promotes, reads the audit table.
    Admin,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}
