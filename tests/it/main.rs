//! All integration tests in one binary: every further one would link wasmtime and librdkafka again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod access;
mod adopt;
mod architecture;
mod bad_config;
mod bad_messages;
mod bad_plugins;
mod cli;
mod contract;
mod dev;
mod dlq;
mod docs;
mod drain;
mod export;
mod fleet;
mod guarantees;
mod hostile;
mod http;
mod interop;
mod kafka_client;
mod kill;
mod load;
mod manual;
mod openapi;
mod order;
mod park;
mod rehearse;
mod reload;
mod replay;
mod seen;
mod slow;
mod smoke;
mod store;
mod swap;
mod takeover;
