//! Brokers: those that are declared, and the embedded one when something needs it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Check, EMBEDDED};
use crate::config::source::{Place, is_reference, is_secret_name, quoted};
use crate::config::{raw, valid};
use crate::error;

impl Check<'_> {
    pub(super) fn brokers(
        &mut self,
        raw: &raw::Raw,
        state_dir: &Path,
        routes: &[valid::Route],
    ) -> BTreeMap<String, valid::Broker> {
        let mut out = BTreeMap::new();
        for (name, broker) in &raw.brokers {
            self.plain_name(name, &["brokers", name]);
            let broker = match broker {
                raw::Broker::Embedded(b) => valid::Broker::Embedded(self.embedded(b, state_dir)),
                raw::Broker::RabbitMq(b) => valid::Broker::RabbitMq(self.rabbitmq(name, b)),
                raw::Broker::Kafka(b) => valid::Broker::Kafka(self.kafka(name, b)),
            };
            out.insert(name.clone(), broker);
        }
        let needed = [&raw.messaging.tasks, &raw.messaging.events]
            .into_iter()
            .any(|n| n == EMBEDDED)
            || routes.iter().any(|r| &*r.broker == EMBEDDED);
        if needed && !self.declared.brokers.contains(EMBEDDED) {
            let broker = self.embedded(&raw::Embedded::default(), state_dir);
            out.insert(EMBEDDED.to_owned(), valid::Broker::Embedded(broker));
        }
        self.one_file_each(&out);
        out
    }

    fn embedded(&self, raw: &raw::Embedded, state_dir: &Path) -> valid::Embedded {
        let path = raw
            .path
            .as_ref()
            .map_or_else(|| state_dir.join("broker.db"), |p| self.cwd.join(p));
        valid::Embedded {
            path,
            group: raw.group.clone(),
        }
    }

    fn one_file_each(&mut self, brokers: &BTreeMap<String, valid::Broker>) {
        let mut seen: BTreeMap<&PathBuf, &str> = BTreeMap::new();
        for (name, broker) in brokers {
            let valid::Broker::Embedded(embedded) = broker else {
                continue;
            };
            if let Some(other) = seen.insert(&embedded.path, name) {
                let message = format!(
                    "brokers `{other}` and `{name}` use one file, {}",
                    embedded.path.display()
                );
                let also = self.key_place(&["brokers", other]);
                let fault = self.fault(error::CONFIG_VALUE, &["brokers", name], message);
                fault.also = Some((also, "the other one".into()));
                fault.help = Some("give one of them its own `path`".into());
            }
        }
    }

    fn rabbitmq(&mut self, name: &str, raw: &raw::RabbitMq) -> valid::RabbitMq {
        let base = ["brokers", name];
        let path = ["brokers", name, "password"];
        let password = match &raw.password {
            Some(secret) => self.secret(secret, &path),
            // A password that was refused by its form has its fault already.
            None if self
                .faults
                .iter()
                .any(|f| f.message.contains(&format!("brokers.{name}.password"))) =>
            {
                "".into()
            }
            None => {
                let place = self.key_place(&base);
                let message = format!("broker `{name}` has no password");
                let fault = crate::config::Fault::new(error::CONFIG_SECRET, place, message).help(
                    "set RABBITMQ_PASSWORD, or add password = \"env:NAME\" or \"file:path\"; there is no default password",
                );
                self.push(fault);
                "".into()
            }
        };
        self.not_empty(&raw.host, &["brokers", name, "host"]);
        valid::RabbitMq {
            host: raw.host.clone(),
            port: raw.port,
            user: raw.user.clone(),
            password,
            vhost: raw.vhost.clone(),
            tls: self.tls(&raw.tls, &["brokers", name, "tls"]),
            heartbeat: raw.heartbeat.0,
            publish_timeout: raw.publish_timeout.0,
            single_active_consumer: raw.single_active_consumer,
        }
    }

    fn kafka(&mut self, name: &str, raw: &raw::Kafka) -> valid::Kafka {
        let servers = ["brokers", name, "servers"];
        if raw.servers.is_empty() {
            self.fault(
                error::CONFIG_VALUE,
                &servers,
                format!("broker `{name}` has no servers"),
            )
            .help = Some("name one at least: servers = [\"localhost:9092\"]".into());
        }
        for (n, server) in raw.servers.iter().enumerate() {
            if !is_host_port(server) {
                let message = format!("{} is no server", quoted(server));
                let path = ["brokers", name, "servers", &n.to_string()];
                self.fault(error::CONFIG_VALUE, &path, message).help =
                    Some("host and port without a scheme, as in \"localhost:9092\"".into());
            }
        }
        self.not_empty(&raw.group, &["brokers", name, "group"]);
        self.sessions(name, raw);
        valid::Kafka {
            servers: raw.servers.clone(),
            group: raw.group.clone(),
            instance_id: raw.instance_id.clone(),
            session_timeout: raw.session_timeout.0,
            heartbeat_interval: raw.heartbeat_interval.0,
            tls: self.tls(&raw.tls, &["brokers", name, "tls"]),
            sasl: raw.sasl.as_ref().map(|sasl| self.sasl(name, sasl)),
            publish_timeout: raw.publish_timeout.0,
            revoke_timeout: raw.revoke_timeout.0,
            properties: self.properties(name, raw),
        }
    }

    fn sessions(&mut self, name: &str, raw: &raw::Kafka) {
        let (session, heartbeat) = (raw.session_timeout, raw.heartbeat_interval);
        if heartbeat.0 * 3 > session.0 {
            let message = format!(
                "broker `{name}`: heartbeat_interval {heartbeat} is more than a third of session_timeout {session}; \
                 one lost heartbeat would cost the partitions"
            );
            let also = self.place(&["brokers", name, "session_timeout"]);
            let fault = self.fault(
                error::CONFIG_VALUE,
                &["brokers", name, "heartbeat_interval"],
                message,
            );
            fault.also = Some((also, "against this".into()));
            fault.help = Some("lower heartbeat_interval, or raise session_timeout".into());
        }
    }

    fn sasl(&mut self, name: &str, raw: &raw::Sasl) -> valid::Sasl {
        let path = ["brokers", name, "sasl", "password"];
        valid::Sasl {
            mechanism: raw.mechanism,
            user: raw.user.clone(),
            password: self.secret(&raw.password, &path),
        }
    }

    /// Passed on as they are; those that are secrets by their name have to be references too.
    fn properties(&mut self, name: &str, raw: &raw::Kafka) -> BTreeMap<String, String> {
        let mut out = BTreeMap::new();
        for (key, value) in &raw.properties {
            let path = ["brokers", name, "properties", key];
            let value = if is_reference(value) {
                self.reference(value, &path)
            } else {
                if is_secret_name(key) && !self.is_from_env(&path) {
                    self.fault(
                        error::CONFIG_SECRET,
                        &path,
                        format!("property {} is a secret in plain text", quoted(key)),
                    )
                    .help = Some("write \"env:NAME\" or \"file:path\"".into());
                }
                value.clone()
            };
            out.insert(key.clone(), value);
        }
        out
    }

    fn tls(&mut self, raw: &raw::Tls, path: &[&str]) -> Option<valid::Tls> {
        let files = match raw {
            raw::Tls::Switch(false) => return None,
            raw::Tls::Switch(true) => return Some(valid::Tls::default()),
            raw::Tls::Files(files) => files,
        };
        if files.cert.is_some() != files.key.is_some() {
            let (has, lacks) = if files.cert.is_some() {
                ("cert", "key")
            } else {
                ("key", "cert")
            };
            self.fault(
                error::CONFIG_VALUE,
                path,
                format!("`tls` has `{has}` but no `{lacks}`"),
            )
            .help = Some("a client certificate needs both; remove both to use none".into());
        }
        let mut file = |part: &str, name: &Option<String>| {
            let name = name.as_ref()?;
            let full = self.cwd.join(name);
            if !full.is_file() {
                let path: Vec<&str> = path.iter().copied().chain([part]).collect();
                self.fault(
                    error::CONFIG_FILE,
                    &path,
                    format!("there is no file {}", quoted(name)),
                )
                .help = Some("paths are relative to the working directory".into());
            }
            Some(full)
        };
        Some(valid::Tls {
            ca: file("ca", &files.ca),
            cert: file("cert", &files.cert),
            key: file("key", &files.key),
        })
    }

    fn not_empty(&mut self, text: &str, path: &[&str]) {
        if text.trim().is_empty() {
            self.fault(
                error::CONFIG_VALUE,
                path,
                format!("`{}` is empty", path.join(".")),
            );
        }
    }

    /// Names become metric labels, variables and file names.
    pub(super) fn plain_name(&mut self, name: &str, path: &[&str]) {
        let plain = name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
        if !plain || name.is_empty() || name.starts_with('.') || name.len() > 100 {
            let place = self.key_place(path);
            let at = if matches!(place, Place::Default) {
                self.place(&[])
            } else {
                place
            };
            let message = format!("{} is no name", quoted(name));
            let fault = crate::config::Fault::new(error::CONFIG_VALUE, at, message)
                .help("letters, digits, `_`, `-` and `.`, not beginning with a dot");
            self.push(fault);
        }
    }
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains('/')
            && !host.contains(char::is_whitespace)
            && port.parse::<u16>().is_ok_and(|p| p > 0)
    })
}
