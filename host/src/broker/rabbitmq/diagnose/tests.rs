#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use lapin::protocol::AMQPError;

use super::*;

fn tls(error: rustls::Error) -> Diagnosis {
    connecting(&io::Error::new(io::ErrorKind::InvalidData, error).into(), true)
}

fn amqp(code: u16, text: &str) -> lapin::Error {
    ErrorKind::ProtocolError(AMQPError::from_id(code, text.into()).unwrap()).into()
}

#[test]
fn certificates_are_refusals_with_their_reason() {
    for (why, words) in [
        (CertificateError::UnknownIssuer, "issuer is not trusted"),
        (CertificateError::Expired, "has expired"),
        (CertificateError::NotValidForName, "another host name"),
    ] {
        let found = tls(rustls::Error::InvalidCertificate(why));
        assert!(found.refused);
        assert!(found.cause.contains(words), "{}", found.cause);
        assert_eq!(found.next, CHECK_TLS);
    }
    let alert = tls(rustls::Error::AlertReceived(
        rustls::AlertDescription::CertificateRequired,
    ));
    assert!(alert.refused && alert.cause.contains("CertificateRequired"));
    assert_eq!(
        tls(rustls::Error::InvalidMessage(
            rustls::InvalidMessage::InvalidContentType
        ))
        .next,
        CHECK_TLS_MODE
    );
}

#[test]
fn login_and_vhost_are_refusals() {
    let login = connecting(&amqp(403, "ACCESS_REFUSED - Login was refused"), false);
    assert!(login.refused && login.next == CHECK_LOGIN);
    let vhost = connecting(&amqp(530, "NOT_ALLOWED - vhost nope not found"), false);
    assert!(vhost.refused && vhost.next == CHECK_VHOST);
    let forced = connecting(&amqp(320, "CONNECTION_FORCED - shutdown"), false);
    assert!(!forced.refused && forced.next == WAIT);
}

#[test]
fn nobody_there_is_unreachable() {
    let found = |kind: io::ErrorKind, tls| connecting(&io::Error::from(kind).into(), tls);
    assert_eq!(found(io::ErrorKind::ConnectionRefused, false).next, CHECK_ADDRESS);
    assert_eq!(
        found(io::ErrorKind::ConnectionAborted, false).next,
        CHECK_TLS_MODE
    );
    assert_eq!(found(io::ErrorKind::ConnectionReset, true).next, CHECK_TLS);
    assert!(!found(io::ErrorKind::TimedOut, false).refused);
}

#[test]
fn a_reply_is_code_and_text() {
    assert_eq!(
        reply(&amqp(404, "NOT_FOUND - no queue")),
        Some((NOT_FOUND, "NOT_FOUND - no queue".to_owned()))
    );
    assert_eq!(reply(&ErrorKind::MissingHeartbeatError.into()), None);
}
