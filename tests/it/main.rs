//! All integration tests in one binary: every further one would link wasmtime and librdkafka again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on fails"
)]

mod smoke;

mod interop;
mod kafka_client;
mod kill;
