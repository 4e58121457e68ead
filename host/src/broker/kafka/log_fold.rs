//! librdkafka's flood of error lines, folded into one that helps.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::broker::{Error, Health};
use crate::error;

/// librdkafka says the same every second for every broker and client; people need it twice a minute.
const REPEAT: Duration = Duration::from_secs(30);
/// A complaint that is older than this no longer makes a broker `Degraded`; longer than librdkafka's slowest reconnect (10 s).
const FRESH: Duration = Duration::from_secs(15);

/// How much a cause explains; a vaguer one does not replace a clearer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Clarity {
    Vague,
    Network,
    Refused,
}

#[derive(Debug, Clone)]
struct Trouble {
    clarity: Clarity,
    text: String,
    last: Instant,
}

/// What is known about the way to the brokers. Pure: the time comes with each call.
#[derive(Debug)]
pub struct Fold {
    /// Servers, TLS/SASL mode, user.
    place: String,
    trouble: Option<Trouble>,
    up: bool,
    said: Option<Instant>,
}

impl Fold {
    pub fn new(place: String) -> Self {
        Self {
            place,
            trouble: None,
            up: false,
            said: None,
        }
    }

    /// Something went wrong. Returns the line to log, at most one in 30 s.
    pub fn failed(&mut self, cause: &str, now: Instant) -> Option<String> {
        let (clarity, next) = explain(cause);
        let vaguer = self.trouble.as_ref().is_some_and(|t| t.clarity > clarity);
        match &mut self.trouble {
            Some(trouble) if vaguer => trouble.last = now,
            trouble => {
                let code = if clarity == Clarity::Refused {
                    error::BROKER_REFUSED
                } else {
                    error::BROKER_UNREACHABLE
                };
                let text = format!("{code} {}: {}. {next}", self.place, short(cause));
                *trouble = Some(Trouble {
                    clarity,
                    text,
                    last: now,
                });
            }
        }
        if self.said.is_some_and(|at| now.duration_since(at) < REPEAT) {
            return None;
        }
        // A vague word at the start is mostly followed by a clear one; it is said when nothing better comes.
        self.said = Some(now);
        self.trouble.as_ref().map(|t| t.text.clone())
    }

    /// The brokers cannot be reached at all.
    pub fn down(&mut self) {
        self.up = false;
    }

    /// A broker answered. Returns the line to log when that is news.
    pub fn answered(&mut self, now: Instant) -> Option<String> {
        if self.up {
            self.trouble = self.trouble.take().filter(|t| now.duration_since(t.last) < FRESH);
            return None;
        }
        self.up = true;
        let had_trouble = self.trouble.take().is_some();
        had_trouble.then(|| format!("{}: connected again", self.place))
    }

    fn is_refused(&self) -> bool {
        self.trouble
            .as_ref()
            .is_some_and(|t| t.clarity == Clarity::Refused)
    }

    pub fn health(&self, now: Instant) -> Health {
        match &self.trouble {
            None if self.up => Health::Up,
            None => Health::Down {
                reason: format!("{}: not connected yet", self.place),
            },
            Some(t) if !self.up => Health::Down {
                reason: t.text.clone(),
            },
            Some(t) if now.duration_since(t.last) < FRESH => Health::Degraded {
                reason: t.text.clone(),
            },
            Some(_) => Health::Up,
        }
    }
}

/// The broker hung up on the first request of a connection.
const CLOSED_AT_HELLO: &str = "in state APIVERSION_QUERY";

/// What to do about it, from the words librdkafka uses.
fn explain(cause: &str) -> (Clarity, &'static str) {
    let has = |words: &[&str]| words.iter().any(|w| cause.contains(w));
    if has(&[
        "certificate verify failed",
        "unknown ca",
        "self-signed",
        "self signed",
    ]) {
        (
            Clarity::Refused,
            "Set tls.ca to the certificate authority that signed the broker's certificate",
        )
    } else if has(&["SSL", "ssl://"]) && has(&["handshake", "wrong version", "alert"]) {
        (
            Clarity::Refused,
            "Check that this port speaks TLS, and the client certificate if the broker asks for one",
        )
    } else if has(&["SASL", "Authentication", "authentication"]) {
        (
            Clarity::Refused,
            "Check user, password and SASL mechanism of this broker",
        )
    } else if has(&["uthorization", "ACL"]) {
        (
            Clarity::Refused,
            "Give this user the permission on the topic and the group",
        )
    } else if has(&["resolve", "Name or service"]) {
        (Clarity::Network, "Check the host name in `servers`")
    } else if has(&["refused"]) {
        (
            Clarity::Network,
            "Check that Kafka runs there and the port in `servers`",
        )
    } else if has(&[
        CLOSED_AT_HELLO,
        "Disconnected while requesting ApiVersion",
        "ApiVersionRequest",
        "incorrect security.protocol",
    ]) {
        (
            Clarity::Network,
            "Check that this port speaks the configured mode; a TLS or SASL port closes on plain clients",
        )
    } else if has(&["Connect to", "Disconnected", "timed out", "setup"]) {
        (
            Clarity::Network,
            "Check the network between this host and the broker",
        )
    } else {
        (
            Clarity::Vague,
            "Check that Kafka runs and can be reached from this host",
        )
    }
}

/// Without the thread prefix `[thrd:…]: ` and librdkafka's asides, on one line.
fn short(cause: &str) -> String {
    let cause = match cause.split_once("]: ") {
        Some((head, tail)) if head.starts_with("[thrd:") => tail,
        _ => cause,
    };
    let cause = cause.split(" (after ").next().unwrap_or(cause);
    cause
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(300)
        .collect()
}

