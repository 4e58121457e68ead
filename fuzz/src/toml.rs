//! helix.toml and topology.toml: every fault has its place in the text, what is accepted can be explained and served.
//!
//! An input is helix.toml; after a line `#topology`, topology.toml.

use std::fs;

use helix_host::broker::Capabilities;
use helix_host::config::{Fault, Faults, LoadRequest, Loaded, Place, Style, load};
use helix_host::error;
use helix_host::model::BrokerKind;
use helix_host::route::Table;

const SEPARATOR: &[u8] = b"#topology\n";
const HELIX: &str = "helix.toml";
const TOPOLOGY: &str = "topology.toml";

/// Text of a file by the name that faults give it.
struct Files<'a>(Vec<(&'static str, &'a [u8])>);

pub fn toml(data: &[u8]) {
    let at = data.windows(SEPARATOR.len()).position(|part| part == SEPARATOR);
    let (helix, topology) = at.map_or((data, None), |at| {
        (&data[..at], Some(&data[at + SEPARATOR.len()..]))
    });
    let mut files = Files(vec![(HELIX, helix)]);
    files.0.extend(topology.map(|text| (TOPOLOGY, text)));
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in &files.0 {
        fs::write(dir.path().join(name), text).expect("a temporary file");
    }
    let request = LoadRequest {
        path: Some(HELIX.into()),
        flags: topology
            .map(|_| ("topology".to_owned(), TOPOLOGY.to_owned()))
            .into_iter()
            .collect(),
        cwd: dir.path().to_owned(),
        ..LoadRequest::default()
    };
    match load(request) {
        Err(faults) => files.all_placed(&faults),
        Ok(loaded) => {
            explained(&loaded);
            for kind in [BrokerKind::Embedded, BrokerKind::RabbitMq, BrokerKind::Kafka] {
                if let Err(faults) = loaded.check_promises(|_| poor(kind)) {
                    files.all_placed(&faults);
                }
            }
            let table = Table::new(&loaded.settings, &Table::default());
            assert!(!loaded.settings.host.messaging || table.routes().len() == loaded.settings.routes.len());
        }
    }
}

impl Files<'_> {
    fn all_placed(&self, faults: &Faults) {
        assert!(!faults.0.is_empty());
        for fault in &faults.0 {
            assert!(!fault.message.is_empty());
            self.placed(fault, &fault.place);
            if let Some((place, _)) = &fault.also {
                self.placed(fault, place);
            }
        }
        let shown = faults.render(Style::Plain);
        crate::assert_tame(&shown);
        for fault in &faults.0 {
            assert!(shown.contains(&fault.code.to_string()));
        }
        faults.render(Style::Fancy);
        assert!(faults.to_json()["faults"].is_array());
    }

    fn placed(&self, fault: &Fault, place: &Place) {
        let text = |file: &str| {
            let found = self.0.iter().find(|(name, _)| *name == file);
            found.unwrap_or_else(|| panic!("no file {file}: {fault:?}")).1
        };
        // An empty file and the end of the last line have a position too.
        let lines = |text: &[u8]| text.iter().filter(|b| **b == b'\n').count() + 1;
        match place {
            Place::File { file, span } => {
                let text = text(file.name());
                assert!(
                    span.start <= span.end && span.end <= text.len(),
                    "{fault:?} outside"
                );
                let shown = std::str::from_utf8(text).expect("what is no UTF-8 is not parsed");
                assert!(
                    shown.is_char_boundary(span.start) && shown.is_char_boundary(span.end),
                    "{fault:?} inside of a character"
                );
                assert!(file.position(span.start).0 <= lines(text), "{fault:?}");
            }
            Place::Named {
                file,
                line: Some(line),
            } => assert!(*line <= lines(text(file)), "{fault:?}"),
            // The file as a whole.
            Place::Named { .. } => assert_eq!(fault.code, error::CONFIG_FILE, "{fault:?}"),
            Place::Flag(name) => assert_eq!(name, "topology", "{fault:?}"),
            Place::Env(_) | Place::Default => panic!("{fault:?} has no place in the text"),
        }
    }
}

/// Every effective value reads back as TOML, unless it is a secret.
fn explained(loaded: &Loaded) {
    assert!(!loaded.explain.is_empty());
    for value in &loaded.explain {
        crate::assert_tame(&value.source);
        if !value.value.starts_with("***") {
            let line = format!("v = {}", value.value);
            assert!(
                ::toml::from_str::<::toml::Table>(&line).is_ok(),
                "{} is no TOML",
                value.value
            );
        }
    }
}

/// A broker that can do nothing: every promise becomes a fault.
fn poor(kind: BrokerKind) -> Capabilities {
    Capabilities {
        kind,
        tasks: false,
        events: false,
        shared: false,
        key_order_shared: false,
        priorities: false,
        delays: false,
        scan: false,
        redelivery_flag: false,
        tombstones: false,
    }
}
