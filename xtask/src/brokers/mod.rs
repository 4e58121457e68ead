//! Real brokers on loopback without containers: RabbitMQ from Debian's package, Kafka from Maven Central.

mod certs;
mod cli;
mod cluster;
mod kafka;
mod process;
mod rabbitmq;

pub use cli::{Args, main, start_all};
pub use cluster::{Cluster, Kind, Options, env_of, stop};

#[cfg(test)]
pub use {cluster::start, kafka::client, rabbitmq::ctl};
