//! References to secrets, followed. A secret never enters a message, not even by its length.

use secrecy::SecretString;

use super::Check;
use crate::config::source::{Place, quoted};
use crate::config::units::Secret;
use crate::error;

impl Check<'_> {
    pub(super) fn secret(&mut self, secret: &Secret, path: &[&str]) -> SecretString {
        self.reference(&secret.0, path).into()
    }

    /// `env:NAME` and `file:path` followed; anything else as it is.
    pub(super) fn reference(&mut self, text: &str, path: &[&str]) -> String {
        if let Some(name) = text.strip_prefix("env:") {
            return match self.env.get(name) {
                Some(value) if !value.is_empty() => value.clone(),
                found => {
                    let state = if found.is_some() { "empty" } else { "not set" };
                    self.fault(
                        error::CONFIG_SECRET,
                        path,
                        format!("the environment variable {} is {state}", quoted(name)),
                    )
                    .help = Some(format!("export {name}=…, or refer to a file with \"file:path\""));
                    String::new()
                }
            };
        }
        let Some(name) = text.strip_prefix("file:") else {
            return text.to_owned();
        };
        match crate::config::load::read(&self.cwd.join(name)) {
            // Editors and `echo` end files with a line feed that is no part of the password.
            Ok(value) if !value.trim_end_matches(['\r', '\n']).is_empty() => {
                value.trim_end_matches(['\r', '\n']).to_owned()
            }
            Ok(_) => {
                self.fault(
                    error::CONFIG_SECRET,
                    path,
                    format!("the file {} is empty", quoted(name)),
                )
                .help = Some("it has to hold the secret and nothing else".into());
                String::new()
            }
            Err(e) => {
                self.fault(
                    error::CONFIG_SECRET,
                    path,
                    format!("the file {} cannot be read: {e}", quoted(name)),
                )
                .help = Some("check the path (relative to the working directory) and who may read it".into());
                String::new()
            }
        }
    }

    /// True when the value at `path` came from the environment, where plain secrets are allowed.
    pub(super) fn is_from_env(&self, path: &[&str]) -> bool {
        matches!(self.place(path), Place::Env(_))
    }
}
