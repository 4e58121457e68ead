//! Blocks of docs/handlers.md that are no Rust stand word for word in the file named above them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::fs;
use std::path::Path;

#[test]
fn blocks_are_taken_from_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let Ok(guide) = fs::read_to_string(root.join("docs/handlers.md")) else {
        return; // unpacked from a registry
    };
    let (mut named, mut checked) = (None, 0);
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        if let Some(file) = line
            .strip_prefix("<!-- file: ")
            .and_then(|rest| rest.strip_suffix(" -->"))
        {
            named = Some(file);
        } else if let Some(language) = line.strip_prefix("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if !language.starts_with("rust") {
                let file =
                    named.unwrap_or_else(|| panic!("a block of {language:?} names no file: {block:?}"));
                let text =
                    fs::read_to_string(root.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
                // Blocks in the head of a Rust file are comments there.
                let text: String = text
                    .lines()
                    .map(|line| format!("{}\n", line.trim_start_matches("//! ")))
                    .collect();
                let block = block.join("\n");
                assert!(text.contains(&block), "{file} does not have:\n{block}");
                checked += 1;
            }
            named = None;
        }
    }
    assert!(checked >= 4, "only {checked} blocks found");
}
