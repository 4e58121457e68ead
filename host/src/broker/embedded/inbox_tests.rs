#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use tokio::sync::Semaphore;

use super::*;
use crate::model::MessageKind;

fn job(rows: usize, bytes: usize) -> Job {
    let want = Destination {
        kind: MessageKind::Task,
        name: "q".into(),
        max_priority: 0,
        ttl: None,
        partitions: 0,
        arguments: BTreeMap::new(),
    };
    let queue = Arc::new(Queue::new(1, &want, 0, 0, Vec::new()));
    let entry = || Entry {
        target: Target::Queue(Arc::clone(&queue)),
        priority: 0,
        not_before: None,
        stored: Stored {
            id: String::new(),
            key: None,
            hdr: Vec::new(),
            body: None,
            expires_ms: None,
        },
    };
    Job {
        entries: (0..rows).map(|_| entry()).collect(),
        bytes,
        reply: oneshot::channel().0,
        _room: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
    }
}

fn sizes(taken: &Taken) -> (usize, usize) {
    (taken.jobs.iter().map(|j| j.entries.len()).sum(), taken.acks.len())
}

#[test]
fn a_batch_is_bounded_and_publishes_go_first() {
    let inbox = Inbox::default();
    for _ in 0..10 {
        assert!(inbox.publish(job(200, 0)).is_ok());
    }
    (0..5_000).for_each(|key| inbox.ack(key));
    let take = || sizes(&inbox.take(Duration::ZERO, true));
    assert_eq!(take(), (1_000, 1_000));
    assert_eq!(take(), (1_000, 1_000));
    assert!(inbox.publish(job(1, 0)).is_ok());
    assert_eq!(
        take(),
        (1, BATCH_ACKS),
        "few publishes do not wait for many deletions"
    );
    assert_eq!(take(), (0, BATCH_ROWS));
}

#[test]
fn bytes_bound_a_batch_but_never_empty_it() {
    let inbox = Inbox::default();
    for bytes in [3 << 20, 600 << 10, 600 << 10] {
        assert!(inbox.publish(job(1, bytes)).is_ok());
    }
    for _ in 0..3 {
        assert_eq!(sizes(&inbox.take(Duration::ZERO, true)).0, 1);
    }
}

#[test]
fn positions_never_go_back_even_after_a_failed_commit() {
    let inbox = Inbox::default();
    inbox.commit(1, 7);
    let taken = inbox.take(Duration::ZERO, true);
    inbox.commit(1, 9);
    inbox.put_back(vec![4, 5], taken.offsets);
    inbox.ack(6);
    let taken = inbox.take(Duration::ZERO, true);
    assert_eq!(taken.offsets.get(&1), Some(&9));
    assert_eq!(taken.acks, [4, 5, 6]);
}

#[test]
fn a_shut_inbox_gives_jobs_back() {
    let inbox = Inbox::default();
    assert!(inbox.publish(job(1, 0)).is_ok());
    assert_eq!(inbox.shut().len(), 1);
    assert!(inbox.publish(job(1, 0)).is_err());
}
