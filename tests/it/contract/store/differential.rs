//! The same changes and questions, drawn by chance, for both engines: the same answers.

use std::fmt::Debug;
use std::sync::Arc;

use helix_host::model::{DeadLetter, FailureClass, LetterState, MessageKind, header};
use helix_host::store::{
    Action, Audit, AuditEntry, Change, Decided, Job, LetterFilter, Members, NewJob, Page, Parked, Progress,
    Turn,
};
use helix_host::store::{AutoLetters, KeepLetters, Step as Settling};

use super::stage::{Engine, Hands, LEASE, Stage, Store, attempt, letter, message, note, parked};

/// Words that are ordered, compared and matched differently by those who do not go by bytes.
const WORDS: [&str; 12] = [
    "a",
    "B",
    "b",
    "A",
    "z",
    "\u{e9}",
    "\u{c9}",
    "e",
    "_",
    "a-b",
    "a\0",
    "\u{1f980}",
];
const LANES: [Option<&[u8]>; 6] = [
    None,
    None,
    Some(b"x"),
    Some(b""),
    Some(b"\0\xff"),
    Some(b"a longer one"),
];

#[derive(Debug)]
enum Step {
    Park(Vec<Parked>),
    Claim(u64, usize),
    Complete(String),
    Reschedule(Box<Parked>),
    Bury(String, Box<DeadLetter>),
    Release(String),
    Enter(Vec<DeadLetter>),
    Change(String, Change),
    Lapse,
    Reclaim,
    List(LetterFilter, Page),
    Letter(String),
    Lane(String, Vec<u8>),
    Overview,
    Groups(LetterFilter, usize),
    NewJob(Box<NewJob>),
    TakeJob(&'static str),
    CancelJob(String),
    JobsAndResults,
    Record(Vec<AuditEntry>),
    Forget(u64, usize),
    Audited(Option<u64>, usize),
    Export(MessageKind, usize, Fate),
    Candidates(u64, usize),
    Turn(String, Turn),
    Settle(Vec<Decided>),
    Reconsider(&'static str),
    Expire(u64, usize),
    Close(u64, usize),
    Later(u64),
}

/// What becomes of letters that were claimed for their export.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Sent,
    GivenBack,
    /// Their lease has to end.
    Forgotten,
}

/// SplitMix64: a seed tells it all.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % n as u64).unwrap()
    }

    pub fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn maybe(&mut self) -> Option<String> {
        self.chance(60).then(|| self.of(&WORDS).to_owned())
    }

    fn row_id(&mut self) -> String {
        format!("p{}", self.of(&WORDS))
    }

    fn letter_id(&mut self) -> String {
        self.of(&WORDS).to_owned()
    }

    fn row(&mut self, now: u64) -> Parked {
        Parked {
            route: self.of(&["r", "R", "r\0"]).to_owned(),
            attempt: self.below(5) as u32,
            history: (0..self.below(3)).map(|n| attempt(n as u32)).collect(),
            first_failure_ms: self.below(100) as u64,
            ..parked(
                &self.row_id(),
                now.saturating_add(self.below(600) as u64).saturating_sub(100),
                self.of(&LANES),
            )
        }
    }

    fn letter(&mut self, now: u64) -> DeadLetter {
        let id = self.letter_id();
        let mut letter = DeadLetter {
            message_id: self.maybe(),
            message_type: self.maybe(),
            route: self.maybe(),
            plugin: self.maybe(),
            digest: self.maybe(),
            class: self.of(&[
                FailureClass::Exhausted,
                FailureClass::Rejected,
                FailureClass::TooLarge,
            ]),
            reason: format!("why {} 50%_\\ {}", self.of(&WORDS), self.of(&WORDS)),
            code: self.maybe(),
            attempts: (0..self.below(4)).map(|n| attempt(n as u32)).collect(),
            first_failure_ms: self.below(1_000) as u64,
            trace_id: self.maybe(),
            state: self.of(&[LetterState::Dead, LetterState::Dead, LetterState::Expired]),
            reprocessed: self.below(3) as u32,
            // Few times, so that ids have to decide.
            ..letter(&id, now / 500 * 500)
        };
        letter.raw = message(self.of(&[b"one", b"two"]));
        letter.raw.origin.kind = self.of(&[MessageKind::Task, MessageKind::Event]);
        letter.raw.origin.destination = format!("to {}", self.of(&WORDS)).into();
        if self.chance(30) {
            let from = self.letter_id();
            letter.raw.headers.push(header::LETTER, from);
        }
        letter
    }

    fn change(&mut self, now: u64) -> Change {
        let holder = self.of(&["h1", "h2"]).to_owned();
        match self.below(8) {
            0..3 => Change::Claim { holder, lease: LEASE },
            3..5 => Change::Sent {
                holder,
                park: self.chance(50).then(|| Box::new(self.row(now))),
            },
            5..7 => Change::GiveBack { holder },
            _ => Change::Discard,
        }
    }

    /// Few, so that what is seen is often so.
    fn progress(&mut self, now: u64) -> Progress {
        Progress {
            attempts: u32::from(self.chance(40)),
            due_ms: if self.chance(60) { 0 } else { now / 2_000 * 2_000 },
        }
    }

    fn decided(&mut self, now: u64) -> Decided {
        let why = format!("tried {}", self.of(&WORDS));
        Decided {
            letter: self.letter_id(),
            seen: self.progress(now),
            step: match self.below(6) {
                0..3 => Settling::Set(self.progress(now)),
                3 => Settling::Leave {
                    policies: self.of(&["p1", "p2"]).to_owned(),
                },
                4 => Settling::Archive { why },
                _ => Settling::Discard { why },
            },
        }
    }

    fn unasked(&mut self, now: u64) -> Step {
        match self.below(8) {
            0..2 => Step::Candidates(now, self.below(6)),
            2..4 => {
                let (seen, next) = (self.progress(now), self.progress(now));
                Step::Turn(self.letter_id(), Turn { seen, next })
            }
            4..6 => Step::Settle((0..self.below(4)).map(|_| self.decided(now)).collect()),
            6 if self.chance(40) => Step::Reconsider(self.of(&["p1", "p2"])),
            6 => Step::Expire(now.saturating_sub(20_000), self.below(4)),
            _ => Step::Close(now.saturating_sub(20_000), self.below(4)),
        }
    }

    fn job(&mut self) -> NewJob {
        NewJob {
            id: format!("job {}", self.of(&WORDS)),
            action: Action::Reprocess,
            filter: self.maybe(),
            rate: None,
            force: self.chance(50),
            reason: self.maybe(),
            actor: self.of(&WORDS).to_owned(),
            members: if self.chance(60) {
                Members::Matching(self.filter())
            } else {
                Members::Ids((0..self.below(3)).map(|_| self.letter_id()).collect())
            },
        }
    }

    fn entry(&mut self, now: u64) -> AuditEntry {
        AuditEntry {
            at_ms: now,
            actor: self.of(&WORDS).to_owned(),
            role: self.of(&WORDS).to_owned(),
            action: self.of(&WORDS).to_owned(),
            target: self.of(&WORDS).to_owned(),
            status: 200 + self.below(300) as u16,
            count: self.below(9) as u64,
        }
    }

    fn filter(&mut self) -> LetterFilter {
        let text = [
            "why",
            "WH b",
            "%",
            "z",
            "\\",
            "50%_",
            "A\0",
            "\u{e9}",
            "TO \u{c9}",
            "",
            "x' OR 1=1",
        ];
        LetterFilter {
            route: self.chance(20).then(|| self.of(&WORDS).to_owned()),
            message_type: self.chance(20).then(|| self.of(&WORDS).to_owned()),
            class: self.chance(20).then_some(FailureClass::Exhausted),
            state: self.chance(20).then_some(LetterState::Dead),
            open: self.chance(20),
            text: self.chance(30).then(|| self.of(&text).to_owned()),
            destination: self.chance(10).then(|| format!("to {}", self.of(&WORDS))),
            digest: self.chance(10).then(|| self.of(&WORDS).to_owned()),
            since_ms: self.chance(10).then(|| self.below(20_000) as u64),
            until_ms: self.chance(10).then(|| self.below(60_000) as u64),
            ..LetterFilter::default()
        }
    }

    fn step(&mut self, now: u64, cursors: &[String]) -> Step {
        match self.below(28) {
            25..28 => self.unasked(now),
            0..3 => Step::Park((0..=self.below(4)).map(|_| self.row(now)).collect()),
            3..5 => Step::Claim(now, self.below(5)),
            5 => Step::Complete(self.row_id()),
            6 => Step::Reschedule(Box::new(self.row(now))),
            7 => Step::Bury(self.row_id(), Box::new(self.letter(now))),
            8 => Step::Release(self.row_id()),
            9..11 => Step::Enter((0..=self.below(3)).map(|_| self.letter(now)).collect()),
            11..14 => Step::Change(self.letter_id(), self.change(now)),
            14 if self.chance(50) => Step::Lapse,
            14 if self.chance(30) => Step::Reclaim,
            14..17 => {
                let cursor = match self.below(6) {
                    0 => Some("bm8".to_owned()),
                    1..4 if !cursors.is_empty() => Some(cursors[self.below(cursors.len())].clone()),
                    _ => None,
                };
                let page = Page {
                    limit: self.below(6),
                    offset: if self.chance(20) { self.below(4) } else { 0 },
                    cursor,
                };
                Step::List(self.filter(), page)
            }
            17 => Step::Letter(self.letter_id()),
            18 if self.chance(50) => Step::Lane(
                self.of(&["r", "R", "r\0", "?"]).to_owned(),
                self.of(&LANES).unwrap_or(b"y").to_vec(),
            ),
            18 => Step::Overview,
            22 => Step::Groups(self.filter(), self.below(5)),
            23 if self.chance(50) => Step::NewJob(Box::new(self.job())),
            23 if self.chance(40) => Step::TakeJob(self.of(&["h1", "h2\0"])),
            23 if self.chance(30) => Step::CancelJob(format!("job {}", self.of(&WORDS))),
            23 => Step::JobsAndResults,
            19 => Step::Record((0..self.below(3)).map(|_| self.entry(now)).collect()),
            // The newest stays: SQLite would give its number again.
            20 if self.chance(40) => Step::Forget(now.saturating_sub(5_000), self.below(4)),
            20 => Step::Audited(self.chance(50).then(|| self.below(40) as u64), self.below(5)),
            24 => {
                let fate = self.of(&[Fate::Sent, Fate::Sent, Fate::GivenBack, Fate::Forgotten]);
                Step::Export(
                    self.of(&[MessageKind::Task, MessageKind::Event]),
                    self.below(4),
                    fate,
                )
            }
            _ => Step::Later(self.below(700) as u64),
        }
    }
}

