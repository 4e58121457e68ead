//! The engines by themselves: the rows of letters into a table with nothing but its key, 256 in each transaction.

use std::path::Path;

use anyhow::Result;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, QueryBuilder};

use super::letter;
use crate::process::{Figures, Meter};

const TOGETHER: usize = 256;
/// In one statement, as the host has it.
const STATEMENT: usize = 64;

macro_rules! insert_all {
    ($connection:ident, $database:ty, $count:ident) => {{
        let meter = Meter::start();
        let numbers: Vec<usize> = (0..$count).collect();
        for some in numbers.chunks(TOGETHER) {
            let mut transaction = $connection.begin().await?;
            for rows in some.chunks(STATEMENT) {
                let mut query =
                    QueryBuilder::<$database>::new("INSERT INTO bench_alone (id, a, b, c, message) ");
                query.push_values(rows, |mut row, number| {
                    let letter = letter(*number, $count);
                    row.push_bind(letter.id)
                        .push_bind(letter.reason)
                        .push_bind(letter.route)
                        .push_bind(letter.message_id)
                        .push_bind(letter.raw.body.unwrap_or_default().to_vec());
                });
                query.build().execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
        }
        meter.stop($count)
    }};
}

pub async fn sqlite(path: &Path, count: usize) -> Result<Figures> {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .connect()
        .await?;
    sqlx::query("CREATE TABLE bench_alone (id TEXT PRIMARY KEY, a TEXT, b TEXT, c TEXT, message BLOB)")
        .execute(&mut connection)
        .await?;
    Ok(insert_all!(connection, sqlx::Sqlite, count))
}

pub async fn postgres(url: &str, count: usize) -> Result<Figures> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(
        "DROP TABLE IF EXISTS bench_alone;
         CREATE TABLE bench_alone (id TEXT PRIMARY KEY, a TEXT, b TEXT, c TEXT, message BYTEA)",
    )
    .execute(&mut connection)
    .await?;
    let figures = insert_all!(connection, sqlx::Postgres, count);
    sqlx::raw_sql("DROP TABLE bench_alone")
        .execute(&mut connection)
        .await?;
    Ok(figures)
}

/// The name is ours.
pub async fn settle(url: &str, schema: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    for table in ["dead_letters", "letter_words", "letter_counts", "letter_groups"] {
        sqlx::raw_sql(AssertSqlSafe(format!("VACUUM (ANALYZE) {schema}.{table}")))
            .execute(&mut connection)
            .await?;
    }
    Ok(())
}

pub async fn drop_schema(url: &str, schema: &str) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(AssertSqlSafe(format!("DROP SCHEMA {schema} CASCADE")))
        .execute(&mut connection)
        .await?;
    Ok(())
}
