//! What was read → [`valid::Settings`], or every reason why not.

mod adopt;
mod brokers;
mod dlq;
mod plugins;
mod routes;
mod secrets;
mod store;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::fault::Fault;
use super::load::{LoadRequest, display};
use super::source::{Place, SourceFile, quoted};
use super::tree::Node;
use super::{raw, suggest, topology, valid};
use crate::broker::Destination;
use crate::error::{self, Code};

/// Names that stand in the file, also those whose table has faults: naming them is no second fault.
pub(super) struct Declared {
    brokers: BTreeSet<String>,
    plugins: BTreeSet<String>,
}

impl Declared {
    pub fn of(tree: &Node) -> Self {
        let names = |table: &str| -> BTreeSet<String> {
            tree.get(table)
                .and_then(Node::entries)
                .into_iter()
                .flatten()
                .map(|(name, _)| name.clone())
                .collect()
        };
        Self {
            brokers: names("brokers"),
            plugins: names("plugins"),
        }
    }
}

pub(super) struct Check<'a> {
    tree: &'a Node,
    file: &'a Arc<SourceFile>,
    env: &'a BTreeMap<String, String>,
    cwd: &'a Path,
    declared: Declared,
    pub faults: Vec<Fault>,
    /// The topology file, when there is one.
    pub topology: Option<(PathBuf, Arc<SourceFile>)>,
}

impl<'a> Check<'a> {
    pub fn new(
        tree: &'a Node,
        file: &'a Arc<SourceFile>,
        request: &'a LoadRequest,
        declared: Declared,
        faults: Vec<Fault>,
    ) -> Self {
        Self {
            tree,
            file,
            env: &request.env,
            cwd: &request.cwd,
            declared,
            faults,
            topology: None,
        }
    }

    /// None only when a fault was found. `file` is the path of helix.toml.
    pub fn settings(&mut self, raw: &raw::Raw, file: &Path) -> Option<valid::Settings> {
        let state_dir = self.cwd.join(&raw.host.state_dir);
        let plugins_dir = self.cwd.join(&raw.host.plugins_dir);
        let topology = self.topology(raw, file);
        let tasks = self.broker_name(&raw.messaging.tasks, &["messaging", "tasks"]);
        let events = self.broker_name(&raw.messaging.events, &["messaging", "events"]);
        let routes = self.routes(raw, &topology);
        let plugins = self.plugins(raw, &routes, &plugins_dir);
        let brokers = self.brokers(raw, &state_dir, &routes);
        let store = self.store(&raw.store);
        let dlq_adopt = self.adopt(&raw.dlq, &routes, &topology);
        let dlq_export = self.export(&raw.dlq, &topology);
        let dlq_auto = self.auto(&raw.dlq.auto);
        let host = valid::Host {
            state_dir,
            plugins_dir,
            listen: raw.host.listen.parse().ok()?,
            drain: raw.host.drain.0,
            messaging: raw.messaging.enabled,
            log: self.log_filter(&raw.host.log),
            tokens: self.tokens(raw),
        };
        Some(valid::Settings {
            host,
            store,
            limits: valid::Limits {
                message_bytes: usize::try_from(raw.limits.message_size.0).unwrap_or(usize::MAX),
                headers: raw.limits.headers,
                in_flight: raw.limits.in_flight,
                wasm_bytes: raw.limits.wasm_size.0,
            },
            brokers,
            tasks_broker: tasks?,
            events_broker: events?,
            routes,
            plugins,
            unrouted: raw.messaging.unrouted,
            dlq_edit: raw.dlq.edit,
            dlq_adopt,
            dlq_export,
            dlq_keep: dlq::keep(&raw.dlq),
            dlq_auto,
            formats: valid::Formats(
                raw.formats
                    .iter()
                    .map(|f| (valid::Pattern::new(f.destination.as_str()), f.format))
                    .collect(),
            ),
            topology: topology.destinations,
        })
    }

    fn topology(&mut self, raw: &raw::Raw, file: &Path) -> topology::Loaded {
        let path = file.parent().unwrap_or(self.cwd).join(&raw.messaging.topology);
        let name = display(&path, self.cwd);
        let asked_at = self.tree.at(&["messaging", "topology"]).map(|n| n.place.clone());
        let loaded = topology::load(&path, &name, asked_at, &mut self.faults);
        if let Some(source) = &loaded.source {
            self.topology = Some((path, source.clone()));
        }
        loaded
    }

    fn log_filter(&mut self, text: &str) -> String {
        if let Err(e) = text.parse::<tracing_subscriber::filter::Targets>()
            && tracing_subscriber::EnvFilter::builder().parse(text).is_err()
        {
            self.fault(error::CONFIG_VALUE, &["host", "log"], format!("`host.log` cannot be {}: {e}", quoted(text)))
                .help = Some("a level (error, warn, info, debug, trace), or levels by target: \"info,helix_host::dispatch=debug\"".into());
        }
        text.to_owned()
    }

    /// Where a value stands; where its nearest ancestor stands when it is a default.
    fn place(&self, path: &[&str]) -> Place {
        let mut node = self.tree;
        for key in path {
            match node.get(key) {
                Some(child) => node = child,
                None => return node.key.clone(),
            }
        }
        node.place.clone()
    }

    fn key_place(&self, path: &[&str]) -> Place {
        self.tree
            .at(path)
            .map_or_else(|| self.place(path), |n| n.key.clone())
    }

    /// Adds a fault and hands it out to be completed.
    fn fault(&mut self, code: Code, path: &[&str], message: impl Into<String>) -> &mut Fault {
        let fault = Fault::new(code, self.place(path), message);
        self.push(fault)
    }

    fn push(&mut self, fault: Fault) -> &mut Fault {
        let at = self.faults.len();
        self.faults.push(fault);
        #[expect(clippy::indexing_slicing, reason = "pushed on the line before")]
        &mut self.faults[at]
    }

    /// The name, if a broker has it.
    fn broker_name(&mut self, name: &str, path: &[&str]) -> Option<String> {
        if name == EMBEDDED || self.declared.brokers.contains(name) {
            return Some(name.to_owned());
        }
        let known: Vec<String> = self
            .declared
            .brokers
            .iter()
            .cloned()
            .chain([EMBEDDED.to_owned()])
            .collect();
        let help = suggest::help(name, known.iter().map(String::as_str));
        let help = format!("{help}; a broker is declared as [brokers.{name}]");
        self.fault(
            error::CONFIG_REFERENCE,
            path,
            format!("no broker is named {}", quoted(name)),
        )
        .help = Some(help);
        None
    }

    /// `file:line` of a node; of where it would be added when it is not there.
    fn declared_at(&self, path: &[&str]) -> String {
        match self.tree.at(path) {
            Some(node) => node.key.to_string(),
            None => format!("{}:{}", self.file.name(), self.file.lines() + 1),
        }
    }
}

/// The broker that is there without being declared.
const EMBEDDED: &str = "embedded";

/// What names a destination is near to, by kind.
fn names(topology: &[Destination], kind: crate::model::MessageKind) -> Vec<&str> {
    topology
        .iter()
        .filter(|d| d.kind == kind)
        .map(|d| &*d.name)
        .collect()
}
