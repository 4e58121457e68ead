//! Settings after checking: what the rooms are built from. Nothing here can be wrong any more.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::broker::Destination;
use crate::model::{FailureClass, MessageKind, Role, WireFormat};

#[derive(Debug, Clone)]
pub struct Settings {
    pub host: Host,
    pub store: Store,
    pub limits: Limits,
    pub brokers: BTreeMap<String, Broker>,
    /// Broker that holds queues.
    pub tasks_broker: String,
    /// Broker that holds topics.
    pub events_broker: String,
    pub routes: Vec<Route>,
    pub plugins: BTreeMap<String, Plugin>,
    pub unrouted: Unrouted,
    /// A changed copy of a dead letter may be sent.
    pub dlq_edit: bool,
    /// Queue whose dead letters become this host's.
    pub dlq_adopt: Option<Arc<str>>,
    /// Topics that get copies of new dead letters.
    pub dlq_export: Export,
    pub dlq_keep: Keep,
    /// None: dead letters are sent again only when somebody asks.
    pub dlq_auto: Option<DlqAuto>,
    /// Wire format of what the host publishes.
    pub formats: Formats,
    /// config/topology.toml.
    pub topology: Vec<Destination>,
}

/// Where copies of dead letters go; none of a kind without a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Export {
    pub tasks: Option<Arc<str>>,
    pub events: Option<Arc<str>>,
}

#[derive(Debug, Clone)]
pub struct Host {
    /// `broker.db`, `store.db` and the cache of compiled plugins live here.
    pub state_dir: PathBuf,
    pub plugins_dir: PathBuf,
    pub listen: SocketAddr,
    /// SIGTERM to exit: stop pulling, finish, settle, leave.
    pub drain: Duration,
    /// False: MESSAGING_ENABLED=false; the host serves health only.
    pub messaging: bool,
    /// A `tracing` filter: `info`, `helix_host=debug`.
    pub log: String,
    /// Tokens of the API; without one it listens on loopback only.
    pub tokens: Vec<Token>,
}

/// A bearer token of the API.
#[derive(Debug, Clone)]
pub struct Token {
    /// Who holds it.
    pub name: String,
    pub secret: SecretString,
    pub role: Role,
    pub payloads: bool,
}

#[derive(Debug, Clone)]
pub struct Store {
    /// `postgres://…`; none: a file in the state folder.
    pub url: Option<SecretString>,
    pub schema: String,
}

#[derive(Debug, Clone)]
pub struct Limits {
    /// Body, key and headers together; larger messages become dead letters.
    pub message_bytes: usize,
    pub headers: usize,
    /// Unsettled deliveries per source.
    pub in_flight: usize,
    /// A .wasm file larger than this is not read.
    pub wasm_bytes: u64,
}

#[derive(Debug, Clone)]
pub enum Broker {
    Embedded(Embedded),
    RabbitMq(RabbitMq),
    Kafka(Kafka),
}

#[derive(Debug, Clone)]
pub struct Embedded {
    pub path: PathBuf,
    /// Topics are read as this group.
    pub group: String,
}

#[derive(Debug, Clone)]
pub struct RabbitMq {
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: SecretString,
    pub vhost: String,
    /// None = plain TCP.
    pub tls: Option<Tls>,
    pub heartbeat: Duration,
    /// How long a publish may wait for its confirm.
    pub publish_timeout: Duration,
    /// Routes ask for order over several hosts: consume with `x-single-active-consumer` queues only.
    pub single_active_consumer: bool,
}

#[derive(Debug, Clone)]
pub struct Kafka {
    pub servers: Vec<String>,
    pub group: String,
    /// Static membership (`group.instance.id`); none = dynamic.
    pub instance_id: Option<String>,
    pub session_timeout: Duration,
    pub heartbeat_interval: Duration,
    pub tls: Option<Tls>,
    pub sasl: Option<Sasl>,
    pub publish_timeout: Duration,
    /// How long a revoked partition may take to finish what is running.
    pub revoke_timeout: Duration,
    /// Further librdkafka properties, passed through last.
    pub properties: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// None = the system's roots.
    pub ca: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub struct Sasl {
    pub mechanism: SaslMechanism,
    pub user: String,
    pub password: SecretString,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub enum SaslMechanism {
    #[serde(rename = "PLAIN")]
    Plain,
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

/// (origin, type) → plugin + policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Metrics label `route`.
    pub name: Arc<str>,
    pub broker: Arc<str>,
    pub kind: MessageKind,
    /// Queue or topic; `*` stands for anything.
    pub destination: Pattern,
    pub message_type: Pattern,
    pub plugin: Arc<str>,
    /// Calls that may run at a time.
    pub concurrency: usize,
    pub order: Order,
    /// Later messages of a key wait behind a dead letter of it, within these bounds; none = they go on.
    pub park: Option<Park>,
    /// One call, one message.
    pub timeout: Duration,
    /// Messages per second, all hosts counted alone.
    pub rate: Option<u32>,
    pub retry: RetryPolicy,
    /// Names of headers handed to the guest.
    pub headers: Vec<String>,
    /// A fresh instance for each message.
    pub fresh_instance: bool,
    /// file:line of the route, for messages to people.
    pub declared_at: String,
}

/// What must run one after another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// As fast as possible.
    #[default]
    None,
    /// Messages with one key.
    Key,
    /// The whole partition (or queue).
    Partition,
}

/// What becomes of later messages of a key when one is given up on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnDeadLetter {
    /// They go on.
    #[default]
    Skip,
    /// They wait in the store, in order.
    Park,
}

