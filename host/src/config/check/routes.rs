//! Routes: each names one kind of destination that exists, one plugin, and is reachable.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Check, names};
use crate::config::fault::Fault;
use crate::config::source::{Place, quoted};
use crate::config::topology;
use crate::config::valid::{OnDeadLetter, Order, Park, Pattern, RetryPolicy, Route};
use crate::config::{raw, suggest};
use crate::error;
use crate::model::MessageKind;

impl Check<'_> {
    pub(super) fn routes(&mut self, raw: &raw::Raw, topology: &topology::Loaded) -> Vec<Route> {
        let routes: Vec<Route> = raw
            .routes
            .iter()
            .enumerate()
            .filter_map(|(n, route)| self.route(raw, n, route, topology))
            .collect();
        self.unique(&routes);
        self.formats(raw);
        routes
    }

    fn route(
        &mut self,
        all: &raw::Raw,
        n: usize,
        raw: &raw::Route,
        topology: &topology::Loaded,
    ) -> Option<Route> {
        let number = n.to_string();
        let at = |key: &'static str| ["routes", number.as_str(), key];
        let (kind, key, destination) = match (&raw.queue, &raw.topic) {
            (Some(queue), None) => (MessageKind::Task, "queue", queue),
            (None, Some(topic)) => (MessageKind::Event, "topic", topic),
            (Some(_), Some(_)) => {
                let also = self.place(&at("queue"));
                let fault = self.fault(
                    error::CONFIG_VALUE,
                    &at("topic"),
                    "a route has `queue` or `topic`, not both",
                );
                fault.also = Some((also, "and this".into()));
                fault.help = Some("write two routes".into());
                return None;
            }
            (None, None) => {
                self.fault(
                    error::CONFIG_VALUE,
                    &["routes", &number],
                    "this route has neither `queue` nor `topic`",
                )
                .help = Some("add queue = \"…\" (tasks) or topic = \"…\" (events)".into());
                return None;
            }
        };
        let default = if kind == MessageKind::Task {
            &all.messaging.tasks
        } else {
            &all.messaging.events
        };
        let broker = match &raw.broker {
            Some(name) => self.broker_name(name, &at("broker"))?,
            None => default.clone(),
        };
        let destination = Pattern::new(destination.as_str());
        self.exists(&destination, kind, &at(key), topology);
        let message_type = raw.message_type.as_str();
        if message_type.is_empty() {
            self.fault(error::CONFIG_VALUE, &at("type"), "an empty type").help =
                Some("leave `type` out, or write \"*\", to take every type".into());
        }
        if raw.plugin.is_empty() {
            if self.tree.at(&at("plugin")).is_some() {
                self.fault(error::CONFIG_VALUE, &at("plugin"), "an empty name");
            }
            return None;
        }
        self.plain_name(&raw.plugin, &at("plugin"));
        let retry = self.retry(&raw.retry, &number);
        let park = self.park(raw, &number);
        self.header_names(&raw.headers, &number);
        let name: Arc<str> = match &raw.name {
            Some(name) => name.as_str().into(),
            None => format!("{destination}:{message_type}").into(),
        };
        Some(Route {
            name,
            broker: broker.into(),
            kind,
            destination,
            message_type: Pattern::new(message_type),
            plugin: raw.plugin.as_str().into(),
            concurrency: raw.concurrency,
            order: raw.order,
            park,
            timeout: raw.timeout.0,
            rate: raw.rate,
            retry,
            headers: raw.headers.clone(),
            fresh_instance: raw.instance == raw::Instance::PerMessage,
            declared_at: self.place(&["routes", &number]).to_string(),
        })
    }

    /// A destination that is in no topology is a slip, or would never be created.
    pub(super) fn exists(
        &mut self,
        destination: &Pattern,
        kind: MessageKind,
        path: &[&str],
        topology: &topology::Loaded,
    ) {
        let known = &topology.destinations;
        if known
            .iter()
            .any(|d| d.kind == kind && destination.matches(&d.name))
        {
            return;
        }
        let (word, other) = if kind == MessageKind::Task {
            ("queue", "topic")
        } else {
            ("topic", "queue")
        };
        let file = &topology.name;
        let help = if known
            .iter()
            .any(|d| d.kind != kind && destination.matches(&d.name))
        {
            format!("there is a {other} of that name: write {other} = \"{destination}\"")
        } else if let Some(near) = suggest::nearest(&destination.0, names(known, kind)) {
            format!("did you mean `{near}`?")
        } else if destination.is_literal() {
            format!("add it to {file}: [[{word}s]] name = \"{destination}\"")
        } else {
            format!("no {word} in {file} matches")
        };
        self.fault(
            error::CONFIG_REFERENCE,
            path,
            format!("no {word} is named {}", quoted(&destination.0)),
        )
        .help = Some(help);
    }

    fn retry(&mut self, raw: &raw::Retry, number: &str) -> RetryPolicy {
        if raw.delay > raw.max_delay {
            let message = format!(
                "retry: delay {} is longer than max_delay {}",
                raw.delay, raw.max_delay
            );
            let also = self.place(&["routes", number, "retry", "max_delay"]);
            let fault = self.fault(
                error::CONFIG_VALUE,
                &["routes", number, "retry", "delay"],
                message,
            );
            fault.also = Some((also, "against this".into()));
            fault.help = Some("max_delay bounds every delay, the first one too".into());
        }
        RetryPolicy {
            max_retries: raw.max_retries,
            delay: raw.delay.0,
            multiplier: raw.multiplier,
            max_delay: raw.max_delay.0,
            jitter: raw.jitter,
        }
    }

    /// Keys can only wait where they are kept apart.
    fn park(&mut self, raw: &raw::Route, number: &str) -> Option<Park> {
        if raw.on_dead_letter == OnDeadLetter::Skip {
            return None;
        }
        if raw.order != Order::Key {
            let also = self
                .tree
                .at(&["routes", number, "order"])
                .map(|node| node.place.clone());
            let fault = self.fault(
                error::CONFIG_VALUE,
                &["routes", number, "on_dead_letter"],
                "on_dead_letter = \"park\" without order = \"key\": there is no key to park",
            );
            fault.also = also.map(|place| (place, "not by this".into()));
            fault.help =
                Some("set order = \"key\", or leave on_dead_letter out: later messages go on then".into());
        }
        Some(Park {
            limit: raw.park.limit,
            expiry: raw.park.expiry.map(|span| span.0),
        })
    }

    fn header_names(&mut self, headers: &[String], number: &str) {
        for (n, header) in headers.iter().enumerate() {
            if header.is_empty() || header.chars().any(|c| c.is_control() || c.is_whitespace()) {
                let path = ["routes", number, "headers", &n.to_string()];
                self.fault(
                    error::CONFIG_VALUE,
                    &path,
                    format!("{} is no header name", quoted(header)),
                );
            }
        }
    }

    /// Names are unique, and no route hides behind its double.
    fn unique(&mut self, routes: &[Route]) {
        let mut by_name: BTreeMap<&str, &Route> = BTreeMap::new();
        let mut by_place: BTreeMap<(&str, &str, &str, &str), &Route> = BTreeMap::new();
        for route in routes {
            let key = (
                &*route.broker,
                route.kind.as_str(),
                &*route.destination.0,
                &*route.message_type.0,
            );
            if let Some(first) = by_place.insert(key, route) {
                let message = format!(
                    "this route is never reached: the one at {} takes `{}` from `{}` already",
                    first.declared_at, route.message_type, route.destination
                );
                let also = self.route_place(first, "");
                let fault = Fault::new(error::CONFIG_VALUE, self.route_place(route, ""), message)
                    .also(also, "this one wins")
                    .help("remove one, or give them different types");
                self.push(fault);
            } else if let Some(first) = by_name.insert(&route.name, route) {
                let message = format!(
                    "two routes are named {}, the other at {}",
                    quoted(&route.name),
                    first.declared_at
                );
                let also = self.route_place(first, "name");
                let fault = Fault::new(error::CONFIG_VALUE, self.route_place(route, "name"), message)
                    .also(also, "the other one")
                    .help("a name is a metric label and must be unique: set `name`");
                self.push(fault);
            }
        }
    }

    /// Where a key of a checked route stands.
    pub(super) fn route_place(&self, route: &Route, key: &str) -> Place {
        let mut n = 0;
        while let Some(node) = self.tree.at(&["routes", &n.to_string()]) {
            if node.place.to_string() == route.declared_at {
                return node.get(key).map_or(&node.place, |child| &child.place).clone();
            }
            n += 1;
        }
        Place::Named {
            file: route.declared_at.clone(),
            line: None,
        }
    }

    fn formats(&mut self, raw: &raw::Raw) {
        for (n, format) in raw.formats.iter().enumerate() {
            let path = ["formats", &n.to_string(), "destination"];
            if format.destination.is_empty() && self.tree.at(&path).is_some() {
                self.fault(error::CONFIG_VALUE, &path, "an empty destination")
                    .help = Some("\"*\" stands for all".into());
            }
        }
    }
}
