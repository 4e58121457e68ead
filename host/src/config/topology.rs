//! Queues and topics: topology.toml, or the built-in list of the HelixAgent manual.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::fault::Fault;
use super::raw;
use super::source::{Place, SourceFile, quoted};
use super::tree::{self, Node};
use super::{schema, walk};
use crate::broker::Destination;
use crate::error;
use crate::model::MessageKind;

/// What stands in for a missing file.
const MANUAL: &str = include_str!("../../../config/topology.toml");
const MANUAL_NAME: &str = "(built-in) topology.toml";

#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub destinations: Vec<Destination>,
    /// As faults name it.
    pub name: String,
    pub source: Option<Arc<SourceFile>>,
}

/// Reads `path`. When it is not there: a fault if the file was asked for, the built-in list otherwise.
pub(super) fn load(path: &Path, name: &str, asked_at: Option<Place>, faults: &mut Vec<Fault>) -> Loaded {
    match super::load::read(path) {
        Ok(text) => {
            let file = SourceFile::new(name, &text);
            let destinations = parse(&file, &text, faults);
            Loaded {
                destinations,
                name: name.to_owned(),
                source: Some(file),
            }
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && asked_at.is_none() => {
            let file = SourceFile::new(MANUAL_NAME, MANUAL);
            Loaded {
                destinations: parse(&file, MANUAL, faults),
                name: MANUAL_NAME.into(),
                source: None,
            }
        }
        Err(e) => {
            let place = asked_at.unwrap_or(Place::Named {
                file: name.to_owned(),
                line: None,
            });
            let message = format!("the topology file {} cannot be read: {e}", quoted(name));
            faults.push(
                Fault::new(error::CONFIG_FILE, place, message)
                    .help("without `messaging.topology` the built-in list of queues and topics is used"),
            );
            Loaded {
                name: name.to_owned(),
                ..Loaded::default()
            }
        }
    }
}

/// The built-in list.
pub fn manual() -> Vec<Destination> {
    parse(&SourceFile::new(MANUAL_NAME, MANUAL), MANUAL, &mut Vec::new())
}

fn parse(file: &Arc<SourceFile>, text: &str, faults: &mut Vec<Fault>) -> Vec<Destination> {
    let (mut tree, syntax) = tree::parse(file, text);
    if !syntax.is_empty() {
        faults.extend(syntax);
        return Vec::new();
    }
    faults.extend(walk::walk(&mut tree, schema::topology()));
    let raw: raw::Topology = match serde::Deserialize::deserialize(tree.plain()) {
        Ok(raw) => raw,
        Err(e) => {
            let message = e.to_string();
            faults.push(Fault::new(
                error::CONFIG_VALUE,
                tree.place.clone(),
                message.trim().to_owned(),
            ));
            return Vec::new();
        }
    };
    let queues = raw.queues.into_iter().map(|q| Destination {
        kind: MessageKind::Task,
        name: q.name.into(),
        max_priority: q.max_priority,
        ttl: q.ttl.map(|t| t.0),
        partitions: 0,
        arguments: arguments(q.arguments),
    });
    let topics = raw.topics.into_iter().map(|t| Destination {
        kind: MessageKind::Event,
        name: t.name.into(),
        max_priority: 0,
        ttl: t.retention.map(|r| r.0),
        partitions: t.partitions,
        arguments: arguments(t.arguments),
    });
    let mut out: Vec<Destination> = queues.chain(topics).collect();
    unique(&mut out, &tree, faults);
    out
}

fn arguments(raw: BTreeMap<String, raw::Scalar>) -> BTreeMap<String, String> {
    raw.into_iter().map(|(k, v)| (k, v.to_string())).collect()
}

/// One name, one queue; one name, one topic. A nameless one has its fault already.
fn unique(destinations: &mut Vec<Destination>, tree: &Node, faults: &mut Vec<Fault>) {
    let mut seen: BTreeMap<(u8, Arc<str>), Place> = BTreeMap::new();
    let mut number = [0_usize; 2];
    destinations.retain(|d| {
        let (side, list) = if d.kind == MessageKind::Task {
            (0, "queues")
        } else {
            (1, "topics")
        };
        let at = number
            .get_mut(side as usize)
            .map_or(0, |n| std::mem::replace(n, *n + 1));
        let place = tree
            .at(&[list, &at.to_string(), "name"])
            .map_or(Place::Default, |n| n.place.clone());
        if d.name.is_empty() {
            return false;
        }
        if let Some(first) = seen.get(&(side, d.name.clone())) {
            let message = format!("{} is declared twice, first at {first}", quoted(&d.name));
            faults.push(
                Fault::new(error::CONFIG_VALUE, place, message)
                    .also(first.clone(), "first here")
                    .help("remove one of them"),
            );
            return false;
        }
        seen.insert((side, d.name.clone()), place);
        true
    });
}
