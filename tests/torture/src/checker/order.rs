//! G4, and what a commit claims: walks the history once with what is open at each moment.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::history::{Effect, Event, Said, Verb, What};
use crate::message::{Fate, Id, Stream};

/// Of one key: what was confirmed and has not come to its end.
#[derive(Default)]
struct Key {
    open: BTreeSet<u64>,
    /// Failed, or came while such a one was open: it may have been moved to the store of the host, and what follows goes there
    /// as well until nothing of the key is left in it. With all hosts that failed in between: whose store it is nobody saw.
    stored: BTreeMap<u64, BTreeSet<String>>,
    /// All that ever were: one of them that runs again after a crash was still there.
    were: BTreeSet<u64>,
    /// The host that failed last.
    keeper: String,
    /// When the last of those ended: the host asks its store whether anything is left, and that takes a moment.
    emptied: u64,
}

/// For that moment; a store that is locked or full makes it longer, and takes part of the check away.
const UNPARK_MS: u64 = 2_000;

impl Key {
    fn sent(&mut self, sequence: u64, t: u64) {
        self.open.insert(sequence);
        if self.in_store(t) {
            let mut keepers: BTreeSet<String> = self.stored.values().flatten().cloned().collect();
            keepers.insert(self.keeper.clone());
            self.stored.insert(sequence, keepers);
            self.were.insert(sequence);
        }
    }

    fn in_store(&self, t: u64) -> bool {
        !self.stored.is_empty() || (self.emptied > 0 && t < self.emptied + UNPARK_MS)
    }

    fn ended(&mut self, sequence: u64, t: u64) {
        let again = !self.open.remove(&sequence);
        let stored = self.stored.remove(&sequence).is_some();
        if stored || (again && (self.were.contains(&sequence) || self.in_store(t))) {
            self.were.insert(sequence);
            self.emptied = t;
        }
    }

    /// Order across hosts is not promised once a lane is in the store of one of them, which the others do not see
    /// (docs/guarantees.md).
    fn kept_elsewhere(&self, first: u64, stream: Stream, instance: &str) -> bool {
        let keepers = self.stored.get(&first);
        stream == Stream::KafkaEvents
            && keepers.is_some_and(|all| all.iter().any(|keeper| keeper != instance))
    }

    /// On a host, as far as it is known.
    fn failed(&mut self, sequence: u64, instance: &str) {
        instance.clone_into(&mut self.keeper);
        for open in self.open.iter().chain([&sequence]) {
            self.stored.entry(*open).or_default().insert(self.keeper.clone());
        }
        self.were.extend(self.stored.keys());
    }
}

