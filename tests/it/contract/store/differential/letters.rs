//! Steps of dead letters: what is entered, changed, looked for and copied.

use helix_host::model::{DeadLetter, MessageKind, UnixMs};
use helix_host::store::{AutoLetters, Change, Changed, Error, LetterFilter, Page};

use super::super::stage::{LEASE, Store, note};
use super::dice::{Dice, HOLDERS};
use super::said;

#[derive(Debug)]
pub enum Step {
    Enter(Vec<DeadLetter>),
    Change(String, Change),
    /// Whoever makes the change claims the letter first.
    Again(String, Change),
    Lapse,
    List(LetterFilter, Page),
    Letter(String),
    Groups(LetterFilter, usize),
    Overview,
    Export(MessageKind, usize, Fate),
}

/// What becomes of letters that were claimed for their export.
#[derive(Debug, Clone, Copy)]
pub enum Fate {
    Sent,
    GivenBack,
    /// Their lease has to end.
    Forgotten,
}

impl Dice {
    pub fn change(&mut self, now: UnixMs) -> Change {
        match self.below(16) {
            0..6 => Change::Claim {
                holder: self.holder(),
                lease: LEASE,
            },
            6..8 => Change::Release,
            8..10 => Change::Discard,
            _ => self.ending(now),
        }
    }

    /// By whom the letter was claimed.
    pub fn ending(&mut self, now: UnixMs) -> Change {
        let holder = self.holder();
        match self.below(10) {
            0..4 => Change::Sent {
                holder,
                park: self.chance(50).then(|| Box::new(self.row(now))),
            },
            4..6 => Change::Resume {
                holder,
                row: Box::new(self.row(now)),
            },
            6..8 => Change::Edited {
                holder,
                park: self.chance(60).then(|| Box::new(self.copy(now))),
            },
            _ => Change::GiveBack { holder },
        }
    }

    fn page(&mut self, cursors: &[String]) -> Page {
        let cursor = match self.below(6) {
            0 => Some("bm8".to_owned()),
            1..4 if !cursors.is_empty() => Some(cursors[self.below(cursors.len())].clone()),
            _ => None,
        };
        Page {
            limit: self.below(6),
            offset: if self.chance(20) { self.below(4) } else { 0 },
            cursor,
        }
    }
}

pub fn step(dice: &mut Dice, now: UnixMs, cursors: &[String]) -> Step {
    match dice.below(24) {
        0..4 => Step::Enter((0..=dice.below(3)).map(|_| dice.letter(now)).collect()),
        4..8 => Step::Change(dice.letter_id(), dice.change(now)),
        8..12 => Step::Again(dice.letter_id(), dice.ending(now)),
        12 => Step::Lapse,
        13..18 => Step::List(dice.filter(), dice.page(cursors)),
        18 => Step::Letter(dice.letter_id()),
        19..21 => Step::Groups(dice.filter(), dice.below(5)),
        21 => Step::Overview,
        _ => {
            let fate = dice.of(&[Fate::Sent, Fate::Sent, Fate::GivenBack, Fate::Forgotten]);
            let kind = dice.of(&[MessageKind::Task, MessageKind::Event]);
            Step::Export(kind, dice.below(4), fate)
        }
    }
}

pub fn name(change: &Change) -> &'static str {
    match change {
        Change::Claim { .. } => "claim",
        Change::Sent { park: None, .. } => "send",
        Change::Sent { park: Some(_), .. } => "park",
        Change::Edited { park: None, .. } => "send edited",
        Change::Edited { park: Some(_), .. } => "park edited",
        Change::GiveBack { .. } => "give back",
        Change::Resume { .. } => "resume",
        Change::Release => "release",
        Change::Discard => "discard",
    }
}

/// What of the change is seen in its answer: also whether a key waits behind the letter.
pub async fn named(store: &dyn Store, id: &str, change: &Change) -> String {
    let held = store.held_by(id).await.unwrap().is_some();
    format!("{}{} ", if held { "held " } else { "" }, name(change))
}

pub fn claim(change: &Change) -> Change {
    Change::Claim {
        holder: change.holder().unwrap_or(HOLDERS[0]).to_owned(),
        lease: LEASE,
    }
}

pub async fn changed(store: &dyn Store, id: &str, change: &Change) -> String {
    let named = named(store, id, change).await;
    let changed = store.change(id, change.clone(), note("test")).await;
    named + &became(change, changed)
}

/// Claimed first by whoever makes the change, where it has to be.
pub async fn dealt(store: &dyn Store, id: &str, change: &Change) -> String {
    let mut text = String::new();
    if change.holder().is_some() {
        text = changed(store, id, &claim(change)).await;
    }
    text + &changed(store, id, change).await
}

/// A letter that holds two keys cannot be edited: both rows would have the id of the copy. Each engine says that in its own words.
pub fn became(change: &Change, changed: Result<Changed, Error>) -> String {
    match (change, changed) {
        (Change::Edited { park: Some(_), .. }, Err(_)) => "refused".to_owned(),
        (_, changed) => said(changed),
    }
}

pub async fn take(store: &dyn Store, step: &Step) -> String {
    match step {
        Step::Enter(letters) => said(store.enter(letters.clone()).await),
        Step::Change(id, change) => changed(store, id, change).await,
        Step::Again(id, change) => dealt(store, id, change).await,
        Step::Lapse => said(store.lapse().await),
        Step::List(filter, page) => said(store.list(filter, page).await),
        Step::Letter(id) => {
            let known = AutoLetters::progress(store, std::slice::from_ref(id)).await;
            said(store.get(id).await) + &said(store.trail(id).await) + &said(known)
        }
        Step::Groups(filter, limit) => said(store.groups(filter, *limit).await),
        Step::Overview => said(store.depth().await) + &said(store.dead_groups().await),
        Step::Export(kind, limit, fate) => {
            let claimed = store.claim_exports(*kind, *limit, LEASE).await.unwrap();
            let letters: Vec<String> = claimed.iter().map(|export| export.letter.clone()).collect();
            let done = match fate {
                Fate::Sent => store.exported(claimed).await,
                Fate::GivenBack => store.give_back_exports(claimed).await,
                Fate::Forgotten => Ok(()),
            };
            format!("{letters:?}") + &said(done) + &said(store.pending_exports().await)
        }
    }
}
