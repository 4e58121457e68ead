//! What comes first, and who gets it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use helix_host::broker::embedded::partition_of;
use helix_host::broker::{Broker, Destination, Error, PublishError};
use helix_host::model::{Clock, MessageKind, Outgoing, SystemClock};
use helix_tests::until;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::brokers::Place;
use super::capabilities::Flag;
use super::stage::{Consumer, PATIENCE, Stage, acknowledge, create, id, ids, names, send};

pub async fn one_queue_or_partition_is_in_order(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    for batch in 0..4 {
        stage.send(&*broker, &name, batch * 50..(batch + 1) * 50).await;
    }
    let mut consumer = stage.consumer(&*broker, &name, 64).await;
    let mut seen = Vec::new();
    while seen.len() < 200 {
        let got = consumer.take(20).await;
        seen.extend(ids(&got));
        acknowledge(got);
    }
    assert_eq!(seen, names(0..200));
    consumer.leave().await;
    broker.close().await;
}

pub async fn one_key_stays_in_one_partition_in_order(stage: &Stage) {
    const KEYS: usize = 20;
    let broker = stage.open();
    let name = create(&*broker, &stage.wide(4)).await;
    let mut partitions: BTreeMap<usize, BTreeSet<Option<u32>>> = BTreeMap::new();
    for round in 0..5 {
        let batch = (0..KEYS).map(|key| keyed(stage, &name, key, round)).collect();
        for (key, confirmed) in send(&*broker, batch).await.into_iter().enumerate() {
            partitions.entry(key).or_default().insert(confirmed.partition);
        }
    }
    for (key, partitions) in &partitions {
        // Where Java's client puts it, whatever the broker.
        let expected = (stage.kind == MessageKind::Event).then(|| partition_of(key_of(*key).as_bytes(), 4));
        assert_eq!(*partitions, BTreeSet::from([expected]), "key {key}");
    }
    let mut consumer = stage.consumer(&*broker, &name, 32).await;
    let mut seen: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for _ in 0..KEYS * 5 {
        let got = consumer.take(1).await;
        let key = String::from_utf8(got[0].raw.key.clone().expect("a key").to_vec()).unwrap();
        seen.entry(key).or_default().push(id(&got[0]));
        acknowledge(got);
    }
    for key in 0..KEYS {
        let expected: Vec<String> = (0..5).map(|round| format!("{key}/{round}")).collect();
        assert_eq!(seen.get(&key_of(key)), Some(&expected), "key {key}");
    }
    consumer.leave().await;
    broker.close().await;
}

fn key_of(key: usize) -> String {
    format!("key-{key}")
}

fn keyed(stage: &Stage, to: &Arc<str>, key: usize, round: usize) -> Outgoing {
    Outgoing {
        key: Some(key_of(key).into()),
        ..stage.message(to, &format!("{key}/{round}"))
    }
}

/// (consumer, message id) in the order in which handlers began.
type Log = Arc<Mutex<Vec<(usize, String)>>>;

