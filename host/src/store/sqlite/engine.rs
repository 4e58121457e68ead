//! What the shared statements need to know of SQLite.

use sqlx::AssertSqlSafe;
use sqlx::Row as _;

use crate::store::Error;

pub(super) type Database = sqlx::Sqlite;
pub(super) type Connection = sqlx::SqliteConnection;
pub(super) type Row = sqlx::sqlite::SqliteRow;
pub(super) type Pool = sqlx::SqlitePool;

/// IMMEDIATE: waits for the lock here, under the busy timeout, and not in the middle.
pub(super) const BEGIN: &str = "BEGIN IMMEDIATE";
/// Letters of ASCII match in either case.
pub(super) const LIKE: &str = " LIKE ";
pub(super) const SERIAL: &str = "INTEGER PRIMARY KEY";
pub(super) const BYTES: &str = "BLOB";
pub(super) const KEY: &str = "TEXT";

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

pub(super) async fn schema_version(on: &mut Connection) -> Result<usize, sqlx::Error> {
    let row = sqlx::query("PRAGMA user_version").fetch_one(on).await?;
    Ok(usize::try_from(row.get::<i64, _>(0)).unwrap_or(usize::MAX))
}

/// A pragma takes no parameters; the number is ours.
pub(super) async fn set_schema_version(on: &mut Connection, version: usize) -> Result<(), sqlx::Error> {
    let pragma = AssertSqlSafe(format!("PRAGMA user_version = {version}"));
    sqlx::raw_sql(pragma).execute(on).await.map(drop)
}
