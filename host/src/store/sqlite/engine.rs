//! What the shared statements need to know of SQLite.

use std::future::Future;

use sqlx::{AssertSqlSafe, Connection as _, QueryBuilder, Row as _};

use crate::store::{Error, Sought};

pub(super) type Database = sqlx::Sqlite;
pub(super) type Connection = sqlx::SqliteConnection;
pub(super) type Row = sqlx::sqlite::SqliteRow;
pub(super) type Pool = sqlx::SqlitePool;

/// IMMEDIATE: waits for the lock here, under the busy timeout, and not in the middle.
const BEGIN: &str = "BEGIN IMMEDIATE";
/// Begins a transaction whose reads belong together.
pub(super) const SNAPSHOT: &str = "BEGIN";
/// One task makes all changes of a file: nobody else can be at a row.
pub(super) const FOR_UPDATE: &str = "";
pub(super) const SKIP_LOCKED: &str = "";
pub(super) const SERIAL: &str = "INTEGER PRIMARY KEY";
pub(super) const BYTES: &str = "BLOB";
pub(super) const KEY: &str = "TEXT";
pub(super) const LANE: &str = "lane";
pub(super) const TYPE: &str = "message_type";
/// Compared byte by byte, as everything is.
pub(super) const BYTEWISE: &str = "";
/// A column that is computed can be added to a table only when it is not kept in it; an index over it has it.
pub(super) const GENERATED: &str = "VIRTUAL";
/// The condition that a column has one of the texts of a JSON array.
pub(super) const AMONG: (&str, &str) = (" IN (SELECT value FROM json_each(", "))");

/// Only the index, no second copy of the words: the tokenizer takes them apart at the spaces between them and changes none, since
/// they are small letters already. Which words a letter has is all that is kept of them. The second table reads the same index
/// word by word.
pub(super) const WORDS: &str = "CREATE VIRTUAL TABLE letter_words
    USING fts5(words, content='', contentless_delete=1, detail=none, tokenize='ascii');
    CREATE VIRTUAL TABLE letter_words_in USING fts5vocab(letter_words, instance);";
/// Where that table has the number of a letter.
pub(super) const WORDS_NUMBER: &str = "rowid";

/// The numbers of letters that have the rarest of the words; none when even that one is in more than `most`.
///
/// Not by MATCH: before its first answer that goes through all letters with a word that begins so (60 ms for 300,000 of them).
pub(super) async fn rare(
    on: &mut Connection,
    sought: &Sought,
    most: usize,
) -> Result<Option<Vec<i64>>, Error> {
    let mut rarest: Option<Vec<i64>> = None;
    for (word, beginning) in sought.words() {
        let last = if beginning {
            format!("{word}{}", char::MAX)
        } else {
            word.to_owned()
        };
        let found: Vec<i64> =
            sqlx::query_scalar("SELECT doc FROM letter_words_in WHERE term >= $1 AND term <= $2 LIMIT $3")
                .bind(word)
                .bind(last)
                .bind(i64::try_from(most).unwrap_or(i64::MAX).saturating_add(1))
                .fetch_all(&mut *on)
                .await
                .map_err(failed)?;
        if found.len() <= most && rarest.as_ref().is_none_or(|rarest| found.len() < rarest.len()) {
            rarest = Some(found);
        }
    }
    Ok(rarest)
}

/// Appends the condition that a column has one of these numbers.
pub(super) fn among_numbers(query: &mut QueryBuilder<Database>, numbers: &[i64]) {
    let list = serde_json::Value::from(numbers.to_vec()).to_string();
    query
        .push(" IN (SELECT value FROM json_each(")
        .push_bind(list)
        .push("))");
}

/// Appends a query of two columns of text, which has these rows; of the second one some may be null.
pub(super) fn pairs(query: &mut QueryBuilder<Database>, rows: &[(String, Option<String>)]) {
    let list = serde_json::json!(rows).to_string();
    query
        .push("SELECT value ->> 0, value ->> 1 FROM json_each(")
        .push_bind(list)
        .push(")");
}

/// The number of a new letter, that many others of its statement before it.
pub(super) fn number(before: usize) -> String {
    format!(
        "(SELECT COALESCE(MAX(number), 0) FROM dead_letters) + {}",
        before + 1
    )
}

/// Words of letters under their numbers, in place of those that were there.
pub(super) async fn keep_words(on: &mut Connection, words: &[(i64, String)]) -> Result<(), Error> {
    let mut query = QueryBuilder::<Database>::new("INSERT OR REPLACE INTO letter_words (rowid, words) ");
    query.push_values(words, |mut row, (number, words)| {
        row.push_bind(*number).push_bind(words.clone());
    });
    query.build().execute(on).await.map_err(failed)?;
    Ok(())
}

/// The condition that a row's lane is this parameter.
pub(super) fn same_lane(parameter: &str) -> String {
    format!("lane = {parameter}")
}

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

/// The writer's connection. The file is always there, so nothing has to be opened again.
pub(super) struct Link(Connection);

impl Link {
    pub(super) fn new(connection: Connection) -> Self {
        Self(connection)
    }

    pub(super) async fn begin(&mut self) -> Result<&mut Connection, Error> {
        if execute(&mut self.0, BEGIN).await.is_err() {
            // Left open by a rollback that failed.
            let _ = execute(&mut self.0, "ROLLBACK").await;
            execute(&mut self.0, BEGIN).await?;
        }
        Ok(&mut self.0)
    }

    pub(super) async fn rollback(&mut self) {
        // Fails when SQLite has rolled back already, and then there is nothing left to undo.
        let _ = execute(&mut self.0, "ROLLBACK").await;
    }

    /// Whether there is any use in trying again.
    #[allow(clippy::unused_self, reason = "the other engine's connection may be gone")]
    pub(super) fn works(&self) -> bool {
        true
    }

    pub(super) async fn close(self) -> Result<(), sqlx::Error> {
        self.0.close().await
    }
}

pub(super) async fn execute(on: &mut Connection, sql: &'static str) -> Result<(), Error> {
    sqlx::query(sql).execute(on).await.map(drop).map_err(failed)
}

/// A file answers; that a lock is waited for is bounded by the busy timeout.
pub(super) async fn bounded<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    work.await
}

pub(super) async fn answered<T>(read: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    read.await.map_err(failed)
}

/// One task makes all changes of a file: it is always alone with a lane.
#[allow(clippy::unused_async, reason = "the other engine asks its server")]
pub(super) async fn lock_lanes(
    _: &mut Connection,
    _: &[(&str, &[u8])],
    _: &[&str],
    _: &[&str],
) -> Result<(), Error> {
    Ok(())
}
