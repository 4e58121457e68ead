//! Queues and topics themselves, and what is said about them.

use std::sync::Arc;
use std::time::Duration;

use helix_host::broker::{Broker, Comparison, Destination, Error, Health, Subscription};
use helix_host::model::MessageKind;
use helix_tests::until;

use super::stage::{PATIENCE, Stage, acknowledge, create};

const HOUR: Duration = Duration::from_secs(3600);

/// With everything set that can be set on any broker.
fn shaped(stage: &Stage) -> Destination {
    let mut want = stage.wide(2);
    want.ttl = Some(HOUR);
    if stage.kind == MessageKind::Task {
        want.max_priority = 5;
    }
    want
}

async fn compare(broker: &dyn Broker, want: &Destination) -> Comparison {
    broker.topology().compare(want).await.unwrap()
}

pub async fn what_is_missing_is_created_once(stage: &Stage) {
    let broker = stage.open();
    let want = shaped(stage);
    assert_eq!(compare(&*broker, &want).await, Comparison::Missing);
    assert_eq!(
        compare(&*broker, &want).await,
        Comparison::Missing,
        "looking creates nothing"
    );
    // Several hosts start at a time.
    let (a, b, c) = (broker.topology(), broker.topology(), broker.topology());
    let (a, b, c) = tokio::join!(a.create(&want), b.create(&want), c.create(&want));
    assert!(a.is_ok() && b.is_ok() && c.is_ok(), "{a:?} {b:?} {c:?}");
    assert_eq!(
        compare(&*broker, &want).await,
        Comparison::Same,
        "there as soon as it is created"
    );
    stage.send(&*broker, &want.name, 0..3).await;
    create(&*broker, &want).await;
    assert_eq!(
        broker.topology().depth(stage.kind, &want.name).await.unwrap(),
        3,
        "creating again empties nothing"
    );
    broker.close().await;
}

pub async fn what_differs_is_named_and_left_alone(stage: &Stage) {
    let broker = stage.open();
    let there = shaped(stage);
    create(&*broker, &there).await;
    assert_eq!(compare(&*broker, &there).await, Comparison::Same);
    let mut other = there.clone();
    other.ttl = Some(2 * HOUR);
    let (words, old, new) = match stage.kind {
        MessageKind::Task => {
            other.max_priority = 7;
            ("priority", "5", "7")
        }
        MessageKind::Event => {
            other.partitions = 3;
            ("partitions", "2", "3")
        }
    };
    for _ in 0..2 {
        let differences = match compare(&*broker, &other).await {
            Comparison::Differs { differences } => differences,
            found => panic!("{found:?}"),
        };
        assert_eq!(differences.len(), 2, "one line each: {differences:?}");
        let named = |word: &str| differences.iter().find(|line| line.contains(word));
        let line = named(words).unwrap_or_else(|| panic!("{words}: {differences:?}"));
        assert!(
            line.contains(old) && line.contains(new),
            "what is and what should be: {line}"
        );
        assert!(
            named("ttl").or_else(|| named("retention")).is_some(),
            "{differences:?}"
        );
        // It is there already: fine, and it stays as it is.
        create(&*broker, &other).await;
    }
    assert_eq!(compare(&*broker, &there).await, Comparison::Same);
    broker.close().await;
}

pub async fn depth_is_what_waits(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    let depth = async |expected: u64| {
        until(&format!("depth {expected}"), PATIENCE, || async {
            (broker.topology().depth(stage.kind, &name).await.unwrap() == expected).then_some(())
        })
        .await;
    };
    depth(0).await;
    stage.send(&*broker, &name, 0..5).await;
    depth(5).await;
    let mut consumer = stage.consumer(&*broker, &name, 10).await;
    let mut got = consumer.take(5).await;
    let held = got.split_off(3);
    acknowledge(got);
    consumer.leave().await;
    drop(held);
    depth(2).await;
    let nowhere = stage.destination().name;
    let unknown = broker.topology().depth(stage.kind, &nowhere).await;
    assert!(
        matches!(&unknown, Err(Error::UnknownDestination(name)) if **name == *nowhere),
        "{unknown:?}"
    );
    broker.close().await;
}

pub async fn a_consumer_of_nothing_is_told(stage: &Stage) {
    let broker = stage.open();
    let want = stage.destination();
    let subscription = Subscription {
        kind: stage.kind,
        destination: Arc::clone(&want.name),
        window: 10,
    };
    match broker.subscribe(subscription).await {
        Err(error) => assert!(
            matches!(&error, Error::UnknownDestination(name) if **name == *want.name),
            "{error:?}"
        ),
        // Or it waits for the queue, and the health says so until then.
        Ok(mut source) => {
            until("the health names the queue", PATIENCE, || async {
                matches!(broker.health(), Health::Degraded { reason } if reason.contains(&*want.name))
                    .then_some(())
            })
            .await;
            create(&*broker, &want).await;
            stage.send(&*broker, &want.name, 0..1).await;
            let got = tokio::time::timeout(PATIENCE, source.recv(1))
                .await
                .expect("it heals")
                .unwrap();
            acknowledge(got);
            assert_eq!(broker.health(), Health::Up);
            source.close(PATIENCE).await.unwrap();
        }
    }
    broker.close().await;
}

pub async fn health_is_up(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    assert_eq!(
        broker.capabilities(),
        stage.place.capabilities(),
        "declared alike with and without a connection"
    );
    stage.send(&*broker, &name, 0..1).await;
    let mut consumer = stage.consumer(&*broker, &name, 10).await;
    acknowledge(consumer.take(1).await);
    until("up", PATIENCE, || async {
        (broker.health() == Health::Up).then_some(())
    })
    .await;
    consumer.leave().await;
    broker.close().await;
}
