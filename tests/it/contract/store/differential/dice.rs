//! What is drawn for every kind of step: words that are easily mixed up, rows, letters and which of them are meant.

use helix_host::model::{DeadLetter, FailureClass, LetterState, MessageKind, UnixMs, header};
use helix_host::store::{LetterFilter, Parked};

use super::super::stage::{attempt, letter, message, parked};

/// Words that are ordered, compared and matched differently by those who do not go by bytes.
pub const WORDS: [&str; 12] = [
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
pub const ROUTES: [&str; 3] = ["r", "R", "r\0"];
pub const LANES: [Option<&[u8]>; 6] = [
    None,
    None,
    Some(b"x"),
    Some(b""),
    Some(b"\0\xff"),
    Some(b"a longer one"),
];
/// Of what may hold its key.
const KEYS: [&[u8]; 3] = [b"x", b"", b"\0\xff"];
/// Whoever has something for a while.
pub const HOLDERS: [&str; 2] = ["h1", "h2\0"];

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

    pub fn word(&mut self) -> String {
        self.of(&WORDS).to_owned()
    }

    pub fn maybe(&mut self) -> Option<String> {
        self.chance(60).then(|| self.word())
    }

    pub fn holder(&mut self) -> String {
        self.of(&HOLDERS).to_owned()
    }

    pub fn row_id(&mut self) -> String {
        self.of(&["p", "q", "k"]).to_owned() + self.of(&WORDS)
    }

    /// Of letters that hold no key, and of those that may.
    pub fn letter_id(&mut self) -> String {
        self.of(&["", "k", "k"]).to_owned() + self.of(&WORDS)
    }

    pub fn row(&mut self, now: UnixMs) -> Parked {
        if self.chance(25) {
            return self.keyed(now);
        }
        let id = self.of(&["p", "q"]).to_owned() + self.of(&WORDS);
        let (route, lane) = (self.of(&ROUTES), self.of(&LANES));
        self.row_of(id, route, lane, now)
    }

    /// Its lane and its route are those of its id, as those of a message are. Some have the same.
    pub fn keyed(&mut self, now: UnixMs) -> Parked {
        let n = self.below(WORDS.len());
        let (route, lane) = (ROUTES[n % ROUTES.len()], KEYS[n / 4]);
        self.row_of(format!("k{}", WORDS[n]), route, Some(lane), now)
    }

    /// A changed message, which has an id that no other ever had.
    pub fn copy(&mut self, now: UnixMs) -> Parked {
        let id = format!("c{}{}", self.of(&WORDS), self.below(1 << 40));
        let (route, lane) = (self.of(&ROUTES), self.of(&LANES));
        self.row_of(id, route, lane, now)
    }

    fn row_of(&mut self, id: String, route: &str, lane: Option<&[u8]>, now: UnixMs) -> Parked {
        let due_ms = now.saturating_add(self.below(600) as u64).saturating_sub(100);
        Parked {
            route: route.to_owned(),
            attempt: self.below(5) as u32,
            history: (0..self.below(3)).map(|n| attempt(n as u32)).collect(),
            first_failure_ms: self.below(100) as u64,
            ..parked(&id, due_ms, lane)
        }
    }

    pub fn letter(&mut self, now: UnixMs) -> DeadLetter {
        let id = self.letter_id();
        if id.starts_with('k') {
            return self.holding(&id, now);
        }
        let mut letter = self.letter_of(&id, now);
        letter.state = self.of(&[LetterState::Dead, LetterState::Dead, LetterState::Expired]);
        if self.chance(30) {
            letter.raw.headers.push(header::LETTER, self.word());
        }
        letter
    }

    /// Of a message that a key waits for. It never is one that expired: nobody waits for those.
    pub fn holding(&mut self, id: &str, now: UnixMs) -> DeadLetter {
        let mut letter = self.letter_of(id, now);
        // Alike, so that it may really be the one that it says it was sent from.
        if self.chance(50) {
            letter.raw = message(b"one");
        }
        if self.chance(30) {
            let from = format!("k{}", self.of(&WORDS));
            letter.raw.headers.push(header::LETTER, from);
        }
        letter
    }

    fn letter_of(&mut self, id: &str, now: UnixMs) -> DeadLetter {
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
            reprocessed: self.below(3) as u32,
            // Few times, so that ids have to decide.
            ..letter(id, now / 500 * 500)
        };
        letter.raw = message(self.of(&[b"one", b"two"]));
        letter.raw.origin.kind = self.of(&[MessageKind::Task, MessageKind::Event]);
        letter.raw.origin.destination = format!("to {}", self.of(&WORDS)).into();
        letter
    }

    pub fn filter(&mut self) -> LetterFilter {
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
            route: self.chance(20).then(|| self.word()),
            message_type: self.chance(20).then(|| self.word()),
            class: self.chance(20).then_some(FailureClass::Exhausted),
            state: self.chance(20).then_some(LetterState::Dead),
            open: self.chance(20),
            text: self.chance(30).then(|| self.of(&text).to_owned()),
            destination: self.chance(10).then(|| format!("to {}", self.of(&WORDS))),
            digest: self.chance(10).then(|| self.word()),
            since_ms: self.chance(10).then(|| self.below(20_000) as u64),
            until_ms: self.chance(10).then(|| self.below(60_000) as u64),
            ..LetterFilter::default()
        }
    }
}