/// What it says; of an error that it is one, in the engine's own words.
fn said(answer: Result<impl Debug, impl Debug>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(error) => format!("{error:?}"),
    }
}

/// Postgres takes a number that was used for something that failed out of use.
fn unnumbered(job: Job) -> Job {
    Job { number: 0, ..job }
}

async fn take(store: &dyn Store, step: &Step) -> String {
    match step {
        Step::Park(rows) => said(store.park(rows.clone()).await),
        Step::Claim(now, limit) => said(store.claim_due(*now, LEASE, *limit).await),
        Step::Complete(id) => said(store.complete(id).await),
        Step::Reschedule(row) => said(store.reschedule(Parked::clone(row)).await),
        Step::Bury(id, letter) => said(store.bury(id, DeadLetter::clone(letter)).await),
        Step::Release(id) => said(store.release(id).await),
        Step::Enter(letters) => said(store.enter(letters.clone()).await),
        Step::Change(id, change) => said(store.change(id, change.clone(), note("test")).await),
        Step::Lapse => said(store.lapse().await),
        Step::Reclaim => said(store.reclaim().await),
        Step::List(filter, page) => said(store.list(filter, page).await),
        Step::Letter(id) => {
            let known = AutoLetters::progress(store, std::slice::from_ref(id)).await;
            said(store.get(id).await) + &said(store.trail(id).await) + &said(known)
        }
        Step::Lane(route, lane) => said(store.lane_is_empty(route, lane).await),
        Step::Overview => {
            said(store.count().await)
                + &said(store.next_due().await)
                + &said(store.lanes().await)
                + &said(store.depth().await)
                + &said(store.dead_groups().await)
        }
        Step::Groups(filter, limit) => said(store.groups(filter, *limit).await),
        // Of an id that is taken each engine says it in its own words.
        Step::NewJob(job) => said(
            store
                .create(NewJob::clone(job))
                .await
                .map(unnumbered)
                .map_err(|_| "refused"),
        ),
        Step::TakeJob(holder) => said(store.take(holder, LEASE).await.map(|job| job.map(unnumbered))),
        Step::CancelJob(id) => said(store.cancel(id, "ann").await.map(|job| job.map(unnumbered))),
        Step::JobsAndResults => {
            let jobs = store.jobs(None, 5).await.unwrap();
            let mut text = String::new();
            for job in jobs {
                text += &format!("{:?}", unnumbered(job.clone()));
                text += &said(store.results(job.number, None, None, 9).await);
                text += &said(store.standing(job.number, None, 9).await);
            }
            text
        }
        Step::Record(entries) => said(Audit::record(store, entries.clone()).await),
        Step::Forget(before, limit) => said(store.forget(*before, *limit).await),
        Step::Audited(before, limit) => said(store.audit(*before, *limit).await),
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
        Step::Candidates(now, limit) => {
            let classes = [FailureClass::Exhausted, FailureClass::TooLarge];
            said(store.candidates(&classes, *now, *limit).await)
        }
        Step::Turn(id, turn) => said(
            store
                .claim_turn(id, turn, "h1".to_owned(), LEASE, note("turn"))
                .await,
        ),
        Step::Settle(decided) => said(store.settle("host", decided.clone()).await),
        Step::Reconsider(policies) => said(store.reconsider(policies, 1_000).await),
        Step::Expire(until, limit) => said(KeepLetters::expire(store, *until, "too old", *limit).await),
        Step::Close(until, limit) => said(store.forget_closed(*until, *limit).await),
        Step::Later(_) => String::new(),
    }
}

