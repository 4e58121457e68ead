//! The job, driven by any history of short reads, refusals and crashes.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::model::raw::Properties;
use crate::model::replay::{Filter, Options, Stretch};
use crate::model::{MessageKind, Origin, ReplayStatus};

fn message(partition: u32, offset: u64, message_type: &str, id: &str) -> RawMessage {
    RawMessage {
        origin: Origin {
            broker: "k".into(),
            kind: MessageKind::Event,
            destination: "t".into(),
            partition: Some(partition),
            offset: Some(offset),
        },
        body: Some(bytes::Bytes::from_static(b"\xff{}")),
        key: None,
        headers: [("type", message_type), ("id", id)]
            .into_iter()
            .map(|(name, value)| (name, value.to_owned()))
            .collect(),
        props: Properties::default(),
        timestamp_ms: Some(1_000 + offset),
        redelivered: false,
    }
}

fn options(batch_size: usize) -> Options {
    Options {
        batch_size,
        delay: Duration::ZERO,
        rate: None,
        dry_run: false,
        preserve_order: true,
        skip_duplicates: false,
    }
}

fn replay(stretches: Vec<Stretch>, options: Options) -> Replay {
    let plan = Plan {
        topic: "t".into(),
        broker: None,
        route: None,
        target: "t.replay".into(),
        target_partitions: Some(3),
        partitions: 3,
        stretches,
        from_ms: None,
        to_ms: None,
        filter: Filter {
            message_types: vec!["wanted".into()],
            ..Filter::default()
        },
        options,
    };
    Replay {
        id: "r".into(),
        progress: Progress::at_start(&plan),
        plan,
        status: ReplayStatus::Running,
        created_ms: 0,
        started_ms: Some(0),
        ended_ms: None,
    }
}

/// A topic: of each partition what its offsets hold, if anything.
type Log = Vec<Vec<Option<bool>>>;

fn read(log: &Log, read: Read, at_most: usize) -> Vec<RawMessage> {
    let partition = &log[read.partition as usize];
    let from = usize::try_from(read.from).unwrap();
    let found = partition.iter().enumerate().skip(from);
    found
        .filter_map(|(offset, wanted)| {
            let kind = if (*wanted)? { "wanted" } else { "other" };
            Some(message(read.partition, offset as u64, kind, &offset.to_string()))
        })
        .take(read.max.min(at_most))
        .collect()
}

/// How one step ends.
#[derive(Debug, Clone)]
struct Step {
    /// The broker gives no more than that.
    short: usize,
    /// So many of the batch are confirmed when the host dies; none: it lives.
    dies_after: Option<usize>,
    /// All is confirmed, and it dies before the checkpoint.
    dies_unrecorded: bool,
}

fn step() -> impl Strategy<Value = Step> {
    (
        1usize..8,
        proptest::option::weighted(0.2, 0usize..8),
        proptest::bool::weighted(0.2),
    )
        .prop_map(|(short, dies_after, dies_unrecorded)| Step {
            short,
            dies_after,
            dies_unrecorded,
        })
}

fn log() -> impl Strategy<Value = Log> {
    let offset = prop_oneof![1 => Just(None), 4 => any::<bool>().prop_map(Some)];
    proptest::collection::vec(proptest::collection::vec(offset, 0..30), 1..4)
}

