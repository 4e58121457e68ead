//! From a client library's error to what a person should know and do. Pure.

use std::io;

use lapin::ErrorKind;
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use rustls::CertificateError;

/// What went wrong when connecting, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnosis {
    pub refused: bool,
    pub cause: String,
    pub next: &'static str,
}

const CHECK_ADDRESS: &str = "Check that the broker runs, and its host and port in the configuration";
const CHECK_LOGIN: &str = "Check user, password and the user's permissions on the vhost";
const CHECK_VHOST: &str = "Check that the vhost exists and the user may access it";
const CHECK_TLS: &str = "Set tls.ca to the CA that signed the broker's certificate, and host to a name in it";
const CHECK_TLS_MODE: &str =
    "Check that the port speaks what is configured: plain AMQP usually is 5672, TLS 5671";
const WAIT: &str = "Nothing to do, it is tried again";

pub fn connecting(error: &lapin::Error, tls: bool) -> Diagnosis {
    let unreachable = |cause: String, next| Diagnosis {
        refused: false,
        cause,
        next,
    };
    match error.kind() {
        ErrorKind::IOError(io) => io_error(io, tls),
        ErrorKind::ProtocolError(amqp) => {
            let cause = amqp.get_message().to_string();
            match amqp.kind() {
                AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Diagnosis {
                    refused: true,
                    cause: format!("the login was refused ({cause})"),
                    next: CHECK_LOGIN,
                },
                AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED | AMQPHardError::INVALIDPATH) => Diagnosis {
                    refused: true,
                    cause,
                    next: CHECK_VHOST,
                },
                AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED) => unreachable(cause, WAIT),
                _ => unreachable(cause, CHECK_ADDRESS),
            }
        }
        ErrorKind::InvalidProtocolVersion(_) | ErrorKind::ParsingError(_) => unreachable(
            "what answers does not speak AMQP 0-9-1".to_owned(),
            CHECK_TLS_MODE,
        ),
        ErrorKind::MissingHeartbeatError => {
            unreachable("the broker went silent (no heartbeat)".to_owned(), WAIT)
        }
        _ => unreachable(error.to_string(), CHECK_ADDRESS),
    }
}

fn io_error(error: &io::Error, tls: bool) -> Diagnosis {
    if let Some(tls_error) = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
    {
        return tls_failure(tls_error);
    }
    let unreachable = |cause: String, next| Diagnosis {
        refused: false,
        cause,
        next,
    };
    match error.kind() {
        io::ErrorKind::ConnectionRefused => unreachable(
            "nobody listens there (connection refused)".to_owned(),
            CHECK_ADDRESS,
        ),
        io::ErrorKind::TimedOut => unreachable("no answer in time".to_owned(), CHECK_ADDRESS),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::UnexpectedEof => {
            let next = if tls { CHECK_TLS } else { CHECK_TLS_MODE };
            unreachable("the other side closed the connection".to_owned(), next)
        }
        _ => unreachable(error.to_string(), CHECK_ADDRESS),
    }
}

fn tls_failure(error: &rustls::Error) -> Diagnosis {
    let cause = match error {
        rustls::Error::InvalidCertificate(certificate) => {
            let why = match certificate {
                CertificateError::UnknownIssuer => "its issuer is not trusted".to_owned(),
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "it has expired".to_owned()
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "it was made for another host name".to_owned()
                }
                other => other.to_string(),
            };
            format!("the broker's certificate is refused: {why}")
        }
        rustls::Error::AlertReceived(alert) => format!("the broker refused the TLS handshake ({alert:?})"),
        rustls::Error::InvalidMessage(_) => {
            let cause = "what answers does not speak TLS".to_owned();
            return Diagnosis {
                refused: true,
                cause,
                next: CHECK_TLS_MODE,
            };
        }
        other => format!("TLS failed: {other}"),
    };
    Diagnosis {
        refused: true,
        cause,
        next: CHECK_TLS,
    }
}

/// The reply code and text when the broker closed the channel or connection.
pub fn reply(error: &lapin::Error) -> Option<(u16, String)> {
    match error.kind() {
        ErrorKind::ProtocolError(amqp) => Some((amqp.get_id(), amqp.get_message().to_string())),
        _ => None,
    }
}

pub const NOT_FOUND: u16 = 404;
pub const ACCESS_REFUSED: u16 = 403;
pub const PRECONDITION_FAILED: u16 = 406;

#[cfg(test)]
mod tests;
