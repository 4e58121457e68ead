//! The schema: one list of migrations for both engines, each in a transaction of its own.
//!
//! They are written in the dialect that both understand; what has no common word stands in braces and is put in by the
//! engine: `{serial}` for a number that counts up, `{bytes}`, `{key}` for text that is compared byte by byte, `{lane}`
//! and `{type}` for what an index has in place of a lane or type, which may be as long as a message, `{bytewise}` for a column of an index that
//! is compared byte by byte, `{generated}` for where a computed column is kept, and `{words}` for the table of words and its index.

use sqlx::{AssertSqlSafe, Connection as _};

use super::engine::{self, BYTES, BYTEWISE, Connection, GENERATED, KEY, LANE, SERIAL, TYPE, WORDS};
use super::words;

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_init.sql"),
    include_str!("migrations/0002_letter_trail.sql"),
    include_str!("migrations/0003_redrive_jobs.sql"),
    include_str!("migrations/0004_replays.sql"),
    include_str!("migrations/0005_parking.sql"),
    include_str!("migrations/0006_audit.sql"),
    include_str!("migrations/0007_hosts.sql"),
    include_str!("migrations/0008_letter_kinds.sql"),
    include_str!("migrations/0009_letter_words.sql"),
    include_str!("migrations/0010_preparing.sql"),
    include_str!("migrations/0011_letter_exports.sql"),
    include_str!("migrations/0012_auto.sql"),
    include_str!("migrations/0013_job_cancel.sql"),
    include_str!("migrations/0014_letter_job.sql"),
];

/// The error is the reason why the store cannot be opened.
pub(in crate::store) async fn migrate(connection: &mut Connection) -> Result<(), String> {
    let said = |e: sqlx::Error| e.to_string();
    let version = engine::schema_version(connection).await.map_err(said)?;
    if version > MIGRATIONS.len() {
        return Err(format!(
            "its schema is version {version}, this Helix knows {} at most: start the newer Helix that wrote it",
            MIGRATIONS.len()
        ));
    }
    for (done, migration) in MIGRATIONS.iter().enumerate().skip(version) {
        let migration = migration
            .replace("{serial}", SERIAL)
            .replace("{bytes}", BYTES)
            .replace("{key}", KEY)
            .replace("{lane}", LANE)
            .replace("{type}", TYPE)
            .replace("{generated}", GENERATED)
            .replace("{bytewise}", BYTEWISE)
            .replace("{words}", WORDS);
        let mut transaction = connection.begin().await.map_err(said)?;
        // Ours from the first letter to the last.
        sqlx::raw_sql(AssertSqlSafe(migration))
            .execute(&mut *transaction)
            .await
            .map_err(said)?;
        engine::set_schema_version(&mut transaction, done + 1)
            .await
            .map_err(said)?;
        transaction.commit().await.map_err(said)?;
    }
    words::make_up(connection).await.map_err(|e| e.to_string())
}
