//! `helix check`: everything that can be wrong before a message flows.

use clap::Args;

use super::output::{self, Format};
use super::{Exit, Global, load, plugin};
use crate::app;

#[derive(Debug, Args)]
pub struct Check {
    /// Do not compile the plugins
    #[arg(long)]
    no_plugins: bool,
}

impl Check {
    pub async fn run(self, global: &Global) -> Result<(), Exit> {
        let loaded = load::load(global)?;
        let settings = &loaded.settings;
        let capabilities = app::declared_capabilities(settings);
        loaded.check_promises(|name| capabilities.get(name).copied().unwrap_or(app::NO_CAPABILITIES))?;
        let mut faults = Vec::new();
        if !self.no_plugins {
            for plugin in settings.plugins.values() {
                let wanted = settings.routes.iter().filter(|r| *r.plugin == plugin.name);
                match plugin::inspect_file(plugin.clone()).await {
                    Err(error) => faults.push(error.message().to_owned()),
                    Ok(status) => {
                        for route in wanted.filter(|r| !status.exports.handles(r.kind)) {
                            faults.push(format!(
                                "HX0302: plugin `{}` exports no {} handler, which route `{}` ({}) needs",
                                plugin.name,
                                route.kind.as_str(),
                                route.name,
                                route.declared_at
                            ));
                        }
                    }
                }
            }
        }
        if global.output == Format::Json {
            output::json(&serde_json::json!({ "faults": faults }))?;
        }
        if !faults.is_empty() {
            return Err(Exit::invalid(faults.join("\n")));
        }
        if global.output == Format::Text {
            output::line(&format!(
                "ok: {} routes, {} plugins, {} queues and topics",
                settings.routes.len(),
                settings.plugins.len(),
                settings.topology.len()
            ))?;
        }
        Ok(())
    }
}
