//! Real brokers on loopback without containers: RabbitMQ from Debian's package, Kafka from Maven Central.

mod certs;
mod cli;
mod cluster;
mod kafka;
mod process;
mod rabbitmq;

pub use cli::{Args, main};
pub use cluster::{Cluster, Kind, Options, env_of, exports, start, stop};
