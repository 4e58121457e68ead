//! Proves from one history that nothing was lost, repeated without cause, reordered, or left behind. Pure.
//!
//! G1 nothing confirmed is lost · G2 nothing unexpected happens · G3 one terminal state for each id · G4 the order of each
//! key · G5 duplicates have a cause and a bound · G6 everything is drained in time. And, while it runs: a committed position
//! never passes what nobody has handled. Of hosts that share a store also what was asked of them: [`letters`], [`replays`].

mod letters;
mod order;
mod replays;

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::Serialize;

use self::letters::Letters;

use crate::history::{Effect, Event, Said, What};
use crate::message::{Fate, Id, Stream};

/// After the last fault everything has to be finished within this.
pub const DRAIN_LIMIT_MS: u64 = 60_000;
/// A fault still has its effect on what happens shortly after it: reconnecting, joining a group again.
const AFTERMATH_MS: u64 = 15_000;
/// What may come again after one fault, for each stream: what is in flight, and for topics what was finished behind an
/// unfinished message, which the host bounds by five windows.
pub const REDELIVERED: u64 = 5;

#[derive(Debug, Default, Serialize)]
pub struct Report {
    pub messages: u64,
    pub confirmed: u64,
    pub handled: u64,
    pub dead: u64,
    /// Of letters, by operators.
    pub asked: u64,
    /// Copies that replays made.
    pub replayed: u64,
    pub faults: u64,
    pub fault_kinds: BTreeMap<String, u64>,
    pub lost: Vec<String>,
    pub unexpected: Vec<String>,
    pub order_breaks: Vec<String>,
    pub duplicates: u64,
    pub duplicates_allowed: u64,
    /// Duplicates that no fault explains.
    pub unexplained: Vec<String>,
    pub left: Vec<String>,
    pub drained_ms: u64,
}

impl Report {
    /// Everything that is wrong, a line each.
    pub fn faults_found(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut many = |name: &str, list: &[String]| {
            if let Some(first) = list.first() {
                wrong.push(format!("{} {name}, as: {first}", list.len()));
            }
        };
        many("lost", &self.lost);
        many("unexpected", &self.unexpected);
        many("order breaks", &self.order_breaks);
        many("duplicates without a cause", &self.unexplained);
        many("left behind", &self.left);
        if self.duplicates > self.duplicates_allowed {
            wrong.push(format!(
                "{} duplicates, {} allowed",
                self.duplicates, self.duplicates_allowed
            ));
        }
        if self.drained_ms > DRAIN_LIMIT_MS {
            wrong.push(format!("drained after {} ms", self.drained_ms));
        }
        wrong
    }
}

/// One fault from its beginning to its end, with what it may excuse.
#[derive(Debug, Clone)]
struct Span {
    kind: String,
    arena: String,
    from: u64,
    to: u64,
    effect: Effect,
}

#[derive(Default)]
struct Life {
    confirmed: bool,
    sent: u64,
    first_sent: u64,
    /// When each run that ends it was seen.
    ends: Vec<u64>,
    letters: Vec<String>,
}

pub fn check(seed: u64, window: u64, events: &[Event]) -> Report {
    let spans = spans(events);
    let mut report = Report {
        faults: spans.len() as u64,
        ..Report::default()
    };
    for span in &spans {
        *report.fault_kinds.entry(span.kind.clone()).or_default() += 1;
    }
    let lives = lives(seed, &spans, events, &mut report);
    let letters = Letters::of(events);
    settle(seed, &spans, &lives, &letters, &mut report);
    letters.check(events, &mut report);
    replays::check(events, &spans, &mut report);
    successes(events, &spans, &mut report);
    report.duplicates_allowed += spans
        .iter()
        .map(|span| match span.effect {
            Effect::None => 0,
            // Streams of one host that one fault can touch.
            Effect::Rebalance | Effect::Redelivers | Effect::Stalls => 2 * REDELIVERED * window,
        })
        .sum::<u64>();
    report.order_breaks.extend(order::breaks(
        seed,
        events,
        &overlapping(&spans),
        &without_store(&spans),
    ));
    report
}

/// Faults from begin to end; those that are not mended last until the end.
fn spans(events: &[Event]) -> Vec<Span> {
    let end = events.last().map_or(0, |event| event.t);
    let mut open: HashMap<(String, String), Span> = HashMap::new();
    let mut done = Vec::new();
    for event in events {
        match &event.what {
            What::Fault { kind, arena, effect } => {
                let span = Span {
                    kind: kind.clone(),
                    arena: arena.clone(),
                    from: event.t,
                    to: end,
                    effect: *effect,
                };
                done.extend(open.insert((kind.clone(), arena.clone()), span));
            }
            What::Mended { kind, arena } => {
                if let Some(span) = open.remove(&(kind.clone(), arena.clone())) {
                    done.push(Span { to: event.t, ..span });
                }
            }
            _ => {}
        }
    }
    done.extend(open.into_values());
    done
}

