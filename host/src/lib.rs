//! Helix: sandboxed WebAssembly handlers on RabbitMQ, Kafka and an embedded durable broker.
//!
//! ```text
//!  permit ─▶ source ─▶ decode ─▶ route ─▶ lane ─▶ pool ─▶ guest ─▶ verdict ─▶ settle
//!             broker/*   decode    route   dispatch  guest   guest    retry     dispatch
//!               ▲                    ▲                                  │           │
//!               │                    └── retry schedule ◀──────────────┴─ store ◀──┘
//!               └── handler output, publish API
//! ```
//!
//! May import: `main → cli → app → {http, dispatch, dlq, replay} → {route, retry, decode} → model`. Everything above `broker`,
//! `store` and `guest` sees only the traits in their `mod.rs`. A test reads the `use` lines and fails on a wrong arrow
//! (`tests/it/architecture.rs`).

pub mod app;
pub mod broker;
pub mod cli;
pub mod config;
pub mod decode;
pub mod dispatch;
pub mod dlq;
pub mod encode;
pub mod error;
pub mod guest;
pub mod http;
pub mod model;
pub mod planted;
pub mod replay;
pub mod retry;
pub mod route;
pub mod store;
pub mod tasks;
pub mod telemetry;
