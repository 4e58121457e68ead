//! Data goes to stdout as text or JSON.

use std::io::Write;

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::Exit;
use crate::telemetry::logs::printable;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    Text,
    Json,
}

/// One line of text.
pub fn line(text: &str) -> Result<(), Exit> {
    writeln!(std::io::stdout(), "{text}")
        .map_err(|error| Exit::failed(format!("cannot write to stdout: {error}")))
}

/// One line for the person, on stderr.
pub fn talk(text: &str) {
    // A closed stderr is no reason to stop.
    let _ = writeln!(std::io::stderr(), "{}", text.trim_end());
}

pub fn json(value: &impl Serialize) -> Result<(), Exit> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Exit::failed(format!("cannot write JSON: {error}")))?;
    line(&text)
}

/// Control characters of messages and guests are shown, not sent to the terminal.
pub fn table(head: &[&str], rows: Vec<Vec<String>>) -> Result<(), Exit> {
    let mut table = Table::new();
    // In a pipe one row is one line: an id that is broken in two can be neither copied nor searched for.
    let arrangement = if table.is_tty() {
        ContentArrangement::Dynamic
    } else {
        ContentArrangement::Disabled
    };
    table
        .load_style(presets::ASCII_BORDERS_ONLY_CONDENSED)
        .set_content_arrangement(arrangement)
        .set_header(head);
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell)));
    }
    line(&table.to_string())
}
