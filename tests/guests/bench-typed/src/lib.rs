//! Does nothing with events that come one by one as typed records.

use helix_sdk::prelude::*;

#[helix_sdk::event(packed = false)]
fn on_event(_payload: &[u8]) -> Handled {
    Ok(())
}