proptest! {
    #[test]
    fn whenever_it_dies_everything_arrives_and_little_arrives_twice(
        log in log(),
        steps in proptest::collection::vec(step(), 0..60),
        batch in 1usize..8,
        ahead in any::<bool>(),
    ) {
        let stretches = log.iter().enumerate().map(|(partition, offsets)| Stretch {
            partition: u32::try_from(partition).unwrap(),
            from: (offsets.len() as u64).min(2),
            to: (offsets.len() as u64).saturating_sub(1).max((offsets.len() as u64).min(2)),
        });
        let mut stored = replay(stretches.collect(), options(batch));
        let (total, mut steps) = (stored.total(), steps.into_iter());
        let mut arrived: BTreeMap<(u32, u64), usize> = BTreeMap::new();
        let mut order: Vec<(u32, u64)> = Vec::new();
        let mut crashes = 0;
        'lives: loop {
            let mut job = Job::new(stored.clone());
            let mut kept: Option<Vec<RawMessage>> = None;
            while let Some(next) = job.next() {
                let step = steps.next().unwrap_or(Step { short: 8, dies_after: None, dies_unrecorded: false });
                let messages = kept.take().unwrap_or_else(|| read(&log, next, step.short));
                let sifted = job.sift(next, messages, 0);
                // What is read ahead is what is asked for next.
                let following = job.after(&sifted);
                let confirmed = step.dies_after.unwrap_or(usize::MAX).min(sifted.send.len());
                for replica in &sifted.send[..confirmed] {
                    let origin = &replica.raw.origin;
                    let place = (origin.partition.unwrap(), origin.offset.unwrap());
                    *arrived.entry(place).or_default() += 1;
                    if arrived[&place] == 1 {
                        order.push(place);
                    }
                }
                if step.dies_after.is_some() || step.dies_unrecorded {
                    crashes += 1;
                    continue 'lives;
                }
                job.settled(sifted, &[]);
                prop_assert!(job.progress().done() <= total);
                prop_assert_eq!(job.next(), following);
                if ahead {
                    kept = following.map(|read_next| read(&log, read_next, step.short));
                }
                stored.progress = job.progress().clone();
            }
            break;
        }
        prop_assert_eq!(stored.progress.done(), total);
        let mut wanted = Vec::new();
        for stretch in &stored.plan.stretches {
            for offset in stretch.from..stretch.to {
                if log[stretch.partition as usize][usize::try_from(offset).unwrap()] == Some(true) {
                    wanted.push((stretch.partition, offset));
                }
            }
        }
        prop_assert_eq!(&order, &wanted, "each once at least, in order, and nothing else");
        prop_assert_eq!(stored.progress.replayed, wanted.len() as u64, "counted once");
        let extra: usize = arrived.values().map(|times| times - 1).sum();
        prop_assert!(extra <= crashes * batch, "{} copies too many after {} crashes", extra, crashes);
    }
}

fn fate(kind: u8, replica: &Replica) -> Option<Fate> {
    match kind {
        0 => None,
        1 => Some(Fate::Failed(Failed {
            partition: 0,
            offset: replica.raw.origin.offset.unwrap(),
            id: None,
            class: "rejected".to_owned(),
            code: None,
            reason: "no".to_owned(),
            letter: None,
        })),
        _ => Some(Fate::Done),
    }
}

proptest! {
    /// A host stops in the middle of a batch as often as it likes: what ended before the first that did not is recorded.
    #[test]
    fn a_batch_at_a_route_that_ends_in_pieces_is_counted_once(
        log in log(),
        kinds in proptest::collection::vec(0u8..4, 0..120),
        batch in 1usize..8,
    ) {
        let stretches = log.iter().enumerate().map(|(partition, offsets)| Stretch {
            partition: u32::try_from(partition).unwrap(),
            from: 0,
            to: offsets.len() as u64,
        });
        let mut stored = replay(stretches.collect(), options(batch));
        let (total, mut kinds) = (stored.total(), kinds.into_iter());
        let mut ended: BTreeMap<(u32, u64), usize> = BTreeMap::new();
        let (mut done, mut failed) = (0, 0);
        'lives: loop {
            let mut job = Job::new(stored.clone());
            while let Some(next) = job.next() {
                let sifted = job.sift(next, read(&log, next, 8), 0);
                let fates: Vec<Option<Fate>> =
                    sifted.send.iter().map(|replica| fate(kinds.next().unwrap_or(2), replica)).collect();
                for (replica, _) in sifted.send.iter().zip(&fates).filter(|(_, fate)| fate.is_some()) {
                    let offset = replica.raw.origin.offset.unwrap();
                    *ended.entry((next.partition, offset)).or_default() += 1;
                }
                let whole = fates.iter().all(Option::is_some);
                let handed = job.handed(sifted, fates, false);
                prop_assert_eq!(handed.ended, whole);
                (done, failed) = (done + handed.done, failed + handed.failed);
                prop_assert!(job.progress().done() <= total);
                stored.progress = job.progress().clone();
                if !whole {
                    continue 'lives;
                }
            }
            break;
        }
        let wanted = log.iter().flatten().filter(|offset| **offset == Some(true)).count();
        prop_assert_eq!(stored.progress.done(), total);
        prop_assert_eq!((stored.progress.replayed, stored.progress.failed), (done, failed));
        prop_assert_eq!(done + failed, wanted as u64, "counted once");
        prop_assert_eq!(ended.len(), wanted, "each has ended");
        prop_assert!(stored.progress.failures.len() <= FAILURES);
    }
}

fn one(offsets: u64) -> Vec<Stretch> {
    vec![Stretch {
        partition: 1,
        from: 0,
        to: offsets,
    }]
}