pub fn breaks(seed: u64, events: &[Event], stalls: &[(u64, u64)], no_store: &[(u64, u64)]) -> Vec<String> {
    let within = |spans: &[(u64, u64)], t: u64| spans.iter().any(|(from, to)| (*from..=*to).contains(&t));
    let stalled = |t: u64| within(stalls, t);
    let confirmed: HashSet<Id> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Confirmed { id, .. } => Id::parse(id),
            _ => None,
        })
        .collect();
    let refused: HashSet<u64> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Answered { n, status } => (400..500).contains(status).then_some(*n),
            _ => None,
        })
        .collect();
    let failed = failed(events);
    let unsaid = unsaid(events, &failed);
    let unseen = unseen(events);
    let unheard = unheard(seed, events);
    let mut keys: HashMap<(Stream, u32), Key> = HashMap::new();
    let mut log: BTreeMap<(Stream, i64, i64), Id> = BTreeMap::new();
    let mut checked: HashMap<(Stream, i64), i64> = HashMap::new();
    let mut out = Vec::new();
    for (index, event) in events.iter().enumerate() {
        match &event.what {
            What::Sent { id, .. } => {
                // What nobody confirmed may be missing, or may stand at another place of the log.
                if let Some(id) = Id::parse(id).filter(|id| id.stream.is_keyed() && confirmed.contains(id)) {
                    let key = keys.entry((id.stream, id.key)).or_default();
                    key.sent(id.sequence, event.t);
                    if unseen.contains(&id) {
                        key.failed(id.sequence, "");
                    }
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
            What::Ran {
                id,
                attempt,
                said,
                instance,
            } => {
                let Some(id) = Id::parse(id).filter(|id| id.stream.is_keyed()) else {
                    continue;
                };
                let key = keys.entry((id.stream, id.key)).or_default();
                while let Some(first) = key.open.first().copied()
                    && let Some(heard) = unheard.get(&Id {
                        sequence: first,
                        ..id
                    })
                    && stalls.iter().any(|(from, to)| *heard <= *to && *from <= event.t)
                {
                    key.ended(first, event.t);
                }
                // `open` holds what has not ended; whoever runs must be its first.
                if let Some(first) = key.open.first()
                    && *first < id.sequence
                    && key.open.contains(&id.sequence)
                    && !key.kept_elsewhere(*first, id.stream, instance)
                {
                    out.push(format!(
                        "{id} ran before {first} of its key had ended, at {} ms",
                        event.t
                    ));
                }
                let fate = Fate::of(seed, &id);
                // Where a key waits behind its dead letter, that is no end.
                let ended = *said == Said::Done || (fate.gives_up(*attempt) && !id.stream.is_shared());
                let heard = ended && !failed.contains(&index);
                if !heard {
                    key.failed(id.sequence, instance);
                }
                if heard || (ended && unsaid.contains(&index)) {
                    key.ended(id.sequence, event.t);
                }
            }
            // It takes effect at some time from here on, unless it was refused.
            What::Asked { n, id, verb, .. } if *verb != Verb::Reprocess && !refused.contains(n) => {
                if let Some(id) = Id::parse(id).filter(|id| id.stream.is_keyed()) {
                    let key = keys.entry((id.stream, id.key)).or_default();
                    key.ended(id.sequence, event.t);
                }
            }
            What::Overlap { id, other } if !stalled(event.t) => {
                let kept = |text: &String| {
                    let id = Id::parse(text).filter(|id| id.stream == Stream::KafkaEvents)?;
                    let key = keys.get(&(id.stream, id.key))?;
                    key.were.contains(&id.sequence).then_some(())
                };
                if kept(id).or(kept(other)).is_some() {
                    continue;
                }
                out.push(format!(
                    "{id} ran while {other} of its key was running, at {} ms",
                    event.t
                ));
            }
            What::Committed {
                stream,
                partition,
                offset,
            } => {
                // Only what the position newly claims; it may go back after a crash of the broker.
                let from = checked.insert((*stream, *partition), *offset).unwrap_or(0);
                // Positions are the business of those who consume, whatever else reads the topic.
                if stream.is_shared() && *offset < from && !stalled(event.t) {
                    out.push(format!(
                        "{stream:?} {partition} went back from {from} to {offset} at {} ms",
                        event.t
                    ));
                }
                if within(no_store, event.t) {
                    continue;
                }
                let claimed =
                    log.range((*stream, *partition, from)..(*stream, *partition, (*offset).max(from)));
                for (_, id) in claimed {
                    let key = keys.entry((id.stream, id.key)).or_default();
                    // Of hosts that share a store one goes on bringing a key there until it has run something from there itself,
                    // however long ago others ran the last of it.
                    let kept =
                        key.stored.contains_key(&id.sequence) || (stream.is_shared() && !key.were.is_empty());
                    if key.open.contains(&id.sequence) && !kept {
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

/// Those of them behind which deliveries came anew before that later attempt: it may belong to a run of the new delivery that never
/// told us, and the host may have heard this one.
fn unsaid(events: &[Event], failed: &HashSet<usize>) -> HashSet<usize> {
    let mut open: HashMap<Id, usize> = HashMap::new();
    let mut unsaid = HashSet::new();
    for (index, event) in events.iter().enumerate() {
        match &event.what {
            What::Ran { id, .. } => {
                let Some(id) = Id::parse(id) else { continue };
                open.remove(&id);
                if failed.contains(&index) {
                    open.insert(id, index);
                }
            }
            What::Fault { arena, effect, .. } if *effect != Effect::None => {
                let anew = open.iter().filter(|(id, _)| id.stream.arena() == arena);
                unsaid.extend(anew.map(|(_, index)| *index));
            }
            _ => {}
        }
    }
    unsaid
}

/// Dead letters whose last attempts never got as far as telling us, and when the one before did: a host that stands still for
/// longer than a handler may run finds its time over when it goes on.
fn unheard(seed: u64, events: &[Event]) -> HashMap<Id, u64> {
    let mut last: HashMap<Id, (u32, u64)> = HashMap::new();
    let mut dead: HashSet<Id> = HashSet::new();
    for event in events {
        match &event.what {
            What::Ran { id, attempt, .. } => {
                if let Some(id) = Id::parse(id) {
                    let (most, at) = last.entry(id).or_default();
                    if *attempt >= *most {
                        (*most, *at) = (*attempt, event.t);
                    }
                }
            }
            What::Letter { id, .. } => dead.extend(Id::parse(id)),
            _ => {}
        }
    }
    last.into_iter()
        .filter(|(id, (most, _))| dead.contains(id) && *most < Fate::of(seed, id).last_attempt())
        .map(|(id, (_, at))| (id, at))
        .collect()
}

/// Messages whose first attempt never got as far as telling us: the host was stopped under it. When that was nobody knows.
fn unseen(events: &[Event]) -> HashSet<Id> {
    let mut seen: HashMap<&str, u32> = HashMap::new();
    for event in events {
        if let What::Ran { id, attempt, .. } = &event.what {
            seen.entry(id).or_insert(*attempt);
        }
    }
    seen.into_iter()
        .filter(|(_, first)| *first > 1)
        .filter_map(|(id, _)| Id::parse(id))
        .collect()
}
