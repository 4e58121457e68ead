//! Parses the payload into a tree and does nothing with it.

use helix_sdk::prelude::*;

fn parse(payload: &[u8]) -> Handled {
    let value: serde_json::Value = serde_json::from_slice(payload)?;
    std::hint::black_box(&value);
    Ok(())
}

#[helix_sdk::task]
fn on_task(payload: &[u8]) -> Handled {
    parse(payload)
}

#[helix_sdk::event]
fn on_event(payload: &[u8]) -> Handled {
    parse(payload)
}
