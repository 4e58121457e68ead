//! `helix docs …`: what `cargo xtask docs` writes into docs/.

use clap::Subcommand;

use super::{Exit, output};
use crate::app;
use crate::telemetry::Metrics;

#[derive(Debug, Subcommand)]
pub enum Docs {
    /// docs/metrics.md
    Metrics,
    /// docs/openapi.json
    Openapi,
}

impl Docs {
    pub fn run(self) -> Result<(), Exit> {
        match self {
            Self::Metrics => output::line(Metrics::reference().trim_end()),
            Self::Openapi => output::line(app::openapi().trim_end()),
        }
    }
}
