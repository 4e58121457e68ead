//! Where the database is, and what every session there is told first.

use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgPool};

/// From the name lookup to the end of the login.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a read waits for a connection, a new one included.
const ACQUIRE: Duration = Duration::from_secs(5);
/// A reader that is still busy with something that was given up on gets this long to come back to its senses.
const RECOVER: Duration = Duration::from_secs(2);
const READERS: u32 = 4;

/// Said at the start of each session. Confirmed has to mean on disk, whatever the database's default; a server that waits for
/// a host that is gone, in the middle of a transaction, must not keep its locks; and notices are nobody's business.
const SESSION: &str = "
    SET client_min_messages = error;
    SET standard_conforming_strings = on;
    SET statement_timeout = '8s';
    SET lock_timeout = '5s';
    SET idle_in_transaction_session_timeout = '15s';
    SET jit = off;
    SELECT set_config('synchronous_commit', 'on', false)
     WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply');
";
/// Said to readers besides. Everything that is read has its index; a plan that walks a table of a million letters because the server's
/// statistics are from when it had ten, or that sorts what an index has in order, is what must not happen.
const READING: &str = "
    SET enable_seqscan = off;
    SET enable_hashjoin = off;
    SET enable_mergejoin = off;
    SET enable_sort = off;
";
/// Building an index may take its time, and so may waiting for another host that does.
const MIGRATION: &str = "SET statement_timeout = '10min'; SET lock_timeout = '10min';";

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Target {
    options: PgConnectOptions,
    schema: String,
}

impl Target {
    /// The error says what is wrong with the URL, and nothing of what stands in it.
    pub fn new(url: &SecretString, schema: &str) -> Result<Self, String> {
        let url = url.expose_secret();
        if !["postgres://", "postgresql://"]
            .iter()
            .any(|scheme| url.starts_with(scheme))
        {
            return Err("the URL does not begin with postgres:// or postgresql://".to_owned());
        }
        if !is_name(schema) {
            return Err(
                "the name of a schema has letters a-z, digits and `_`, and 63 of them at most".to_owned(),
            );
        }
        let options = PgConnectOptions::from_str(url)
            .map_err(|error| match error {
                sqlx::Error::Configuration(why) => format!("the URL cannot be understood: {why}"),
                _ => "the URL cannot be understood".to_owned(),
            })?
            .application_name("helix")
            .disable_statement_logging();
        Ok(Self {
            options,
            schema: schema.to_owned(),
        })
    }

    /// Where it is, for people: no user, no password.
    pub fn place(&self) -> String {
        let place = match self.options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => format!("{}:{}", self.options.get_host(), self.options.get_port()),
        };
        let database = self.options.get_database().unwrap_or("the database of the user");
        format!("postgres://{place}/{database} (schema {})", self.schema)
    }

    pub fn schema(&self) -> &str {
        &self.schema
    }

    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        let connecting = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            self.introduce(&mut connection).await?;
            Ok(connection)
        };
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(connected) => connected,
            Err(_) => Err(no_answer()),
        }
    }

    /// For changes of the schema.
    pub async fn connect_to_migrate(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.connect().await?;
        sqlx::raw_sql(MIGRATION).execute(&mut connection).await?;
        Ok(connection)
    }

    async fn introduce(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        // The name was checked.
        let search = format!("{SESSION}SET search_path = \"{}\";", self.schema);
        sqlx::raw_sql(AssertSqlSafe(search))
            .execute(connection)
            .await
            .map(drop)
    }

    /// Connects when somebody reads.
    pub fn readers(&self) -> PgPool {
        let target = self.clone();
        PgPoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(ACQUIRE)
            // Never reached: whoever waited says what it waited for.
            .acquire_slow_threshold(2 * ACQUIRE)
            .after_connect(move |connection, _| {
                let target = target.clone();
                Box::pin(async move {
                    target.introduce(connection).await?;
                    sqlx::raw_sql(READING).execute(connection).await.map(drop)
                })
            })
            .after_release(|connection, _| {
                Box::pin(async move {
                    // A read that was given up on left it in the middle of an answer, which may never come.
                    Ok(matches!(
                        tokio::time::timeout(RECOVER, connection.ping()).await,
                        Ok(Ok(()))
                    ))
                })
            })
            .connect_lazy_with(self.options.clone())
    }
}

/// A plain identifier, so that it can stand in SQL.
fn is_name(schema: &str) -> bool {
    schema.len() <= 63
        && schema.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && schema
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        // Reserved by Postgres.
        && !schema.starts_with("pg_")
}

fn no_answer() -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        "no answer from the database",
    ))
}
