//! Postgres store: one database for many hosts, group-committed by each.
//!
//! Due rows are claimed past those that another host is claiming; who changes the order of a lane has it locked until its
//! commit; the rest is compare-and-set, on which the second of two hosts waits for the first and then finds what that left.
//! A lost connection is made again. What was under way then fails to its caller, who holds its message and tries again: each
//! change may be made twice.

mod connect;
mod engine;
#[path = "../sql/mod.rs"]
#[allow(
    clippy::duplicate_mod,
    reason = "one source of statements, compiled for each engine"
)]
mod sql;

use std::sync::Arc;

use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use self::connect::Target;
use self::engine::Link;
use super::Error;
use crate::model::Clock;

pub use self::sql::Store as PostgresStore;

/// Postgres 12: of older ones `sha256` and more that the statements use may be missing, and none is maintained any more.
const OLDEST: i32 = 120_000;
/// The advisory lock of whoever changes a schema.
const MIGRATING: i32 = i32::from_be_bytes(*b"HXmi");

/// Where the tables are, and whose leases are ours.
#[derive(Clone)]
pub struct Options {
    /// `postgres://user:password@host:port/database?sslmode=verify-full&sslrootcert=…`
    pub url: SecretString,
    /// All tables are in it; made when it is missing. Hosts that share it share their work.
    pub schema: String,
    /// Names this host among them, also after a restart.
    pub host: Arc<str>,
}

impl PostgresStore {
    /// Connects, brings the schema up to date and starts the writer on the current Tokio runtime.
    ///
    /// # Errors
    /// [`Error::Away`] when nobody answers, or only that it is not possible now: worth another try. [`Error::Open`] for what
    /// stays wrong: the URL, the login, a schema of a newer Helix.
    pub async fn open(options: &Options, clock: Arc<dyn Clock>) -> Result<Self, Error> {
        let target = Target::new(&options.url, &options.schema).map_err(|reason| Error::Open {
            path: "store.url".to_owned(),
            reason,
        })?;
        let mut connection = target.connect().await.map_err(|e| refused(&target, &e))?;
        check(&mut connection, &target).await?;
        let cannot = |reason: String| Error::Open {
            path: target.place(),
            reason,
        };
        let mut migrating = target
            .connect_to_migrate()
            .await
            .map_err(|e| refused(&target, &e))?;
        migrate(&mut migrating, target.schema()).await.map_err(cannot)?;
        // The lock goes with the session.
        migrating.close().await.map_err(|e| refused(&target, &e))?;
        let readers = target.readers();
        let link = Link::new(target, connection);
        Ok(Self::start(link, readers, clock, Arc::clone(&options.host)))
    }
}

/// One host after another: several may start at once.
async fn migrate(connection: &mut PgConnection, schema: &str) -> Result<(), String> {
    let said = |e: sqlx::Error| e.to_string();
    sqlx::query("SELECT pg_advisory_lock($1, hashtext($2))")
        .bind(MIGRATING)
        .bind(schema)
        .execute(&mut *connection)
        .await
        .map_err(said)?;
    // IF NOT EXISTS asks for the right to create one even where it exists.
    let there: bool = sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname = $1)")
        .bind(schema)
        .fetch_one(&mut *connection)
        .await
        .map_err(said)?;
    if !there {
        // The name was checked.
        sqlx::raw_sql(AssertSqlSafe(format!("CREATE SCHEMA \"{schema}\"")))
            .execute(&mut *connection)
            .await
            .map_err(said)?;
    }
    sql::migrate(connection).await
}

async fn check(connection: &mut PgConnection, target: &Target) -> Result<(), Error> {
    let (version, encoding, fsync): (i32, String, String) = sqlx::query_as(
        "SELECT current_setting('server_version_num')::INT, current_setting('server_encoding'), current_setting('fsync')",
    )
    .fetch_one(connection)
    .await
    .map_err(|e| refused(target, &e))?;
    let cannot = |reason: String| Error::Open {
        path: target.place(),
        reason,
    };
    if version < OLDEST {
        return Err(cannot(format!(
            "it is Postgres {}, and at least 12 is needed",
            version / 10_000
        )));
    }
    if encoding != "UTF8" {
        return Err(cannot(format!(
            "its encoding is {encoding}; make a database with ENCODING 'UTF8'"
        )));
    }
    if fsync != "on" {
        tracing::warn!(store = %target.place(), "the database runs with fsync = {fsync}: a power cut loses what was confirmed");
    }
    Ok(())
}

/// Whether trying again may help.
fn refused(target: &Target, error: &sqlx::Error) -> Error {
    let path = target.place();
    let code = match error {
        sqlx::Error::Database(e) => e.code().unwrap_or_default().into_owned(),
        _ => String::new(),
    };
    let passes = match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::Protocol(_) => true,
        // Connection exceptions; out of resources (too many connections); shutting down or starting up.
        _ => ["08", "53", "57"].iter().any(|class| code.starts_with(class)),
    };
    let reason = error.to_string();
    if passes {
        Error::Away { path, reason }
    } else {
        Error::Open { path, reason }
    }
}
