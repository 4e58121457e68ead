//! The schema and its migrations, in one transaction each; `user_version` counts them.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, Row};

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_init.sql"),
    include_str!("migrations/0002_letter_trail.sql"),
];

/// The error is the reason why the file cannot be opened.
pub(super) async fn migrate(connection: &mut SqliteConnection) -> Result<(), String> {
    let said = |e: sqlx::Error| e.to_string();
    let row = sqlx::query("PRAGMA user_version")
        .fetch_one(&mut *connection)
        .await
        .map_err(said)?;
    let version = usize::try_from(row.get::<i64, _>(0)).unwrap_or(usize::MAX);
    if version > MIGRATIONS.len() {
        return Err(format!(
            "its schema is version {version}, this Helix knows {} at most: start the newer Helix that wrote it",
            MIGRATIONS.len()
        ));
    }
    for (done, migration) in MIGRATIONS.iter().enumerate().skip(version) {
        let mut transaction = connection.begin().await.map_err(said)?;
        sqlx::raw_sql(*migration)
            .execute(&mut *transaction)
            .await
            .map_err(said)?;
        // A pragma takes no parameters; the number is ours.
        sqlx::raw_sql(AssertSqlSafe(format!("PRAGMA user_version = {}", done + 1)))
            .execute(&mut *transaction)
            .await
            .map_err(said)?;
        transaction.commit().await.map_err(said)?;
    }
    Ok(())
}
