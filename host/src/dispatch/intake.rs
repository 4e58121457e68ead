//! Permit → pull → decode → route, for one source. Malformed and unrouted messages become dead letters here.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::item::{Duty, Item, fallback_id};
use super::lookout::Lookout;
use super::runner::Runner;
use super::{CLOSE_LIMIT, Shared, letter, settle};
use crate::broker::{self, Broker, Comparison, Delivery, Destination, Source, Subscription};
use crate::config::valid::Unrouted;
use crate::decode::{self, Malformed};
use crate::model::{Failure, FailureClass, MessageKind, UnixMs};

/// The most messages taken from a source at once: enough to amortise a wake-up, small enough to share between workers.
const BATCH: usize = 512;
/// An idle source says so within this time.
const GAUGE_INTERVAL: Duration = Duration::from_secs(5);
/// While permits are used up, lanes that wait for retries are moved to the store this often.
const RELIEF_INTERVAL: Duration = Duration::from_millis(50);

/// Runs until `stop`, resubscribing with back-off when the source fails.
pub(super) async fn run(
    shared: Arc<Shared>,
    broker: Arc<dyn Broker>,
    subscription: Subscription,
    stop: CancellationToken,
) -> Result<(), String> {
    let permits = Arc::new(Semaphore::new(subscription.window));
    let mut backoff = backoff();
    while !stop.is_cancelled() {
        // A broker that is away must not hold up a drain, or the removal of a route.
        let subscribed = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(()),
            subscribed = subscribe(&shared, &broker, &subscription) => subscribed,
        };
        let failure = match subscribed {
            Ok(source) => {
                let intake = Intake {
                    shared: &shared,
                    subscription: &subscription,
                    permits: &permits,
                    broker: broker.name(),
                    silent: {
                        let can = broker.capabilities();
                        can.shared && can.key_order_shared && subscription.kind == MessageKind::Task
                    },
                    stop: &stop,
                };
                match intake.pull(source).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        let wait = backoff.next().unwrap_or(MAX_WAIT);
        tracing::warn!(
            broker = %broker.name(), destination = %subscription.destination, error = %failure,
            retry_in_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            "cannot consume; trying again"
        );
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
    Ok(())
}

const MAX_WAIT: Duration = Duration::from_secs(3);

fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(MAX_WAIT)
        .with_jitter()
        .without_max_times()
        .build()
}

/// Looks first, creates only what is missing, never changes what is there; a difference is named.
async fn subscribe(
    shared: &Shared,
    broker: &Arc<dyn Broker>,
    subscription: &Subscription,
) -> Result<Box<dyn Source>, broker::Error> {
    let known = shared.topology.load();
    let want = known
        .iter()
        .find(|d| d.kind == subscription.kind && d.name == subscription.destination)
        .cloned()
        .unwrap_or_else(|| Destination {
            kind: subscription.kind,
            name: Arc::clone(&subscription.destination),
            max_priority: 0,
            ttl: None,
            partitions: 1,
            arguments: std::collections::BTreeMap::new(),
        });
    let topology = broker.topology();
    match topology.compare(&want).await? {
        Comparison::Same => {}
        Comparison::Missing => {
            topology.create(&want).await?;
            tracing::info!(broker = %broker.name(), destination = %want.name, "created, it was missing");
        }
        Comparison::Differs { differences } => {
            tracing::warn!(
                broker = %broker.name(), destination = %want.name, differences = %differences.join("; "),
                "it differs from the topology file and is used as it is (HX0110)"
            );
        }
    }
    broker.subscribe(subscription.clone()).await
}

struct Intake<'a> {
    shared: &'a Arc<Shared>,
    subscription: &'a Subscription,
    permits: &'a Arc<Semaphore>,
    broker: Arc<str>,
    /// A queue whose order outlives a change of hosts, and which changes hosts without telling them.
    silent: bool,
    stop: &'a CancellationToken,
}

