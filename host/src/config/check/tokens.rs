//! Tokens of the API: each has a name of its own and a secret of its own.

use secrecy::ExposeSecret;

use super::Check;
use crate::config::source::quoted;
use crate::config::{raw, valid};
use crate::error;
use crate::model::Role;

/// The name of the holder of `host.token`.
const HOST: &str = "host.token";
/// Names are written to trails.
const MAX_NAME: usize = 64;

impl Check<'_> {
    pub(super) fn tokens(&mut self, raw: &raw::Raw) -> Vec<valid::Token> {
        let mut tokens: Vec<valid::Token> = Vec::new();
        if let Some(secret) = &raw.host.token {
            tokens.push(valid::Token {
                name: HOST.to_owned(),
                secret: self.secret(secret, &["host", "token"]),
                role: Role::Admin,
                payloads: true,
            });
        }
        for (n, token) in raw.tokens.iter().enumerate() {
            let number = n.to_string();
            let secret = self.secret(&token.token, &["tokens", &number, "token"]);
            let plain = token
                .name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "-_.@".contains(c));
            if token.name.is_empty() || token.name.len() > MAX_NAME || !plain {
                self.fault(
                    error::CONFIG_VALUE,
                    &["tokens", &number, "name"],
                    format!("{} cannot be the name of a token", quoted(&token.name)),
                )
                .help = Some(format!(
                    "up to {MAX_NAME} letters, digits and - _ . @: it stands in trails as the one who did it"
                ));
            }
            for other in &tokens {
                if other.name == token.name {
                    self.fault(
                        error::CONFIG_VALUE,
                        &["tokens", &number, "name"],
                        format!("two tokens are named {}", quoted(&token.name)),
                    )
                    .help = Some("trails could not tell who did what: give each holder a name".into());
                }
                // An empty one is a fault already.
                let same = other.secret.expose_secret() == secret.expose_secret();
                if same && !secret.expose_secret().is_empty() {
                    self.fault(
                        error::CONFIG_VALUE,
                        &["tokens", &number, "token"],
                        format!(
                            "the tokens of {} and {} are the same",
                            other.name,
                            quoted(&token.name)
                        ),
                    )
                    .help = Some("nobody could tell which of them asks: make another one".into());
                }
            }
            tokens.push(valid::Token {
                name: token.name.clone(),
                secret,
                role: token.role,
                payloads: token.payloads,
            });
        }
        tokens
    }
}
