//! Creating queues and topics, and comparing them with what the configuration wants.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::{Connection, params};
use tokio::sync::oneshot;

use super::inbox::Control;
use super::queue::Queue;
use super::{Core, ready, schema, sql};
use crate::broker::{Comparison, Destination, Error, Topology};
use crate::model::MessageKind;
use crate::model::clock::duration_ms;

/// More would be a typing error: each partition is a table.
const MOST_PARTITIONS: u32 = 1_024;

pub struct EmbeddedTopology(pub Arc<Core>);

#[async_trait]
impl Topology for EmbeddedTopology {
    async fn compare(&self, want: &Destination) -> Result<Comparison, Error> {
        let mut differences = Vec::new();
        let mut differs = |what: &str, there: String, wanted: String| {
            if there != wanted {
                differences.push(format!("{what} is {there}, wanted {wanted}"));
            }
        };
        match want.kind {
            MessageKind::Task => {
                let Some(queue) = self.0.queue(&want.name) else {
                    return Ok(Comparison::Missing);
                };
                differs(
                    "max-priority",
                    queue.max_priority.to_string(),
                    want.max_priority.min(15).to_string(),
                );
                differs("ttl", format!("{:?}", queue.ttl), format!("{:?}", want.ttl));
            }
            MessageKind::Event => {
                let Some(topic) = self.0.topic(&want.name) else {
                    return Ok(Comparison::Missing);
                };
                differs(
                    "partitions",
                    topic.partitions.len().to_string(),
                    want.partitions.max(1).to_string(),
                );
                differs(
                    "retention",
                    format!("{:?}", topic.retention),
                    format!("{:?}", want.ttl),
                );
            }
        }
        Ok(if differences.is_empty() {
            Comparison::Same
        } else {
            Comparison::Differs { differences }
        })
    }

    async fn create(&self, want: &Destination) -> Result<(), Error> {
        if want.partitions > MOST_PARTITIONS {
            let why = format!("`{}` wants {} partitions", want.name, want.partitions);
            return Err(Error::Unsupported(format!(
                "{why}; the embedded broker has at most {MOST_PARTITIONS}"
            )));
        }
        let queues = self.0.catalog().queues.len();
        if want.kind == MessageKind::Task && queues >= usize::from(ready::MAX_QUEUE) {
            return Err(Error::Unsupported(format!(
                "the embedded broker has at most {queues} queues"
            )));
        }
        let (reply, answer) = oneshot::channel();
        self.0.ask(Control::Create(want.clone(), reply), answer).await
    }

    async fn depth(&self, kind: MessageKind, name: &str) -> Result<u64, Error> {
        let depth = match kind {
            MessageKind::Task => self.0.queue(name).map(|q| q.depth()),
            MessageKind::Event => self.0.topic(name).map(|t| t.depth()),
        };
        depth.ok_or_else(|| Error::UnknownDestination(name.to_owned()))
    }
}

/// On the writer thread. There already: nothing happens.
pub fn create(db: &Connection, core: &Core, want: &Destination) -> rusqlite::Result<()> {
    match want.kind {
        MessageKind::Task if core.queue(&want.name).is_none() => create_queue(db, core, want),
        MessageKind::Event if core.topic(&want.name).is_none() => create_topic(db, core, want),
        _ => Ok(()),
    }
}

fn create_queue(db: &Connection, core: &Core, want: &Destination) -> rusqlite::Result<()> {
    let no: u16 = db.query_row("SELECT coalesce(max(no), 0) + 1 FROM queue", [], |r| r.get(0))?;
    if no > ready::MAX_QUEUE {
        return Err(rusqlite::Error::IntegralValueOutOfRange(0, i64::from(no)));
    }
    db.execute(
        "INSERT INTO queue(no, name, max_priority, ttl_ms) VALUES(?1, ?2, ?3, ?4)",
        params![
            no,
            &*want.name,
            want.max_priority.min(15),
            want.ttl.map(duration_ms).map(sql)
        ],
    )?;
    let queue = Queue::new(no, want, 0, 0, Vec::new());
    core.catalog_mut()
        .queues
        .insert(Arc::clone(&want.name), Arc::new(queue));
    Ok(())
}

fn create_topic(db: &Connection, core: &Core, want: &Destination) -> rusqlite::Result<()> {
    db.execute_batch("BEGIN IMMEDIATE")?;
    db.execute(
        "INSERT INTO topic(name, retention_ms) VALUES(?1, ?2)",
        params![&*want.name, want.ttl.map(duration_ms).map(sql)],
    )?;
    for part in 0..want.partitions.max(1) {
        db.execute(
            "INSERT INTO partition(topic, part) VALUES(?1, ?2)",
            params![&*want.name, part],
        )?;
        let no = db.last_insert_rowid();
        db.execute_batch(&format!(
            "CREATE TABLE log_{no}(off INTEGER PRIMARY KEY, ts INTEGER NOT NULL, id TEXT NOT NULL, mkey BLOB,
               hdr BLOB NOT NULL, body BLOB);"
        ))?;
    }
    let topic = schema::load_topic(db, &core.group, &want.name, want.ttl)?;
    db.execute_batch("COMMIT")?;
    core.catalog_mut()
        .topics
        .insert(Arc::clone(&want.name), Arc::new(topic));
    Ok(())
}
