//! Adds up what test runners print, and keeps what failed tests said.

/// Lines kept of what one failed test said, and characters of each: its host's log can be in it.
const LINES: usize = 40;
const WIDTH: usize = 600;

/// Sums of libtest's `test result:` lines, and its `---- name stdout ----` blocks.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub passed: u64,
    pub failed: u64,
    pub ignored: u64,
    /// What each failed test said, its name first.
    pub said: Vec<Vec<String>>,
    in_block: bool,
}

impl Totals {
    /// Takes one line of output.
    pub fn add(&mut self, line: &str) {
        if line.starts_with("---- ") && line.ends_with(" stdout ----") {
            self.in_block = true;
            self.said.push(Vec::new());
        } else if line == "failures:" {
            self.in_block = false;
        }
        if self.in_block
            && let Some(block) = self.said.last_mut()
            && block.len() < LINES
        {
            block.push(line.chars().take(WIDTH).collect());
        }
        self.count(line);
    }

    fn count(&mut self, line: &str) {
        let Some((_, counts)) = line.split_once("test result: ") else {
            return;
        };
        for part in counts.split(['.', ';']) {
            let mut words = part.split_whitespace();
            let (Some(number), Some(word)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            match word {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

impl std::fmt::Display for Totals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} ignored",
            self.passed, self.failed, self.ignored
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_all_binaries_and_nothing_else() {
        let mut totals = Totals::default();
        for line in [
            "running 3 tests",
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s",
            "test 7 passed; by name",
            "test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.50s",
        ] {
            totals.add(line);
        }
        assert_eq!(
            totals,
            Totals {
                passed: 14,
                failed: 3,
                ignored: 1,
                ..Totals::default()
            }
        );
    }

    #[test]
    fn keeps_what_failed_tests_said() {
        let mut totals = Totals::default();
        for line in [
            "test a ... FAILED",
            "",
            "failures:",
            "",
            "---- a stdout ----",
            "thread 'a' panicked at a.rs:1:1:",
            "---- b stdout ----",
            "left: 1",
            "",
            "failures:",
            "    a",
            "    b",
        ] {
            totals.add(line);
        }
        for _ in 0..2 * LINES {
            totals.add("after the blocks");
        }
        assert_eq!(
            totals.said,
            [
                vec!["---- a stdout ----", "thread 'a' panicked at a.rs:1:1:"],
                vec!["---- b stdout ----", "left: 1", ""],
            ]
        );
    }
}
