//! Settings → librdkafka properties.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use secrecy::ExposeSecret;

use crate::broker::Error;
use crate::config::valid::{Kafka, Sasl, SaslMechanism};
use crate::error::CONFIG_VALUE;

/// Properties that decide when an offset counts as handled. Another value loses messages, so nobody may set one.
const OURS: [&str; 3] = [
    "enable.auto.commit",
    "enable.auto.offset.store",
    "allow.auto.create.topics",
];

/// Servers, mode and user: what every complaint about the connection names.
pub fn place(options: &Kafka) -> String {
    let user = options.sasl.as_ref().map_or_else(
        || "no user".to_owned(),
        |sasl| format!("user `{}`, {}", sasl.user, mechanism(sasl)),
    );
    format!(
        "Kafka at {} ({}, {user})",
        options.servers.join(","),
        protocol(options)
    )
}

pub fn check(options: &Kafka) -> Result<(), Error> {
    match OURS.iter().find(|name| options.properties.contains_key(**name)) {
        Some(name) => Err(Error::Unsupported(format!(
            "{CONFIG_VALUE} `properties.{name}` cannot be set: the host decides when an offset counts as handled. Remove it"
        ))),
        None => readable(options),
    }
}

/// librdkafka's own complaint about a file names neither the file nor the setting.
fn readable(options: &Kafka) -> Result<(), Error> {
    let tls = options.tls.clone().unwrap_or_default();
    for (setting, path) in [("tls.ca", tls.ca), ("tls.cert", tls.cert), ("tls.key", tls.key)] {
        if let Some(path) = path
            && let Err(error) = std::fs::File::open(&path)
        {
            let (place, path) = (place(options), path.display());
            return Err(Error::Refused(format!("{place}: {setting} {path}: {error}")));
        }
    }
    Ok(())
}

/// The group's consumer.
pub fn consumer(options: &Kafka) -> ClientConfig {
    let mut config = common(options);
    config
        .set("group.id", &options.group)
        .set("partition.assignment.strategy", "cooperative-sticky")
        // KIP-848 in librdkafka 2.12 stalls for minutes and commits stale epochs (fixed in 2.15).
        .set("group.protocol", "classic");
    if let Some(id) = &options.instance_id {
        config.set("group.instance.id", id);
    }
    reading(&mut config, options);
    further(config, options)
}

/// A consumer that never joins the group: reads stretches, looks at offsets. It needs a group id because librdkafka keeps
/// assignments in its group object; it commits nothing.
pub fn observer(options: &Kafka) -> ClientConfig {
    let mut config = common(options);
    config
        .set("group.id", &options.group)
        .set("enable.partition.eof", "true")
        // Brokers answer a connection in order: a fetch that waits for new messages holds up every question behind it.
        .set("fetch.wait.max.ms", "20");
    reading(&mut config, options);
    further(config, options)
}

pub fn producer(options: &Kafka) -> ClientConfig {
    let mut config = common(options);
    config
        .set("enable.idempotence", "true")
        .set("acks", "all")
        // As the Java client maps keys, so that both put one key into one partition.
        .set("partitioner", "murmur2_random")
        // Fills batches under load; below what anybody notices.
        .set("linger.ms", "5")
        .set(
            "message.timeout.ms",
            millis(options.publish_timeout.max(Duration::from_millis(100))),
        );
    further(config, options)
}

pub fn admin(options: &Kafka) -> ClientConfig {
    further(common(options), options)
}

