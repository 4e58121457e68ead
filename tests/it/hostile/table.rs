//! docs/hostile-guests.md names a test for each attack, all of them exist, and no attack is left out.

use std::collections::BTreeSet;

use crate::guarantees::{files, missing, read, root};

#[test]
fn every_hostile_guest_of_the_manual_has_a_test_that_exists_and_every_test_is_in_the_manual() {
    let named = tests(&read(&root().join("docs/hostile-guests.md")));
    assert!(named.len() >= 60, "only {} attacks found", named.len());
    let mut wrong: Vec<String> = named.iter().filter_map(|test| missing(&root(), test)).collect();
    for folder in ["host/src/guest/tests/hostile", "tests/it/hostile"] {
        for file in files(&root().join(folder)) {
            let name = file.file_name().unwrap().to_string_lossy().into_owned();
            // This one is about the manual.
            if name == "table.rs" {
                continue;
            }
            for test in written(&read(&file)) {
                let full = format!("{folder}/{name}::{test}");
                if !named.contains(&full) {
                    wrong.push(format!("`{full}` is not in the manual"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "docs/hostile-guests.md:\n{}", wrong.join("\n"));
}

#[test]
fn hostile_rows_and_tests_are_found() {
    let text = "| attack | host | test |\n|---|---|---|\n| a | b | `x/y.rs::z` |\n| a | `c` | `x.rs::w` |\n";
    assert_eq!(tests(text), ["x.rs::w", "x/y.rs::z"].map(str::to_owned).into());
    let code = "#[tokio::test]\nasync fn one() {\nasync fn helper() {\n#[test]\nfn two() {\n";
    assert_eq!(written(code), ["one", "two"]);
}

/// The last cell of each row that holds a test.
fn tests(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter(|line| line.starts_with('|'))
        .filter_map(|line| line.trim_end_matches([' ', '|']).rsplit('|').next())
        .map(|cell| cell.trim().trim_matches('`').to_owned())
        .filter(|cell| cell.contains(".rs::"))
        .collect()
}

fn written(code: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut lines = code.lines();
    while let Some(line) = lines.next() {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            let name = lines
                .next()
                .and_then(|l| l.split("fn ").nth(1))
                .and_then(|l| l.split('(').next());
            found.extend(name);
        }
    }
    found
}
