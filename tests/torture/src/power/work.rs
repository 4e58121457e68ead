//! Publishers and consumers, until the power goes or they have had enough.

use std::sync::Arc;

use helix_host::broker::embedded::Embedded;
use helix_host::broker::{Broker, Destination, Source};
use helix_host::model::{Headers, MessageKind, Outgoing, UnixMs};
use tokio::sync::watch;

use super::check::{PATIENCE, subscribe};
use super::model::{Model, id};

const HOUR_MS: u64 = 3_600_000;
const PUBLISHERS: usize = 3;

pub async fn create(broker: &Embedded) -> Result<(), String> {
    for (kind, name) in [(MessageKind::Task, "q"), (MessageKind::Event, "t")] {
        let want = Destination {
            kind,
            name: name.into(),
            max_priority: 3,
            ttl: None,
            partitions: 3,
            arguments: std::collections::BTreeMap::new(),
        };
        broker.topology().create(&want).await.map_err(|e| e.to_string())?;
    }
    Ok(())
}

pub async fn work(broker: &Arc<Embedded>, model: &Arc<Model>, rng: &mut fastrand::Rng, now: UnixMs) {
    let (stop, stopped) = watch::channel(false);
    let consumers = [MessageKind::Task, MessageKind::Event].map(|kind| {
        let (broker, model) = (Arc::clone(broker), Arc::clone(model));
        tokio::spawn(consume(broker, model, kind, rng.fork(), stopped.clone()))
    });
    let publishers = [(); PUBLISHERS].map(|()| {
        let (broker, model) = (Arc::clone(broker), Arc::clone(model));
        tokio::spawn(publish(broker, model, rng.fork(), now))
    });
    for publisher in publishers {
        let _ = publisher.await;
    }
    let _ = stop.send(true);
    for consumer in consumers {
        let _ = consumer.await;
    }
}

async fn publish(broker: Arc<Embedded>, model: Arc<Model>, mut rng: fastrand::Rng, now: UnixMs) {
    let publisher = broker.publisher();
    for _ in 0..rng.usize(2..11) {
        let count = if rng.u8(..80) == 0 { 300 } else { rng.usize(1..12) };
        let batch: Vec<_> = (0..count).map(|_| message(&mut rng, now, count < 100)).collect();
        let ids: Vec<_> = batch.iter().map(|m| m.id.clone()).collect();
        model.asked(&batch);
        let answers = publisher.publish(batch).await;
        model.answered(&ids, &answers);
        if answers.iter().any(Result::is_err) {
            return;
        }
        if rng.bool() {
            tokio::task::yield_now().await;
        }
    }
}

pub fn message(rng: &mut fastrand::Rng, now: UnixMs, large: bool) -> Outgoing {
    let id = format!("{:016x}", rng.u64(..));
    let event = rng.bool();
    // Now and then a body that needs pages of its own.
    let size = if large && rng.u8(..10) == 0 {
        rng.usize(3_000..20_000)
    } else {
        rng.usize(..200)
    };
    Outgoing {
        kind: if event {
            MessageKind::Event
        } else {
            MessageKind::Task
        },
        destination: if event { "t" } else { "q" }.into(),
        message_type: "power.test".into(),
        payload: format!("{id}{}", "x".repeat(size)).into(),
        tombstone: false,
        content_type: None,
        schema: None,
        source: None,
        subject: None,
        priority: (!event).then(|| rng.u8(..4)),
        key: (event && rng.u8(..4) > 0).then(|| format!("key-{}", rng.u8(..8)).into()),
        time_ms: now,
        not_before_ms: (!event && rng.u8(..5) == 0).then(|| now + rng.u64(1..HOUR_MS)),
        deadline_ms: None,
        correlation_id: None,
        reply_to: None,
        trace: None,
        headers: Headers::new(),
        id,
    }
}

/// Some are acknowledged, some are given back, some are held until the end.
async fn consume(
    broker: Arc<Embedded>,
    model: Arc<Model>,
    kind: MessageKind,
    mut rng: fastrand::Rng,
    mut stopped: watch::Receiver<bool>,
) {
    let Ok(mut source) = subscribe(&broker, kind, 64).await else {
        return;
    };
    let mut held = Vec::new();
    loop {
        let got = tokio::select! {
            got = source.recv(rng.usize(1..20)) => got,
            _ = stopped.wait_for(|stop| *stop) => break,
        };
        let Ok(got) = got else { return };
        for delivery in got {
            let id = id(&delivery.raw).to_owned();
            match rng.u8(..10) {
                // Given back without having run.
                0 => drop(delivery),
                1 if held.len() < 30 => held.push(delivery),
                outcome => {
                    // Noted first: the power may go at any time.
                    model.begun(&id);
                    if delivery.receipt.begin() && outcome > 2 {
                        model.acked(&id);
                        delivery.receipt.ack();
                    }
                }
            }
        }
        if rng.u8(..8) == 0 {
            held.clear();
            if !flush(&model, source, kind).await {
                return;
            }
            let Ok(again) = subscribe(&broker, kind, 64).await else {
                return;
            };
            source = again;
        }
    }
    if rng.bool() {
        flush(&model, source, kind).await;
    }
}

/// Closing a source waits until its acknowledgements are on disk.
async fn flush(model: &Model, source: Box<dyn Source>, kind: MessageKind) -> bool {
    let closed = source.close(PATIENCE).await.is_ok();
    if closed {
        model.flushed(kind);
    }
    closed
}
