//! Publishing: what is confirmed is there, what is refused is not.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use helix_host::broker::{Comparison, Error, PublishError, Subscription};
use helix_host::model::{MessageKind, Outgoing};
use helix_tests::unique;

use super::capabilities::Flag;
use super::stage::{PATIENCE, Stage, acknowledge, create, id, ids, send};

pub async fn an_unknown_target_stores_nothing(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    let nowhere = stage.destination();
    let batch = vec![
        stage.message(&name, "before"),
        stage.message(&nowhere.name, "lost"),
        stage.message(&name, "after"),
    ];
    let results = broker.publisher().publish(batch).await;
    assert!(results[0].is_ok() && results[2].is_ok(), "{results:?}");
    assert_eq!(
        results[1],
        Err(PublishError::UnknownTarget(nowhere.name.to_string()))
    );
    assert_eq!(
        broker.topology().compare(&nowhere).await.unwrap(),
        Comparison::Missing,
        "publishing creates nothing"
    );
    let mut consumer = stage.consumer(&*broker, &name, 10).await;
    let got = consumer.take(2).await;
    assert_eq!(ids(&got), ["before", "after"]);
    acknowledge(got);
    consumer.leave().await;
    create(&*broker, &nowhere).await;
    stage.assert_empty(&*broker, &nowhere.name).await;
    broker.close().await;
}

pub async fn too_large_is_refused_and_the_next_one_passes(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    let size = stage.place.too_large();
    let large = Outgoing {
        payload: Bytes::from(vec![b'x'; size]),
        ..stage.message(&name, "large")
    };
    let results = broker
        .publisher()
        .publish(vec![large, stage.message(&name, "beside")])
        .await;
    let limit = match &results[0] {
        Err(PublishError::TooLarge { limit }) => usize::try_from(*limit).unwrap(),
        other => panic!("{other:?}"),
    };
    assert!(
        limit < size && limit > 1000,
        "{limit} bytes allowed, {size} refused"
    );
    assert!(results[1].is_ok(), "{results:?}");
    assert!(
        !PublishError::TooLarge { limit: 1 }.is_transient(),
        "the same bytes will not fit later"
    );
    send(&*broker, vec![stage.message(&name, "next")]).await;
    let mut consumer = stage.consumer(&*broker, &name, 10).await;
    let got = consumer.take(2).await;
    assert_eq!(ids(&got), ["beside", "next"]);
    acknowledge(got);
    consumer.leave().await;
    stage.assert_empty(&*broker, &name).await;
    broker.close().await;
}

pub async fn concurrent_publishes_are_all_confirmed_and_there(stage: &Stage) {
    const COUNT: usize = 500;
    let broker = stage.open();
    let name = create(&*broker, &stage.wide(3)).await;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..COUNT {
        let (publisher, message) = (broker.publisher(), stage.message(&name, &n.to_string()));
        calls.spawn(async move { publisher.publish(vec![message]).await });
    }
    let results = tokio::time::timeout(PATIENCE, calls.join_all())
        .await
        .expect("all confirmed in time");
    for result in results.into_iter().flatten() {
        result.expect("confirmed");
    }
    assert_eq!(
        broker.topology().depth(stage.kind, &name).await.unwrap(),
        COUNT as u64,
        "all there when confirmed"
    );
    let mut consumer = stage.consumer(&*broker, &name, 100).await;
    let mut seen = BTreeSet::new();
    while seen.len() < COUNT {
        for delivery in consumer.take(1).await {
            assert!(seen.insert(id(&delivery)), "{} came twice", id(&delivery));
            acknowledge([delivery]);
        }
    }
    consumer.leave().await;
    broker.close().await;
}

pub async fn after_close_nothing_is_accepted(stage: &Stage) {
    let (broker, name) = stage.ready().await;
    stage.send(&*broker, &name, 0..1).await;
    let publisher = broker.publisher();
    broker.close().await;
    let answer = tokio::time::timeout(PATIENCE, publisher.publish(vec![stage.message(&name, "late")])).await;
    let results = answer.expect("an answer in bounded time");
    assert!(
        matches!(&results[..], [Err(PublishError::Unavailable(_))]),
        "{results:?}"
    );
    drop((publisher, broker));
    let broker = stage.open();
    let mut consumer = stage.consumer(&*broker, &name, 10).await;
    let got = consumer.take(1).await;
    assert_eq!(ids(&got), ["0"]);
    acknowledge(got);
    consumer.leave().await;
    stage.assert_empty(&*broker, &name).await;
    broker.close().await;
}

pub async fn the_other_kind_is_refused_where_there_is_none(stage: &Stage) {
    let broker = stage.open();
    for (kind, flag) in [
        (MessageKind::Task, Flag::Tasks),
        (MessageKind::Event, Flag::Events),
    ] {
        let mut want = stage.destination();
        want.kind = kind;
        let message = Outgoing {
            kind,
            ..stage.message(&want.name, "x")
        };
        if stage.can(flag) {
            create(&*broker, &want).await;
            send(&*broker, vec![message]).await;
            assert_eq!(broker.topology().depth(kind, &want.name).await.unwrap(), 1);
            continue;
        }
        let results = broker.publisher().publish(vec![message]).await;
        assert!(
            matches!(&results[..], [Err(PublishError::Invalid(why))] if why.contains("only")),
            "{results:?}"
        );
        let name: Arc<str> = unique("none").into();
        let subscription = Subscription {
            kind,
            destination: name,
            window: 1,
        };
        let refused = broker.subscribe(subscription).await.err();
        assert!(matches!(refused, Some(Error::Unsupported(_))), "{refused:?}");
        let topology = broker.topology();
        assert!(matches!(topology.create(&want).await, Err(Error::Unsupported(_))));
        assert!(matches!(
            topology.compare(&want).await,
            Err(Error::Unsupported(_))
        ));
        assert!(matches!(
            topology.depth(kind, &want.name).await,
            Err(Error::Unsupported(_))
        ));
    }
    broker.close().await;
}