fn common(options: &Kafka) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", options.servers.join(","))
        .set("client.id", "helix")
        // Asking for the metadata of a topic would create it; librdkafka allows that for all but consumers.
        .set("allow.auto.create.topics", "false")
        .set("security.protocol", protocol(options))
        // Half-open connections: a request without an answer is given up after this, not after a minute.
        .set("socket.timeout.ms", "20000")
        .set("socket.keepalive.enable", "true")
        // Back within two seconds of the broker; librdkafka's own bound is ten.
        .set("reconnect.backoff.max.ms", "2000")
        // A topic made after the start is found within this time; librdkafka's own is five minutes.
        .set("topic.metadata.refresh.interval.ms", "30000")
        // Down to disconnects: for a wrong port they are all that is said. The fold decides what people see.
        .set_log_level(RDKafkaLogLevel::Info);
    if let Some(tls) = &options.tls {
        let files = [
            ("ssl.ca.location", &tls.ca),
            ("ssl.certificate.location", &tls.cert),
            ("ssl.key.location", &tls.key),
        ];
        for (name, path) in files {
            if let Some(path) = path {
                config.set(name, path.to_string_lossy());
            }
        }
    }
    if let Some(sasl) = &options.sasl {
        config
            .set("sasl.mechanism", mechanism(sasl))
            .set("sasl.username", &sasl.user)
            .set("sasl.password", sasl.password.expose_secret());
    }
    config
}

fn reading(config: &mut ClientConfig, options: &Kafka) {
    config
        // Of no use to observers, but librdkafka checks them against `max.poll.interval.ms`.
        .set("session.timeout.ms", millis(options.session_timeout))
        .set("heartbeat.interval.ms", millis(options.heartbeat_interval))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        .set("isolation.level", "read_committed")
        // Measured: 100 k messages a second with the default of 1000, 780 k with these two, and memory is bounded.
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.max.messages.kbytes", "16384");
}

fn further(mut config: ClientConfig, options: &Kafka) -> ClientConfig {
    for (name, value) in &options.properties {
        config.set(name, value);
    }
    config
}

fn protocol(options: &Kafka) -> &'static str {
    match (&options.tls, &options.sasl) {
        (None, None) => "PLAINTEXT",
        (Some(_), None) => "SSL",
        (None, Some(_)) => "SASL_PLAINTEXT",
        (Some(_), Some(_)) => "SASL_SSL",
    }
}

fn mechanism(sasl: &Sasl) -> &'static str {
    match sasl.mechanism {
        SaslMechanism::Plain => "PLAIN",
        SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
        SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
    }
}

fn millis(d: Duration) -> String {
    d.as_millis().to_string()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;
    use crate::config::valid::Tls;

    fn options() -> Kafka {
        Kafka {
            servers: vec!["a:1".into(), "b:2".into()],
            group: "g".into(),
            instance_id: Some("i".into()),
            session_timeout: Duration::from_secs(45),
            heartbeat_interval: Duration::from_secs(3),
            tls: Some(Tls::default()),
            sasl: Some(Sasl {
                mechanism: SaslMechanism::ScramSha512,
                user: "u".into(),
                password: "geheim".into(),
            }),
            publish_timeout: Duration::from_secs(10),
            revoke_timeout: Duration::from_secs(10),
            properties: [("linger.ms".to_owned(), "7".to_owned())].into(),
        }
    }

    #[test]
    fn no_client_creates_topics_by_asking() {
        let options = options();
        for config in [
            consumer(&options),
            observer(&options),
            producer(&options),
            admin(&options),
        ] {
            assert_eq!(config.get("allow.auto.create.topics"), Some("false"));
        }
    }

    #[test]
    fn librdkafka_accepts_every_property() {
        let options = options();
        for config in [
            consumer(&options),
            observer(&options),
            producer(&options),
            admin(&options),
        ] {
            config.create_native_config().unwrap();
        }
    }

    #[test]
    fn further_properties_come_last_but_not_where_messages_would_be_lost() {
        let mut options = options();
        assert_eq!(producer(&options).get("linger.ms"), Some("7"));
        assert!(check(&options).is_ok());
        options
            .properties
            .insert("enable.auto.commit".into(), "true".into());
        assert!(check(&options).is_err());
    }

    #[test]
    fn the_place_names_mode_and_user_but_no_secret() {
        let place = place(&options());
        assert_eq!(place, "Kafka at a:1,b:2 (SASL_SSL, user `u`, SCRAM-SHA-512)");
    }
}
