//! Reading a stretch of a topic again. Touches no positions.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;

use super::Core;
use super::log::Topic;
use super::source::READ_BYTES;
use crate::broker::{Bounds, Error, Scan};
use crate::model::{RawMessage, UnixMs};

pub struct EmbeddedScan(pub Arc<Core>);

impl EmbeddedScan {
    fn topic(&self, topic: &str, partition: u32) -> Result<Arc<Topic>, Error> {
        let found = self
            .0
            .topic(topic)
            .ok_or_else(|| Error::UnknownDestination(topic.to_owned()))?;
        match found.at(partition) {
            Some(_) => Ok(found),
            None => Err(Error::UnknownDestination(format!("{topic}[{partition}]"))),
        }
    }
}

#[async_trait]
impl Scan for EmbeddedScan {
    async fn bounds(&self, topic: &str) -> Result<Vec<Bounds>, Error> {
        let found = self
            .0
            .topic(topic)
            .ok_or_else(|| Error::UnknownDestination(topic.to_owned()))?;
        let bounds = (0u32..).zip(&found.partitions).map(|(partition, p)| Bounds {
            partition,
            first: p.first.load(Ordering::Acquire),
            end: p.end.load(Ordering::Acquire),
        });
        Ok(bounds.collect())
    }

    async fn offset_at(&self, topic: &str, partition: u32, time: UnixMs) -> Result<u64, Error> {
        let found = self.topic(topic, partition)?;
        self.0
            .read(move |_, db| found.offset_at(db, partition, time))
            .await
    }

    async fn read(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        max: usize,
    ) -> Result<Vec<RawMessage>, Error> {
        let found = self.topic(topic, partition)?;
        self.0
            .read(move |core, db| found.read(db, &core.name, partition, from, max, READ_BYTES))
            .await
    }
}
