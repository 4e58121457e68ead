//! SQLite's errors as the store's.

use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{Decode, Row, Type};

use super::Error;

/// Primary result code SQLITE_FULL: the disk is full, or the file has its largest size.
const SQLITE_FULL: u32 = 13;

#[allow(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
pub(super) fn failed(error: sqlx::Error) -> Error {
    let code = match &error {
        sqlx::Error::Database(e) => e.code().and_then(|code| code.parse::<u32>().ok()),
        _ => None,
    };
    // Extended codes carry the primary one in their low byte.
    match code.map(|code| code & 0xff) {
        Some(SQLITE_FULL) => Error::Full(error.to_string()),
        _ => Error::Storage(error.to_string()),
    }
}

pub(super) fn corrupt(what: &str, id: &str) -> Error {
    Error::Storage(format!("{what} of row `{id}` cannot be read"))
}

/// A column of a row; a file that somebody edited by hand is an error, not a panic.
pub(super) fn column<'r, T: Decode<'r, Sqlite> + Type<Sqlite>>(
    row: &'r SqliteRow,
    name: &str,
) -> Result<T, Error> {
    row.try_get(name).map_err(failed)
}
