//! The disk fails while the power stays on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use helix_host::broker::embedded::Embedded;
use helix_host::broker::{Broker, Confirmed, Destination, Error, Health, PublishError, Source, Subscription};
use helix_host::model::{Headers, MessageKind, Outgoing};
use helix_torture::power::{Attached, Disk, Hands, open};

const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    folder: tempfile::TempDir,
    clock: Arc<Hands>,
    disk: Attached,
}

impl Rig {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            disk: Attached::new(Disk::new(folder.path())),
            clock: Hands::start(),
            folder,
        }
    }

    async fn open(&self) -> Embedded {
        let broker = open(self.folder.path(), &self.clock).unwrap();
        for (kind, name) in [(MessageKind::Task, "q"), (MessageKind::Event, "t")] {
            broker.topology().create(&destination(kind, name)).await.unwrap();
        }
        broker
    }

    fn power_cut(self, seed: u64) -> Self {
        let disk = self.disk.reboot(&mut fastrand::Rng::with_seed(seed));
        self.with(disk)
    }

    /// The process is gone, the power stays on.
    fn killed(self) -> Self {
        let disk = self.disk.killed();
        self.with(disk)
    }

    fn with(self, disk: Disk) -> Self {
        drop(self.disk);
        Self {
            disk: Attached::new(disk),
            ..self
        }
    }

    fn counters_agree(&self) {
        helix_torture::power::counters(&self.folder.path().join("broker.db")).unwrap();
    }
}

fn destination(kind: MessageKind, name: &str) -> Destination {
    Destination {
        kind,
        name: name.into(),
        max_priority: 0,
        ttl: None,
        partitions: 1,
        arguments: std::collections::BTreeMap::new(),
    }
}

fn outgoing(kind: MessageKind, id: &str, size: usize) -> Outgoing {
    Outgoing {
        kind,
        destination: if kind == MessageKind::Task { "q" } else { "t" }.into(),
        id: id.into(),
        message_type: "power.test".into(),
        payload: "x".repeat(size).into(),
        tombstone: false,
        content_type: None,
        schema: None,
        source: None,
        subject: None,
        priority: None,
        key: None,
        time_ms: 1,
        not_before_ms: None,
        deadline_ms: None,
        correlation_id: None,
        reply_to: None,
        trace: None,
        headers: Headers::new(),
    }
}

async fn publish(broker: &Embedded, id: &str, size: usize) -> Result<Confirmed, PublishError> {
    let message = outgoing(MessageKind::Task, id, size);
    broker.publisher().publish(vec![message]).await.pop().unwrap()
}

async fn source(broker: &Embedded, kind: MessageKind) -> Box<dyn Source> {
    let subscription = Subscription {
        kind,
        destination: if kind == MessageKind::Task { "q" } else { "t" }.into(),
        window: 10_000,
    };
    broker.subscribe(subscription).await.unwrap()
}

/// The ids of the next `count` deliveries, which are given back.
async fn next(source: &mut Box<dyn Source>, count: usize) -> Vec<String> {
    let mut got = Vec::new();
    while got.len() < count {
        let more = tokio::time::timeout(PATIENCE, source.recv(count - got.len())).await;
        got.extend(more.expect("nothing came").unwrap());
    }
    got.iter()
        .map(|d| d.raw.props.message_id.clone().unwrap())
        .collect()
}

