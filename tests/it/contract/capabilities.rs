//! What each broker declares, and which property exercises it.

use helix_host::broker::Capabilities;
use helix_host::model::{BrokerKind, MessageKind};

use super::PROPERTIES;
use super::brokers::Place;

/// One for each field of [`Capabilities`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flag {
    Tasks,
    Events,
    Shared,
    KeyOrderShared,
    Priorities,
    Delays,
    Scan,
    Redelivery,
    Tombstones,
}

/// A field added to the declaration does not compile until it stands here, and fails until a property asks for it.
fn declared(capabilities: &Capabilities) -> [(Flag, bool); 9] {
    let &Capabilities {
        kind: _,
        tasks,
        events,
        shared,
        key_order_shared,
        priorities,
        delays,
        scan,
        redelivery_flag,
        tombstones,
    } = capabilities;
    [
        (Flag::Tasks, tasks),
        (Flag::Events, events),
        (Flag::Shared, shared),
        (Flag::KeyOrderShared, key_order_shared),
        (Flag::Priorities, priorities),
        (Flag::Delays, delays),
        (Flag::Scan, scan),
        (Flag::Redelivery, redelivery_flag),
        (Flag::Tombstones, tombstones),
    ]
}

impl Flag {
    /// Whether it holds for this kind of destination. Priorities and delays are of queues, scans of topics; RabbitMQ's streams
    /// are queues that can be read again.
    pub fn holds(self, capabilities: &Capabilities, kind: MessageKind) -> bool {
        let kinds = match self {
            Self::Priorities | Self::Delays => kind == MessageKind::Task,
            Self::Scan => kind == MessageKind::Event || capabilities.kind == BrokerKind::RabbitMq,
            _ => true,
        };
        kinds && declared(capabilities).contains(&(self, true))
    }
}

#[test]
#[allow(
    clippy::print_stdout,
    reason = "the table is for people: cargo test capability_table -- --nocapture"
)]
fn capability_table() {
    println!(
        "{:16} {:>15} {:>15} {:>10} {:>7}  exercised by",
        "", "embedded_queues", "embedded_topics", "rabbitmq", "kafka"
    );
    for (flag, _) in declared(&Place::Kafka.capabilities()) {
        let by: Vec<&str> = PROPERTIES
            .iter()
            .filter(|p| p.asks.contains(&flag))
            .map(|p| p.name)
            .collect();
        let cells = Place::ALL.map(|place| {
            if flag.holds(&place.capabilities(), place.kind()) {
                "yes"
            } else {
                "-"
            }
        });
        println!(
            "{:16} {:>15} {:>15} {:>10} {:>7}  {}",
            format!("{flag:?}"),
            cells[0],
            cells[1],
            cells[2],
            cells[3],
            by.join(", ")
        );
        for broker in Place::ALL {
            let claimed = declared(&broker.capabilities()).contains(&(flag, true));
            let somewhere = Place::ALL
                .iter()
                .filter(|place| place.capabilities() == broker.capabilities())
                .any(|place| flag.holds(&place.capabilities(), place.kind()));
            assert!(
                !claimed || somewhere,
                "{broker:?} declares {flag:?}, and no place of it has it"
            );
        }
        assert!(!by.is_empty(), "no property asks for {flag:?}");
    }
    println!("{} properties in {} places", PROPERTIES.len(), Place::ALL.len());
}
