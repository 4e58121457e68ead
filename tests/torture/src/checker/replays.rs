//! Replays: everything of their stretch arrives, little of it twice, and nothing more once a cancel was answered.

use std::collections::{HashMap, HashSet};

use super::{Report, Span};
use crate::history::{Event, What, Work};

/// From a cancel's answer to what is sent after it, as two processes measure them.
const CLOCKS_MS: u64 = 50;

#[derive(Default)]
struct Copies {
    places: HashSet<(i64, i64)>,
    count: u64,
    /// When each was sent.
    at: Vec<u64>,
}

pub fn check(events: &[Event], spans: &[Span], report: &mut Report) {
    let mut copies: HashMap<&str, Copies> = HashMap::new();
    let mut cancelled: HashMap<&str, u64> = HashMap::new();
    let mut made: HashMap<&str, u32> = HashMap::new();
    for event in events {
        match &event.what {
            What::Copy {
                replay,
                partition,
                offset,
                at,
            } => {
                let of = copies.entry(replay).or_default();
                of.places.insert((*partition, *offset));
                of.count += 1;
                of.at.push(*at);
            }
            What::Cancelled {
                what: Work::Replay,
                id,
            } => {
                cancelled.insert(id, event.t);
            }
            What::Made {
                what: Work::Replay,
                id,
                status: 201,
                ..
            } => *made.entry(id).or_default() += 1,
            _ => {}
        }
    }
    for (id, hosts) in made.iter().filter(|(_, hosts)| **hosts > 1) {
        report
            .unexpected
            .push(format!("{hosts} hosts made the replay {id}"));
    }
    let none = Copies::default();
    for event in events {
        let What::Replay {
            id,
            state,
            batch,
            total,
            replayed,
            done,
            from,
            to,
            stretches,
        } = &event.what
        else {
            continue;
        };
        made.remove(id.as_str());
        let of = copies.get(id.as_str()).unwrap_or(&none);
        report.replayed += of.count;
        let wanted: HashSet<(i64, i64)> = stretches
            .iter()
            .flat_map(|(partition, from, to)| (*from..*to).map(|offset| (*partition, offset)))
            .collect();
        if let Some(foreign) = of.places.difference(&wanted).next() {
            report.unexpected.push(format!(
                "replay {id} sent {foreign:?}, which is not in its stretch"
            ));
        }
        let missing = wanted.difference(&of.places).count();
        let first = wanted.difference(&of.places).min();
        match state.as_str() {
            "completed" if missing > 0 => report.lost.push(format!(
                "replay {id}: {missing} of {} offsets, as {first:?}",
                wanted.len()
            )),
            "completed" if done != total => report
                .unexpected
                .push(format!("replay {id} is completed with {done} of {total}")),
            "completed" | "cancelled" => {}
            _ => report.left.push(format!("replay {id}, which is {state}")),
        }
        if replayed > total || done > total {
            report.unexpected.push(format!(
                "replay {id} counts {replayed} replayed, {done} done, of {total}"
            ));
        }
        // What is counted was confirmed.
        if *replayed > of.places.len() as u64 {
            report.lost.push(format!(
                "replay {id}: {replayed} are counted and {} arrived",
                of.places.len()
            ));
        }
        let faults = spans
            .iter()
            .filter(|span| span.arena == "store" && span.from <= *to && *from <= span.to)
            .count() as u64;
        let extra = of.count - of.places.len() as u64;
        report.duplicates += extra;
        report.duplicates_allowed += faults * batch;
        if extra > faults * batch {
            report
                .unexplained
                .push(format!("replay {id}: {extra} copies too many, {faults} faults"));
        }
        if let Some(at) = cancelled.get(id.as_str()) {
            let late = of.at.iter().filter(|sent| **sent > at + CLOCKS_MS).count() as u64;
            if late > *batch {
                report.unexpected.push(format!(
                    "replay {id} sent {late} copies after its cancel was answered at {at} ms"
                ));
            }
        }
    }
    for id in made.keys() {
        report
            .lost
            .push(format!("replay {id}, which a host had promised"));
    }
}
