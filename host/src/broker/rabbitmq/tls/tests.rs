#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::io::Write;

use super::*;

fn refusal(tls: &Tls) -> String {
    connector(tls).expect_err("refused")
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let missing = Tls {
        ca: Some("/does/not/exist.pem".into()),
        ..Tls::default()
    };
    assert!(refusal(&missing).starts_with("tls.ca /does/not/exist.pem: "));
    let mut empty = tempfile::NamedTempFile::new().unwrap();
    empty.write_all(b"no pem in here\n").unwrap();
    let no_pem = Tls {
        ca: Some(empty.path().into()),
        ..Tls::default()
    };
    assert!(refusal(&no_pem).ends_with("no certificate in it"));
}

#[test]
fn certificate_and_key_come_together() {
    let half = Tls {
        ca: None,
        cert: Some("c.pem".into()),
        key: None,
    };
    assert_eq!(refusal(&half), "tls.cert is set, but tls.key is not");
    let half = Tls {
        ca: None,
        cert: None,
        key: Some("k.pem".into()),
    };
    assert_eq!(refusal(&half), "tls.key is set, but tls.cert is not");
}
