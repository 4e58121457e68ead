//! Where a value comes from: a stretch of a file, an environment variable, a flag, or the defaults.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::suggest::distance;

/// A configuration file as people may see it: secrets are masked and control characters replaced, byte for byte, so that
/// positions stay those of the file on disk.
#[derive(Debug)]
pub struct SourceFile {
    name: String,
    shown: miette::NamedSource<String>,
    text: String,
}

impl SourceFile {
    pub fn new(name: impl Into<String>, text: &str) -> Arc<Self> {
        let name = name.into();
        let text = tame(&mask(text));
        Arc::new(Self {
            shown: miette::NamedSource::new(&name, text.clone()),
            name,
            text,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn shown(&self) -> &miette::NamedSource<String> {
        &self.shown
    }

    /// Line and column, both from 1; the column counts characters.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = self.text.get(..offset).unwrap_or_default();
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = before.matches('\n').count() + 1;
        let column = before.get(line_start..).unwrap_or_default().chars().count() + 1;
        (line, column)
    }

    /// The stretch of a line without its surrounding blanks.
    pub(super) fn line_span(&self, line: usize) -> Range<usize> {
        let mut start = 0;
        for (number, text) in self.text.split_inclusive('\n').enumerate() {
            if number + 1 == line {
                return start..start + text.trim_end().len();
            }
            start += text.len();
        }
        self.text.len()..self.text.len()
    }

    pub fn lines(&self) -> usize {
        self.text.lines().count()
    }
}

/// Which source a value came from.
#[derive(Debug, Clone)]
pub enum Place {
    File {
        file: Arc<SourceFile>,
        span: Range<usize>,
    },
    Env(String),
    Flag(String),
    /// Known by name only (`config/helix.toml:12`).
    Named {
        file: String,
        line: Option<usize>,
    },
    Default,
}

impl Place {
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::File { file, span } => Some(file.position(span.start).0),
            Self::Named { line, .. } => *line,
            _ => None,
        }
    }

    pub fn column(&self) -> Option<usize> {
        match self {
            Self::File { file, span } => Some(file.position(span.start).1),
            _ => None,
        }
    }

    pub fn file(&self) -> Option<&str> {
        match self {
            Self::File { file, .. } => Some(file.name()),
            Self::Named { file, .. } => Some(file),
            _ => None,
        }
    }

    /// Environment and flags carry text; what it means is known only when the schema has been asked.
    pub(super) fn is_text(&self) -> bool {
        matches!(self, Self::Env(_) | Self::Flag(_))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, span } => write!(f, "{}:{}", file.name(), file.position(span.start).0),
            Self::Named {
                file,
                line: Some(line),
            } => write!(f, "{file}:{line}"),
            Self::Named { file, line: None } => f.write_str(file),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag --{name}"),
            Self::Default => f.write_str("default"),
        }
    }
}

/// Looks like the name of something that must not be printed.
pub(super) fn is_secret_name(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    [
        "pass",
        "secret",
        "token",
        "credential",
        "apikey",
        "api_key",
        "api-key",
    ]
    .iter()
    .any(|w| key.contains(w))
        || distance(&key, "password") <= 2
}

pub(super) fn is_postgres(url: &str) -> bool {
    ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
}

/// A URL with a password in it.
pub(super) fn carries_password(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else {
        return false;
    };
    // The last @ of the address: a password may hold one that somebody forgot to encode, and a `/` too.
    let user = rest.rsplit_once('@').map_or("", |(user, _)| user);
    user.contains(':')
        || rest
            .split(['?', '&'])
            .any(|part| part.to_ascii_lowercase().starts_with("password="))
}

