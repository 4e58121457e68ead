//! Columns of a row, and many rows in few statements. What somebody edited by hand is an error, not a panic.

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

/// Rows in one statement, at most. Each statement costs a way to the engine and back; each size is a statement of its own, which
/// the engine reads once, so there are few.
pub(super) const TOGETHER: [usize; 4] = [64, 16, 4, 1];

/// All of them, in pieces of these sizes.
pub(super) fn pieces<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = TOGETHER.into_iter().find(|size| *size <= rows.len())?;
        let (piece, rest) = rows.split_at(size);
        rows = rest;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_all_in_order() {
        for count in [0, 1, 3, 4, 63, 64, 200] {
            let rows: Vec<usize> = (0..count).collect();
            let found: Vec<usize> = pieces(&rows).flatten().copied().collect();
            assert_eq!(found, rows);
            assert!(pieces(&rows).all(|piece| TOGETHER.contains(&piece.len())));
        }
    }
}
