//! Each promise of docs/guarantees.md names tests, and each of them exists.

use std::path::{Path, PathBuf};

/// A promise and the tests it names.
#[derive(Debug, PartialEq, Eq)]
struct Promise {
    line: usize,
    text: String,
    tests: Vec<String>,
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let promises = promises(&read(&root().join("docs/guarantees.md")));
    assert!(promises.len() >= 20, "only {} promises found", promises.len());
    let mut wrong = Vec::new();
    for promise in &promises {
        if promise.tests.is_empty() {
            wrong.push(format!("line {}: no test for: {}", promise.line, promise.text));
        }
        wrong.extend(promise.tests.iter().filter_map(|test| missing(&root(), test)));
    }
    assert!(wrong.is_empty(), "docs/guarantees.md:\n{}", wrong.join("\n"));
}

#[test]
fn a_test_that_is_not_there_is_noticed() {
    let here = "tests/it/guarantees.rs";
    assert_eq!(
        missing(&root(), &format!("{here}::a_test_that_is_not_there_is_noticed")),
        None
    );
    // A function, but no test.
    assert!(missing(&root(), &format!("{here}::promises")).is_some());
    assert!(missing(&root(), &format!("{here}::a_test_that_is_not")).is_some());
    assert!(missing(&root(), "tests/it/no_such_file.rs::a").is_some());
    assert!(missing(&root(), "contract::*::no_such_property").is_some());
    assert!(missing(&root(), "nonsense").is_some());
}

#[test]
fn promises_are_read_with_their_tests() {
    let text = "# A\n- no promise\n## 1. B\n- **P** goes\n  on.\n  - test: `a::b`\n- **Q**\n## What is not\n- **R**\n";
    let read = promises(text);
    let p = Promise {
        line: 4,
        text: "**P** goes".to_owned(),
        tests: vec!["a::b".to_owned()],
    };
    let q = Promise {
        line: 7,
        text: "**Q**".to_owned(),
        tests: Vec::new(),
    };
    assert_eq!(read, [p, q]);
}

/// Bullets under headings with a number.
fn promises(text: &str) -> Vec<Promise> {
    let mut found: Vec<Promise> = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        if let Some(heading) = line.strip_prefix("## ") {
            inside = heading.starts_with(|c: char| c.is_ascii_digit());
        } else if !inside {
            continue;
        } else if let Some(test) = line.strip_prefix("  - test: ") {
            let name = test.trim().trim_matches('`').to_owned();
            found
                .last_mut()
                .expect("a test stands under its promise")
                .tests
                .push(name);
        } else if let Some(text) = line.strip_prefix("- ") {
            found.push(Promise {
                line: number + 1,
                text: text.to_owned(),
                tests: Vec::new(),
            });
        }
    }
    found
}

/// Why the test is not there. `path.rs::name` or `contract::<place or *>::<property>`.
pub fn missing(root: &Path, test: &str) -> Option<String> {
    let not = |why: &str| Some(format!("`{test}`: {why}"));
    if let Some(rest) = test.strip_prefix("contract::") {
        let Some((place, property)) = rest.split_once("::") else {
            return not("no property named");
        };
        let folder = root.join("tests/it/contract");
        let Ok(list) = std::fs::read_to_string(folder.join("mod.rs")) else {
            return not("no contract suite");
        };
        // Properties become tests by a macro: it has to list this one, and to know the place.
        if !list.contains(&format!("::{property} [")) {
            return not("the contract suite does not run this property");
        }
        if place != "*" && !list.contains(&format!("@place {place} ")) {
            return not("no such place in the contract suite");
        }
        let written = files(&folder)
            .iter()
            .any(|file| read(file).contains(&format!("async fn {property}(")));
        return if written { None } else { not("no such property") };
    }
    let Some((path, name)) = test.rsplit_once("::") else {
        return not("neither `path.rs::name` nor `contract::…`");
    };
    let Ok(text) = std::fs::read_to_string(root.join(path)) else {
        return not("no such file");
    };
    let lines: Vec<&str> = text.lines().collect();
    let is_function = |line: &str| line.contains(&format!("fn {name}("));
    let Some(at) = lines.iter().position(|line| is_function(line)) else {
        return not("no such function");
    };
    // `#[test]`, `#[tokio::test(…)]`, or inside `proptest! { … #[test] fn … }`; other attributes may stand between.
    let marked = lines
        .iter()
        .take(at)
        .rev()
        .take_while(|line| line.trim_start().starts_with("#[") || line.trim_start().starts_with("//"))
        .any(|line| line.contains("test]") || line.contains("test("));
    // Or it becomes one on each engine of the store, by the list of `on_both!`.
    let on_both = lines
        .iter()
        .skip_while(|line| line.trim() != "on_both! {")
        .take_while(|line| line.trim() != "}")
        .any(|line| line.trim() == name);
    if marked || on_both {
        None
    } else {
        not("a function, but no test")
    }
}

pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    entries
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .collect()
}

pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
