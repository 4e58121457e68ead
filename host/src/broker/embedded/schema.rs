//! The file: locking its folder, opening it, its tables, and what they say about the last run.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension};

use super::log::{Partition, Topic};
use super::queue::{ACK_BACKLOG, Queue, Suspect};
use super::{Catalog, ready, sql, unsql};
use crate::broker::{Destination, Error};
use crate::error::BROKER_STORAGE;
use crate::model::MessageKind;
use crate::planted::{self, Bug};

/// SQLite 3.51.3 is the first with the fix of the WAL-reset bug: <https://sqlite.org/wal.html#the_wal_reset_bug>.
const OLDEST_SQLITE: i32 = 3_051_003;
const VERSION: i64 = 1;

const TABLES: &str = "
CREATE TABLE meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES('clean', 1);
CREATE TABLE queue(no INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, max_priority INTEGER NOT NULL, ttl_ms INTEGER,
  sequence INTEGER NOT NULL DEFAULT 0, depth INTEGER NOT NULL DEFAULT 0, window INTEGER NOT NULL DEFAULT 0);
CREATE TABLE task(key INTEGER PRIMARY KEY, enq INTEGER NOT NULL, exp INTEGER, id TEXT NOT NULL, mkey BLOB,
  hdr BLOB NOT NULL, body BLOB);
CREATE TABLE delayed(due INTEGER NOT NULL, seq INTEGER NOT NULL, queue INTEGER NOT NULL, priority INTEGER NOT NULL,
  enq INTEGER NOT NULL, exp INTEGER, id TEXT NOT NULL, mkey BLOB, hdr BLOB NOT NULL, body BLOB,
  PRIMARY KEY(due, seq)) WITHOUT ROWID;
CREATE TABLE suspect(queue INTEGER NOT NULL, level INTEGER NOT NULL, key_to INTEGER NOT NULL,
  crashes INTEGER NOT NULL, PRIMARY KEY(queue, level, key_to)) WITHOUT ROWID;
CREATE TABLE topic(name TEXT PRIMARY KEY, retention_ms INTEGER) WITHOUT ROWID;
CREATE TABLE partition(no INTEGER PRIMARY KEY, topic TEXT NOT NULL, part INTEGER NOT NULL,
  first_off INTEGER NOT NULL DEFAULT 0, next_off INTEGER NOT NULL DEFAULT 0, UNIQUE(topic, part));
CREATE TABLE offsets(grp TEXT NOT NULL, part INTEGER NOT NULL, off INTEGER NOT NULL, span INTEGER NOT NULL DEFAULT 0,
  suspect INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(grp, part)) WITHOUT ROWID;
";

/// An error that an operator reads.
pub fn storage(path: &Path, what: &str, why: impl std::fmt::Display, next: &str) -> Error {
    Error::Storage(format!(
        "{BROKER_STORAGE} {what} at {}: {why}; {next}",
        path.display()
    ))
}

/// What SQLite says, with its extended code: "disk I/O error" alone has thirty causes, <https://sqlite.org/rescode.html>.
pub fn cause(error: &rusqlite::Error) -> String {
    match error.sqlite_error() {
        Some(sqlite) => format!("{error} (SQLite code {})", sqlite.extended_code),
        None => error.to_string(),
    }
}

fn failed(path: &Path) -> impl Fn(rusqlite::Error) -> Error + '_ {
    move |error| {
        let next = "check the disk and the rights of the folder; a damaged file can be moved away, it is created anew";
        storage(
            path,
            "the embedded broker cannot use its file",
            cause(&error),
            next,
        )
    }
}

/// A folder, or a file that ends in `.db`.
pub fn database_file(path: &Path) -> PathBuf {
    let is_file = path.extension().is_some_and(|e| e == "db") && !path.is_dir();
    if is_file {
        path.to_owned()
    } else {
        path.join("broker.db")
    }
}

/// Creates the folder and takes its lock; the lock lasts as long as the file is open.
pub fn lock(database: &Path) -> Result<File, Error> {
    let folder = database.parent().unwrap_or(Path::new("."));
    let cannot = |error: std::io::Error| {
        storage(
            folder,
            "the embedded broker cannot use its folder",
            error,
            "create it or give this user the rights",
        )
    };
    fs::create_dir_all(folder).map_err(cannot)?;
    // The folder's own entry has to survive a power cut too; not every file system can do this.
    if let Some(Ok(parent)) = folder.parent().map(File::open) {
        let _ = parent.sync_all();
    }
    let path = database.with_extension("lock");
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(cannot)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(storage(
            folder,
            "the embedded broker's folder is in use",
            "another helix process holds its lock",
            "stop that process or give this one another folder",
        )),
        Err(TryLockError::Error(error)) => Err(cannot(error)),
    }
}

