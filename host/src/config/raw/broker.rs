//! `[brokers.NAME]`: what may stand there for each kind.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};

use crate::config::units::{Secret, Span};
use crate::config::valid::SaslMechanism;

/// One broker; `kind` says which other keys there are.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Broker {
    Embedded(Embedded),
    RabbitMq(RabbitMq),
    Kafka(Kafka),
}

// By hand: schemars puts `kind` beside a `$ref`, and validators then refuse it as an unknown key of the referenced table.
impl JsonSchema for Broker {
    fn schema_name() -> Cow<'static, str> {
        "Broker".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let kinds = [
            ("embedded", Embedded::json_schema(generator)),
            ("rabbitmq", RabbitMq::json_schema(generator)),
            ("kafka", Kafka::json_schema(generator)),
        ];
        let one_of: Vec<serde_json::Value> = kinds
            .into_iter()
            .map(|(kind, schema)| {
                let mut schema = schema.to_value();
                if let Some(properties) = schema.get_mut("properties").and_then(|p| p.as_object_mut()) {
                    let about = "Which broker this is; says which other keys there are.";
                    let tag = serde_json::json!({"type": "string", "const": kind, "description": about});
                    properties.insert("kind".into(), tag);
                }
                if let Some(table) = schema.as_object_mut() {
                    table.insert("required".into(), serde_json::json!(["kind"]));
                }
                schema
            })
            .collect();
        schemars::json_schema!({ "oneOf": one_of })
    }
}

/// The broker inside this process: durable, on SQLite, one host only.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Embedded {
    /// Its file. Unless set: `broker.db` in `host.state_dir`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [".helix/broker.db"]))]
    pub path: Option<String>,
    /// Topics are read as this group.
    pub group: String,
}

impl Default for Embedded {
    fn default() -> Self {
        Self {
            path: None,
            group: GROUP.into(),
        }
    }
}

const GROUP: &str = "helixagent-workers";

/// RabbitMQ 3.10 or newer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RabbitMq {
    /// Name or address. Environment: RABBITMQ_HOST.
    pub host: String,
    /// 5672, with TLS usually 5671. Environment: RABBITMQ_PORT.
    #[schemars(range(min = 1))]
    pub port: u16,
    /// Environment: RABBITMQ_USER.
    pub user: String,
    /// `env:NAME` or `file:path`; never the password itself. Environment: RABBITMQ_PASSWORD. There is no default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["env:RABBITMQ_PASSWORD", "file:/run/secrets/rabbitmq"]))]
    pub password: Option<Secret>,
    /// Environment: RABBITMQ_VHOST.
    pub vhost: String,
    /// `true` trusts the system's certificate authorities; a table names files.
    pub tls: Tls,
    /// Silence after which the connection counts as lost.
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "10m"))]
    pub heartbeat: Span,
    /// How long a publish may wait for its confirm.
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "10m"))]
    pub publish_timeout: Span,
    /// Queues have one active consumer at a time, which is what order over several hosts needs.
    pub single_active_consumer: bool,
}

impl Default for RabbitMq {
    fn default() -> Self {
        Self {
            host: "localhost".into(),
            port: 5672,
            user: "helixagent".into(),
            password: None,
            vhost: "/".into(),
            tls: Tls::Switch(false),
            heartbeat: Span::secs(30),
            publish_timeout: Span::secs(30),
            single_active_consumer: false,
        }
    }
}

/// Apache Kafka 2 or newer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Kafka {
    /// `host:port` of some servers. Environment: KAFKA_BROKERS, separated by commas.
    pub servers: Vec<String>,
    /// Consumer group. Environment: KAFKA_CONSUMER_GROUP, or KAFKA_GROUP_ID.
    pub group: String,
    /// Static membership (`group.instance.id`), different for each host: a restart within `session_timeout` moves no partitions.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["host-1"]))]
    pub instance_id: Option<String>,
    /// Silence after which the group counts this host as gone. Environment: KAFKA_SESSION_TIMEOUT_MS.
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "1h"))]
    pub session_timeout: Span,
    /// At most a third of `session_timeout`. Environment: KAFKA_HEARTBEAT_INTERVAL_MS.
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "10m"))]
    pub heartbeat_interval: Span,
    /// `true` trusts the system's certificate authorities; a table names files.
    pub tls: Tls,
    /// Login. Unless set: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = [{"mechanism": "PLAIN", "user": "helixagent", "password": "env:KAFKA_PASSWORD"}]))]
    pub sasl: Option<Sasl>,
    /// How long a publish may wait for its confirm.
    #[schemars(extend("x-minimum" = "100ms", "x-maximum" = "10m"))]
    pub publish_timeout: Span,
    /// How long a partition that is taken away may take to finish what is running.
    #[schemars(extend("x-maximum" = "4m"))]
    pub revoke_timeout: Span,
    /// More librdkafka properties, passed on last. Secrets as `env:NAME` or `file:path`. KAFKA_CLIENT_ID sets `client.id`.
    #[schemars(extend("examples" = [{"client.id": "helixagent"}]))]
    pub properties: BTreeMap<String, String>,
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            servers: vec!["localhost:9092".into()],
            group: GROUP.into(),
            instance_id: None,
            session_timeout: Span::secs(45),
            heartbeat_interval: Span::secs(3),
            tls: Tls::Switch(false),
            sasl: None,
            publish_timeout: Span::secs(30),
            revoke_timeout: Span::secs(10),
            properties: BTreeMap::new(),
        }
    }
}

/// `true`, `false`, or the files to use.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Tls {
    Switch(bool),
    Files(TlsFiles),
}

/// TLS with files in PEM format.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificate authority to trust. Unless set: the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["/etc/helix/ca.pem"]))]
    pub ca: Option<String>,
    /// Certificate of this client; needs `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["/etc/helix/client.pem"]))]
    pub cert: Option<String>,
    /// Key of that certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["/etc/helix/client.key"]))]
    pub key: Option<String>,
}

/// Login at Kafka.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["user", "password"]))]
pub struct Sasl {
    /// How the password is proven. PLAIN sends it as it is: use TLS.
    #[serde(default = "plain")]
    pub mechanism: SaslMechanism,
    /// Login name.
    #[serde(default)]
    #[schemars(extend("default" = null, "examples" = ["helixagent"]))]
    pub user: String,
    /// `env:NAME` or `file:path`; never the password itself.
    #[serde(default = "no_secret")]
    #[schemars(extend("default" = null, "examples" = ["env:KAFKA_PASSWORD"]))]
    pub password: Secret,
}

fn plain() -> SaslMechanism {
    SaslMechanism::Plain
}

fn no_secret() -> Secret {
    Secret(String::new())
}
