//! Proves the deployment files without a container engine: their structure, and their settings on the real brokers.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Map, Value};

use crate::brokers::{self, Kind, Options};
use crate::run::quiet;
use crate::workspace::root;

const FILE: &str = "docker-compose.messaging.yml";

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn compose() -> Value {
    serde_saphyr::from_str(&text(FILE)).expect("the compose file is YAML")
}

fn services(compose: &Value) -> &Map<String, Value> {
    compose["services"].as_object().expect("services")
}

fn strings(value: &Value) -> Vec<&str> {
    value
        .as_array()
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// Keys of the Compose Specification that we use; a misspelt one would be ignored or refused by an engine.
const SERVICE_KEYS: [&str; 18] = [
    "build",
    "cap_drop",
    "command",
    "depends_on",
    "entrypoint",
    "environment",
    "healthcheck",
    "hostname",
    "image",
    "ports",
    "profiles",
    "read_only",
    "restart",
    "security_opt",
    "stop_grace_period",
    "tmpfs",
    "ulimits",
    "volumes",
];

#[test]
fn services_are_well_formed() {
    let compose = compose();
    let known: BTreeSet<&str> = SERVICE_KEYS.into_iter().chain(["user"]).collect();
    assert!(
        compose
            .as_object()
            .unwrap()
            .keys()
            .all(|key| ["name", "services", "volumes"].contains(&key.as_str()))
    );
    for (name, service) in services(&compose) {
        let service = service.as_object().unwrap();
        for key in service.keys() {
            assert!(known.contains(key.as_str()), "{name}: unknown key {key}");
        }
        assert_eq!(
            strings(&service["profiles"]),
            ["messaging"],
            "{name} must belong to the profile"
        );
        let environment = service
            .get("environment")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default();
        for (variable, value) in environment {
            assert!(
                value.is_string(),
                "{name}: {variable} must be quoted, engines disagree about other types"
            );
        }
        if let Some(check) = service.get("healthcheck") {
            for key in ["test", "interval", "timeout", "retries", "start_period"] {
                assert!(check.get(key).is_some(), "{name}: healthcheck without {key}");
            }
        }
    }
}

#[test]
fn dependencies_exist_and_can_come_true() {
    let compose = compose();
    let services = services(&compose);
    for (name, service) in services {
        for (other, how) in service
            .get("depends_on")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
        {
            let target = services
                .get(&other)
                .unwrap_or_else(|| panic!("{name} waits for {other}, which does not exist"));
            match how["condition"].as_str().unwrap() {
                "service_healthy" => {
                    assert!(target.get("healthcheck").is_some(), "{other} has no healthcheck");
                }
                "service_completed_successfully" => {
                    assert_eq!(
                        target["restart"], "no",
                        "{other} is restarted for ever and never completes"
                    );
                }
                condition => panic!("{name}: condition {condition}"),
            }
        }
    }
}

#[test]
fn mounts_point_at_something() {
    let compose = compose();
    let volumes = compose["volumes"].as_object().unwrap();
    for (name, service) in services(&compose) {
        for mount in service.get("volumes").map(strings).unwrap_or_default() {
            let source = mount.split(':').next().unwrap();
            match source.strip_prefix("./") {
                // config/ and plugins/ are folders of the project in any case.
                Some(path) => assert!(
                    root().join(path).exists() || ["config", "plugins"].contains(&path),
                    "{name}: {path}"
                ),
                None => assert!(
                    volumes.contains_key(source),
                    "{name}: volume {source} is not declared"
                ),
            }
        }
    }
}

#[test]
fn nothing_is_open_or_guessable() {
    let compose = compose();
    assert!(!text(FILE).contains("PASSWORD:-"), "no default passwords");
    for (name, service) in services(&compose) {
        for port in service.get("ports").map(strings).unwrap_or_default() {
            assert!(
                port.starts_with("127.0.0.1:"),
                "{name} publishes {port} beyond loopback"
            );
        }
    }
    let definitions: Value =
        serde_json::from_str(&text("deployments/compose/rabbitmq-definitions.json")).unwrap();
    assert!(
        definitions.get("users").is_none(),
        "users come from the environment, never from a file with a hash"
    );
    let last_user = text("Dockerfile")
        .lines()
        .rev()
        .find_map(|line| line.strip_prefix("USER ").map(str::to_owned));
    assert_eq!(last_user.as_deref(), Some("65532:65532"));
}

fn options(name: &str, settings: &fs::File, path: &std::path::Path) -> Options {
    settings.sync_all().unwrap();
    Options {
        name: format!("{name}-{}", std::process::id()),
        rabbitmq_port: None,
        kafka_port: None,
        postgres_port: None,
        nodes: 1,
        plain: true,
        temp: true,
        for_figures: false,
        settings: Some(path.to_owned()),
        timeout: 180,
    }
}

/// Stops the broker of a test whether it passes or not.
struct Guard(Kind, String);

impl Drop for Guard {
    fn drop(&mut self) {
        brokers::stop(self.0, &self.1, false).ok();
    }
}

fn settings(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn rabbitmq_takes_conf_and_definitions_on_a_real_broker() {
    let conf = settings(&text("deployments/compose/rabbitmq.conf"));
    let options = options("compose", conf.as_file(), conf.path());
    let _guard = Guard(Kind::Rabbitmq, options.name.clone());
    let cluster = brokers::start(Kind::Rabbitmq, &options).unwrap().remove(0);

    let compose = compose();
    let entrypoint = strings(&compose["services"]["rabbitmq-init"]["entrypoint"]);
    let verb = entrypoint
        .iter()
        .find(|word| word.starts_with("import"))
        .expect("the init container imports");
    let definitions = root().join("deployments/compose/rabbitmq-definitions.json");
    quiet(brokers::ctl(&cluster).arg(verb).arg(definitions)).unwrap();

    // A policy with a key that a queue type does not know is skipped for that type: each type needs one that fits, or
    // what the broker expires vanishes instead of reaching helixagent.dlq.
    declare(&cluster, "helixagent.tasks.one", "classic");
    declare(&cluster, "helixagent.tasks.two", "quorum");
    let queues = quiet(brokers::ctl(&cluster).args(["list_queues", "--silent", "name", "policy"])).unwrap();
    assert!(queues.contains("helixagent.tasks.one\thelix-tasks\n"), "{queues}");
    assert!(
        queues.contains("helixagent.tasks.two\thelix-quorum-tasks\n"),
        "{queues}"
    );
    // The import must not cost us the user that came from the environment.
    quiet(brokers::ctl(&cluster).args(["authenticate_user", &cluster.user, &cluster.password])).unwrap();
    let timeout =
        quiet(brokers::ctl(&cluster).args(["eval", "application:get_env(rabbit, consumer_timeout)."]))
            .unwrap();
    assert!(
        timeout.contains("1800000"),
        "rabbitmq.conf was not read: {timeout}"
    );
}

fn declare(cluster: &brokers::Cluster, name: &str, kind: &str) {
    let call = format!(
        "{{new, _}} = rabbit_amqqueue:declare(rabbit_misc:r(<<\"/\">>, queue, <<\"{name}\">>), true, false, \
         [{{<<\"x-queue-type\">>, longstr, <<\"{kind}\">>}}], none, <<\"test\">>), ok."
    );
    quiet(brokers::ctl(cluster).args(["eval", &call])).unwrap();
}

/// What the image does with its environment: KAFKA_A_B → a.b.
fn kafka_properties() -> String {
    let compose = compose();
    let environment = compose["services"]["kafka"]["environment"]
        .as_object()
        .unwrap()
        .clone();
    let line = |(key, value): (&String, &Value)| {
        let key = key.strip_prefix("KAFKA_")?.to_ascii_lowercase().replace('_', ".");
        Some(format!("{key}={}\n", default_of(value.as_str()?)))
    };
    environment.iter().filter_map(line).collect()
}

/// `${NAME:-default}` with nothing set.
fn default_of(value: &str) -> String {
    let Some((before, rest)) = value.split_once("${") else {
        return value.to_owned();
    };
    let (variable, after) = rest.split_once('}').expect("closing brace");
    let default = variable
        .split_once(":-")
        .map(|(_, default)| default)
        .expect("a default");
    format!("{before}{default}{}", default_of(after))
}

#[test]
fn kafka_takes_the_environment_on_a_real_broker() {
    // The same listeners under the same names, on loopback and on ports of ours.
    let free: Vec<u16> = (23_000..32_000)
        .step_by(11)
        .filter(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .take(3)
        .collect();
    let properties = kafka_properties()
        .replace("0.0.0.0", "127.0.0.1")
        .replace("://kafka:", "://127.0.0.1:")
        .replace("://localhost:", "://127.0.0.1:")
        .replace("@kafka:", "@127.0.0.1:")
        .replace(":29092", &format!(":{}", free[1]))
        .replace(":9092", &format!(":{}", free[0]))
        .replace(":9093", &format!(":{}", free[2]));
    let file = settings(&properties);
    let mut options = options("compose", file.as_file(), file.path());
    options.kafka_port = Some(free[0]);
    let _guard = Guard(Kind::Kafka, options.name.clone());
    let cluster = brokers::start(Kind::Kafka, &options).unwrap().remove(0);

    let topics = |args: &[&str]| {
        let mut all = vec!["org.apache.kafka.tools.TopicCommand".to_owned()];
        all.extend(args.iter().map(|arg| (*arg).to_owned()));
        quiet(&mut brokers::client(&cluster, &all).unwrap())
    };
    topics(&[
        "--create",
        "--topic",
        "helixagent.events.audit",
        "--partitions",
        "6",
    ])
    .unwrap();
    let described = topics(&["--describe", "--topic", "helixagent.events.audit"]).unwrap();
    assert!(
        described.contains("PartitionCount: 6") && described.contains("ReplicationFactor: 1"),
        "{described}"
    );
}
