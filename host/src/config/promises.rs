//! What routes ask of a broker against what it can do.

use super::fault::Fault;
use super::source::Place;
use super::valid::{Order, Route, Settings};
use crate::broker::Capabilities;
use crate::error;
use crate::model::{BrokerKind, MessageKind};

/// Every route whose promise its broker cannot keep (HX0105). `capabilities` answers by the broker's configured name.
pub fn check_promises(settings: &Settings, capabilities: impl Fn(&str) -> Capabilities) -> Vec<Fault> {
    settings
        .routes
        .iter()
        .filter_map(|route| broken(route, capabilities(&route.broker)))
        .collect()
}

fn broken(route: &Route, can: Capabilities) -> Option<Fault> {
    let broker = &route.broker;
    let kind = can.kind;
    let (what, help) = match route.kind {
        MessageKind::Task if !can.tasks => (
            format!(
                "takes from queue `{}`, but broker `{broker}` ({kind}) has no queues",
                route.destination
            ),
            "set `broker` to one with queues (embedded, rabbitmq), or read a topic".to_owned(),
        ),
        MessageKind::Event if !can.events => (
            format!(
                "reads topic `{}`, but broker `{broker}` ({kind}) has no topics",
                route.destination
            ),
            "set `broker` to one with topics (embedded, kafka), or take from a queue".to_owned(),
        ),
        kind_of_message if route.order != Order::None && can.shared && !can.key_order_shared => {
            let (order, scope) = match (route.order, kind_of_message) {
                (Order::Partition, MessageKind::Task) => {
                    ("partition", "the whole queue needs a single consumer")
                }
                (Order::Partition, MessageKind::Event) => ("partition", "a partition needs a single reader"),
                _ => ("key", "messages of one key must not run on two hosts at a time"),
            };
            let next = match kind {
                BrokerKind::RabbitMq => format!(
                    "set `single_active_consumer = true` in [brokers.{broker}] (queues must have been declared with \
                     x-single-active-consumer), or drop `order`"
                ),
                _ => "use a broker that keeps keys together (kafka, embedded), or drop `order`".to_owned(),
            };
            (
                format!(
                    "asks for order = \"{order}\": {scope}, and broker `{broker}` ({kind}) deals `{}` out to all hosts alike",
                    route.destination
                ),
                next,
            )
        }
        _ => return None,
    };
    let message = format!("route `{}` {what}", route.name);
    Some(
        Fault::new(error::CONFIG_PROMISE, place(&route.declared_at), message)
            .label("this route")
            .help(help),
    )
}

/// `file:line`, or whatever else stands there.
fn place(declared_at: &str) -> Place {
    match declared_at
        .rsplit_once(':')
        .and_then(|(file, line)| Some((file, line.parse().ok()?)))
    {
        Some((file, line)) => Place::Named {
            file: file.to_owned(),
            line: Some(line),
        },
        None => Place::Named {
            file: declared_at.to_owned(),
            line: None,
        },
    }
}