/// A host in small: begins, notes, acknowledges; skips what is no longer its own.
struct Worker {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Worker {
    fn start(number: usize, mut consumer: Consumer, log: &Log) -> Self {
        let (stop, log) = (CancellationToken::new(), Arc::clone(log));
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            while let Some(batch) = stopped.run_until_cancelled(consumer.recv(5)).await {
                for delivery in batch {
                    if delivery.receipt.begin() {
                        log.lock().unwrap().push((number, id(&delivery)));
                        delivery.receipt.ack();
                    }
                }
                // Lets the others have a go.
                tokio::task::yield_now().await;
            }
            consumer.leave().await;
        });
        Self { stop, task }
    }

    async fn leave(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn handled(log: &Log, count: usize) {
    until(&format!("{count} messages handled"), PATIENCE, || async {
        (log.lock().unwrap().len() >= count).then_some(())
    })
    .await;
}

async fn assert_nothing_waits(stage: &Stage, broker: &dyn Broker, name: &str) {
    until("nothing waits any more", PATIENCE, || async {
        (broker.topology().depth(stage.kind, name).await.unwrap() == 0).then_some(())
    })
    .await;
}

/// A second host, or where only one may own the broker: the refusal, and the same host again.
async fn second_host(stage: &Stage, first: &Arc<dyn Broker>) -> Arc<dyn Broker> {
    match stage.try_open() {
        Ok(second) => second,
        Err(error) => {
            assert!(matches!(&error, Error::Storage(_)), "{error:?}");
            Arc::clone(first)
        }
    }
}

pub async fn consumers_share_without_doubles(stage: &Stage) {
    let broker = stage.open();
    let name = create(&*broker, &stage.wide(4)).await;
    let second = second_host(stage, &broker).await;
    assert_eq!(
        stage.can(Flag::Shared),
        !Arc::ptr_eq(&broker, &second),
        "a second host is let in or refused"
    );
    let log = Log::default();
    let workers = [
        Worker::start(0, stage.consumer(&*broker, &name, 5).await, &log),
        Worker::start(1, stage.consumer(&*second, &name, 5).await, &log),
    ];
    let mut sent = 0;
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let batch = (0..40).map(|n| keyed(stage, &name, n, sent)).collect();
        send(&*broker, batch).await;
        sent += 40;
        handled(&log, sent).await;
        let active: BTreeSet<usize> = log.lock().unwrap().iter().map(|(worker, _)| *worker).collect();
        if active.len() == 2 {
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "of {sent} messages, all went to {active:?}"
        );
    }
    for worker in workers {
        worker.leave().await;
    }
    assert_nothing_waits(stage, &*broker, &name).await;
    let seen: Vec<String> = log.lock().unwrap().iter().map(|(_, id)| id.clone()).collect();
    let different: BTreeSet<&String> = seen.iter().collect();
    assert_eq!((seen.len(), different.len()), (sent, sent), "each message once");
    second.close().await;
    broker.close().await;
}

pub async fn keys_stay_in_order_when_consumers_change(stage: &Stage) {
    const KEYS: usize = 10;
    let broker = stage.open();
    let mut destination = stage.wide(4);
    if stage.place == Place::RabbitMq {
        destination
            .arguments
            .insert("x-single-active-consumer".into(), "true".into());
    }
    let name = create(&*broker, &destination).await;
    let together = stage.can(Flag::KeyOrderShared);
    let second = if together {
        stage.open()
    } else {
        Arc::clone(&broker)
    };
    let log = Log::default();
    let mut workers = vec![Worker::start(0, stage.consumer(&*broker, &name, 8).await, &log)];
    for round in 0..40 {
        send(
            &*broker,
            (0..KEYS).map(|key| keyed(stage, &name, key, round)).collect(),
        )
        .await;
        if round == 10 {
            // Where order is not kept between two at a time, one takes over from the other.
            if !together {
                workers.remove(0).leave().await;
            }
            workers.push(Worker::start(1, stage.consumer(&*second, &name, 8).await, &log));
        }
        if round == 30 && together {
            workers.remove(0).leave().await;
        }
    }
    handled(&log, KEYS * 40).await;
    for worker in workers {
        worker.leave().await;
    }
    assert_nothing_waits(stage, &*broker, &name).await;
    let log = log.lock().unwrap().clone();
    for key in 0..KEYS {
        let prefix = format!("{key}/");
        let order: Vec<&str> = log
            .iter()
            .filter_map(|(_, id)| id.strip_prefix(&prefix))
            .collect();
        assert_eq!(order, names(0..40), "key {key}");
    }
    assert!(
        log.iter().any(|(worker, _)| *worker == 1),
        "the second consumer took over"
    );
    second.close().await;
    broker.close().await;
}

/// What a route that asks for order over several hosts demands of its destination.
fn ordered(stage: &Stage, partitions: u32) -> Destination {
    let mut destination = stage.wide(partitions);
    if stage.place == Place::RabbitMq {
        destination
            .arguments
            .insert("x-single-active-consumer".into(), "true".into());
    }
    destination
}

