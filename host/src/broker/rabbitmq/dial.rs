//! Where a broker is, and one attempt to connect to it.

use std::io;
use std::time::Duration;

use lapin::tcp::AMQPUriTcpExt;
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{Connection, ConnectionProperties};
use secrecy::ExposeSecret;

use super::diagnose;
use super::health::Failure;
use super::tls;
use crate::config::valid;

/// For TCP and TLS; the AMQP handshake gets as long again.
const DIAL_LIMIT: Duration = Duration::from_secs(10);

/// Where to connect. Never printed: it holds the password.
pub struct Target {
    uri: AMQPUri,
    tls: Option<valid::Tls>,
    /// Everything a person needs to recognise it, without the password.
    label: String,
}

impl Target {
    pub fn new(name: &str, options: &valid::RabbitMq) -> Self {
        let mode = match &options.tls {
            None => "TLS off".to_owned(),
            Some(valid::Tls {
                ca: Some(ca), cert, ..
            }) => {
                format!(
                    "TLS with CA {}{}",
                    ca.display(),
                    if cert.is_some() {
                        " and a client certificate"
                    } else {
                        ""
                    }
                )
            }
            Some(valid::Tls { ca: None, .. }) => "TLS with the system's CAs".to_owned(),
        };
        let (host, port, user, vhost) = (&options.host, options.port, &options.user, &options.vhost);
        Self {
            uri: AMQPUri {
                scheme: AMQPScheme::AMQP,
                authority: AMQPAuthority {
                    userinfo: AMQPUserInfo {
                        username: user.clone(),
                        password: options.password.expose_secret().to_owned(),
                    },
                    host: host.clone(),
                    port,
                },
                vhost: vhost.clone(),
                query: AMQPQueryString {
                    heartbeat: Some(u16::try_from(options.heartbeat.as_secs()).unwrap_or(u16::MAX)),
                    ..AMQPQueryString::default()
                },
            },
            tls: options.tls.clone(),
            label: format!("RabbitMQ `{name}` at {host}:{port} (user `{user}`, vhost `{vhost}`, {mode})"),
        }
    }

    /// The address and login, for people.
    pub fn label(&self) -> &str {
        &self.label
    }

    fn failure(&self, error: &lapin::Error) -> Failure {
        let found = diagnose::connecting(error, self.tls.is_some());
        let text = format!("{}: {}. {}.", self.label, found.cause, found.next);
        Failure {
            refused: found.refused,
            text: text.into(),
        }
    }

    /// Connects once. `role` is what the broker's management pages show.
    pub async fn dial(&self, role: &str) -> Result<Connection, Failure> {
        let other = |text: String| Failure {
            refused: true,
            text: format!("{}: {text}.", self.label).into(),
        };
        let tls = self.tls.as_ref().map(tls::connector).transpose().map_err(other)?;
        let properties = ConnectionProperties::default().with_connection_name(format!("helix {role}").into());
        let runtime = lapin::runtime::default_runtime().map_err(|error| self.failure(&error))?;
        let connected = Connection::connector(
            self.uri.clone(),
            runtime,
            async move |uri, runtime| {
                let dialled = tokio::time::timeout(DIAL_LIMIT, async {
                    let plain = uri.connect_async(&runtime).await?;
                    match &tls {
                        Some(connector) => plain.into_rustls(connector, &uri.authority.host).await,
                        None => Ok(plain),
                    }
                });
                let stream = dialled
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                stream.map_err(lapin::Error::from)
            },
            properties,
        );
        match tokio::time::timeout(DIAL_LIMIT * 2, connected).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.failure(&error)),
            Err(_) => Err(self.failure(&io::Error::from(io::ErrorKind::TimedOut).into())),
        }
    }
}
