//! Steps of messages that wait for a retry.

use helix_host::model::{DeadLetter, UnixMs};
use helix_host::store::Parked;

use super::super::stage::{LEASE, Store};
use super::dice::{Dice, LANES};
use super::said;

#[derive(Debug)]
pub enum Step {
    Park(Vec<Parked>),
    Claim(UnixMs, usize),
    Complete(String),
    Reschedule(Box<Parked>),
    Bury(String, Box<DeadLetter>),
    Release(String),
    Reclaim,
    Lane(String, Vec<u8>),
    Overview,
}

pub fn step(dice: &mut Dice, now: UnixMs) -> Step {
    match dice.below(20) {
        0..6 => Step::Park((0..=dice.below(4)).map(|_| dice.row(now)).collect()),
        6..10 => Step::Claim(now, dice.below(5)),
        10..12 => Step::Complete(dice.row_id()),
        12..14 => Step::Reschedule(Box::new(dice.row(now))),
        14 => Step::Bury(dice.row_id(), Box::new(dice.letter(now))),
        15..17 => Step::Release(dice.row_id()),
        17 if dice.chance(30) => Step::Reclaim,
        17..19 => {
            let route = dice.of(&["r", "R", "r\0", "?"]).to_owned();
            Step::Lane(route, dice.of(&LANES).unwrap_or(b"y").to_vec())
        }
        _ => Step::Overview,
    }
}

pub async fn take(store: &dyn Store, step: &Step) -> String {
    match step {
        Step::Park(rows) => said(store.park(rows.clone()).await),
        Step::Claim(now, limit) => said(store.claim_due(*now, LEASE, *limit).await),
        Step::Complete(id) => said(store.complete(id).await),
        Step::Reschedule(row) => said(store.reschedule(Parked::clone(row)).await),
        Step::Bury(id, letter) => said(store.bury(id, DeadLetter::clone(letter)).await),
        Step::Release(id) => said(store.release(id).await),
        Step::Reclaim => said(store.reclaim().await),
        Step::Lane(route, lane) => said(store.lane_is_empty(route, lane).await),
        Step::Overview => {
            said(store.count().await) + &said(store.next_due().await) + &said(store.lanes().await)
        }
    }
}
