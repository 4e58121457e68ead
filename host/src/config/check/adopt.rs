//! Dead letters of others: what is adopted from where, and where copies go.

use std::sync::Arc;

use super::Check;
use crate::config::source::quoted;
use crate::config::valid::{Export, Pattern, Route};
use crate::config::{raw, topology};
use crate::error;
use crate::model::MessageKind;

impl Check<'_> {
    /// What the file asks for has to be possible; what nobody asked for is left out where it is not.
    pub(super) fn adopt(
        &mut self,
        raw: &raw::Dlq,
        routes: &[Route],
        topology: &topology::Loaded,
    ) -> Option<Arc<str>> {
        let path = ["dlq", "adopt"];
        let queue = self.named(&raw.adopt, MessageKind::Task, &path, topology)?;
        // A pattern takes no destination that is called so.
        let spared = queue.split('.').any(|part| part == "dlq");
        let taker = routes.iter().find(|route| {
            route.kind == MessageKind::Task
                && route.destination.matches(&queue)
                && (route.destination.is_literal() || !spared)
        });
        let Some(taker) = taker else {
            return Some(queue);
        };
        if self.tree.at(&path).is_some() {
            let message = format!(
                "a route takes {} too ({}): its messages are handled or adopted, not both",
                quoted(&queue),
                taker.declared_at
            );
            self.fault(error::CONFIG_VALUE, &path, message).help =
                Some("take the route out, or write adopt = \"\"".into());
        }
        None
    }

    pub(super) fn export(&mut self, raw: &raw::Dlq, topology: &topology::Loaded) -> Export {
        if !raw.export {
            return Export::default();
        }
        let mut topic = |name: &str, key: &str| {
            let path = ["dlq", key];
            // Asked for, also when the name is not written down.
            let pattern = self.literal(name, &path)?;
            self.exists(&pattern, MessageKind::Event, &path, topology);
            Some(pattern.0)
        };
        Export {
            tasks: topic(&raw.export_tasks, "export_tasks"),
            events: topic(&raw.export_events, "export_events"),
        }
    }

    fn named(
        &mut self,
        name: &str,
        kind: MessageKind,
        path: &[&str],
        topology: &topology::Loaded,
    ) -> Option<Arc<str>> {
        let pattern = self.literal(name, path)?;
        if self.tree.at(path).is_some() {
            self.exists(&pattern, kind, path, topology);
        } else if !topology
            .destinations
            .iter()
            .any(|d| d.kind == kind && *d.name == *pattern.0)
        {
            return None;
        }
        Some(pattern.0)
    }

    /// One name, when there is one.
    fn literal(&mut self, name: &str, path: &[&str]) -> Option<Pattern> {
        if name.is_empty() {
            return None;
        }
        let pattern = Pattern::new(name);
        if !pattern.is_literal() {
            self.fault(
                error::CONFIG_VALUE,
                path,
                format!("{} is a pattern; this has to be one name", quoted(name)),
            );
            return None;
        }
        Some(pattern)
    }
}
