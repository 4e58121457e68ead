//! `helix config show|explain|schema|reference`.

use clap::Subcommand;

use super::output::{self, Format};
use super::{Exit, Global, load};
use crate::config;

#[derive(Debug, Subcommand)]
pub enum Config {
    /// Every effective value
    Show,
    /// Every effective value and which source won: file and line, environment variable, flag or default
    Explain {
        /// Only paths that start with this, e.g. `brokers.rabbitmq`
        prefix: Option<String>,
    },
    /// JSON schema of helix.toml
    Schema,
    /// A commented helix.toml with every setting
    Reference,
}

impl Config {
    pub fn run(self, global: &Global) -> Result<(), Exit> {
        match self {
            Self::Show => show(global),
            Self::Explain { prefix } => explain(global, prefix.as_deref().unwrap_or_default()),
            Self::Schema => generated("config/helix.schema.json"),
            Self::Reference => generated("config/helix.reference.toml"),
        }
    }
}

fn show(global: &Global) -> Result<(), Exit> {
    let loaded = load::load(global)?;
    if global.output == Format::Json {
        let map: std::collections::BTreeMap<_, _> =
            loaded.explain.iter().map(|e| (&e.path, &e.value)).collect();
        return output::json(&map);
    }
    loaded
        .explain
        .iter()
        .try_for_each(|e| output::line(&format!("{} = {}", e.path, e.value)))
}

fn explain(global: &Global, prefix: &str) -> Result<(), Exit> {
    let loaded = load::load(global)?;
    let chosen: Vec<_> = loaded
        .explain
        .iter()
        .filter(|e| e.path.starts_with(prefix))
        .collect();
    if global.output == Format::Json {
        return output::json(&chosen);
    }
    let rows = chosen
        .iter()
        .map(|e| {
            vec![
                e.path.clone(),
                e.value.clone(),
                e.source.clone(),
                e.over.join(", "),
            ]
        })
        .collect();
    output::table(&["setting", "value", "from", "instead of"], rows)
}

fn generated(path: &str) -> Result<(), Exit> {
    let all = config::generated();
    let text = all
        .iter()
        .find(|(name, _)| *name == path)
        .map(|(_, text)| text.trim_end())
        .unwrap_or_default();
    output::line(text)
}
