//! Hostile: an event batch handler that returns one result too many; one too few when the batch's first event is empty.
#![cfg(target_family = "wasm")]

wit_bindgen::generate!({ path: "../../../wit", world: "event-batch-worker" });

use exports::helix::messaging::event_batch_handler::{Event, Failure, Guest};

struct Liar;

impl Guest for Liar {
    fn handle(batch: Vec<Event>) -> Vec<Result<(), Failure>> {
        let short = batch.first().is_some_and(|event| event.data.is_empty());
        let count = if short { batch.len() - 1 } else { batch.len() + 1 };
        vec![Ok(()); count]
    }
}

export!(Liar);
