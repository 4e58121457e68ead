//! `helix routes`: the routing table of the configuration.

use clap::Args;

use super::output::{self, Format};
use super::{Exit, Global, load};

#[derive(Debug, Args)]
pub struct Routes {}

impl Routes {
    #[allow(clippy::unused_self, reason = "every command has this signature")]
    pub fn run(self, global: &Global) -> Result<(), Exit> {
        let loaded = load::load(global)?;
        let routes = &loaded.settings.routes;
        if global.output == Format::Json {
            let list: Vec<_> = routes
                .iter()
                .map(|r| {
                    serde_json::json!({
                        "name": r.name, "broker": r.broker, "kind": r.kind, "destination": r.destination,
                        "type": r.message_type, "plugin": r.plugin, "order": r.order, "concurrency": r.concurrency,
                        "declared_at": r.declared_at,
                    })
                })
                .collect();
            return output::json(&list);
        }
        let rows = routes
            .iter()
            .map(|r| {
                vec![
                    r.name.to_string(),
                    format!("{} {}/{}", r.kind.as_str(), r.broker, r.destination),
                    r.message_type.to_string(),
                    r.plugin.to_string(),
                    format!("{:?} ×{}", r.order, r.concurrency).to_lowercase(),
                    format!(
                        "{}x from {:?} to {:?}",
                        r.retry.max_retries, r.retry.delay, r.retry.max_delay
                    ),
                    r.declared_at.clone(),
                ]
            })
            .collect();
        output::table(
            &["route", "from", "type", "plugin", "order", "retry", "declared at"],
            rows,
        )
    }
}
