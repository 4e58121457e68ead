//! The documents name what exists: links, files, commands, settings.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use helix_tests::variable;

/// Not ours, or made by tools.
const SKIPPED: [&str; 5] = ["target", "node_modules", ".git", ".venv", ".helix"];

#[test]
fn relative_links_lead_somewhere() {
    let mut broken = Vec::new();
    let mut checked = 0;
    for file in documents() {
        let folder = file.parent().expect("a file has a folder");
        for link in links(&prose(&read(&file))) {
            let path = link.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            if !folder.join(path).exists() {
                broken.push(format!("{}: {link}", shown(&file)));
            }
        }
    }
    assert!(checked > 30, "only {checked} links found");
    assert!(
        broken.is_empty(),
        "links that lead nowhere:\n{}",
        broken.join("\n")
    );
}

#[test]
fn links_to_headings_lead_to_headings() {
    let mut broken = Vec::new();
    for file in documents() {
        let folder = file.parent().expect("a file has a folder");
        for link in links(&prose(&read(&file))) {
            let Some((path, anchor)) = link.split_once('#') else {
                continue;
            };
            if path.contains("://") {
                continue;
            }
            let target = if path.is_empty() {
                file.clone()
            } else {
                folder.join(path)
            };
            let found = target.is_file() && headings(&read(&target)).contains(anchor);
            if !found {
                broken.push(format!("{}: {link}", shown(&file)));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "headings that are not there:\n{}",
        broken.join("\n")
    );
}

#[test]
fn files_named_in_the_maps_exist() {
    for (map, least) in [("ARCHITECTURE.md", 40), ("CONTRIBUTING.md", 15)] {
        let text = prose(&read(&root().join(map)));
        let named: Vec<&str> = code_spans(&text)
            .into_iter()
            .filter(|span| is_path(span))
            .collect();
        assert!(named.len() >= least, "{map} names only {} files", named.len());
        let missing: Vec<&&str> = named
            .iter()
            .filter(|path| !root().join(path).exists() && !root().join("host/src").join(path).exists())
            .collect();
        assert!(missing.is_empty(), "{map} names what is not there: {missing:?}");
    }
}

#[test]
fn commands_of_the_readme_exist() {
    let said = commands(&read(&root().join("README.md")));
    assert!(said.len() > 10, "only {} commands found: {said:?}", said.len());
    let top = helix_help(&[]);
    for words in said {
        let (command, sub) = (words.first().expect("a command"), words.get(1));
        assert!(
            top.contains(command),
            "README names `helix {command}`; there are {top:?}"
        );
        let inner = helix_help(&[command]);
        if let Some(sub) = sub
            && !inner.is_empty()
        {
            assert!(
                inner.contains(sub),
                "README names `helix {command} {sub}`; there are {inner:?}"
            );
        }
    }
}

#[test]
fn toml_in_the_documents_is_configuration() {
    for file in ["README.md", "docs/configuration.md", "docs/http.md"] {
        let text = read(&root().join(file));
        let blocks = fenced(&text, "toml");
        assert!(!blocks.is_empty(), "{file} has no TOML");
        for block in blocks {
            if let Err(error) = block.parse::<toml::Table>() {
                panic!("{file}: {error}\n{block}");
            }
            accepted(file, &block);
        }
    }
}

/// `helix check` knows every key and accepts every value; what stands beside the block is filled in.
fn accepted(file: &str, block: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let route = "\n[[routes]]\nqueue = \"helixagent.tasks.llm\"\nplugin = \"llm-request\"\n";
    let rest = if block.contains("[[routes]]") { "" } else { route };
    std::fs::write(folder.path().join("helix.toml"), format!("{block}{rest}")).expect("write helix.toml");
    std::fs::create_dir(folder.path().join("plugins")).expect("make plugins/");
    let mut check = Command::new(variable("HELIX_BIN"));
    check
        .args(["check", "--config", "helix.toml"])
        .current_dir(folder.path());
    check.env_clear();
    for name in [
        "RABBITMQ_PASSWORD",
        "KAFKA_PASSWORD",
        "LLM_API_KEY",
        "HELIX_TOKEN_ANN",
    ] {
        check.env(name, "secret");
    }
    check.env("HELIX_STORE_URL", "postgres://user:secret@host/database");
    let output = check.output().expect("run helix check");
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    // 01xx are faults of the configuration; a missing plugin file (03xx) is none of the document's business.
    let fault = said.lines().find(|line| line.contains("HX01"));
    assert!(
        fault.is_none(),
        "{file}: helix check refuses this block:\n{block}\n{said}"
    );
}

/// Subcommands that `helix … --help` lists.
fn helix_help(command: &[&str]) -> BTreeSet<String> {
    let output = Command::new(variable("HELIX_BIN"))
        .args(command)
        .arg("--help")
        .output()
        .expect("run helix");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "helix {command:?} --help: {text}");
    text.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect()
}

/// `helix a b …` in code: the words after `helix` that look like subcommands.
fn commands(text: &str) -> BTreeSet<Vec<String>> {
    let plain = |word: &&str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase());
    let mut code: Vec<&str> = code_spans(text);
    code.extend(text.lines());
    code.into_iter()
        .filter_map(|span| span.trim().trim_start_matches("$ ").strip_prefix("helix "))
        .map(|rest| {
            rest.split_whitespace()
                .take_while(plain)
                .take(2)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .filter(|words| !words.is_empty())
        .collect()
}

fn is_path(span: &str) -> bool {
    let known = [".rs", ".toml", ".md", ".wit", ".sql", ".yml", ".json"]
        .iter()
        .any(|end| span.ends_with(end));
    let folder = span.ends_with('/') && span.len() > 1;
    (known && (span.contains('/') || span == "app.rs" || span == "error.rs" || span == "tasks.rs") || folder)
        && span.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c))
        && !span.starts_with('/')
        && !span.starts_with('.')
        // What building makes.
        && !span.starts_with("target/")
}

/// Text without fenced blocks.
fn prose(text: &str) -> String {
    let mut inside = false;
    let mut kept = String::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

fn fenced(text: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in text.lines() {
        match (&mut block, line.trim()) {
            (Some(_), "```") => found.extend(block.take()),
            (Some(text), _) => {
                text.push_str(line);
                text.push('\n');
            }
            (None, start) if start == format!("```{language}") => block = Some(String::new()),
            _ => {}
        }
    }
    found
}

fn code_spans(text: &str) -> Vec<&str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
        .collect()
}

/// Targets of `[text](target)`, outside of code.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let plain: String = line.split('`').step_by(2).collect::<Vec<_>>().join("code");
        let mut rest = plain.as_str();
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, tail)) = after.split_once(')') else {
                break;
            };
            found.push(target.trim().to_owned());
            rest = tail;
        }
    }
    found
}

/// Anchors as GitHub makes them.
fn headings(text: &str) -> BTreeSet<String> {
    prose(text)
        .lines()
        .filter(|line| line.starts_with('#'))
        .map(|line| {
            let title = line.trim_start_matches('#').trim().to_lowercase();
            title
                .chars()
                .filter_map(|c| match c {
                    ' ' => Some('-'),
                    c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
                    _ => None,
                })
                .collect()
        })
        .collect()
}

fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        for entry in entries {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if path.is_dir() {
                if !SKIPPED.contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 40, "only {} documents found", found.len());
    found
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .expect("the checkout")
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
