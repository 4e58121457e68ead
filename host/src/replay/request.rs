//! What is asked for: the manual's JSON, and its check. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::Span;
use crate::model::UnixMs;
use crate::model::replay::{Filter, Options, RouteTarget};

#[cfg(test)]
mod tests;

pub const BATCH: usize = 100;
pub const MOST_BATCH: usize = 1000;
const DELAY: Duration = Duration::from_millis(10);
/// A longer pause is a slip.
const MOST_DELAY: Duration = Duration::from_secs(24 * 3600);
const MOST_RATE: u32 = 10_000_000;
/// Ids, names and filters are kept and shown.
const MOST_TEXT: usize = 256;
const MOST_FILTERS: usize = 100;

/// The body of `POST /v1/messaging/replay`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ReplayRequest")]
pub struct Request {
    /// Made by the host when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    pub topic: String,
    /// Where the topic is; without it the broker of events is asked first, then that of tasks, which may have a stream of that name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broker: Option<String>,
    /// RFC 3339; records of this time and later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub from_time: Option<String>,
    /// Records before this time; without it up to the end as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date-time"))]
    pub to_time: Option<String>,
    /// Instead of a time: offset by partition. Partitions that are not named are left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_offsets: Option<BTreeMap<u32, u64>>,
    /// The offset behind the last one, by partition; partitions that are not named go up to their end as it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_offsets: Option<BTreeMap<u32, u64>>,
    /// `<topic>.replay` when there is none; made when it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_topic: Option<String>,
    /// Instead of a topic: the route of this host whose handler gets the messages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_route: Option<String>,
    #[serde(default)]
    pub filter: Filter,
    #[serde(default)]
    pub options: Asked,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "ReplayOptions")]
pub struct Asked {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = MOST_BATCH))]
    pub batch_size: Option<usize>,
    #[serde(
        skip_serializing_if = "Option::is_none",
        deserialize_with = "pause",
        serialize_with = "nanoseconds"
    )]
    #[schemars(schema_with = "pause_schema")]
    pub delay_between: Option<Duration>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = MOST_RATE))]
    pub rate: Option<u32>,
    pub dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preserve_order: Option<bool>,
    pub skip_duplicates: bool,
    /// Take what is left of a stretch whose beginning is gone.
    pub allow_truncated: bool,
    /// With `target_route`: what the handler publishes is sent, what it fetches is fetched.
    pub side_effects: bool,
}

#[allow(clippy::ref_option, reason = "the shape that serde wants")]
fn nanoseconds<S: Serializer>(pause: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    pause
        .map(|pause| u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX))
        .serialize(to)
}

fn pause_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": ["string", "integer", "null"],
        "description": "Between batches: a duration like \"10ms\", or nanoseconds as a number.",
        "minimum": 0,
        "examples": ["10ms"],
    })
}

/// "10ms", or nanoseconds as a number, as Go writes its durations.
fn pause<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a duration like \"10ms\", or a number of nanoseconds")]
    enum Either {
        Nanoseconds(u64),
        Text(String),
    }
    match Option::<Either>::deserialize(from)? {
        None => Ok(None),
        Some(Either::Nanoseconds(n)) => Ok(Some(Duration::from_nanos(n))),
        Some(Either::Text(text)) => match text.parse::<Span>() {
            Ok(span) => Ok(Some(span.0)),
            Err(reason) => Err(serde::de::Error::custom(reason)),
        },
    }
}

/// A field that is understood and cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{field}`: {reason}")]
pub struct Fault {
    /// Its name in the JSON, with dots.
    pub field: &'static str,
    pub reason: String,
}

pub(super) fn fault(field: &'static str, reason: impl Into<String>) -> Fault {
    Fault {
        field,
        reason: reason.into(),
    }
}

/// A request whose fields fit together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    pub id: Option<String>,
    pub topic: String,
    pub broker: Option<String>,
    /// Empty when there is a route.
    pub target: String,
    pub route: Option<RouteTarget>,
    pub from: From,
    pub to: To,
    pub filter: Filter,
    pub options: Options,
    pub allow_truncated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    Time(UnixMs),
    Offsets(BTreeMap<u32, u64>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// As it is when the replay is made.
    End,
    Time(UnixMs),
    Offsets(BTreeMap<u32, u64>),
}

impl Request {
    /// # Errors
    /// The first field that is wrong.
    pub fn check(self) -> Result<Checked, Fault> {
        let id = match self.id {
            Some(id) if id.is_empty() => None,
            Some(id) => Some(name("id", id)?),
            None => None,
        };
        let topic = name("topic", self.topic)?;
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        let broker = given(self.broker).map(|text| name("broker", text)).transpose()?;
        let route = match given(self.target_route) {
            Some(text) => Some(RouteTarget {
                name: name("target_route", text)?,
                side_effects: self.options.side_effects,
            }),
            None if self.options.side_effects => {
                return Err(fault(
                    "options.side_effects",
                    "it is for a `target_route`; copies in a topic have the effects of whoever consumes it",
                ));
            }
            None => None,
        };
        let target = match (given(self.target_topic), &route) {
            (Some(_), Some(_)) => {
                return Err(fault(
                    "target_route",
                    "give `target_topic` or `target_route`, not both",
                ));
            }
            (Some(target), None) => name("target_topic", target)?,
            (None, None) => format!("{topic}.replay"),
            (None, Some(_)) => String::new(),
        };
        if target == topic {
            return Err(fault(
                "target_topic",
                format!(
                    "it is the source `{topic}`: the replay would read its own copies, and every consumer would see each \
                     message twice; name another topic, or none for `{topic}.replay`"
                ),
            ));
        }
        let (from, to) = stretch(self.from_time, self.to_time, self.from_offsets, self.to_offsets)?;
        Ok(Checked {
            id,
            topic,
            broker,
            target,
            route,
            from,
            to,
            filter: filter(self.filter)?,
            allow_truncated: self.options.allow_truncated,
            options: options(&self.options)?,
        })
    }
}

