//! Kills, cuts and disturbs real hosts under load, and proves from one history that nothing was lost.
//!
//! ```text
//! publish ─▶ broker ─▶ hosts ─▶ sink        fault ─▶ hosts, brokers, proxies, disks, clocks
//!    │                            │                │
//!    └──────────▶ history ◀───────┴── observe ◀────┘ ──▶ checker ─▶ report
//! ```
//! This process is the observer and is never disturbed. `planted` shows that the checker sees what it should.

pub mod actor;
pub mod arena;
pub mod checker;
pub mod fault;
pub mod flow;
pub mod history;
pub mod message;
pub mod observe;
pub mod operate;
pub mod planted;
pub mod power;
pub mod proxy;
pub mod publish;
pub mod report;
pub mod run;
pub mod sink;
