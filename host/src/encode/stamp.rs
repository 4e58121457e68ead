//! Points in time as they go out.

use serde::Serialize;

use crate::model::UnixMs;

/// RFC 3339 in UTC; milliseconds as a number for what lies beyond the year 9999.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Stamp {
    Text(String),
    Ms(UnixMs),
}

/// How Go writes a time that was never set.
pub(super) const GO_ZERO: &str = "0001-01-01T00:00:00Z";

pub(super) fn stamp(ms: UnixMs) -> Stamp {
    rfc3339(ms).map_or(Stamp::Ms(ms), Stamp::Text)
}

pub(super) fn or_zero(ms: Option<UnixMs>) -> Stamp {
    ms.map_or_else(|| Stamp::Text(GO_ZERO.to_owned()), stamp)
}

pub(super) fn text(ms: UnixMs) -> String {
    rfc3339(ms).unwrap_or_else(|| ms.to_string())
}

pub(super) fn rfc3339(ms: UnixMs) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
    Some(at.to_string())
}
