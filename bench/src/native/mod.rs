//! The loops one would write by hand, each in a process of its own: `helix-bench native …`.

pub mod clock;
pub mod kafka;
pub mod rabbitmq;

use anyhow::Result;

use crate::process::Figures;

/// What is done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Work {
    Noop,
    /// Parsed into a tree.
    Json,
    /// The type is read out of the body, as whoever routes by it must.
    Type,
}

impl Work {
    pub fn word(self) -> &'static str {
        match self {
            Self::Noop => "noop",
            Self::Json => "json",
            Self::Type => "type",
        }
    }

    pub fn run(self, body: &[u8]) -> Result<()> {
        match self {
            Self::Noop => {
                std::hint::black_box(body);
            }
            Self::Json => {
                std::hint::black_box(serde_json::from_slice::<serde_json::Value>(body)?);
            }
            Self::Type => {
                #[derive(serde::Deserialize)]
                struct Head<'a> {
                    #[serde(borrow, rename = "type")]
                    kind: &'a str,
                    #[serde(borrow)]
                    data: &'a serde_json::value::RawValue,
                }
                let head: Head<'_> = serde_json::from_slice(body)?;
                std::hint::black_box((head.kind, head.data));
            }
        }
        Ok(())
    }
}

#[derive(clap::Subcommand)]
pub enum Loop {
    /// rdkafka's BaseConsumer
    Kafka(kafka::Args),
    /// How long messages were under way
    Clock(clock::Args),
    /// rdkafka's FutureProducer
    KafkaPublish(kafka::Publish),
    /// lapin, consuming
    Rabbitmq(rabbitmq::Consume),
    /// lapin, publishing
    RabbitmqPublish(rabbitmq::Publish),
}

pub fn main(which: &Loop) -> Result<Figures> {
    match which {
        Loop::Kafka(args) => kafka::consume(args),
        Loop::Clock(args) => wait(clock::run(args)),
        Loop::KafkaPublish(args) => wait(kafka::publish(args)),
        Loop::Rabbitmq(args) => wait(rabbitmq::consume(args)),
        Loop::RabbitmqPublish(args) => wait(rabbitmq::publish(args)),
    }
}

/// As `#[tokio::main]` would run it.
fn wait(work: impl Future<Output = Result<Figures>>) -> Result<Figures> {
    tokio::runtime::Runtime::new()?.block_on(work)
}
