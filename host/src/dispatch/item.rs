//! One message on its way through dispatch.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::lanes::LaneKey;
use crate::broker::Receipt;
use crate::config::valid::{Order, Route};
use crate::model::ids::{self, stable_id};
use crate::model::{Attempt, Envelope, RawMessage, UnixMs};
use crate::planted::Bug;
use crate::store::Parked;

/// A message, the duty to settle it, and the permit that bounds how many there are.
pub(crate) struct Item {
    pub envelope: Envelope,
    pub raw: RawMessage,
    pub duty: Duty,
    /// The attempt that is due: 1 for the first.
    pub attempt: u32,
    pub history: Vec<Attempt>,
    pub first_failure_ms: Option<UnixMs>,
    /// Given back when the item is dropped, after it was settled.
    pub permit: OwnedSemaphorePermit,
}

/// To whom the fate is reported.
pub(crate) enum Duty {
    /// A broker waits for the acknowledgement.
    Delivery(Receipt),
    /// A row of the store; the lane it belongs to there.
    Parked { id: String, lane: Option<LaneKey> },
}

impl Duty {
    pub fn receipt(&self) -> Option<&Receipt> {
        match self {
            Self::Delivery(receipt) => Some(receipt),
            Self::Parked { .. } => None,
        }
    }

    pub fn ack_too_early(&self, bug: Bug) -> bool {
        matches!(self, Self::Delivery(receipt) if receipt.ack_too_early(bug))
    }
}

impl Item {
    /// The lane of a message under a route; none when no order is asked, or the message has no key.
    pub fn lane(route: &Route, envelope: &Envelope) -> Option<LaneKey> {
        if route.order == Order::None {
            return None;
        }
        let origin = &envelope.origin;
        let mut name = Vec::with_capacity(64);
        name.extend_from_slice(origin.destination.as_bytes());
        match route.order {
            Order::None => return None,
            Order::Key => {
                name.push(0);
                name.extend_from_slice(envelope.key.as_ref()?);
            }
            Order::Partition => {
                name.push(1);
                name.extend_from_slice(&origin.partition.unwrap_or_default().to_be_bytes());
            }
        }
        Some(Arc::from(name))
    }

    /// Its lane waits behind it when it is given up on. Not when it has another lane than the route would give it now, after
    /// a reload; and not when what came after it went on long ago, which is why it has none in the store.
    pub fn parks(&self, route: &Route, lane: Option<&LaneKey>) -> bool {
        let lane = match &self.duty {
            Duty::Delivery(_) => lane,
            Duty::Parked { lane, .. } => lane.as_ref(),
        };
        route.park.is_some() && lane.is_some() && lane == Self::lane(route, &self.envelope).as_ref()
    }

    /// The row that keeps this message until `due_ms`.
    pub fn to_parked(&self, route: &Route, lane: Option<&LaneKey>, attempt: u32, due_ms: UnixMs) -> Parked {
        Parked {
            id: self.stable_id(),
            route: route.name.to_string(),
            raw: self.raw.clone(),
            attempt,
            due_ms,
            lane: lane.map(|key| key.to_vec()),
            history: self.history.clone(),
            first_failure_ms: self.first_failure_ms.unwrap_or(due_ms),
        }
    }

    pub fn stable_id(&self) -> String {
        match &self.duty {
            Duty::Parked { id, .. } => id.clone(),
            Duty::Delivery(_) => stable_id(&self.raw, Some(&self.envelope.id)),
        }
    }
}

/// What a lane of `order = "key"` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneName<'a> {
    pub destination: &'a str,
    pub key: &'a [u8],
}

/// None: no lane of a key.
pub fn lane_name(lane: &[u8]) -> Option<LaneName<'_>> {
    let end = lane.iter().position(|byte| *byte == 0)?;
    Some(LaneName {
        destination: std::str::from_utf8(lane.get(..end)?).ok()?,
        key: lane.get(end + 1..)?,
    })
}

/// The id of a message whose producer gave none: the same in every attempt.
pub(crate) fn fallback_id(raw: &RawMessage) -> String {
    match (raw.origin.partition, raw.origin.offset) {
        (Some(partition), Some(offset)) => {
            ids::positional_id(&raw.origin.destination, partition, offset).to_string()
        }
        (None, Some(_)) => stable_id(raw, None),
        (_, None) => raw.props.message_id.clone().unwrap_or_default(),
    }
}