/// The writer's connection, with all tables.
pub fn open_writer(path: &Path) -> Result<Connection, Error> {
    let version = rusqlite::version_number();
    if version < OLDEST_SQLITE {
        let why = format!("SQLite {} can corrupt a file in WAL mode", rusqlite::version());
        return Err(storage(
            path,
            "the embedded broker refuses to start",
            why,
            "link SQLite 3.51.3 or newer",
        ));
    }
    let db = Connection::open(path).map_err(failed(path))?;
    let prepare = || -> rusqlite::Result<i64> {
        // page_size first: it only counts for a new file. The rest: measured, see docs on the embedded broker.
        db.execute_batch(
            "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA cache_size=-65536;
             PRAGMA wal_autocheckpoint=0; PRAGMA journal_size_limit=-1; PRAGMA temp_store=MEMORY;
             PRAGMA busy_timeout=5000; PRAGMA foreign_keys=OFF;",
        )?;
        if planted::is(Bug::FsyncSkipped) {
            db.execute_batch("PRAGMA synchronous=OFF")?;
        }
        // The last run may have ended with a sync that failed: what it should have written reads back from memory, but no
        // later sync writes it, and commits behind such a hole are lost with it. So everything is carried over into the file,
        // and the WAL begins anew. Busy (somebody reads the file by hand) is no reason to stay down.
        db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        db.set_prepared_statement_cache_capacity(256);
        let version = db.query_row("PRAGMA user_version", [], |r| r.get(0))?;
        if version == 0 {
            db.execute_batch(&format!("BEGIN; {TABLES} PRAGMA user_version={VERSION}; COMMIT;"))?;
            return Ok(VERSION);
        }
        Ok(version)
    };
    match prepare().map_err(failed(path))? {
        VERSION => Ok(db),
        other => {
            let why = format!("the file has format {other}, this program knows {VERSION}");
            Err(storage(
                path,
                "the embedded broker cannot use its file",
                why,
                "run the program that wrote it",
            ))
        }
    }
}

pub fn open_reader(path: &Path) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(failed(path))?;
    db.execute_batch("PRAGMA cache_size=-8192; PRAGMA busy_timeout=5000;")
        .map_err(failed(path))?;
    db.set_prepared_statement_cache_capacity(64);
    Ok(db)
}

/// Notes what may have been running at an unclean stop, marks the file as in use, and loads queues and topics.
pub fn load(db: &Connection, path: &Path, group: &str) -> Result<Catalog, Error> {
    let all = || -> rusqlite::Result<Catalog> {
        let clean: i64 = db.query_row("SELECT value FROM meta WHERE name = 'clean'", [], |r| r.get(0))?;
        db.execute_batch("BEGIN IMMEDIATE")?;
        if clean == 0 {
            tracing::info!(file = %path.display(), "the last run did not end in good order; what may have run is flagged");
            note_suspects(db)?;
        }
        db.execute_batch(
            "UPDATE meta SET value = 0 WHERE name = 'clean'; UPDATE queue SET window = 0; UPDATE offsets SET span = 0;",
        )?;
        db.execute_batch("COMMIT")?;
        Ok(Catalog {
            queues: load_queues(db)?,
            topics: load_topics(db, group)?,
        })
    };
    all().map_err(failed(path))
}