fn name(field: &'static str, text: String) -> Result<String, Fault> {
    if text.is_empty() {
        return Err(fault(field, "it is empty"));
    }
    if text.len() > MOST_TEXT {
        return Err(fault(
            field,
            format!("it has {} bytes, at most {MOST_TEXT} are allowed", text.len()),
        ));
    }
    if text.chars().any(char::is_control) {
        return Err(fault(field, "it holds control characters"));
    }
    Ok(text)
}

fn stretch(
    from_time: Option<String>,
    to_time: Option<String>,
    from_offsets: Option<BTreeMap<u32, u64>>,
    to_offsets: Option<BTreeMap<u32, u64>>,
) -> Result<(From, To), Fault> {
    let from = match (from_time, from_offsets) {
        (Some(_), Some(_)) => {
            return Err(fault(
                "from_offsets",
                "give `from_time` or `from_offsets`, not both",
            ));
        }
        (None, None) => return Err(fault("from_time", "it is missing; say where to begin")),
        (Some(text), None) => From::Time(time("from_time", &text)?),
        (None, Some(offsets)) if offsets.is_empty() => {
            return Err(fault("from_offsets", "it names no partition"));
        }
        (None, Some(offsets)) => From::Offsets(offsets),
    };
    let to = match (to_time.filter(|text| !text.is_empty()), to_offsets) {
        (Some(_), Some(_)) => return Err(fault("to_offsets", "give `to_time` or `to_offsets`, not both")),
        (None, None) => To::End,
        (Some(text), None) => To::Time(time("to_time", &text)?),
        (None, Some(offsets)) => To::Offsets(offsets),
    };
    if let (From::Time(from), To::Time(to)) = (&from, &to)
        && to <= from
    {
        return Err(fault("to_time", "it is not after `from_time`"));
    }
    if let (From::Offsets(from), To::Offsets(to)) = (&from, &to) {
        for (partition, to) in to {
            match from.get(partition) {
                Some(from) if to < from => {
                    return Err(fault(
                        "to_offsets",
                        format!("partition {partition} ends at {to}, before it begins at {from}"),
                    ));
                }
                Some(_) => {}
                None => {
                    return Err(fault(
                        "to_offsets",
                        format!("partition {partition} is not in `from_offsets`"),
                    ));
                }
            }
        }
    }
    Ok((from, to))
}

fn time(field: &'static str, text: &str) -> Result<UnixMs, Fault> {
    let at: jiff::Timestamp = text.trim().parse().map_err(|_| {
        fault(
            field,
            format!(
                "`{}` is no time; RFC 3339 is asked for, like 2026-11-27T08:00:00Z",
                text.escape_debug()
            ),
        )
    })?;
    UnixMs::try_from(at.as_millisecond()).map_err(|_| fault(field, "it lies before 1970"))
}

fn filter(filter: Filter) -> Result<Filter, Fault> {
    let texts = |map: &BTreeMap<String, String>| map.iter().flat_map(|(k, v)| [k.len(), v.len()]).max();
    for (field, count, longest) in [
        (
            "filter.message_types",
            filter.message_types.len(),
            filter.message_types.iter().map(String::len).max(),
        ),
        ("filter.headers", filter.headers.len(), texts(&filter.headers)),
        ("filter.metadata", filter.metadata.len(), texts(&filter.metadata)),
    ] {
        if count > MOST_FILTERS || longest.unwrap_or(0) > 16 * MOST_TEXT {
            return Err(fault(
                field,
                format!("at most {MOST_FILTERS} of at most {} bytes", 16 * MOST_TEXT),
            ));
        }
    }
    Ok(filter)
}

fn options(asked: &Asked) -> Result<Options, Fault> {
    let batch_size = match asked.batch_size {
        None | Some(0) => BATCH,
        Some(size) if size > MOST_BATCH => {
            return Err(fault(
                "options.batch_size",
                format!("{size} is more than {MOST_BATCH}"),
            ));
        }
        Some(size) => size,
    };
    if asked.rate.is_some_and(|rate| rate == 0 || rate > MOST_RATE) {
        return Err(fault(
            "options.rate",
            format!("1 to {MOST_RATE} messages a second; leave it out for no limit"),
        ));
    }
    // With a rate, only a pause that was asked for.
    let delay = asked.delay_between.unwrap_or(if asked.rate.is_some() {
        Duration::ZERO
    } else {
        DELAY
    });
    if delay > MOST_DELAY {
        return Err(fault("options.delay_between", "it is longer than a day"));
    }
    Ok(Options {
        batch_size,
        delay,
        rate: asked.rate,
        dry_run: asked.dry_run,
        preserve_order: asked.preserve_order.unwrap_or(true),
        skip_duplicates: asked.skip_duplicates,
    })
}
