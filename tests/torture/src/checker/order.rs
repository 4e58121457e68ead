//! G4, and what a commit claims: walks the history once with what is open at each moment.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::history::{Event, Said, What};
use crate::message::{Fate, Id, Stream};

/// Of one key: what was confirmed and has not come to its end.
#[derive(Default)]
struct Key {
    open: BTreeSet<u64>,
    /// Ran and failed; it waits for its retry, and what follows it waits with it.
    failed: BTreeSet<u64>,
}

pub fn breaks(seed: u64, events: &[Event], stalls: &[(u64, u64)]) -> Vec<String> {
    let stalled = |t: u64| stalls.iter().any(|(from, to)| (*from..=*to).contains(&t));
    let confirmed: HashSet<Id> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Confirmed { id, .. } => Id::parse(id),
            _ => None,
        })
        .collect();
    let failed = failed(events);
    let mut keys: HashMap<(Stream, u32), Key> = HashMap::new();
    let mut log: BTreeMap<(Stream, i64, i64), Id> = BTreeMap::new();
    let mut checked: HashMap<(Stream, i64), i64> = HashMap::new();
    let mut out = Vec::new();
    for (index, event) in events.iter().enumerate() {
        match &event.what {
            What::Sent { id, .. } => {
                // What nobody confirmed may be missing, or may stand at another place of the log.
                if let Some(id) = Id::parse(id).filter(|id| id.stream.is_keyed() && confirmed.contains(id)) {
                    keys.entry((id.stream, id.key)).or_default().open.insert(id.sequence);
                }
            }
            What::Confirmed {
                id,
                partition: Some(partition),
                offset: Some(offset),
            } => {
                if let Some(id) = Id::parse(id).filter(|id| id.stream.is_keyed()) {
                    log.insert((id.stream, *partition, *offset), id);
                }
            }
            What::Ran { id, attempt, said, .. } => {
                let Some(id) = Id::parse(id).filter(|id| id.stream.is_keyed()) else {
                    continue;
                };
                let key = keys.entry((id.stream, id.key)).or_default();
                // `open` holds what has not ended; whoever runs must be its first.
                if let Some(first) = key.open.first()
                    && *first < id.sequence
                    && key.open.contains(&id.sequence)
                {
                    out.push(format!("{id} ran before {first} of its key had ended, at {} ms", event.t));
                }
                let fate = Fate::of(seed, &id);
                let ended = *said == Said::Done || (fate.is_dead() && *attempt >= fate.last_attempt());
                if ended && !failed.contains(&index) {
                    key.open.remove(&id.sequence);
                    key.failed.remove(&id.sequence);
                } else {
                    key.failed.insert(id.sequence);
                }
            }
            What::Overlap { id, other } => {
                if !stalled(event.t) {
                    out.push(format!("{id} ran while {other} of its key was running, at {} ms", event.t));
                }
            }
            What::Committed {
                stream,
                partition,
                offset,
            } => {
                // Only what the position newly claims; it may go back after a crash of the broker.
                let from = checked.insert((*stream, *partition), *offset).unwrap_or(0);
                let claimed = log.range((*stream, *partition, from)..(*stream, *partition, (*offset).max(from)));
                for (_, id) in claimed {
                    let key = keys.entry((id.stream, id.key)).or_default();
                    // A failed message and its followers may have been moved to the store of the host, which is as good.
                    let waits = key.failed.first().is_some_and(|first| *first <= id.sequence);
                    if key.open.contains(&id.sequence) && !waits {
                        out.push(format!(
                            "{stream:?} {partition} was committed up to {offset} at {} ms, and {id} had not run",
                            event.t
                        ));
                    }
                }
            }
            _ => {}
        }
    }
    out
}

/// Runs whose next run is a later attempt: whatever the handler said, the host did not get to hear it in time.
fn failed(events: &[Event]) -> HashSet<usize> {
    let mut last: HashMap<&str, (usize, u32)> = HashMap::new();
    let mut failed = HashSet::new();
    for (index, event) in events.iter().enumerate() {
        if let What::Ran { id, attempt, .. } = &event.what
            && let Some((before, earlier)) = last.insert(id, (index, *attempt))
            && earlier < *attempt
        {
            failed.insert(before);
        }
    }
    failed
}
