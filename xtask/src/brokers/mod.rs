//! Real brokers, and the database beside them, on loopback without containers: RabbitMQ and Postgres from Debian's packages,
//! Kafka from Maven Central.

mod certs;
mod cli;
mod cluster;
mod kafka;
mod postgres;
mod process;
mod rabbitmq;

pub use cli::{Args, main, start_all};
pub use cluster::{Cluster, Kind, Options, env_of, stop};

#[cfg(test)]
pub use {cluster::start, kafka::client, rabbitmq::ctl};
