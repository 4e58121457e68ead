//! Dead letters in a store that hosts share: one letter for each message, one end for each letter, one action for each claim.

use std::collections::HashMap;

use super::Report;
use crate::history::{Event, Step, Verb, What, Work};
use crate::message::{Fate, Id};

/// States of a letter.
const DEAD: &str = "dead";
const RETRYING: &str = "retrying";
const REPROCESSED: &str = "reprocessed";
const DISCARDED: &str = "discarded";

struct Letter<'a> {
    letter: &'a str,
    class: &'a str,
    state: &'a str,
    trail: &'a [Step],
}

/// As they are at the end, by their messages.
pub struct Letters<'a>(HashMap<Id, Vec<Letter<'a>>>);

impl<'a> Letters<'a> {
    pub fn of(events: &'a [Event]) -> Self {
        let mut letters: HashMap<Id, Vec<Letter<'a>>> = HashMap::new();
        for event in events {
            if let What::Kept {
                id,
                letter,
                class,
                state,
                trail,
            } = &event.what
                && let Some(id) = Id::parse(id)
            {
                letters.entry(id).or_default().push(Letter {
                    letter,
                    class,
                    state,
                    trail,
                });
            }
        }
        Self(letters)
    }

    fn get(&self, id: &Id) -> &[Letter<'a>] {
        self.0.get(id).map_or(&[], Vec::as_slice)
    }

    pub fn count(&self, id: &Id) -> usize {
        self.get(id).len()
    }

    pub fn is_discarded(&self, id: &Id) -> bool {
        self.get(id).iter().any(|letter| letter.state == DISCARDED)
    }

    /// How often somebody had a letter of the message to send it.
    pub fn claims(&self, id: &Id) -> u64 {
        let trails = self.get(id).iter().flat_map(|letter| letter.trail);
        trails.filter(|step| step.to == RETRYING).count() as u64
    }

    /// What becomes of a message of this fate that was published so often.
    pub fn settle(&self, fate: Fate, id: &Id, sent: u64, report: &mut Report) {
        let letters = self.get(id);
        if letters.len() as u64 > sent {
            report
                .unexpected
                .push(format!("{id} has {} letters in one store", letters.len()));
        }
        let expected = match fate {
            Fate::Reject | Fate::Repair => "rejected",
            Fate::Trap => "exhausted",
            Fate::Done | Fate::RetryOnce | Fate::RetryTwice | Fate::LoopOnce => "none",
        };
        for letter in letters {
            if letter.class != expected {
                report.unexpected.push(format!(
                    "{id} is a letter ({}), expected {expected}",
                    letter.class
                ));
            }
            if ![REPROCESSED, DISCARDED].contains(&letter.state) {
                report
                    .left
                    .push(format!("letter of {id}, which is {}", letter.state));
            }
        }
    }

    /// Trails, and what was answered about them.
    pub fn check(&self, events: &[Event], report: &mut Report) {
        for (id, letters) in &self.0 {
            for letter in letters {
                report.unexpected.extend(path(id, letter));
            }
        }
        let trails: HashMap<&str, &[Step]> = self
            .0
            .values()
            .flatten()
            .map(|letter| (letter.letter, letter.trail))
            .collect();
        self::asked(&trails, events, report);
        jobs(&trails, events, report);
    }
}

/// Each change begins where the one before ended: of two who want a letter at once, one gets it.
fn path(id: &Id, letter: &Letter<'_>) -> Option<String> {
    let mut state = DEAD;
    for step in letter.trail {
        if step.from != state {
            return Some(format!(
                "the letter of {id} was {state} when {} took it from {} to {} ({}) at {} ms",
                step.actor, step.from, step.to, step.action, step.at
            ));
        }
        state = &step.to;
    }
    (state != letter.state).then(|| {
        format!(
            "the letter of {id} is {}, by its trail it is {state}",
            letter.state
        )
    })
}

/// Who was told that it is done has done it, once for each answer, and never more often than it was asked for.
fn asked(trails: &HashMap<&str, &[Step]>, events: &[Event], report: &mut Report) {
    #[derive(Default)]
    struct Count {
        asked: usize,
        done: usize,
        id: String,
    }
    let mut counts: HashMap<(&str, &str, Verb), Count> = HashMap::new();
    let mut open: HashMap<u64, (&str, &str, Verb)> = HashMap::new();
    for event in events {
        match &event.what {
            What::Asked {
                n,
                id,
                letter,
                verb,
                actor,
                ..
            } => {
                report.asked += 1;
                let what = (letter.as_str(), actor.as_str(), *verb);
                let count = counts.entry(what).or_default();
                count.asked += 1;
                count.id.clone_from(id);
                open.insert(*n, what);
            }
            What::Answered { n, status } if (200..300).contains(status) => {
                if let Some(count) = open.get(n).and_then(|what| counts.get_mut(what)) {
                    count.done += 1;
                }
            }
            _ => {}
        }
    }
    for ((letter, actor, verb), count) in counts {
        let trail = trails.get(letter).copied().unwrap_or_default();
        let acted = trail
            .iter()
            .filter(|step| step.actor == actor && step.action == verb.as_str())
            .count();
        let (id, verb) = (&count.id, verb.as_str());
        if count.done > acted {
            report.unexpected.push(format!(
                "{actor} was told {} times that {verb} of {id} is done, and did it {acted} times",
                count.done
            ));
        }
        if acted > count.asked {
            report.unexpected.push(format!(
                "{actor} did {verb} of {id} {acted} times and asked {} times",
                count.asked
            ));
        }
    }
}

/// Clocks of one machine, read by two processes.
const CLOCKS_MS: u64 = 20;

/// A job sends each of its letters once and begins none after its cancel was answered.
fn jobs(trails: &HashMap<&str, &[Step]>, events: &[Event], report: &mut Report) {
    let mut cancelled: HashMap<&str, u64> = HashMap::new();
    for event in events {
        match &event.what {
            What::Cancelled { what: Work::Job, id } => {
                cancelled.insert(id, event.t);
            }
            What::Job {
                id,
                state,
                total,
                done,
            } => {
                let good = match state.as_str() {
                    "completed" => done == total,
                    "cancelled" => done <= total,
                    _ => false,
                };
                if !good {
                    report
                        .unexpected
                        .push(format!("job {id} is {state} with {done} of {total} letters"));
                }
            }
            _ => {}
        }
    }
    for (letter, trail) in trails {
        let mut sent: HashMap<&str, u32> = HashMap::new();
        for (n, step) in trail.iter().enumerate() {
            let job = step.reason.as_deref().and_then(|why| why.strip_prefix("job "));
            let Some(job) = job.filter(|_| step.to == RETRYING) else {
                continue;
            };
            if let Some(at) = cancelled.get(job)
                && step.at > at + CLOCKS_MS
            {
                report.unexpected.push(format!(
                    "job {job} began with letter {letter} at {} ms, its cancel was answered at {at} ms",
                    step.at
                ));
            }
            // Whoever did not come to its end may have to begin again.
            let next = trail.get(n + 1).map_or("", |next| next.action.as_str());
            if !["not sent", "lease ran out"].contains(&next) {
                *sent.entry(job).or_default() += 1;
            }
        }
        for (job, times) in sent.into_iter().filter(|(_, times)| *times > 1) {
            report
                .unexpected
                .push(format!("job {job} sent letter {letter} {times} times"));
        }
    }
}