fn overlapping(spans: &[Span]) -> Vec<(u64, u64)> {
    spans
        .iter()
        .filter(|span| span.effect == Effect::Stalls)
        .map(|span| (span.from, span.to + AFTERMATH_MS))
        .collect()
}

/// The store is away from all hosts of an arena.
const AWAY: [&str; 3] = ["kill-postgres", "stop-postgres", "black-hole-postgres"];

/// While a store cannot be written, lanes that live in it stay there for longer than a history can tell.
fn without_store(spans: &[Span]) -> Vec<(u64, u64)> {
    spans
        .iter()
        .filter(|span| {
            ["lock-store", "fill-disk"].contains(&span.kind.as_str()) || AWAY.contains(&span.kind.as_str())
        })
        .map(|span| (span.from, span.to + AFTERMATH_MS))
        .collect()
}

/// What happened to a message of this stream from one time to another has a fault in its arena that explains it.
fn excused(spans: &[Span], stream: Stream, from: u64, to: u64, by: impl Fn(Effect) -> bool) -> bool {
    spans.iter().any(|span| {
        by(span.effect) && span.arena == stream.arena() && span.from <= to && from <= span.to + AFTERMATH_MS
    })
}

fn lives(seed: u64, spans: &[Span], events: &[Event], report: &mut Report) -> HashMap<Id, Life> {
    let mut lives: HashMap<Id, Life> = HashMap::new();
    let mut outputs: HashMap<Id, u64> = HashMap::new();
    for event in events {
        let t = event.t;
        match &event.what {
            What::Sent { id, .. } => match Id::parse(id) {
                Some(id) => {
                    let life = lives.entry(id).or_default();
                    if life.sent == 0 {
                        life.first_sent = t;
                    }
                    life.sent += 1;
                }
                None => report.unexpected.push(format!("sent {id:?}")),
            },
            What::Confirmed { id, .. } => {
                if let Some(life) = Id::parse(id).and_then(|id| lives.get_mut(&id)) {
                    life.confirmed = true;
                }
            }
            What::Ran {
                id,
                attempt,
                said,
                instance,
            } => {
                let Some((id, life)) = known(&mut lives, id) else {
                    report.unexpected.push(format!("{id} ran, and nobody sent it"));
                    continue;
                };
                let fate = Fate::of(seed, &id);
                if *said == Said::Done || (fate.is_dead() && *attempt >= fate.last_attempt()) {
                    life.ends.push(t);
                }
                // A retry that nobody ordered: a handler failed without a reason of its own. One that was cut off left no word of
                // it, perhaps long before the first that did.
                let late = *attempt > fate.last_attempt();
                if late && !excused(spans, id.stream, life.first_sent, t, |e| e == Effect::Stalls) {
                    report.unexpected.push(format!(
                        "{id} ran as attempt {attempt} on {instance}; it should have ended with {}",
                        fate.last_attempt()
                    ));
                }
            }
            What::Letter { id, class, instance } => match known(&mut lives, id) {
                Some((id, life)) => {
                    let expected = match Fate::of(seed, &id) {
                        Fate::Reject => "rejected",
                        Fate::Trap => "exhausted",
                        _ => "none",
                    };
                    if !class.starts_with(expected) {
                        report.unexpected.push(format!(
                            "{id} is a letter ({class}) on {instance}, expected {expected}"
                        ));
                    }
                    life.letters.push(instance.clone());
                }
                None => report
                    .unexpected
                    .push(format!("letter of {id:?}, which nobody sent")),
            },
            What::Output { id, attempt, said } => match known(&mut lives, id) {
                Some((id, _)) if *said != Said::Done => report.unexpected.push(format!(
                    "output of attempt {attempt} of {id}, which said {said:?}"
                )),
                Some((id, _)) => *outputs.entry(id).or_default() += 1,
                None => report
                    .unexpected
                    .push(format!("output of {id:?}, which nobody sent")),
            },
            What::Wrong { what } => report.unexpected.push(what.clone()),
            What::Left { what, count } => report.left.push(format!("{count} {what}")),
            What::Drained { ms, .. } => report.drained_ms = report.drained_ms.max(*ms),
            _ => {}
        }
    }
    for (id, life) in &lives {
        // Output is sent before its input is acknowledged: each handled message that has one has it at the end.
        if outputs.contains_key(id) && life.ends.is_empty() {
            report
                .unexpected
                .push(format!("output of {id}, which did not run to its end"));
        }
    }
    lives
}

fn known<'a>(lives: &'a mut HashMap<Id, Life>, id: &str) -> Option<(Id, &'a mut Life)> {
    let id = Id::parse(id)?;
    Some((id, lives.get_mut(&id)?))
}