/// Bounds of what waits behind a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Park {
    /// Rows of one key, the one that failed among them.
    pub limit: u64,
    /// A key that waits longer is released; none = never.
    pub expiry: Option<Duration>,
}

/// One policy per route, the manual's defaults: 3 retries, 1 s, ×2, at most 30 s.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// 0 = a failure is final at once.
    pub max_retries: u32,
    pub delay: Duration,
    pub multiplier: f64,
    pub max_delay: Duration,
    /// 0.0 … 1.0: the delay is spread by this share in both directions.
    pub jitter: f64,
}

/// How long dead letters are kept; none = for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// Until they are expired, when nobody deals with them.
    pub retention: Option<Duration>,
    /// Until they are deleted, when they are closed.
    pub closed: Option<Duration>,
}

/// Sending dead letters again without being asked.
#[derive(Debug, Clone, PartialEq)]
pub struct DlqAuto {
    /// Others are left alone.
    pub classes: Vec<FailureClass>,
    pub policy: AutoPolicy,
    /// What is different for some types, the most specific first; none = they are left alone.
    pub types: Vec<(Pattern, Option<AutoPolicy>)>,
    /// For a confirm.
    pub processing_timeout: Duration,
    /// Letters under way at a time.
    pub batch_size: usize,
    pub poll_interval: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub struct AutoPolicy {
    /// Without jitter.
    pub retry: RetryPolicy,
    pub on_exhausted: OnExhausted,
}

/// What becomes of a letter whose attempts are used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnExhausted {
    /// It stays, for a person.
    #[default]
    Archive,
    /// It is given up on.
    Discard,
}

/// A pattern over dotted names: `*` stands for any characters, everything else for itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct Pattern(pub Arc<str>);

impl Pattern {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// True when the pattern names one thing only.
    pub fn is_literal(&self) -> bool {
        !self.0.contains('*')
    }

    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else {
            return false;
        };
        if self.is_literal() {
            return rest.is_empty();
        }
        let mut parts = parts.peekable();
        while let Some(part) = parts.next() {
            if parts.peek().is_none() {
                return rest.ends_with(part);
            }
            match rest.find(part) {
                Some(at) => rest = rest.get(at + part.len()..).unwrap_or_default(),
                None => return false,
            }
        }
        true
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Wire format by destination pattern; the first match wins, then [`WireFormat::Flat`].
#[derive(Debug, Clone, Default)]
pub struct Formats(pub Vec<(Pattern, WireFormat)>);

impl Formats {
    pub fn of(&self, destination: &str) -> WireFormat {
        self.0
            .iter()
            .find(|(pattern, _)| pattern.matches(destination))
            .map_or(WireFormat::default(), |(_, format)| *format)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Unrouted {
    /// Visible in `helix dlq ls`, reason `unrouted`.
    DeadLetter,
    /// Acknowledged and counted; for topics that carry more types than this host wants.
    Ignore,
}

/// A named component and its grants. Nothing is granted unless it stands here.
#[derive(Debug, Clone, PartialEq)]
pub struct Plugin {
    pub name: String,
    /// `<plugins_dir>/<name>.wasm` unless told otherwise.
    pub file: PathBuf,
    /// Queues and topics it may publish to.
    pub publish: Vec<Pattern>,
    /// `host` or `host:port` it may fetch from; `*.example.com` for subdomains.
    pub fetch: Vec<String>,
    /// Allows fetches to private, loopback and link-local addresses of granted hosts.
    pub fetch_private: bool,
    pub fetch_timeout: Duration,
    /// Environment variables the guest sees.
    pub env: BTreeMap<String, String>,
    pub memory_bytes: u64,
    pub table_elements: u64,
    /// Component-model handles alive at a time.
    pub handles: usize,
    /// Messages it may publish for one input.
    pub outputs: u32,
    /// Bytes of all outputs of one input, and of one result.
    pub output_bytes: u64,
    /// Lines per second that reach the log.
    pub log_lines: u32,
    /// Instances kept warm, all routes together; also the bound of calls in flight.
    pub instances: usize,
    /// A warm instance is retired after so many calls.
    pub calls_per_instance: u64,
    /// Only this content is accepted.
    pub digest: Option<String>,
    /// file:line of the table, or of where it would go; named in refusals.
    pub declared_at: String,
}
