//! `helix topology plan|apply|export`: what the topology file wants, against what is there.

use std::sync::Arc;
use std::time::Duration;

use clap::Subcommand;
use serde::Serialize;

use super::output::{self, Format};
use super::{Exit, Global, load};
use crate::app;
use crate::broker::{Broker, Comparison, Destination};
use crate::config::valid::Settings;
use crate::error;
use crate::model::{Clock, MessageKind, SystemClock};

#[derive(Debug, Subcommand)]
pub enum Topology {
    /// Compare; change nothing
    Plan(Wait),
    /// Create what is missing; what differs is named and left alone
    Apply(Wait),
    /// Print the topology as JSON
    Export,
}

#[derive(Debug, clap::Args)]
pub struct Wait {
    /// How long to wait for brokers that do not answer yet, seconds
    #[arg(long, default_value_t = 10)]
    wait: u64,
}

#[derive(Debug, Serialize)]
struct Row {
    broker: String,
    kind: MessageKind,
    name: String,
    #[serde(flatten)]
    found: Comparison,
    created: bool,
}

impl Topology {
    pub async fn run(self, global: &Global) -> Result<(), Exit> {
        let loaded = load::load(global)?;
        let settings = &loaded.settings;
        let (apply, wait) = match self {
            Self::Export => return export(settings),
            Self::Plan(wait) => (false, wait),
            Self::Apply(wait) => (true, wait),
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let brokers = app::connect(settings, &clock)?;
        let mut rows = Vec::new();
        for want in &settings.topology {
            let name = broker_of(settings, want);
            let Some(broker) = brokers.get(name) else { continue };
            rows.push(one(broker, want, apply, Duration::from_secs(wait.wait)).await?);
        }
        for broker in brokers.values() {
            broker.close().await;
        }
        print(global, &rows)
    }
}

fn broker_of<'a>(settings: &'a Settings, want: &Destination) -> &'a str {
    match want.kind {
        MessageKind::Task => &settings.tasks_broker,
        MessageKind::Event => &settings.events_broker,
    }
}

async fn one(broker: &Arc<dyn Broker>, want: &Destination, apply: bool, wait: Duration) -> Result<Row, Exit> {
    let topology = broker.topology();
    let deadline = tokio::time::Instant::now() + wait;
    let found = loop {
        match topology.compare(want).await {
            Ok(found) => break found,
            Err(error) if tokio::time::Instant::now() >= deadline => {
                return Err(Exit::unreachable(format!(
                    "cannot look at {} on `{}`: {error}",
                    want.name,
                    broker.name()
                ))
                .coded(error::BROKER_UNREACHABLE));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    };
    let created = apply && found == Comparison::Missing;
    if created {
        topology.create(want).await.map_err(|error| {
            Exit::failed(format!(
                "cannot create {} on `{}`: {error}",
                want.name,
                broker.name()
            ))
        })?;
    }
    Ok(Row {
        broker: broker.name().to_string(),
        kind: want.kind,
        name: want.name.to_string(),
        found,
        created,
    })
}

fn print(global: &Global, rows: &[Row]) -> Result<(), Exit> {
    if global.output == Format::Json {
        return output::json(&rows);
    }
    let lines = rows
        .iter()
        .map(|row| {
            let (state, detail) = match &row.found {
                Comparison::Same => ("same", String::new()),
                Comparison::Missing if row.created => ("created", String::new()),
                Comparison::Missing => ("missing", "`helix topology apply` creates it".to_owned()),
                Comparison::Differs { differences } => ("differs (HX0110)", differences.join("; ")),
            };
            vec![
                row.broker.clone(),
                row.kind.as_str().to_owned(),
                row.name.clone(),
                state.to_owned(),
                detail,
            ]
        })
        .collect();
    output::table(&["broker", "kind", "name", "state", "detail"], lines)
}

fn export(settings: &Settings) -> Result<(), Exit> {
    let list: Vec<_> = settings
        .topology
        .iter()
        .map(|d| {
            serde_json::json!({
                "kind": d.kind, "name": d.name, "broker": broker_of(settings, d), "max_priority": d.max_priority,
                "ttl_ms": d.ttl.map(crate::model::clock::duration_ms), "partitions": d.partitions, "arguments": d.arguments,
            })
        })
        .collect();
    output::json(&list)
}
