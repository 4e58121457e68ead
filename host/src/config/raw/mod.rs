//! What may stand in helix.toml. The comments here are the reference: schema and helix.reference.toml are made from them.

mod broker;
mod dlq;
mod topology;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::units::{Secret, Size, Span, StoreUrl};
use super::valid::{OnDeadLetter, Order, Unrouted};
use crate::model::{Role, WireFormat};

pub use broker::{Broker, Embedded, Kafka, RabbitMq, Sasl, Tls, TlsFiles};
pub use dlq::{Auto, AutoType, Dlq};
pub use topology::{Scalar, Topology};

/// Helix configuration. Sources, the later wins: this file, environment, flags. `helix config explain` tells which one did.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
    /// The process itself.
    pub host: Host,
    /// Who may use the HTTP API. With `host.token` and no table here that one token may do everything.
    pub tokens: Vec<Token>,
    /// Which broker does what.
    pub messaging: Messaging,
    /// Where waiting retries and dead letters are kept.
    pub store: Store,
    /// Bounds of the host; bounds of a plugin stand in its own table.
    pub limits: Limits,
    /// Dead letters.
    pub dlq: Dlq,
    /// Brokers by name. One named `embedded` is there without being written down.
    pub brokers: BTreeMap<String, Broker>,
    /// Which message goes to which plugin. The most specific route wins: a literal destination over a pattern, then a
    /// literal type over a pattern, then the longer pattern, then the earlier line.
    pub routes: Vec<Route>,
    /// Grants and bounds of plugins by name. A plugin that is used in a route and has no table here gets the defaults:
    /// nothing granted.
    pub plugins: BTreeMap<String, Plugin>,
    /// Wire format of what the host publishes, by destination. The first match wins; without one it is `flat`.
    pub formats: Vec<Format>,
}

/// The process itself.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Host {
    /// Folder for `broker.db`, `store.db` and the cache of compiled plugins; one running host each. Relative to the
    /// working directory, like every path here.
    pub state_dir: String,
    /// Folder that is watched for `*.wasm`.
    pub plugins_dir: String,
    /// Address and port of HTTP. An address other than loopback needs authentication. PORT sets the port alone.
    #[schemars(extend("format" = "address", "examples" = ["127.0.0.1:7061", "[::1]:7061"]))]
    pub listen: String,
    /// From SIGTERM to exit: stop pulling, finish, settle, leave.
    #[schemars(extend("x-maximum" = "1h"))]
    pub drain: Span,
    /// Log filter. Environment: LOG_LEVEL; MESSAGING_DEBUG=true means `debug`.
    #[schemars(extend("examples" = ["warn", "info,helix_host::dispatch=debug"]))]
    pub log: String,
    /// Bearer token of the API: a reference `env:NAME` or `file:path`. Without one HTTP listens on loopback only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["env:HELIX_API_TOKEN", "file:/run/secrets/helix-token"]))]
    pub token: Option<Secret>,
}

/// A token of the HTTP API: who holds it may do what its role says.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Token {
    /// Who that is: the actor in trails and in the audit table.
    #[schemars(extend("examples" = ["ann"]))]
    pub name: String,
    /// A reference `env:NAME` or `file:path`; sent as `Authorization: Bearer …`.
    #[schemars(extend("examples" = ["env:HELIX_TOKEN_ANN"]))]
    pub token: Secret,
    /// `viewer` looks, `operator` publishes, sends again, discards and replays, `admin` does everything.
    #[serde(default)]
    pub role: Role,
    /// May read what is in messages: bodies, keys, headers, logs of handlers.
    #[serde(default)]
    pub payloads: bool,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            state_dir: ".helix".into(),
            plugins_dir: "plugins".into(),
            listen: "127.0.0.1:7061".into(),
            drain: Span::secs(25),
            log: "info".into(),
            token: None,
        }
    }
}

/// Where waiting retries and dead letters are kept.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// A Postgres database (12 or newer) that all hosts share: a reference `env:NAME` or `file:path`, or a URL without a
    /// password. Unless set: the SQLite file `store.db` in `host.state_dir`, for one host alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["env:HELIX_STORE_URL", "postgres://helix@db.internal/helix?sslmode=verify-full"]))]
    pub url: Option<StoreUrl>,
    /// Schema of the tables in that database; made when it is missing. Hosts with the same one share their work: give them
    /// the same routes.
    pub schema: String,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: None,
            schema: "helix".into(),
        }
    }
}