pub async fn a_leaving_consumer_finishes_before_the_next_begins(stage: &Stage) {
    let broker = stage.open();
    let name = create(&*broker, &ordered(stage, 1)).await;
    send(
        &*broker,
        (0..4).map(|round| keyed(stage, &name, 7, round)).collect(),
    )
    .await;
    let mut first = stage.consumer(&*broker, &name, 2).await;
    let running = first.take(2).await;
    assert!(running.iter().all(|delivery| delivery.receipt.begin()));
    first.pause().await;
    // Where only one host may be, the next consumer of the same host comes after.
    let together = stage.can(Flag::KeyOrderShared);
    let second = if together {
        stage.open()
    } else {
        Arc::clone(&broker)
    };
    let mut next = None;
    if together {
        let waiting = next.insert(stage.consumer(&*second, &name, 2).await);
        waiting
            .assert_silent("while handlers of the same key still run elsewhere")
            .await;
    }
    running.into_iter().for_each(|delivery| delivery.receipt.ack());
    first.leave().await;
    let mut next = match next {
        Some(next) => next,
        None => stage.consumer(&*second, &name, 2).await,
    };
    let rest = next.take(2).await;
    assert_eq!(ids(&rest), ["7/2", "7/3"]);
    acknowledge(rest);
    next.leave().await;
    stage.assert_empty(&*broker, &name).await;
    second.close().await;
    broker.close().await;
}

pub async fn higher_priority_first(stage: &Stage) {
    let broker = stage.open();
    let mut destination = stage.destination();
    if stage.can(Flag::Priorities) {
        destination.max_priority = 10;
    }
    let name = create(&*broker, &destination).await;
    let priorities = [None, Some(1), Some(9), Some(5), Some(9), Some(1), Some(10)];
    let batch = priorities.iter().enumerate().map(|(n, priority)| Outgoing {
        priority: *priority,
        ..stage.message(&name, &n.to_string())
    });
    send(&*broker, batch.collect()).await;
    let mut consumer = stage.consumer(&*broker, &name, 1).await;
    let mut seen = Vec::new();
    for _ in 0..7 {
        let got = consumer.take(1).await;
        seen.extend(ids(&got));
        acknowledge(got);
    }
    // Among equals the older one; without priorities they change nothing.
    let expected = if stage.can(Flag::Priorities) {
        [6, 2, 4, 3, 1, 5, 0]
    } else {
        [0, 1, 2, 3, 4, 5, 6]
    };
    assert_eq!(seen, names(expected));
    consumer.leave().await;
    broker.close().await;
}

pub async fn a_delayed_message_waits(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    let due = SystemClock.now_ms() + 700;
    let later = Outgoing {
        not_before_ms: Some(due),
        ..stage.message(&name, "later")
    };
    let results = broker
        .publisher()
        .publish(vec![later, stage.message(&name, "now")])
        .await;
    assert!(results[1].is_ok(), "{results:?}");
    let mut consumer = stage.consumer(&*broker, &name, 100).await;
    let first = consumer.take(1).await;
    assert_eq!(ids(&first), ["now"]);
    acknowledge(first);
    if stage.can(Flag::Delays) {
        assert!(results[0].is_ok(), "{results:?}");
        let second = consumer.take(1).await;
        let now = SystemClock.now_ms();
        assert_eq!(ids(&second), ["later"]);
        assert!(now >= due, "{} ms too early", due - now);
        assert!(now < due + 5000, "{} ms too late", now - due);
        acknowledge(second);
    } else {
        // Better refused than delivered too early.
        assert!(
            matches!(&results[0], Err(PublishError::Invalid(why)) if !why.is_empty()),
            "{results:?}"
        );
    }
    consumer.leave().await;
    stage.assert_empty(&*broker, &name).await;
    // Due in the past is now, everywhere.
    let due = Outgoing {
        not_before_ms: Some(SystemClock.now_ms() - 1000),
        ..stage.message(&name, "due")
    };
    send(&*broker, vec![due]).await;
    stage.consumer(&*broker, &name, 1).await.take(1).await;
    broker.close().await;
}
