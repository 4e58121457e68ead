//! Reads Rust just well enough: the paths a file says, without comments, literals and code for tests.

use std::collections::BTreeSet;

/// The module a file is: `broker/kafka/mod.rs` → broker, kafka.
fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if path == "lib" || path == "main" {
        Vec::new()
    } else {
        path.split('/').map(str::to_owned).collect()
    }
}

#[derive(Debug, Clone, PartialEq)]
pub enum Token {
    Word(String),
    /// `::`
    Colons,
    Text(String),
    Mark(char),
}

/// Words and marks; comments are dropped, literals are kept apart.
pub fn tokens(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = at(i);
        if c == '/' && at(i + 1) == '/' {
            while i < chars.len() && at(i) != '\n' {
                i += 1;
            }
        } else if c == '/' && at(i + 1) == '*' {
            let mut depth = 0;
            loop {
                match (at(i), at(i + 1)) {
                    ('/', '*') => (depth, i) = (depth + 1, i + 2),
                    ('*', '/') => (depth, i) = (depth - 1, i + 2),
                    _ => i += 1,
                }
                if depth == 0 || i >= chars.len() {
                    break;
                }
            }
        } else if c == '"' {
            let start = i + 1;
            i += 1;
            while i < chars.len() && at(i) != '"' {
                i += if at(i) == '\\' { 2 } else { 1 };
            }
            found.push(Token::Text(chars[start..i.min(chars.len())].iter().collect()));
            i += 1;
        } else if c == 'r' && (at(i + 1) == '"' || (at(i + 1) == '#' && matches!(at(i + 2), '"' | '#'))) {
            let hashes = (i + 1..).take_while(|&k| at(k) == '#').count();
            let end: String = std::iter::once('"')
                .chain(std::iter::repeat_n('#', hashes))
                .collect();
            let start = i + 2 + hashes;
            let rest: String = chars[start.min(chars.len())..].iter().collect();
            let length = rest
                .find(&end)
                .map_or(rest.chars().count(), |bytes| rest[..bytes].chars().count());
            found.push(Token::Text(rest.chars().take(length).collect()));
            i = start + length + end.len();
        } else if c == '\'' && (at(i + 1) == '\\' || at(i + 2) == '\'') {
            // A character, not a lifetime.
            i += if at(i + 1) == '\\' { 3 } else { 2 };
            while i < chars.len() && at(i) != '\'' {
                i += 1;
            }
            i += 1;
        } else if is_word(c) {
            let start = i;
            while is_word(at(i)) {
                i += 1;
            }
            let word: String = chars[start..i].iter().collect();
            // Prefixes of literals (b"", c"", br"") are no words.
            if !(at(i) == '"' && matches!(word.as_str(), "b" | "c" | "br" | "cr")) {
                found.push(Token::Word(word));
            }
        } else if c == ':' && at(i + 1) == ':' {
            found.push(Token::Colons);
            i += 2;
        } else {
            if !c.is_whitespace() {
                found.push(Token::Mark(c));
            }
            i += 1;
        }
    }
    found
}

fn word(token: Option<&Token>) -> Option<&str> {
    match token {
        Some(Token::Word(word)) => Some(word),
        _ => None,
    }
}

/// Without what is compiled for tests only, and the files (without `.rs`) of test modules that have their own.
pub fn without_tests(path: &str, tokens: &[Token]) -> (Vec<Token>, Vec<String>) {
    let parent = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mark = |i: usize, c: char| tokens.get(i) == Some(&Token::Mark(c));
    let mut kept = Vec::new();
    let mut files = Vec::new();
    let mut i = 0;
    while i < tokens.len() {
        let is_cfg = mark(i, '#')
            && mark(i + 1, '[')
            && word(tokens.get(i + 2)) == Some("cfg")
            && word(tokens.get(i + 4)) == Some("test");
        if !is_cfg {
            kept.extend(tokens.get(i).cloned());
            i += 1;
            continue;
        }
        // The item goes on to its `;`, or to the end of its braces.
        let mut depth = 0;
        let mut named = None;
        let mut other_file = None;
        let mut brackets = 0;
        while i < tokens.len() {
            match tokens.get(i) {
                Some(Token::Mark('[')) => brackets += 1,
                Some(Token::Mark(']')) => brackets -= 1,
                Some(Token::Mark('{')) => depth += 1,
                Some(Token::Mark('}')) => depth -= 1,
                Some(Token::Text(text)) if brackets > 0 && word(tokens.get(i - 2)) == Some("path") => {
                    other_file = Some(text.clone());
                }
                Some(Token::Word(mod_word)) if mod_word == "mod" && depth == 0 => {
                    named = word(tokens.get(i + 1)).map(str::to_owned);
                }
                _ => {}
            }
            let ends = depth == 0 && brackets == 0 && (mark(i, ';') || mark(i, '}'));
            if ends && mark(i, ';') {
                match (&other_file, &named) {
                    (Some(file), _) => files.push(format!("{parent}/{}", file.trim_end_matches(".rs"))),
                    (None, Some(name)) => {
                        let module = module_of(path)
                            .into_iter()
                            .chain([name.clone()])
                            .collect::<Vec<_>>();
                        files.push(module.join("/"));
                    }
                    _ => {}
                }
            }
            i += 1;
            if ends {
                break;
            }
        }
    }
    (kept, files)
}

/// Every path that is said in a file, with `crate::` in front where it is ours.
pub fn paths(file: &str, tokens: &[Token]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut i = 0;
    let mut in_use = false;
    while i < tokens.len() {
        match tokens.get(i) {
            Some(Token::Mark(';')) => in_use = false,
            Some(Token::Word(first)) if first == "use" => in_use = true,
            Some(Token::Word(_)) if in_use || tokens.get(i + 1) == Some(&Token::Colons) => {
                let mut said = Vec::new();
                i = tree(tokens, i, &mut Vec::new(), &mut said);
                found.extend(said.iter().map(|path| absolute(file, path)));
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    found
}

/// One path or use tree from `i` on; returns where it ends.
fn tree(tokens: &[Token], mut i: usize, prefix: &mut Vec<String>, said: &mut Vec<Vec<String>>) -> usize {
    let length = prefix.len();
    loop {
        match tokens.get(i) {
            Some(Token::Word(word)) => prefix.push(word.clone()),
            Some(Token::Mark('{')) => {
                i += 1;
                while i < tokens.len() && tokens.get(i) != Some(&Token::Mark('}')) {
                    let next = tree(tokens, i, prefix, said);
                    i = if next == i { i + 1 } else { next };
                    // `as name` and commas.
                    if word(tokens.get(i)) == Some("as") {
                        i += 2;
                    }
                }
                prefix.truncate(length);
                return i + 1;
            }
            _ => break,
        }
        i += 1;
        if tokens.get(i) != Some(&Token::Colons) {
            break;
        }
        i += 1;
    }
    if prefix.len() > length {
        said.push(prefix.clone());
    }
    prefix.truncate(length);
    i
}

fn absolute(file: &str, path: &[String]) -> String {
    let mut module = module_of(file);
    let mut rest = path;
    let mut ours = false;
    while let Some((first, tail)) = rest.split_first() {
        match first.as_str() {
            "crate" | "helix_host" => module.clear(),
            "self" => {}
            "super" => drop(module.pop()),
            _ => break,
        }
        ours = true;
        rest = tail;
    }
    if ours {
        let parts = module.iter().chain(rest).map(String::as_str);
        std::iter::once("crate")
            .chain(parts)
            .collect::<Vec<_>>()
            .join("::")
    } else {
        path.join("::")
    }
}
