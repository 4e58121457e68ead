//! Does nothing, as a handler of the SDK does it: events come packed. `bench.trap` traps.

use helix_sdk::prelude::*;

#[helix_sdk::task]
fn on_task(_payload: &[u8]) -> Handled {
    Ok(())
}

#[helix_sdk::event]
fn on_event(_payload: &[u8], context: &Context) -> Handled {
    assert_ne!(context.message_type(), "bench.trap");
    Ok(())
}
