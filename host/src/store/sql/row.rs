//! Columns of a row. What somebody edited by hand is an error, not a panic.

use sqlx::{Decode, Row as _, Type};

use super::Error;
use super::engine::{Database, Row, failed};

pub(super) fn column<'r, T: Decode<'r, Database> + Type<Database>>(
    row: &'r Row,
    name: &str,
) -> Result<T, Error> {
    row.try_get(name).map_err(failed)
}

pub(super) fn corrupt(what: &str, id: &str) -> Error {
    Error::Storage(format!("{what} of row `{id}` cannot be read"))
}