impl Intake<'_> {
    async fn pull(&self, mut source: Box<dyn Source>) -> Result<(), broker::Error> {
        let context = &self.shared.context;
        let labels = [&*self.broker, &*self.subscription.destination];
        let consumed = context.metrics.consumed.with_label_values(&labels);
        let redelivered = context.metrics.redelivered.with_label_values(&labels);
        let in_flight = context.metrics.in_flight.with_label_values(&labels);
        let mut lookout = Lookout::new(self.silent);
        loop {
            let Some(mut permits) = self.acquire().await else {
                break;
            };
            let received = tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                received = tokio::time::timeout(GAUGE_INTERVAL, source.recv(permits.num_permits())) => received,
            };
            let Ok(received) = received else {
                drop(permits);
                in_flight.set(self.in_flight());
                continue;
            };
            let deliveries = match received {
                Ok(deliveries) => deliveries,
                Err(error) => {
                    drop(permits);
                    return Err(error);
                }
            };
            if deliveries.is_empty() {
                return Err(broker::Error::Other("the consumer was closed".to_owned()));
            }
            consumed.inc_by(deliveries.len() as u64);
            redelivered.inc_by(deliveries.iter().filter(|d| d.raw.redelivered).count() as u64);
            // A drain waits until they are in their lanes: those that run at once would otherwise be finished behind others
            // that went back.
            context.busy.enter(1);
            self.look_for_parked(&deliveries, &mut lookout).await;
            let mut refused = Vec::new();
            let now = context.clock.now_ms();
            let mut items = Vec::with_capacity(deliveries.len());
            for delivery in deliveries {
                // One permit was taken per message asked for, so this cannot run out.
                let Some(permit) = permits.split(1) else { break };
                items.extend(self.decode(delivery, permit, now, &mut refused));
            }
            drop(permits);
            self.place(items, &mut refused);
            if !refused.is_empty() {
                settle::bury_all(Arc::clone(context), refused);
            }
            context.busy.leave(1);
            in_flight.set(self.in_flight());
        }
        source.pause().await;
        // A route that went away gives its destination back as soon as everything taken from it is settled: deliveries that
        // wait in the client, and partitions of a Kafka group, belong to whoever consumes next.
        let all = u32::try_from(self.subscription.window).unwrap_or(u32::MAX);
        tokio::select! {
            () = context.closing.cancelled() => {}
            _ = self.permits.acquire_many(all) => {}
        }
        in_flight.set(0);
        source.close(CLOSE_LIMIT).await
    }

    /// Another host may have had the partition or queue meanwhile, and parked some of its keys in a store that both share.
    async fn look_for_parked(&self, deliveries: &[Delivery], lookout: &mut Lookout) {
        let tokens = deliveries.iter().map(|delivery| delivery.receipt.token());
        if lookout.look(tokens, self.shared.context.clock.instant()) {
            settle::persist(&self.shared.context, "read parked keys", || {
                self.shared.read_parked()
            })
            .await;
        }
    }

    fn in_flight(&self) -> i64 {
        i64::try_from(
            self.subscription
                .window
                .saturating_sub(self.permits.available_permits()),
        )
        .unwrap_or(i64::MAX)
    }

    /// As many permits as are free, at least one. While there are none, retries that wait in memory give theirs back.
    async fn acquire(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            let want = self.permits.available_permits().clamp(1, BATCH);
            if let Ok(permit) =
                Arc::clone(self.permits).try_acquire_many_owned(u32::try_from(want).unwrap_or(1))
            {
                return Some(permit);
            }
            for runner in self.shared.runners.load().values() {
                runner.relieve();
            }
            let acquire = Arc::clone(self.permits).acquire_owned();
            tokio::select! {
                () = self.stop.cancelled() => return None,
                permit = tokio::time::timeout(RELIEF_INTERVAL, acquire) => {
                    if let Ok(permit) = permit {
                        return permit.ok();
                    }
                }
            }
        }
    }

    /// A message that can be routed; or it is among the refused.
    fn decode(
        &self,
        delivery: Delivery,
        permit: OwnedSemaphorePermit,
        now: UnixMs,
        refused: &mut Vec<settle::Refused>,
    ) -> Option<Box<Item>> {
        let context = &self.shared.context;
        let Delivery { mut raw, receipt } = delivery;
        // When the producer gave no id and the broker has no stable position, the host names the message once, so that it keeps
        // its id through retries and dead letters. Only after decoding: the id may stand in a header or in the body.
        let name =
            (raw.origin.offset.is_none() && raw.props.message_id.is_none()).then(|| context.ids.next());
        if let Some((class, malformed)) = over_limit(&raw, &context.limits) {
            raw.props.message_id = raw.props.message_id.or(name);
            refused.push((letter::of_raw(raw, class, &malformed, now), receipt, permit));
            return None;
        }
        let fallback = || name.clone().unwrap_or_else(|| fallback_id(&raw));
        let envelope = match decode::decode_or(&raw, fallback, now) {
            Ok(envelope) => envelope,
            Err(malformed) => {
                raw.props.message_id = raw.props.message_id.or(name);
                refused.push((
                    letter::of_raw(raw, FailureClass::Malformed, &malformed, now),
                    receipt,
                    permit,
                ));
                return None;
            }
        };
        if name.as_deref() == Some(&*envelope.id) {
            raw.props.message_id = name;
        }
        // Moved often from here on, and large.
        Some(Box::new(Item {
            envelope,
            raw,
            duty: Duty::Delivery(receipt),
            attempt: 1,
            history: Vec::new(),
            first_failure_ms: None,
            permit,
        }))
    }

    /// To their lanes, in the order of arrival; neighbours under one route go there together. Workers are woken once all are
    /// there: one that ran at the first message would call its handler with a batch of one.
    fn place(&self, items: Vec<Box<Item>>, refused: &mut Vec<settle::Refused>) {
        let mut woken: Vec<Arc<Runner>> = Vec::new();
        let mut items = items.into_iter().peekable();
        while let Some(first) = items.next() {
            let routes = self.shared.routes.current();
            let find = |item: &Item| routes.lookup(&item.envelope.origin, &item.envelope.message_type);
            let Some(route) = find(&first) else {
                self.unrouted(first, refused);
                continue;
            };
            let mut run = vec![first];
            while let Some(next) =
                items.next_if(|item| find(item).is_some_and(|other| Arc::ptr_eq(other, route)))
            {
                run.push(next);
            }
            match self.push(&route.name, run) {
                Ok(runner) => {
                    if !woken.iter().any(|known| Arc::ptr_eq(known, &runner)) {
                        woken.push(runner);
                    }
                }
                Err(back) => {
                    let rest: Vec<Box<Item>> = back.into_iter().chain(items).collect();
                    items = rest.into_iter().peekable();
                }
            }
        }
        for runner in woken {
            runner.wake();
        }
    }

    /// `Err`: no runner, or one that takes nothing any more, because a reload replaced the table since it was looked at.
    fn push(&self, route: &str, items: Vec<Box<Item>>) -> Result<Arc<Runner>, Vec<Box<Item>>> {
        let runner = self.shared.runners.load().get(route).map(Arc::clone);
        match runner {
            Some(runner) => runner.push(items).map(|()| runner),
            None => Err(items),
        }
    }

    fn unrouted(&self, item: Box<Item>, refused: &mut Vec<settle::Refused>) {
        let context = &self.shared.context;
        let failure = Failure::coded(
            "unrouted",
            format!(
                "no route takes type `{}` from {}; add a [[routes]] entry, or set [messaging] unrouted = \"ignore\"",
                item.envelope.message_type, item.envelope.origin
            ),
        );
        let letter = letter::of_item(
            &item,
            None,
            FailureClass::Unrouted,
            &failure,
            context.clock.now_ms(),
        );
        let item = *item;
        let Duty::Delivery(receipt) = item.duty else {
            return;
        };
        match **context.unrouted.load() {
            Unrouted::DeadLetter => refused.push((letter, receipt, item.permit)),
            Unrouted::Ignore => {
                context.metrics.outcomes.with_label_values(&["", "ignored"]).inc();
                receipt.ack();
            }
        }
    }
}

pub(super) fn over_limit(
    raw: &crate::model::RawMessage,
    limits: &crate::config::valid::Limits,
) -> Option<(FailureClass, Malformed)> {
    if raw.headers.len() > limits.headers {
        let reason = format!(
            "{} headers; limits.headers is {}",
            raw.headers.len(),
            limits.headers
        );
        return Some((
            FailureClass::Malformed,
            Malformed {
                code: "headers.too-many",
                reason,
            },
        ));
    }
    let size = raw.size();
    (size > limits.message_bytes).then(|| {
        let reason = format!("{size} bytes; limits.message_size is {}", limits.message_bytes);
        (
            FailureClass::TooLarge,
            Malformed {
                code: "message.too-large",
                reason,
            },
        )
    })
}
