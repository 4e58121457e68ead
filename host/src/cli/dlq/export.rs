//! `helix dlq export`: whole letters as JSON lines, page by page.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::super::Exit;
use super::super::client::{Client, segment};
use super::super::output;
use super::Listing;
use super::filter::Filter;
use crate::error;

const PAGE: usize = 500;

#[derive(Debug, Args)]
pub struct Export {
    #[command(flatten)]
    filter: Filter,
    /// dead, retrying, reprocessed, discarded, expired, all [default: all but reprocessed and discarded]
    #[arg(long)]
    state: Option<String>,
    /// A new file; one that is there is not written over [default: stdout]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Export {
    pub async fn run(self, client: &Client) -> Result<(), Exit> {
        let Some(path) = &self.out else {
            let written = self.write(client, &mut io::stdout().lock(), "stdout").await?;
            output::talk(&format!("{written} letters"));
            return Ok(());
        };
        let shown = path.display().to_string();
        let file = File::create_new(path).map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::AlreadyExists => "it is there already; give another name".to_owned(),
                _ => error.to_string(),
            };
            Exit::failed(format!("cannot write {shown}: {why}")).coded(error::CLI_FILE)
        })?;
        let mut file = BufWriter::new(file);
        let done = self.write(client, &mut file, &shown).await;
        let kept = match done {
            Ok(written) => file
                .flush()
                .and_then(|()| file.get_ref().sync_all())
                .map(|()| written)
                .map_err(|error| unwritten(&shown, &error)),
            Err(exit) => Err(exit),
        };
        match kept {
            Ok(written) => {
                output::talk(&format!("{written} letters in {shown}"));
                Ok(())
            }
            Err(exit) => {
                // Half an export must not pass for a whole one.
                let _ = fs::remove_file(path);
                Err(exit)
            }
        }
    }

    async fn write(&self, client: &Client, to: &mut impl Write, shown: &str) -> Result<u64, Exit> {
        let mut written = 0;
        let mut cursor: Option<String> = None;
        loop {
            let mut query = self.filter.words();
            query.push(("limit", PAGE.to_string()));
            let more = [("state", self.state.clone()), ("cursor", cursor.take())];
            query.extend(more.into_iter().filter_map(|(name, value)| Some((name, value?))));
            let page: Listing = client.get("/v1/messaging/dlq", &query).await?;
            for summary in &page.messages {
                let path = format!("/v1/messaging/dlq/{}", segment(&summary.id));
                let letter: Value = client.get(&path, &[]).await?;
                writeln!(to, "{letter}").map_err(|error| unwritten(shown, &error))?;
                written += 1;
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(written),
            }
        }
    }
}

fn unwritten(shown: &str, error: &io::Error) -> Exit {
    Exit::failed(format!("cannot write to {shown}: {error}")).coded(error::CLI_FILE)
}
