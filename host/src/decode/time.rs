//! Points in time as producers write them: RFC 3339, or Unix time as a number.

use crate::model::UnixMs;

/// Numbers below this are seconds (up to the year 5138), from here on milliseconds (from 1973 on).
const SECONDS_BELOW: u64 = 100_000_000_000;

/// What a text or number says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Time {
    /// Go's zero time: the field was never set.
    Unset,
    At(UnixMs),
}

impl Time {
    pub(super) fn set(self) -> Option<UnixMs> {
        match self {
            Self::Unset => None,
            Self::At(ms) => Some(ms),
        }
    }
}

/// RFC 3339, or digits. Times before 1970 count as 1970, except the zero time of Go, which is "unset".
pub(super) fn from_text(text: &str) -> Option<Time> {
    let text = text.trim();
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().ok().map(|n| Time::At(from_number(n)));
    }
    let at: jiff::Timestamp = text.parse().ok()?;
    if at.as_second() == GO_ZERO_SECONDS {
        return Some(Time::Unset);
    }
    Some(Time::At(u64::try_from(at.as_millisecond()).unwrap_or(0)))
}

/// 0001-01-01T00:00:00Z.
const GO_ZERO_SECONDS: i64 = -62_135_596_800;

pub(super) fn from_number(number: u64) -> UnixMs {
    if number < SECONDS_BELOW {
        number.saturating_mul(1000)
    } else {
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_producers_write() {
        for (text, want) in [
            ("0001-01-01T00:00:00Z", Some(Time::Unset)),
            ("2026-01-18T10:11:12Z", Some(Time::At(1_768_731_072_000))),
            (
                "2026-01-18T11:11:12.345678901+01:00",
                Some(Time::At(1_768_731_072_345)),
            ),
            ("1768731072", Some(Time::At(1_768_731_072_000))),
            ("1768731072345", Some(Time::At(1_768_731_072_345))),
            ("1969-12-31T23:59:59Z", Some(Time::At(0))),
            ("", None),
            ("tomorrow", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(from_text(text), want, "{text}");
        }
    }
}