/// Claims are made in key order, so what was running is among the first keys of each priority, as many as there can be
/// unsettled deliveries and uncommitted acknowledgements. Twice the window, since a whole window may be acknowledged
/// between the check of the backlog and the claim.
fn note_suspects(db: &Connection) -> rusqlite::Result<()> {
    let mut select = db.prepare("SELECT no, window FROM queue WHERE window > 0")?;
    let queues: Vec<(u16, i64)> = select
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let backlog = i64::try_from(ACK_BACKLOG).unwrap_or(i64::MAX);
    for (queue, window) in queues {
        for level in 0..ready::LEVELS {
            let (first, last) = ready::range(queue, level);
            let to: Option<i64> = db.query_row(
                "SELECT max(key) FROM (SELECT key FROM task WHERE key BETWEEN ?1 AND ?2 ORDER BY key LIMIT ?3)",
                [sql(first), sql(last), window.saturating_mul(2).saturating_add(backlog)],
                |r| r.get(0),
            )?;
            // Boundaries below the first task concern nobody any more.
            db.execute(
                "DELETE FROM suspect WHERE queue = ?1 AND level = ?2 AND key_to <
                 coalesce((SELECT key FROM task WHERE key BETWEEN ?3 AND ?4 ORDER BY key LIMIT 1), ?4)",
                (queue, i64::try_from(level).unwrap_or(0), sql(first), sql(last)),
            )?;
            if let Some(to) = to {
                db.execute(
                    "INSERT INTO suspect VALUES(?1, ?2, ?3, 1)
                     ON CONFLICT DO UPDATE SET crashes = crashes + 1",
                    (queue, i64::try_from(level).unwrap_or(0), to),
                )?;
            }
        }
    }
    db.execute(
        "UPDATE offsets SET suspect = max(suspect, (
           SELECT min(max(offsets.off, p.first_off) + offsets.span, p.next_off)
           FROM partition p WHERE p.no = offsets.part)) WHERE span > 0",
        [],
    )?;
    Ok(())
}

fn load_queues(db: &Connection) -> rusqlite::Result<HashMap<Arc<str>, Arc<Queue>>> {
    let mut suspects: HashMap<u16, Vec<Suspect>> = HashMap::new();
    let mut select = db.prepare("SELECT queue, level, key_to, crashes FROM suspect")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let level = usize::try_from(row.get::<_, i64>(1)?).unwrap_or(0);
        let suspect = Suspect {
            level,
            key_to: unsql(row.get(2)?),
            crashes: row.get(3)?,
        };
        suspects.entry(row.get(0)?).or_default().push(suspect);
    }
    let mut select = db.prepare("SELECT no, name, max_priority, ttl_ms, sequence, depth FROM queue")?;
    let mut rows = select.query([])?;
    let mut queues = HashMap::new();
    while let Some(row) = rows.next()? {
        let want = Destination {
            kind: MessageKind::Task,
            name: row.get::<_, String>(1)?.into(),
            max_priority: row.get(2)?,
            ttl: duration(row.get(3)?),
            partitions: 0,
            arguments: std::collections::BTreeMap::new(),
        };
        let no = row.get(0)?;
        let suspects = suspects.remove(&no).unwrap_or_default();
        let queue = Queue::new(no, &want, unsql(row.get(4)?), row.get(5)?, suspects);
        queues.insert(want.name, Arc::new(queue));
    }
    Ok(queues)
}

fn load_topics(db: &Connection, group: &str) -> rusqlite::Result<HashMap<Arc<str>, Arc<Topic>>> {
    let mut select = db.prepare("SELECT name, retention_ms FROM topic")?;
    let names: Vec<(String, Option<i64>)> = select
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?)))?
        .collect::<Result<_, _>>()?;
    let mut topics = HashMap::new();
    for (name, retention) in names {
        let topic = load_topic(db, group, &name, duration(retention))?;
        topics.insert(Arc::clone(&topic.name), Arc::new(topic));
    }
    Ok(topics)
}

pub fn load_topic(
    db: &Connection,
    group: &str,
    name: &str,
    retention: Option<Duration>,
) -> rusqlite::Result<Topic> {
    let mut select = db.prepare(
        "SELECT p.no, p.first_off, p.next_off, o.off, o.suspect FROM partition p
         LEFT JOIN offsets o ON o.part = p.no AND o.grp = ?2 WHERE p.topic = ?1 ORDER BY p.part",
    )?;
    let mut rows = select.query((name, group))?;
    let mut partitions = Vec::new();
    while let Some(row) = rows.next()? {
        let no: u32 = row.get(0)?;
        let newest = format!("SELECT ts FROM log_{no} ORDER BY off DESC LIMIT 1");
        let newest: Option<i64> = db.query_row(&newest, [], |r| r.get(0)).optional()?;
        let first = unsql(row.get(1)?);
        let committed = row.get::<_, Option<i64>>(3)?.map_or(first, unsql);
        let suspect = row.get::<_, Option<i64>>(4)?.map_or(0, unsql);
        let end = unsql(row.get(2)?);
        partitions.push(Partition::new(
            no,
            first,
            end,
            committed,
            newest.map_or(0, unsql),
            suspect,
        ));
    }
    Ok(Topic::new(name.into(), retention, partitions))
}

fn duration(ms: Option<i64>) -> Option<Duration> {
    ms.map(|ms| Duration::from_millis(unsql(ms)))
}
