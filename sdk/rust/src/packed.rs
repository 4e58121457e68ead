//! Many events in one buffer, and their outcomes in another. Pure; the layout stands in `wit/packed-handler.wit`.
//!
//! Nothing is copied and nothing is walked: a field is looked up when it is asked for. Every place is checked against the
//! buffer, text is checked to be UTF-8 when it is read. What breaks the contract is a panic, which on wasm is the trap that
//! the contract asks for.

mod view;
mod write;

pub(crate) use view::{HeaderViews, View};
pub(crate) use write::outcomes;

use crate::context::Context;
use crate::failure::Handled;
use crate::host;

pub(crate) const VERSION: u8 = 1;
pub(crate) const EVENTS: u8 = 1;
/// Version, kind, two spare bytes, number of messages.
pub(crate) const PROLOGUE: usize = 8;

/// Why a buffer is none of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    Short,
    Version(u8),
    Kind(u8),
    /// The event at this place has a size or a field that leaves its bounds.
    Event(u32),
    Trailing,
}

/// Splits the buffer into its events.
pub(crate) fn read(buffer: &[u8]) -> Result<Vec<View<'_>>, Malformed> {
    let (prologue, mut rest) = buffer.split_at_checked(PROLOGUE).ok_or(Malformed::Short)?;
    let [version, kind, _, _, count @ ..] = prologue else {
        return Err(Malformed::Short);
    };
    if *version != VERSION {
        return Err(Malformed::Version(*version));
    }
    if *kind != EVENTS {
        return Err(Malformed::Kind(*kind));
    }
    let count = u32::from_le_bytes(count.try_into().map_err(|_| Malformed::Short)?);
    // A lying count must not reserve memory for events that are not there.
    let fits = rest.len() / view::FIXED;
    let mut views = Vec::with_capacity(fits.min(count as usize));
    for place in 0..count {
        let (view, after) = View::split(rest).ok_or(Malformed::Event(place))?;
        views.push(view);
        rest = after;
    }
    if rest.is_empty() {
        Ok(views)
    } else {
        Err(Malformed::Trailing)
    }
}

/// Runs the handler on each event; what it publishes meanwhile belongs to that event.
pub(crate) fn run(
    buffer: &[u8],
    mut handle: impl FnMut(&Context<'_>) -> Handled,
) -> Result<Vec<u8>, Malformed> {
    let views = read(buffer)?;
    let count = u32::try_from(views.len()).unwrap_or(u32::MAX);
    Ok(outcomes(
        count,
        views
            .into_iter()
            .zip(0..)
            .map(|(view, input)| host::with_input(input, || handle(&Context::packed(view, input)))),
    ))
}

#[cfg(test)]
mod tests;