fn settle(job: &mut Job, messages: Vec<RawMessage>) -> Vec<Replica> {
    let next = job.next().unwrap();
    let batch = job.sift(next, messages, 0);
    let send = batch.send.clone();
    job.settled(batch, &[]);
    send
}

#[test]
fn copies_are_the_original_with_the_hosts_marks() {
    let mut job = Job::new(replay(one(1), options(10)));
    let mut original = message(1, 0, "wanted", "a");
    // Of an earlier replay.
    original.headers.push(header::REPLAY, "old");
    let sent = settle(&mut job, vec![original.clone()]);
    let raw = &sent[0].raw;
    assert_eq!((&raw.body, &raw.key), (&original.body, &original.key));
    assert_eq!(raw.headers.text(header::REPLAY), Some("r"));
    assert_eq!(raw.headers.text(header::REPLAY_ORIGIN), Some("k/t[1]@0"));
    assert_eq!(raw.headers.text(header::REPLAY_TIME), Some("1000"));
    assert_eq!(raw.headers.len(), 5);
}

#[test]
fn every_order_stays_where_the_target_has_as_many_partitions() {
    let partition = |targets: u32, key: bool, preserve_order: bool| {
        let mut replay = replay(one(1), options(10));
        replay.plan.target_partitions = Some(targets);
        replay.plan.options.preserve_order = preserve_order;
        let mut raw = message(1, 0, "wanted", "a");
        raw.key = key.then(|| bytes::Bytes::from_static(b"k"));
        settle(&mut Job::new(replay), vec![raw])[0].partition
    };
    assert_eq!(partition(3, true, true), Some(1));
    assert_eq!(partition(3, false, true), Some(1));
    assert_eq!(partition(2, true, true), None, "by its key");
    assert_eq!(partition(1, false, true), Some(0), "all of a partition together");
    assert_eq!(partition(3, false, false), None);
}

#[test]
fn a_second_message_of_an_id_is_left_out_when_asked() {
    let mut replay = replay(one(4), options(2));
    replay.plan.options.skip_duplicates = true;
    let mut job = Job::new(replay);
    let of = |offset, id| message(1, offset, "wanted", id);
    assert_eq!(settle(&mut job, vec![of(0, "a"), of(1, "a")]).len(), 1);
    assert_eq!(settle(&mut job, vec![of(2, "b"), of(3, "a")]).len(), 1);
    let progress = job.progress();
    assert_eq!((progress.replayed, progress.skipped), (2, 2));
}

#[test]
fn a_dry_run_counts_and_keeps_ten_samples() {
    let mut replay = replay(one(30), options(20));
    replay.plan.options.dry_run = true;
    let mut job = Job::new(replay);
    let all = |from: u64, to: u64| {
        let kind = |n| if n % 3 == 0 { "other" } else { "wanted" };
        (from..to)
            .map(|n| message(1, n, kind(n), &n.to_string()))
            .collect()
    };
    assert!(settle(&mut job, all(0, 20)).is_empty());
    assert!(settle(&mut job, all(20, 30)).is_empty());
    assert_eq!(job.next(), None);
    let progress = job.progress();
    assert_eq!((progress.replayed, progress.skipped), (20, 10));
    assert_eq!(progress.samples.len(), 10);
    let first = &progress.samples[0];
    assert_eq!(
        (
            &*first.id,
            first.message_type.as_deref(),
            first.offset,
            first.time_ms
        ),
        ("1", Some("wanted"), 1, Some(1_001))
    );
}

#[test]
fn records_outside_of_the_times_are_left_out_though_their_offsets_are_inside() {
    let mut replay = replay(one(10), options(10));
    (replay.plan.from_ms, replay.plan.to_ms) = (Some(1_002), Some(1_005));
    let mut job = Job::new(replay);
    let all = (0..10).map(|n| message(1, n, "wanted", &n.to_string()));
    let offsets: Vec<_> = settle(&mut job, all.collect())
        .iter()
        .map(|replica| replica.raw.origin.offset.unwrap())
        .collect();
    assert_eq!(offsets, [2, 3, 4]);
}

#[test]
fn what_the_target_refuses_is_counted_and_told() {
    let mut job = Job::new(replay(one(3), options(10)));
    let next = job.next().unwrap();
    let all = (0..3).map(|n| message(1, n, "wanted", &n.to_string()));
    let batch = job.sift(next, all.collect(), 0);
    job.settled(batch, &[PublishError::TooLarge { limit: 9 }]);
    let progress = job.progress();
    assert_eq!((progress.replayed, progress.failed, progress.done()), (2, 1, 3));
    assert!(progress.error.as_deref().unwrap().contains("larger than 9 bytes"));
}