/// Blanks out the values of keys that look secret, and URLs that carry a password. Works on text, because a file that cannot be parsed is shown too.
fn mask(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('=') {
        let (head, tail) = rest.split_at(at + 1);
        out.push_str(head);
        rest = tail;
        let key = head
            .trim_end_matches('=')
            .trim_end()
            .trim_end_matches(['"', '\'']);
        let key = key
            .rsplit(|c: char| !(c.is_alphanumeric() || c == '_' || c == '-'))
            .next()
            .unwrap_or_default();
        let blanks = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        let (skipped, value) = rest.split_at(blanks);
        let quote = ["\"\"\"", "'''", "\"", "'"]
            .into_iter()
            .find(|q| value.starts_with(q))
            .unwrap_or("");
        let inner = value.get(quote.len()..).unwrap_or_default();
        let end = if quote.is_empty() {
            inner.find(['\n', ',', '}', ']', '#']).unwrap_or(inner.len())
        } else {
            let line = if quote.len() == 3 {
                inner.len()
            } else {
                inner.find('\n').unwrap_or(inner.len())
            };
            closing(inner, quote).map_or(line, |end| end.min(line))
        };
        let secret = inner.get(..end).unwrap_or_default();
        if !is_secret_name(key) && (quote.is_empty() || !carries_password(secret)) {
            continue;
        }
        out.push_str(skipped);
        out.push_str(quote);
        if is_reference(secret) {
            out.push_str(secret);
        } else {
            out.extend(secret.bytes().map(|b| {
                if matches!(b, b'\n' | b'\r') {
                    char::from(b)
                } else {
                    '*'
                }
            }));
        }
        rest = inner.get(end..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// Where the string ends; a backslash hides the next character of a basic string.
fn closing(inner: &str, quote: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' && quote.starts_with('"') {
            escaped = true;
        } else if inner.get(at..).is_some_and(|tail| tail.starts_with(quote)) {
            return Some(at);
        }
    }
    None
}

pub(super) fn is_reference(value: &str) -> bool {
    value.starts_with("env:") || value.starts_with("file:")
}

/// A terminal must not obey what stands in a file. A carriage return alone would write over the line before it.
fn tame(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c == '\r' && rest.as_str().starts_with('\n') {
            out.push(' ');
        } else if c.is_control() && !matches!(c, '\n' | '\t') {
            out.extend(std::iter::repeat_n('?', c.len_utf8()));
        } else {
            out.push(c);
        }
    }
    out
}

/// User text inside a message: quoted, control characters escaped, long text cut.
pub(super) fn quoted(text: &str) -> String {
    const LIMIT: usize = 120;
    let mut out = String::from("`");
    for (n, c) in text.chars().enumerate() {
        if n == LIMIT {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out.push('`');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_nothing_moves() {
        let text = "password = \"hunter2\"\nsasl = { user = \"a\", password = 'x\"y' }\npasword=\"zz\"\nname = \"b\"\n";
        let masked = mask(text);
        assert_eq!(masked.len(), text.len());
        assert!(
            !masked.contains("hunter2") && !masked.contains("x\"y") && !masked.contains("zz"),
            "{masked}"
        );
        assert!(masked.contains("user = \"a\"") && masked.contains("name = \"b\""));
        assert!(mask("password = \"env:NAME\"").contains("env:NAME"));
        assert!(!mask("password = \"\"\"\nhunter2\n\"\"\"\nx = 1").contains("hunter2"));
        assert!(!mask("password = hunter2 # typo").contains("hunter2"));
        let url = mask(
            "store = { url = \"postgres://u:hunter2@h/d\", x = 1 }\nurl = 'postgres://h/d?password=hunter2'\n",
        );
        assert!(!url.contains("hunter2") && url.contains("x = 1 }"), "{url}");
        assert!(mask("url = \"postgres://u@h:5432/d?sslmode=require\"").contains("u@h:5432"));
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        let file = SourceFile::new("x", "a = \"\u{1b}[31m\"\nb = 1\n");
        assert!(!file.text.contains('\u{1b}'));
        assert_eq!(file.position(12).0, 2);
        let file = SourceFile::new("x", "a = 1 # no\rb = 2\r\nc = 3\n");
        assert_eq!(file.text, "a = 1 # no?b = 2 \nc = 3\n");
        assert_eq!(file.position(18), (2, 1));
    }
}
