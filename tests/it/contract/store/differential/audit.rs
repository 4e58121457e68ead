//! Steps of the audit log.

use helix_host::model::UnixMs;
use helix_host::store::{Audit, AuditEntry};

use super::super::stage::Store;
use super::dice::Dice;
use super::said;

#[derive(Debug)]
pub enum Step {
    Record(Vec<AuditEntry>),
    /// What is before that time, once there is one more.
    Forget(UnixMs, usize, AuditEntry),
    Read(Option<u64>, usize),
}

impl Dice {
    fn entry(&mut self, now: UnixMs) -> AuditEntry {
        AuditEntry {
            at_ms: now,
            actor: self.word(),
            role: self.word(),
            action: self.word(),
            target: self.word(),
            status: 200 + self.below(300) as u16,
            count: self.below(9) as u64,
        }
    }
}

pub fn step(dice: &mut Dice, now: UnixMs) -> Step {
    match dice.below(10) {
        0..5 => Step::Record((0..dice.below(3)).map(|_| dice.entry(now)).collect()),
        5..7 => Step::Forget(now.saturating_sub(5_000), dice.below(4), dice.entry(now)),
        _ => Step::Read(dice.chance(50).then(|| dice.below(40) as u64), dice.below(5)),
    }
}

pub async fn take(store: &dyn Store, step: &Step) -> String {
    match step {
        Step::Record(entries) => said(Audit::record(store, entries.clone()).await),
        Step::Forget(before, limit, newest) => {
            // It stays: SQLite would give the number of the newest again.
            let recorded = Audit::record(store, vec![newest.clone()]).await;
            said(recorded) + &said(store.forget(*before, *limit).await)
        }
        Step::Read(before, limit) => said(store.audit(*before, *limit).await),
    }
}
