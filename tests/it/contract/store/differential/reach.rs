//! What has to be come across: two engines that are never asked say the same as well.

/// Pieces of answers: each of them is in some.
const PIECES: [&str; 42] = [
    "hold \"",
    "room Some(",
    "behind Some(",
    "[HeldKey {",
    " and more ",
    "HeldRoute {",
    "waiting [(",
    "held claim Done(",
    "held release Done(",
    "held discard Done(",
    "held resume Done(",
    "held park Done(",
    "held send Done(",
    "held park edited Done(",
    "held send edited Done(",
    "job Some(",
    "member claim Done(",
    "member held resume Done(",
    "member held park Done(",
    "member held discard Done(",
    "Stopped",
    "together claim Done(",
    "together park Done(",
    "together send Done(",
    "together held park Done(",
    "together held send Done(",
    "together park Conflict(",
    "together claim Stopped",
    "member claim Ended",
    "record true false",
    "end true",
    "replay Some(",
    "recorded Ours",
    "recorded Cancelled",
    "recorded Lost",
    "holds Ours",
    "holds Cancelled",
    "finished Ours",
    "cancelled Some(",
    "Full(",
    "expire 1",
    "forget 1",
];

pub struct Reach([usize; PIECES.len()]);

impl Reach {
    pub fn new() -> Self {
        Self([0; PIECES.len()])
    }

    pub fn saw(&mut self, answer: &str) {
        for (piece, count) in PIECES.iter().zip(&mut self.0) {
            *count += answer.matches(piece).count();
        }
    }

    pub fn is_wide(&self, seed: u64) {
        for (piece, count) in PIECES.iter().zip(self.0) {
            assert!(count > 0, "seed {seed}: no answer has {piece:?}");
        }
    }
}