/// `HELIX_TEST_SEED` draws another walk than usual.
fn seed(usual: u64) -> u64 {
    std::env::var("HELIX_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(usual)
}

async fn walk(seed: u64, steps: usize) {
    let clock = Hands::at(1_000);
    let mut both: Vec<(Stage, Arc<dyn Store>)> = Vec::new();
    for engine in [Engine::Sqlite, Engine::Postgres] {
        let stage = Stage::with_clock(engine, Arc::clone(&clock));
        let store = stage.open().await;
        store.export(true, true);
        both.push((stage, store));
    }
    let mut dice = Dice(seed);
    let mut cursors = Vec::new();
    for number in 0..steps {
        let now = helix_host::model::Clock::now_ms(&*clock);
        let step = dice.step(now, &cursors);
        if let Step::Later(ms) = step {
            clock.forward(ms);
        }
        let (lite, post) = tokio::join!(take(&*both[0].1, &step), take(&*both[1].1, &step));
        assert_eq!(lite, post, "seed {seed}, step {number}: {step:?}");
        if let Step::List(filter, page) = &step
            && let Ok(found) = both[0].1.list(filter, page).await
            && let Some(next) = found.next
        {
            cursors.push(next);
            if cursors.len() > 8 {
                cursors.remove(0);
            }
        }
    }
    // Nothing may be left in a lane that nobody gets out.
    clock.forward(10_000);
    for (_, store) in &both {
        store.reclaim().await.unwrap();
        let mut left = store.count().await.unwrap();
        while left > 0 {
            let now = helix_host::model::Clock::now_ms(&*clock);
            let rows = store.claim_due(now, LEASE, 100).await.unwrap();
            assert!(!rows.is_empty(), "seed {seed}: {left} rows are never due");
            for row in rows {
                store.complete(&row.id).await.unwrap();
            }
            left = store.count().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_engines_say_the_same() {
    let seed = seed(4_711);
    for round in 0..4 {
        walk(seed + round, 1_500).await;
    }
}