/// The store may be away for so long before hosts have to show that they go on without it.
const NOTICED_MS: u64 = 3_000;

/// While the store is away, and nothing else is wrong, messages that are simply done go on, if any are there that have not
/// run: after a while those that failed are all that publishers may have under way.
fn successes(events: &[Event], spans: &[Span], report: &mut Report) {
    let away = |span: &&Span| AWAY.contains(&span.kind.as_str());
    let begun = begun(events);
    for span in spans
        .iter()
        .filter(away)
        .filter(|span| span.to >= span.from + NOTICED_MS)
    {
        let else_wrong = spans.iter().filter(|other| !away(other)).any(|other| {
            other.arena == span.arena && other.from <= span.to && span.from <= other.to + AFTERMATH_MS
        });
        let done = events.iter().any(|event| {
            (span.from + NOTICED_MS / 3..=span.to).contains(&event.t)
                && matches!(&event.what, What::Ran { id, said: Said::Done, .. }
                    if Id::parse(id).is_some_and(|id| id.stream == Stream::StoreTasks))
        });
        let waits = begun
            .values()
            .any(|(sent, ran)| sent + NOTICED_MS / 3 <= span.to && ran.is_none_or(|ran| ran > span.to));
        if waits && !else_wrong && !done {
            report.unexpected.push(format!(
                "nothing was done from {} to {} ms, while only the store was away",
                span.from, span.to
            ));
        }
    }
}

/// When each task of hosts that share a store was sent, and when it first ran.
fn begun(events: &[Event]) -> HashMap<Id, (u64, Option<u64>)> {
    let mut begun: HashMap<Id, (u64, Option<u64>)> = HashMap::new();
    for event in events {
        let (What::Sent { id, .. } | What::Ran { id, .. }) = &event.what else {
            continue;
        };
        let Some(id) = Id::parse(id).filter(|id| id.stream == Stream::StoreTasks) else {
            continue;
        };
        let (_, ran) = begun.entry(id).or_insert((event.t, None));
        if matches!(event.what, What::Ran { .. }) {
            ran.get_or_insert(event.t);
        }
    }
    begun
}

fn settle(seed: u64, spans: &[Span], lives: &HashMap<Id, Life>, kept: &Letters, report: &mut Report) {
    let mut ids: Vec<&Id> = lives.keys().collect();
    ids.sort();
    for id in ids {
        let Some(life) = lives.get(id) else { continue };
        let fate = Fate::of(seed, id);
        let dead = fate.is_dead() || (fate == Fate::Repair && life.ends.is_empty());
        let ended = if dead && id.stream.is_shared() {
            kept.is_discarded(id)
        } else if dead {
            !life.letters.is_empty()
        } else {
            !life.ends.is_empty()
        };
        report.messages += 1;
        report.confirmed += u64::from(life.confirmed);
        report.handled += u64::from(!dead && ended);
        report.dead += u64::from(dead && ended);
        if life.confirmed && !ended {
            report.lost.push(format!(
                "{id}: {} of {} was expected, {} runs, {} letters",
                if dead { "a letter" } else { "a run to its end" },
                id.stream.broker(),
                life.ends.len(),
                life.letters.len() + kept.count(id)
            ));
        }
        if id.stream.is_shared() {
            kept.settle(fate, id, life.sent, report);
        } else if !dead && !life.letters.is_empty() {
            report
                .unexpected
                .push(format!("{id} has a letter and is not dead"));
        }
        // Each claim of a letter may have sent its message once.
        let again = life.sent - 1 + kept.claims(id);
        report.duplicates_allowed += again;
        let letters: HashSet<&String> = life.letters.iter().collect();
        // The id of a letter is made of its message, so a delivery that comes again writes the same one. Hosts of one group
        // have a store each.
        let own = life.letters.len() as u64;
        let hosts = letters.len() as u64;
        if own > hosts + again {
            report
                .unexpected
                .push(format!("{id} has {own} letters on {hosts} hosts"));
        }
        let mut repeats = life.ends.iter();
        let Some(first) = repeats.next() else { continue };
        // Delivered again behind a letter, it waits for as long as that does.
        let since = if id.stream == Stream::StoreEvents {
            life.first_sent
        } else {
            *first
        };
        for (n, at) in (1..).zip(repeats) {
            report.duplicates += 1;
            let topic = id.stream.broker() == "kafka";
            let explained = n <= again
                || excused(spans, id.stream, since, *at, |effect| match effect {
                    Effect::None => false,
                    Effect::Rebalance => topic,
                    Effect::Redelivers | Effect::Stalls => true,
                });
            if !explained {
                report
                    .unexplained
                    .push(format!("{id} at {first} ms and again at {at} ms"));
            }
        }
    }
}

#[cfg(test)]
mod tests;
