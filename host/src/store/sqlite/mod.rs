//! SQLite store: retries and dead letters in one file, group-committed.
