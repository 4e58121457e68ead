//! A durable broker on one SQLite file: for one machine, for development, for the outbox.