/// The fold of one Kafka, shared by all its clients.
#[derive(Debug)]
pub struct Link {
    name: String,
    fold: Mutex<Fold>,
}

impl Link {
    pub fn new(name: &str, place: String) -> Self {
        Self {
            name: name.to_owned(),
            fold: Mutex::new(Fold::new(place)),
        }
    }

    pub fn failed(&self, cause: &str) {
        // Brokers close idle connections; when there is more to it, connecting again fails and says so.
        if cause.contains("Disconnected") && cause.contains("in state UP") {
            return;
        }
        let line = self.with(|fold| fold.failed(cause, Instant::now()));
        if let Some(line) = line {
            tracing::warn!(broker = self.name, "{line}");
        }
    }

    pub fn down(&self, cause: &str) {
        self.with(Fold::down);
        self.failed(cause);
    }

    pub fn answered(&self) {
        let line = self.with(|fold| fold.answered(Instant::now()));
        if let Some(line) = line {
            tracing::info!(broker = self.name, "{line}");
        }
    }

    pub fn health(&self) -> Health {
        self.with(|fold| fold.health(Instant::now()))
    }

    /// The state in words, for errors of single operations.
    pub fn reason(&self) -> String {
        match self.health() {
            Health::Down { reason } | Health::Degraded { reason } => reason,
            Health::Up => self.with(|fold| format!("{}: no answer in time", fold.place)),
        }
    }

    /// The error of an operation that got no answer.
    pub fn away(&self, operation: &str) -> Error {
        let text = format!("{} ({operation})", self.reason());
        match self.with(|fold| fold.is_refused()) {
            true => Error::Refused(text),
            false => Error::Unreachable(text),
        }
    }

    fn with<T>(&self, f: impl FnOnce(&mut Fold) -> T) -> T {
        f(&mut self.fold.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        use RDKafkaLogLevel::{Alert, Critical, Emerg, Error};
        match level {
            Emerg | Alert | Critical | Error => self.failed(message),
            // The only word on the wrong port, said at the level of an ordinary disconnect.
            _ if message.contains(CLOSED_AT_HELLO) => self.failed(message),
            // CONFWARN: a consumer's property on a producer and the like; rebalances and reconnects at other levels.
            _ => tracing::debug!(broker = self.name, fac, "{message}"),
        }
    }

    /// What is said of the way to the brokers; of topics, groups and the ends of partitions the operation itself tells.
    fn error(&self, error: &KafkaError, reason: &str) {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(
                Code::AllBrokersDown
                | Code::BrokerTransportFailure
                | Code::Resolve
                | Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::SSL
                | Code::OperationTimedOut
                | Code::TopicAuthorizationFailed
                | Code::GroupAuthorizationFailed
                | Code::ClusterAuthorizationFailed,
            ) => self.failed(reason),
            _ => tracing::debug!(broker = self.name, %error, "{reason}"),
        }
    }
}

/// The context of clients that need nothing but the fold.
#[derive(Debug, Clone)]
pub struct Quiet(pub std::sync::Arc<Link>);

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, fac: &str, message: &str) {
        self.0.log(level, fac, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.0.error(&error, reason);
    }
}

impl ConsumerContext for Quiet {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const REFUSED: &str = "[thrd:h:1/bootstrap]: h:1/bootstrap: Connect to ipv4#1.2.3.4:1 failed: Connection refused (after 0ms in state CONNECT)";

    fn fold() -> Fold {
        Fold::new("Kafka at h:1 (PLAINTEXT, no user)".to_owned())
    }

    #[test]
    fn a_flood_is_one_line_in_thirty_seconds() {
        let start = Instant::now();
        let mut fold = fold();
        let lines: Vec<_> = (0..120u64)
            .filter_map(|half| fold.failed(REFUSED, start + Duration::from_millis(half * 500)))
            .collect();
        assert_eq!(lines.len(), 2);
        let want = "HX0201 Kafka at h:1 (PLAINTEXT, no user): h:1/bootstrap: Connect to ipv4#1.2.3.4:1 failed: \
                    Connection refused. Check that Kafka runs there and the port in `servers`";
        assert_eq!(lines.first().unwrap(), want);
    }

    #[test]
    fn a_clear_cause_is_not_replaced_by_a_vague_one() {
        let now = Instant::now();
        let mut fold = fold();
        fold.failed("SASL authentication error: Authentication failed", now);
        fold.failed("1/1 brokers are down", now);
        let Health::Down { reason } = fold.health(now) else {
            panic!("not down")
        };
        assert!(
            reason.starts_with("HX0202") && reason.contains("password"),
            "{reason}"
        );
    }

    #[test]
    fn health_goes_down_and_up_again() {
        let start = Instant::now();
        let mut fold = fold();
        assert!(matches!(fold.health(start), Health::Down { .. }));
        assert_eq!(fold.answered(start), None, "the first connection is no news");
        assert_eq!(fold.health(start), Health::Up);
        fold.failed(REFUSED, start);
        assert!(
            matches!(fold.health(start), Health::Degraded { .. }),
            "others still answer"
        );
        fold.down();
        assert!(matches!(fold.health(start), Health::Down { .. }));
        assert!(fold.answered(start).is_some());
        assert_eq!(fold.health(start), Health::Up);
    }
}
