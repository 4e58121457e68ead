//! `helix dlq edit`: a changed copy in a letter's place, changed in an editor or given in a file.

use std::fs::{self, OpenOptions};
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Map, Value, json};

use super::super::client::{Client, segment};
use super::super::output::{self, Format};
use super::super::{Exit, Global, send};
use super::redrive::actor;
use crate::dlq::view::Letter;
use crate::error;

#[derive(Debug, Args)]
pub struct Edit {
    /// Id from `dlq ls`
    id: String,
    /// Why; kept with the letter
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// File with the new body, `-` = stdin; without it $VISUAL or $EDITOR opens
    #[arg(long, value_name = "FILE")]
    body: Option<String>,
    /// Sets a header; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE")]
    headers: Vec<String>,
    /// Leaves a header out; may be repeated
    #[arg(long = "without-header", value_name = "NAME")]
    without: Vec<String>,
    /// Media type of the body
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
}

impl Edit {
    pub async fn run(self, global: &Global, client: &Client) -> Result<(), Exit> {
        let path = format!("/v1/messaging/dlq/{}", segment(&self.id));
        let mut request = Map::new();
        request.insert("actor".into(), actor());
        request.insert("reason".into(), json!(self.reason));
        let mut headers = Map::new();
        for header in &self.headers {
            let (name, value) = header
                .split_once('=')
                .ok_or_else(|| Exit::usage(format!("--header takes NAME=VALUE, got `{header}`")))?;
            headers.insert(name.to_owned(), json!(value));
        }
        headers.extend(self.without.iter().map(|name| (name.clone(), Value::Null)));
        let body = match &self.body {
            Some(file) if file == "-" => Some(send::read("-")?),
            Some(file) => Some(send::read(&format!("@{file}"))?),
            None if headers.is_empty() && self.content_type.is_none() => {
                let letter: Letter = client.get(&path, &[]).await?;
                Some(in_editor(&letter)?)
            }
            None => None,
        };
        if let Some(body) = body {
            match String::from_utf8(body) {
                Ok(text) => request.insert("body".into(), json!(text)),
                Err(bytes) => request.insert("body_base64".into(), json!(STANDARD.encode(bytes.as_bytes()))),
            };
        }
        request.insert("headers".into(), headers.into());
        if let Some(content_type) = self.content_type {
            request.insert("content_type".into(), json!(content_type));
        }
        let answer: Value = client.post(&format!("{path}/edit"), &request.into()).await?;
        if global.output == Format::Json {
            return output::json(&answer);
        }
        let text = |key: &str| answer.get(key).and_then(Value::as_str).unwrap_or_default();
        output::line(&format!(
            "{} {}, edited, sent as {}",
            text("id"),
            text("status"),
            text("message_id")
        ))
    }
}

fn in_editor(letter: &Letter) -> Result<Vec<u8>, Exit> {
    if !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Exit::usage(
            "no terminal for an editor; give the new body with --body FILE",
        ));
    }
    let original = letter.original.as_ref();
    let before = match original.map(|o| (&o.body, &o.body_base64)) {
        Some((Some(text), _)) => text.clone().into_bytes(),
        Some((None, Some(encoded))) => STANDARD.decode(encoded).unwrap_or_default(),
        _ => Vec::new(),
    };
    let file = Draft::of(&letter.id, &before)?;
    let editor = ["VISUAL", "EDITOR"]
        .into_iter()
        .find_map(|name| {
            std::env::var(name)
                .ok()
                .filter(|editor| !editor.trim().is_empty())
        })
        .unwrap_or_else(|| "vi".to_owned());
    // An editor may come with arguments: `code --wait`.
    let mut words = editor.split_whitespace();
    let ended = Command::new(words.next().unwrap_or("vi"))
        .args(words)
        .arg(&file.0)
        .status()
        .map_err(|error| Exit::failed(format!("cannot start `{editor}`: {error}")).coded(error::CLI_TOOL))?;
    if !ended.success() {
        return Err(Exit::failed(format!(
            "`{editor}` ended with {ended}; nothing was sent"
        )));
    }
    let after = fs::read(&file.0)
        .map_err(|error| Exit::failed(format!("cannot read {}: {error}", file.0.display())))?;
    let after = without_added_newline(&before, after);
    if after == before {
        return Err(Exit::failed("nothing was changed, and nothing was sent"));
    }
    Ok(after)
}

/// Editors end a file with a newline, also one that had none.
fn without_added_newline(before: &[u8], mut after: Vec<u8>) -> Vec<u8> {
    if !before.ends_with(b"\n") && after.ends_with(b"\n") {
        after.pop();
    }
    after
}

/// For this user's eyes only, and gone afterwards.
struct Draft(PathBuf);

impl Draft {
    fn of(id: &str, bytes: &[u8]) -> Result<Self, Exit> {
        let name = format!("helix-letter-{}-{}", segment(id), std::process::id());
        let path = std::env::temp_dir().join(name);
        let write = |path: &Path| {
            let mut options = OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            options.open(path)?.write_all(bytes)
        };
        write(&path).map_err(|error| {
            Exit::failed(format!("cannot write {}: {error}", path.display())).coded(error::CLI_FILE)
        })?;
        Ok(Self(path))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newline_that_the_editor_added_is_no_change() {
        for (before, after, want) in [
            ("a", "a\n", "a"),
            ("a\n", "a\n", "a\n"),
            ("a", "b\n", "b"),
            ("a", "b", "b"),
            ("a\n", "b\n", "b\n"),
        ] {
            assert_eq!(
                without_added_newline(before.as_bytes(), after.into()),
                want.as_bytes()
            );
        }
    }
}
