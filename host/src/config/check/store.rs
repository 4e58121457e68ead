//! Where the store is.

use crate::config::source::{is_postgres, quoted};
use crate::config::{raw, valid};
use crate::error;

use super::Check;

impl Check<'_> {
    pub(super) fn store(&mut self, raw: &raw::Store) -> valid::Store {
        let path = ["store", "url"];
        let url = raw.url.as_ref().map(|url| self.reference(&url.0, &path));
        // Empty: a reference that led nowhere, and that was said.
        if url
            .as_deref()
            .is_some_and(|url| !url.is_empty() && !is_postgres(url))
        {
            self.fault(
                error::CONFIG_VALUE,
                &path,
                "`store.url` leads to something that is no URL of a Postgres database".to_owned(),
            )
            .help =
                Some("it begins with postgres:// and the rest is user:password@host:port/database".into());
        }
        if !is_schema(&raw.schema) {
            self.fault(
                error::CONFIG_VALUE,
                &["store", "schema"],
                format!("`store.schema` cannot be {}", quoted(&raw.schema)),
            )
            .help = Some(
                "letters a-z, digits and `_`, not a digit first, 63 at most; pg_ is Postgres' own".into(),
            );
        }
        valid::Store {
            url: url.map(Into::into),
            schema: raw.schema.clone(),
        }
    }
}

/// Stands in SQL as it is.
fn is_schema(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    (1..=63).contains(&name.len())
        && name.chars().all(plain)
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.starts_with("pg_")
}
