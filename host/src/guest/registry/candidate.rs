//! Versions that serve nobody: a component that somebody brings, or a twin of what serves, with its reach withheld.

use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;

use super::super::component::Source;
use super::super::fetch::Client;
use super::super::instance::Mould;
use super::super::log::Gate;
use super::super::sandbox::Services;
use super::super::{CANDIDATE_INSTANCES, Candidates, Version};
use super::{Error, Inner, Runtime};
use crate::error::{PLUGIN_MISSING, PLUGIN_TOO_LARGE};

#[async_trait]
impl Candidates for Runtime {
    async fn candidate(&self, plugin: &str, component: Option<Vec<u8>>) -> Result<Arc<dyn Version>, Error> {
        let missing = |what: &str| {
            Error::new(
                PLUGIN_MISSING,
                format!("{what} `{plugin}`"),
                "`helix plugin ls` shows what there is",
            )
        };
        let inner = &self.inner;
        let entry = inner.entries.load().get(plugin).cloned();
        let entry = entry.ok_or_else(|| missing("there is no plugin"))?;
        // The grants of now, with few instances: those that serve keep theirs.
        let mut settings = (**entry.settings.load()).clone();
        settings.instances = settings.instances.clamp(1, CANDIDATE_INSTANCES);
        // What a rehearsal prints would look like traffic.
        let gate = Arc::new(Gate::new(plugin, 0));
        let (mould, imports) = match component {
            Some(bytes) => {
                inner.check_size(bytes.len())?;
                let source = Source::new(bytes);
                inner.mould(source, gate, inner.withholding()).await?
            }
            None => {
                let serving = entry.current.load_full();
                let serving = serving.ok_or_else(|| missing("no version serves of plugin"))?;
                let ours = &serving.pool.mould;
                let twin = Mould {
                    pre: ours.pre.clone(),
                    indices: ours.indices.clone(),
                    digest: ours.digest,
                    services: inner.withholding(),
                    gate,
                    speaks: ours.speaks,
                    reaches_out: ours.reaches_out,
                };
                (twin, serving.imports.clone())
            }
        };
        let settings = Arc::new(ArcSwap::from_pointee(settings));
        let loaded = inner.start(mould, imports, plugin, settings).await?;
        Ok(Arc::new(loaded))
    }
}

impl Inner {
    fn withholding(&self) -> Arc<Services> {
        Arc::new(Services {
            clock: self.services.clock.clone(),
            targets: self.services.targets.clone(),
            fetch: Client::withholding(),
            max_message_bytes: self.services.max_message_bytes,
        })
    }

    fn check_size(&self, bytes: usize) -> Result<(), Error> {
        let limit = self.max_wasm_bytes;
        if bytes as u64 <= limit {
            return Ok(());
        }
        Err(Error::new(
            PLUGIN_TOO_LARGE,
            format!("the component has {bytes} bytes, the limit is {limit}"),
            "Strip debug information from it, or raise `limits.wasm_size`",
        ))
    }
}