/// Which broker does what.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Messaging {
    /// False: no broker is touched, HTTP serves health only. MESSAGING_ENABLED switches off with the exact word `false`.
    pub enabled: bool,
    /// Broker that holds the queues. Unless set here, RABBITMQ_* variables make it `rabbitmq` (RABBITMQ_ENABLED=false ignores
    /// them).
    pub tasks: String,
    /// Broker that holds the topics. Unless set here, KAFKA_* variables make it `kafka` (KAFKA_ENABLED=false ignores them).
    pub events: String,
    /// What happens to a message no route wants: `dead-letter` keeps it visible, `ignore` acknowledges and counts it.
    pub unrouted: Unrouted,
    /// File of queues and topics, relative to this file. Unless set, a missing file means the built-in list.
    pub topology: String,
    /// MESSAGING_FALLBACK_ENABLED and MESSAGING_FALLBACK_INMEMORY. Accepted; without effect in this version, which answers
    /// with an error when a broker is down.
    pub fallback: bool,
}

impl Default for Messaging {
    fn default() -> Self {
        Self {
            enabled: true,
            tasks: "embedded".into(),
            events: "embedded".into(),
            unrouted: Unrouted::DeadLetter,
            topology: "topology.toml".into(),
            fallback: true,
        }
    }
}

/// Bounds of the host.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Body, key and headers of one message together; larger ones become dead letters.
    #[schemars(extend("x-minimum" = "1KiB", "x-maximum" = "256MiB"))]
    pub message_size: Size,
    /// Headers of one message.
    #[schemars(range(min = 1, max = 10000))]
    pub headers: usize,
    /// Unsettled deliveries per queue or topic; prefetch on RabbitMQ.
    #[schemars(range(min = 1, max = 65535))]
    pub in_flight: usize,
    /// A .wasm file larger than this is not read.
    #[schemars(extend("x-minimum" = "1KiB", "x-maximum" = "1GiB"))]
    pub wasm_size: Size,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_size: Size(1 << 20),
            headers: 100,
            in_flight: 1000,
            wasm_size: Size(64 << 20),
        }
    }
}

/// (queue or topic, type) → plugin and policy.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["plugin"]))]
pub struct Route {
    /// Label in metrics and in the DLQ. Unless set: destination and type, as in `helixagent.tasks.llm:llm.request`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["llm"]))]
    pub name: Option<String>,
    /// Queue to take tasks from; `*` stands for anything. A route has either `queue` or `topic`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["helixagent.tasks.llm"]))]
    pub queue: Option<String>,
    /// Topic to read events from; `*` stands for anything (but dead letter destinations, which have to be named).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["helixagent.events.*"]))]
    pub topic: Option<String>,
    /// Unless set: `messaging.tasks` for queues, `messaging.events` for topics.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["rabbitmq"]))]
    pub broker: Option<String>,
    /// Message types; `*` stands for anything.
    #[serde(rename = "type")]
    #[schemars(extend("examples" = ["llm.request", "llm.*"]))]
    pub message_type: String,
    /// Name of the plugin that handles it: `<plugins_dir>/<name>.wasm`.
    #[schemars(extend("default" = null, "examples" = ["llm-request"]))]
    pub plugin: String,
    /// Calls that may run at a time.
    #[schemars(range(min = 1, max = 10000))]
    pub concurrency: usize,
    /// What must run one after another: nothing, messages with one key, or the whole partition or queue.
    pub order: Order,
    /// What becomes of later messages of a key when one is given up on: `skip` lets them go on, `park` holds them in the
    /// store, in order, until somebody deals with the dead letter. `park` needs order = "key".
    pub on_dead_letter: OnDeadLetter,
    /// Bounds of what `on_dead_letter = "park"` holds.
    pub park: Park,
    /// One call, one message.
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "24h"))]
    pub timeout: Span,
    /// Messages per second, for each host alone. Unless set: unbounded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1), extend("examples" = [100]))]
    pub rate: Option<u32>,
    /// Names of headers the handler sees; each costs time.
    #[schemars(extend("examples" = [["tenant"]]))]
    pub headers: Vec<String>,
    /// `warm` uses an instance again, `per-message` makes a fresh one each time.
    pub instance: Instance,
    /// When to try again.
    pub retry: Retry,
}

pub const CONCURRENCY: usize = 4;

impl Default for Route {
    fn default() -> Self {
        Self {
            name: None,
            queue: None,
            topic: None,
            broker: None,
            message_type: "*".into(),
            plugin: String::new(),
            concurrency: CONCURRENCY,
            order: Order::None,
            on_dead_letter: OnDeadLetter::Skip,
            park: Park::default(),
            timeout: Span::secs(30),
            rate: None,
            headers: Vec::new(),
            instance: Instance::Warm,
            retry: Retry::default(),
        }
    }
}

/// How long an instance lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Instance {
    /// Used again until it traps, times out or has run `calls_per_instance` calls.
    #[default]
    Warm,
    /// A fresh one for each message.
    PerMessage,
}