async fn tasks_there(broker: &Embedded) -> Vec<String> {
    let depth = broker.topology().depth(MessageKind::Task, "q").await.unwrap();
    next(
        &mut source(broker, MessageKind::Task).await,
        usize::try_from(depth).unwrap(),
    )
    .await
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let end = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < end, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Publishes until the broker refuses; none that began after the failure may be confirmed.
async fn publish_until_refused(broker: &Embedded, disk: &Disk, size: usize) -> (Vec<String>, PublishError) {
    let mut confirmed = Vec::new();
    for n in 0..2_000 {
        let (id, failed_before) = (format!("m{n:05}"), disk.has_failed_sync());
        match publish(broker, &id, size).await {
            Ok(_) => assert!(!failed_before, "`{id}` was confirmed after a sync had failed"),
            Err(error) => {
                assert!(disk.has_failed_sync(), "{error}");
                return (confirmed, error);
            }
        }
        confirmed.push(id);
    }
    panic!("the broker went on after a sync had failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_confirmed_after_a_failed_sync() {
    // Small messages: the sync of a commit fails. Large ones fill the WAL: the sync of its checkpoint fails.
    let mut between_commits = 0;
    for (nth, size) in (1..8).map(|n| (n, 100)).chain((40..52).map(|n| (n, 80_000))) {
        let rig = Rig::new();
        let broker = rig.open().await;
        rig.disk.fail_sync(nth);
        let (confirmed, error) = publish_until_refused(&broker, &rig.disk, size).await;
        // Nothing was being committed, so nothing is unknown.
        between_commits += u32::from(matches!(error, PublishError::Unavailable(_)));
        until("the broker says that it is down", || {
            matches!(broker.health(), Health::Down { .. })
        })
        .await;
        let after = publish(&broker, "after", 10).await;
        assert!(matches!(after, Err(PublishError::Unavailable(_))), "{after:?}");
        drop(broker);
        // Another start with the power on, and one after a cut: both have all that was confirmed.
        for seed in 0..3 {
            let copy = Rig {
                disk: Attached::new(rig.disk.reboot(&mut fastrand::Rng::with_seed(seed))),
                folder: tempfile::tempdir().unwrap(),
                clock: Arc::clone(&rig.clock),
            };
            let broker = open(rig.folder.path(), &copy.clock).unwrap();
            let there = tasks_there(&broker).await;
            assert!(
                there.starts_with(&confirmed),
                "sync {nth}, seed {seed}: {} of {}",
                there.len(),
                confirmed.len()
            );
            assert!(there.len() <= confirmed.len() + 1);
        }
    }
    assert!(between_commits >= 1, "no checkpoint met the failure");
}

/// After a failed sync Linux calls the lost pages clean: programs read them, and no later sync writes them. A broker that
/// starts again on top of them would confirm commits that a power cut takes away with the hole before them.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_after_a_failed_sync_trusts_nothing_that_only_memory_has() {
    for seed in 0..20 {
        let rig = Rig::new();
        let broker = rig.open().await;
        rig.disk.fail_sync(seed % 5 + 1);
        let (mut confirmed, _) = publish_until_refused(&broker, &rig.disk, 100).await;
        // Before anything can close the file in good order.
        let rig = rig.killed();
        drop(broker);

        let broker = rig.open().await;
        for n in 0..5 {
            let id = format!("n{n}");
            publish(&broker, &id, 100).await.unwrap();
            confirmed.push(id);
        }
        rig.disk.cut_now();
        drop(broker);

        let rig = rig.power_cut(seed);
        let broker = rig.open().await;
        let mut there = tasks_there(&broker).await;
        there.retain(|id| confirmed.contains(id));
        assert_eq!(there, confirmed, "seed {seed}");
        rig.counters_agree();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_and_goes_on_alone_when_there_is_room() {
    let rig = Rig::new();
    let broker = rig.open().await;
    for id in ["acked", "kept"] {
        publish(&broker, id, 10).await.unwrap();
    }
    let mut tasks = source(&broker, MessageKind::Task).await;
    let mut got = tasks.recv(1).await.unwrap();
    rig.disk.set_full(true);
    for n in 0..5 {
        let refused = publish(&broker, &format!("refused{n}"), 20_000).await;
        assert!(matches!(refused, Err(PublishError::Full(_))), "{refused:?}");
    }
    assert!(matches!(broker.health(), Health::Degraded { .. }));
    let acked = got.pop().unwrap();
    assert!(acked.receipt.begin());
    acked.receipt.ack();
    let early = tasks.close(Duration::from_millis(400)).await;
    assert!(
        matches!(early, Err(Error::Storage(_))),
        "the acknowledgement cannot be on disk: {early:?}"
    );

    rig.disk.set_full(false);
    // Nobody publishes: the acknowledgement that waits is tried again by itself.
    until("the broker works again", || broker.health() == Health::Up).await;
    source(&broker, MessageKind::Task)
        .await
        .close(PATIENCE)
        .await
        .unwrap();
    publish(&broker, "again", 20_000).await.unwrap();
    rig.disk.cut_now();
    drop(broker);
    let rig = rig.power_cut(1);
    let broker = rig.open().await;
    assert_eq!(tasks_there(&broker).await, ["kept", "again"]);
    rig.counters_agree();
}

/// The WAL is overwritten in place, so commits still succeed; carrying it over needs room in the database and has to wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_without_room_is_put_off() {
    let rig = Rig::new();
    let broker = rig.open().await;
    let mut confirmed = Vec::new();
    let mut refused = 0;
    for n in 0..200 {
        rig.disk.set_full((60..120).contains(&n));
        let id = format!("m{n:03}");
        match publish(&broker, &id, 80_000).await {
            Ok(_) => confirmed.push(id),
            Err(PublishError::Full(_)) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(refused > 0, "the disk was never full");
    rig.disk.cut_now();
    drop(broker);
    let rig = rig.power_cut(2);
    let broker = rig.open().await;
    assert_eq!(tasks_there(&broker).await, confirmed);
    rig.counters_agree();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_fails_gives_its_claims_back() {
    for kind in [MessageKind::Task, MessageKind::Event] {
        let rig = Rig::new();
        let broker = rig.open().await;
        let ids: Vec<String> = (0..20).map(|n| format!("m{n:02}")).collect();
        let batch = ids.iter().map(|id| outgoing(kind, id, 5_000)).collect();
        assert!(broker.publisher().publish(batch).await.iter().all(Result::is_ok));
        let mut source = source(&broker, kind).await;
        rig.disk.set_unreadable(true);
        for _ in 0..3 {
            let failed = tokio::time::timeout(PATIENCE, source.recv(10));
            let failed = failed.await.expect("claims of a failed read are gone");
            let text = match failed {
                Err(Error::Storage(text)) => text,
                other => panic!("{other:?}"),
            };
            assert!(text.contains("HX0204") && text.contains("broker.db"), "{text}");
        }
        rig.disk.set_unreadable(false);
        assert_eq!(next(&mut source, 20).await, ids);
    }
}

/// Paths that are on no attached disk are none of our business.
#[test]
fn other_databases_are_left_alone() {
    let _rig = Rig::new();
    let elsewhere = tempfile::tempdir().unwrap();
    let file: &Path = &elsewhere.path().join("other.db");
    let db = rusqlite::Connection::open(file).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(n); INSERT INTO t VALUES(1)")
        .unwrap();
    assert!(
        std::fs::metadata(elsewhere.path().join("other.db-wal"))
            .unwrap()
            .len()
            > 0
    );
}
