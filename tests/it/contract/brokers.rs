//! The places where messages wait, and their settings from the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use helix_host::broker::embedded::{self, Embedded};
use helix_host::broker::kafka::{self, Kafka};
use helix_host::broker::rabbitmq::{self, RabbitMq};
use helix_host::broker::{Broker, Capabilities, Error};
use helix_host::config::valid::{self, Formats, Pattern};
use helix_host::model::{MessageKind, SystemClock, WireFormat};
use helix_tests::variable;

/// A broker and one of its two kinds of destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    EmbeddedQueues,
    EmbeddedTopics,
    RabbitMq,
    Kafka,
}

/// The client's bound in these tests; Kafka's own default is a megabyte.
pub const KAFKA_MESSAGE_LIMIT: usize = 100_000;

impl Place {
    pub const ALL: [Self; 4] = [
        Self::EmbeddedQueues,
        Self::EmbeddedTopics,
        Self::RabbitMq,
        Self::Kafka,
    ];

    pub fn kind(self) -> MessageKind {
        match self {
            Self::EmbeddedQueues | Self::RabbitMq => MessageKind::Task,
            Self::EmbeddedTopics | Self::Kafka => MessageKind::Event,
        }
    }

    /// RabbitMQ with `single_active_consumer`, so that its promise about keys is tested, too.
    pub fn capabilities(self) -> Capabilities {
        match self {
            Self::EmbeddedQueues | Self::EmbeddedTopics => embedded::CAPABILITIES,
            Self::RabbitMq => rabbitmq::capabilities(true),
            Self::Kafka => kafka::CAPABILITIES,
        }
    }

    /// A new client of the broker; `folder` is the embedded one's.
    pub fn open(self, group: &str, folder: &Path) -> Result<Arc<dyn Broker>, Error> {
        Ok(match self {
            Self::EmbeddedQueues | Self::EmbeddedTopics => {
                let options = valid::Embedded {
                    path: folder.to_owned(),
                    group: group.to_owned(),
                };
                Arc::new(Embedded::open(
                    "local",
                    &options,
                    as_it_is(),
                    Arc::new(SystemClock),
                )?)
            }
            Self::RabbitMq => Arc::new(RabbitMq::new("rabbitmq", &rabbitmq(), as_it_is())?),
            Self::Kafka => Arc::new(Kafka::new("kafka", &kafka(group), as_it_is())?),
        })
    }

    /// Bytes of a payload that is certainly too large.
    pub fn too_large(self) -> usize {
        match self {
            // Its own limit is 64 MiB.
            Self::EmbeddedQueues | Self::EmbeddedTopics => (64 << 20) + 1,
            // `max_message_size` is 128 MiB unless configured.
            Self::RabbitMq => (128 << 20) + 1,
            Self::Kafka => KAFKA_MESSAGE_LIMIT + 1,
        }
    }
}

/// Payloads unchanged on the wire: what is tested here is the broker, not the envelope.
pub fn as_it_is() -> Formats {
    Formats(vec![(Pattern::new("*"), WireFormat::Raw)])
}

pub fn rabbitmq() -> valid::RabbitMq {
    valid::RabbitMq {
        host: variable("HELIX_TEST_RABBITMQ_HOST"),
        port: port("HELIX_TEST_RABBITMQ_PORT"),
        user: variable("HELIX_TEST_RABBITMQ_USER"),
        password: variable("HELIX_TEST_RABBITMQ_PASSWORD").into(),
        vhost: "/".to_owned(),
        tls: None,
        heartbeat: Duration::from_secs(10),
        publish_timeout: Duration::from_secs(20),
        single_active_consumer: true,
    }
}

/// By name: the certificate is made for it.
pub fn rabbitmq_tls(ca: &str) -> valid::RabbitMq {
    valid::RabbitMq {
        host: "localhost".to_owned(),
        port: port("HELIX_TEST_RABBITMQ_TLS_PORT"),
        tls: Some(trusting(ca)),
        ..rabbitmq()
    }
}

pub fn kafka(group: &str) -> valid::Kafka {
    let limit = ("message.max.bytes".to_owned(), KAFKA_MESSAGE_LIMIT.to_string());
    valid::Kafka {
        servers: vec![variable("HELIX_TEST_KAFKA_BOOTSTRAP")],
        group: group.to_owned(),
        instance_id: None,
        session_timeout: Duration::from_secs(6),
        heartbeat_interval: Duration::from_millis(500),
        tls: None,
        sasl: None,
        publish_timeout: Duration::from_secs(20),
        revoke_timeout: Duration::from_secs(10),
        properties: BTreeMap::from([limit]),
    }
}

pub fn kafka_tls(group: &str, ca: &str) -> valid::Kafka {
    valid::Kafka {
        servers: vec![variable("HELIX_TEST_KAFKA_TLS_BOOTSTRAP")],
        tls: Some(trusting(ca)),
        ..kafka(group)
    }
}

pub fn kafka_sasl(group: &str, mechanism: valid::SaslMechanism, password: String) -> valid::Kafka {
    valid::Kafka {
        servers: vec![variable("HELIX_TEST_KAFKA_SASL_BOOTSTRAP")],
        tls: Some(trusting("ca.pem")),
        sasl: Some(valid::Sasl {
            mechanism,
            user: variable("HELIX_TEST_KAFKA_USER"),
            password: password.into(),
        }),
        ..kafka(group)
    }
}

pub fn trusting(ca: &str) -> valid::Tls {
    valid::Tls {
        ca: Some(PathBuf::from(variable("HELIX_TEST_TLS_DIR")).join(ca)),
        ..valid::Tls::default()
    }
}

pub fn port(name: &str) -> u16 {
    variable(name).parse().unwrap()
}