/// When to try again.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// 0 = the first failure is final.
    #[schemars(range(max = 1000))]
    pub max_retries: u32,
    /// Before the first retry.
    #[schemars(extend("x-maximum" = "30d"))]
    pub delay: Span,
    /// What each further delay grows by.
    #[schemars(range(min = 1.0, max = 100.0))]
    pub multiplier: f64,
    /// No delay is longer.
    #[schemars(extend("x-maximum" = "30d"))]
    pub max_delay: Span,
    /// 0.0 to 1.0: delays are spread by this share in both directions.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub jitter: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            max_retries: 3,
            delay: Span::secs(1),
            multiplier: 2.0,
            max_delay: Span::secs(30),
            jitter: 0.1,
        }
    }
}

/// Bounds of what waits behind a dead letter.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Park {
    /// Messages of one key in the store, the one that failed among them. When there are so many, further ones stay with
    /// their broker: they take up `limits.in_flight` of its queue or topic, until nothing more is pulled from it.
    #[schemars(range(min = 1, max = 10000000))]
    pub limit: u64,
    /// A key that waits longer goes on without its dead letter, which stays. Unless set: it waits until somebody acts.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("x-minimum" = "1s", "x-maximum" = "365d", "examples" = ["7d"]))]
    pub expiry: Option<Span>,
}

impl Default for Park {
    fn default() -> Self {
        Self {
            limit: 10_000,
            expiry: None,
        }
    }
}

/// Grants and bounds of one plugin. Nothing is granted unless it stands here.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Plugin {
    /// File in `host.plugins_dir`. Unless set: `<name>.wasm`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["llm-request.wasm"]))]
    pub file: Option<String>,
    /// Queues and topics it may publish to; `*` stands for anything.
    #[schemars(extend("examples" = [["helixagent.events.llm.responses"]]))]
    pub publish: Vec<String>,
    /// Hosts it may fetch from: `host`, `host:port`, `*.example.com`.
    #[schemars(extend("examples" = [["api.example.com"]]))]
    pub fetch: Vec<String>,
    /// Allows granted hosts to be at private, loopback and link-local addresses.
    pub fetch_private: bool,
    /// One fetch, from the name lookup to the last byte.
    #[schemars(extend("x-minimum" = "1ms", "x-maximum" = "1h"))]
    pub fetch_timeout: Span,
    /// Environment variables it sees. Values may be `env:NAME` or `file:path`.
    #[schemars(extend("examples" = [{"API_KEY": "env:LLM_API_KEY"}]))]
    pub env: BTreeMap<String, String>,
    /// Memory of one instance.
    #[schemars(extend("x-minimum" = "64KiB", "x-maximum" = "4GiB"))]
    pub memory: Size,
    /// Elements of one instance's tables.
    #[schemars(range(min = 1, max = 10000000))]
    pub table_elements: u64,
    /// Component-model handles alive at a time.
    #[schemars(range(min = 1, max = 1000000))]
    pub handles: usize,
    /// Messages it may publish for one input.
    #[schemars(range(max = 100000))]
    pub outputs: u32,
    /// All outputs of one input together.
    #[schemars(extend("x-maximum" = "256MiB"))]
    pub output_size: Size,
    /// Lines per second that reach the log.
    #[schemars(range(max = 100000))]
    pub log_lines: u32,
    /// Instances kept warm, and the bound of calls in flight. Unless set: the sum of `concurrency` of its routes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000), extend("examples" = [4]))]
    pub instances: Option<usize>,
    /// A warm instance is replaced after so many calls.
    #[schemars(range(min = 1))]
    pub calls_per_instance: u64,
    /// SHA-256 of the only content that is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("examples" = ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]))]
    pub digest: Option<String>,
}

impl Default for Plugin {
    fn default() -> Self {
        Self {
            file: None,
            publish: Vec::new(),
            fetch: Vec::new(),
            fetch_private: false,
            fetch_timeout: Span::secs(10),
            env: BTreeMap::new(),
            memory: Size(64 << 20),
            table_elements: 20_000,
            handles: 1000,
            outputs: 100,
            output_size: Size(4 << 20),
            log_lines: 100,
            instances: None,
            calls_per_instance: 10_000,
            digest: None,
        }
    }
}

/// Wire format of one set of destinations.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("required" = ["destination", "format"]))]
pub struct Format {
    /// Queues and topics; `*` stands for anything.
    #[serde(default)]
    #[schemars(extend("default" = null, "examples" = ["helixagent.events.*"]))]
    pub destination: String,
    /// Layout of what is published there.
    #[serde(default)]
    #[schemars(extend("default" = null, "examples" = ["cloudevents-structured"]))]
    pub format: WireFormat,
}
