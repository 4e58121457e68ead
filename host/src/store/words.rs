//! The words of a letter, and those that somebody looks for. Both engines keep exactly these, so both find the same.

use std::collections::HashSet;

/// Characters of a word; what comes after them is not looked at.
const LENGTH: usize = 64;
/// Different words of one letter; those after them are not found.
const WORDS: usize = 256;
/// So long a word finds all that begin with it, a shorter one only itself: nearly every letter has a word that begins with `a`.
const BEGINNING: usize = 3;
/// Words that somebody may look for at once.
pub const SOUGHT: usize = 16;

/// The different words of these texts, in small letters. A word is a run of letters and digits of any script.
pub fn words_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut seen = HashSet::new();
    texts
        .into_iter()
        .flat_map(|text| text.split(|c: char| !c.is_alphanumeric()))
        .filter(|word| !word.is_empty())
        .map(|word| {
            let small = word.chars().flat_map(char::to_lowercase);
            small.take(LENGTH).collect::<String>()
        })
        .filter(|word| seen.insert(word.clone()))
        .take(WORDS)
        .collect()
}

/// What somebody looks for: a letter has to have all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sought(Vec<String>);

impl Sought {
    /// None: there is no word in it. Words after the first [`SOUGHT`] are not looked for.
    pub fn of(text: &str) -> Option<Self> {
        let mut words = words_of([text]);
        words.truncate(SOUGHT);
        (!words.is_empty()).then_some(Self(words))
    }

    /// Each word, and whether it stands for all that begin with it.
    pub fn words(&self) -> impl Iterator<Item = (&str, bool)> {
        self.0
            .iter()
            .map(|word| (word.as_str(), word.chars().count() >= BEGINNING))
    }

    pub fn is_in(&self, words: &[String]) -> bool {
        self.words().all(|(sought, beginning)| {
            words
                .iter()
                .any(|word| word == sought || (beginning && word.starts_with(sought)))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn finds(sought: &str, text: &str) -> bool {
        Sought::of(sought).unwrap().is_in(&words_of([text]))
    }

    #[test]
    fn a_word_is_letters_and_digits_and_written_small() {
        assert_eq!(
            words_of(["No user 'Ann-17', shard_7: \u{c9}T\u{c9}", "user x"]),
            ["no", "user", "ann", "17", "shard", "7", "\u{e9}t\u{e9}", "x"]
        );
        assert_eq!(words_of(["a".repeat(100).as_str()]), ["a".repeat(LENGTH)]);
        let many: Vec<String> = (0..1_000).map(|n| format!("w{n}")).collect();
        assert_eq!(words_of([many.join(" ").as_str()]).len(), WORDS);
        assert_eq!(Sought::of("%_ -\0"), None);
    }

    #[test]
    fn all_words_have_to_be_there_and_long_ones_may_go_on() {
        assert!(finds("TIMEOUT", "a timeout after 30 s"));
        assert!(finds("tim 30", "a timeout after 30 s"));
        assert!(!finds("tim 31", "a timeout after 30 s"));
        assert!(!finds("imeout", "a timeout"), "from the middle of a word on");
        assert!(!finds("ti", "a timeout"), "too short for a beginning");
        assert!(finds("ab", "ab cd"));
        assert!(finds("m-4711", "m-4711-b"));
    }
}
