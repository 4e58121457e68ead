//! What happens when partitions come and go. Runs on the polling thread, inside librdkafka's callback.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::{Offset, TopicPartitionList};

use super::desk::Desk;
use super::log_fold::Quiet;
use super::native::{self, Queue};

/// How long the broker may take to answer the commit of a revocation.
const COMMIT: Duration = Duration::from_secs(5);
/// The same for the last commit, which is tried again in that time, and for what the farewell has left to say.
pub const LAST_COMMIT: Duration = Duration::from_millis(2500);

/// The context of a group's consumer.
pub struct Group {
    pub quiet: Quiet,
    pub desk: Arc<Desk>,
    pub topic: Arc<str>,
    pub revoke_timeout: Duration,
    /// None before the consumer is there and once it is leaving.
    pub queue: Mutex<Option<Arc<Queue>>>,
}

impl Group {
    pub fn set_queue(&self, queue: Option<Arc<Queue>>) {
        *self.queue.lock().unwrap_or_else(PoisonError::into_inner) = queue;
    }

    /// A new life for each partition, and a queue for its messages before the first one is fetched.
    fn assigned(&self, consumer: &BaseConsumer<Self>, partitions: &[u32]) {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for &partition in partitions {
            self.desk.ledger(|ledger| ledger.assign(partition));
            if let (Some(queue), Ok(partition)) = (&queue, i32::try_from(partition)) {
                queue.collect(consumer.client().native_ptr(), &self.topic, partition);
            }
        }
        tracing::info!(topic = &*self.topic, ?partitions, "partitions assigned");
    }

    /// Finish what runs, say how far it went, and only then let go. Of lost partitions nothing is said: somebody else has
    /// them already.
    fn revoked(&self, consumer: &BaseConsumer<Self>, partitions: &[u32]) {
        if consumer.assignment_lost() {
            tracing::warn!(
                topic = &*self.topic,
                ?partitions,
                "partitions lost, their open messages will be delivered again"
            );
            return self.forget(partitions);
        }
        let (limit, commit) = if self.desk.is_closing() {
            (Duration::ZERO, LAST_COMMIT)
        } else {
            (self.revoke_timeout, COMMIT)
        };
        let finished = self.desk.drain(partitions, limit);
        if !finished {
            tracing::warn!(
                topic = &*self.topic,
                ?partitions,
                ?limit,
                "handlers still run in revoked partitions, their messages will be delivered again"
            );
        }
        // Lost while we waited: the same rule.
        if consumer.assignment_lost() {
            return self.forget(partitions);
        }
        let prefixes = self.desk.ledger(|ledger| ledger.prefixes(partitions));
        tracing::info!(topic = &*self.topic, ?partitions, ?prefixes, "partitions revoked");
        if prefixes.is_empty() {
            return;
        }
        let client = consumer.client().native_ptr();
        let result =
            offsets(&self.topic, &prefixes).and_then(|list| native::commit_within(client, &list, commit));
        if let Err(error) = result {
            tracing::warn!(topic = &*self.topic, ?partitions, %error, "commit at revocation failed, some messages will be delivered again");
        }
    }

    fn forget(&self, partitions: &[u32]) {
        self.desk
            .ledger(|ledger| partitions.iter().for_each(|&p| ledger.forget(p)));
    }
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.quiet.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.quiet.error(error, reason);
    }
}

impl ConsumerContext for Group {
    fn pre_rebalance(&self, consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => self.assigned(consumer, &partitions(list)),
            Rebalance::Revoke(list) => self.revoked(consumer, &partitions(list)),
            Rebalance::Error(error) => self.quiet.0.failed(&error.to_string()),
        }
    }

    fn post_rebalance(&self, _: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        if let Rebalance::Revoke(list) = rebalance {
            self.forget(&partitions(list));
        }
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<u32> {
    list.elements()
        .iter()
        .filter_map(|e| u32::try_from(e.partition()).ok())
        .collect()
}

/// Offsets to commit, as librdkafka wants them.
pub fn offsets(topic: &str, prefixes: &[(u32, u64)]) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(prefixes.len());
    for &(partition, next) in prefixes {
        if let (Ok(partition), Ok(next)) = (i32::try_from(partition), i64::try_from(next)) {
            list.add_partition_offset(topic, partition, Offset::Offset(next))?;
        }
    }
    Ok(list)
}
