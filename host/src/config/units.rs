//! Durations ("30s"), sizes ("64MiB") and secrets ("env:NAME") as they stand in a file.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A duration with its unit: `250ms`, `30s`, `1h30m`, `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    pub const fn secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }
}

/// In milliseconds, longest name first where one begins with another.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];
/// A century: beyond that a duration is a slip, and nothing we add to a clock can overflow.
const LONGEST_MS: f64 = 100.0 * 365.25 * 86_400_000.0;

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let what = "a duration is a number and a unit: \"250ms\", \"30s\", \"5m\", \"2h\", \"7d\"";
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(what.into());
        }
        let mut ms = 0.0;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !(c.is_ascii_digit() || c == '.'))
                .unwrap_or(rest.len());
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let number: f64 = number.parse().map_err(|_| what.to_owned())?;
            if unit.is_empty() {
                return Err(format!(
                    "a unit is missing: \"{}s\" for seconds, \"{}ms\" for milliseconds",
                    text.trim(),
                    text.trim()
                ));
            }
            let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(|| {
                format!(
                    "`{}` is no unit; use ms, s, m (minutes), h or d",
                    unit.escape_default()
                )
            })?;
            ms += number * *scale as f64;
            rest = tail.trim_start();
        }
        if !ms.is_finite() || ms > LONGEST_MS {
            return Err("longer than a century".into());
        }
        Ok(Self(Duration::from_millis(ms.round() as u64)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        if ms == 0 {
            return f.write_str("0s");
        }
        for (name, scale) in UNITS.iter().rev() {
            let scale = u128::from(*scale);
            // `24h` reads better than `1d`, `90s` than `1m30s`.
            if ms.is_multiple_of(scale) && (*name != "d" || ms > scale) {
                return write!(f, "{}{name}", ms / scale);
            }
        }
        Ok(())
    }
}

/// A size in bytes with its unit: `64KiB`, `1MiB`, `4GiB`; a plain number is bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size: bytesize::ByteSize = text
            .trim()
            .parse()
            .map_err(|_| "a size is a number and a unit: \"64KiB\", \"1MiB\", \"4GiB\"".to_owned())?;
        Ok(Self(size.as_u64()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, shift) in [("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 > 0 && self.0.trailing_zeros() >= shift {
                return write!(f, "{}{name}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

/// `env:NAME`, `file:path`, or (from the environment only) the secret itself. Never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl JsonSchema for Secret {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Secret".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "secret", "pattern": "^(env|file):.+"})
    }
}

/// Where the store's database is: a reference like [`Secret`], or a URL that holds no password. Never shown as a whole.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoreUrl(pub String);

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl JsonSchema for StoreUrl {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "StoreUrl".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "format": "store-url", "pattern": "^((env|file):.+|postgres(ql)?://[^:@/]*(@.*)?)"})
    }
}

macro_rules! textual {
    ($name:ident, $schema:expr) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(de::Error::custom)
            }
        }
        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                $schema
            }
        }
    };
}

textual!(Span, json_schema!({"type": "string", "format": "duration"}));
textual!(
    Size,
    json_schema!({"type": ["string", "integer"], "format": "size"})
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn durations_read_and_show() {
        for (text, ms, shown) in [
            ("30s", 30_000, "30s"),
            ("250ms", 250, "250ms"),
            ("1h30m", 5_400_000, "90m"),
            ("1.5s", 1500, "1500ms"),
            ("24h", 86_400_000, "24h"),
            ("7d", 604_800_000, "7d"),
            ("0s", 0, "0s"),
        ] {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0.as_millis(), ms, "{text}");
            assert_eq!(span.to_string(), shown);
        }
        for bad in [
            "",
            "30",
            "s",
            "30x",
            "-1s",
            "1e9d",
            "99999999999999999999d",
            "1..2s",
            "30 s 5",
        ] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
        assert!("30".parse::<Span>().unwrap_err().contains("\"30s\""));
    }

    #[test]
    fn sizes_read_and_show() {
        for (text, bytes, shown) in [
            ("1MiB", 1 << 20, "1MiB"),
            ("64 KiB", 65536, "64KiB"),
            ("1000", 1000, "1000B"),
            ("1kB", 1000, "1000B"),
        ] {
            let size: Size = text.parse().unwrap();
            assert_eq!(size.0, bytes, "{text}");
            assert_eq!(size.to_string(), shown);
        }
        assert!("lots".parse::<Size>().is_err());
    }
}
