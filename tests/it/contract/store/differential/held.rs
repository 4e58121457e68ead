//! Steps of keys that wait behind a dead letter.

use helix_host::model::{DeadLetter, UnixMs};
use helix_host::store::{Change, HeldFilter, Parked};

use super::super::stage::Store;
use super::dice::{Dice, LANES};
use super::letters::{changed, dealt};
use super::said;

#[derive(Debug)]
pub enum Step {
    Hold(Box<Parked>, Box<DeadLetter>),
    Room(String, Vec<u8>, u64),
    Behind(String),
    /// Somebody deals with the letter of a key, so many of which came before it.
    Deal(usize, Change),
    /// Page by page; released: as the host does with keys that waited too long.
    Pages(HeldFilter, Released),
    /// From a place that no page gave.
    Odd(HeldFilter),
    Overview,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Released {
    No,
    Yes,
}

impl Dice {
    fn dealt(&mut self, now: UnixMs) -> Change {
        match self.below(10) {
            0 => Change::Discard,
            1 => Change::Release,
            _ => self.ending(now),
        }
    }

    fn held(&mut self, now: UnixMs) -> HeldFilter {
        HeldFilter {
            route: self
                .chance(40)
                .then(|| self.of(&["r", "R", "r\0", "?"]).to_owned()),
            until_ms: self
                .chance(40)
                .then(|| now.saturating_sub(self.below(3_000) as u64)),
            limit: self.of(&[1, 1, 2, 3, 0, 5_000]),
            cursor: None,
        }
    }
}

pub fn step(dice: &mut Dice, now: UnixMs) -> Step {
    match dice.below(25) {
        0..10 => {
            let row = dice.keyed(now);
            let letter = dice.holding(&row.id, now);
            let due_ms = letter.last_failure_ms;
            Step::Hold(Box::new(Parked { due_ms, ..row }), Box::new(letter))
        }
        10..14 => {
            let row = dice.keyed(now);
            let lane = if dice.chance(85) {
                row.lane
            } else {
                dice.of(&LANES).map(<[u8]>::to_vec)
            };
            let limit = dice.of(&[0, 1, 2, 5, u64::MAX]);
            Step::Room(row.route, lane.unwrap_or_default(), limit)
        }
        14..16 => Step::Behind(dice.letter_id()),
        16..19 => Step::Deal(dice.below(9), dice.dealt(now)),
        19..22 => Step::Pages(dice.held(now), Released::No),
        22 if dice.chance(30) => Step::Pages(dice.held(now), Released::Yes),
        22 if dice.chance(40) => {
            // Numbers of rows are not the same in both: only those before and after all of them.
            let cursor = dice.of(&["", "x", "-1", "0", "9223372036854775807", "9223372036854775808"]);
            let cursor = Some(cursor.to_owned());
            Step::Odd(HeldFilter {
                cursor,
                limit: 0,
                ..dice.held(now)
            })
        }
        _ => Step::Overview,
    }
}

async fn pages(store: &dyn Store, filter: &HeldFilter, released: Released) -> String {
    let mut filter = filter.clone();
    let mut text = String::new();
    loop {
        let page = match store.held(&filter).await {
            Ok(page) => page,
            Err(error) => return text + &said(Err::<(), _>(error)),
        };
        text += &format!("of {} {:?}", page.count, page.keys);
        if released == Released::Yes {
            for key in &page.keys {
                text += &changed(store, &key.letter, &Change::Release).await;
            }
        }
        // What it says is not the same in both.
        filter.cursor = page.next;
        if filter.cursor.is_none() {
            return text;
        }
        text += " and more ";
    }
}

pub async fn take(store: &dyn Store, step: &Step) -> String {
    match step {
        Step::Hold(row, letter) => {
            let held = store.hold(Parked::clone(row), DeadLetter::clone(letter)).await;
            format!("hold {}", said(held))
        }
        Step::Room(route, lane, limit) => format!("room {}", said(store.room(route, lane, *limit).await)),
        Step::Behind(letter) => format!("behind {}", said(store.held_by(letter).await)),
        Step::Deal(before, change) => {
            let page = store.held(&HeldFilter::default()).await.unwrap();
            match page.keys.iter().cycle().nth(*before) {
                Some(key) => dealt(store, &key.letter, change).await,
                None => String::new(),
            }
        }
        Step::Pages(filter, released) => pages(store, filter, *released).await,
        Step::Odd(filter) => pages(store, filter, Released::No).await,
        Step::Overview => said(store.held_routes().await) + "waiting " + &said(store.waiting().await),
    }
}
