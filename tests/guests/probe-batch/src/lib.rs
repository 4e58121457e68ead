//! The probe as a batch handler: each event of the batch orders for itself. A panic takes the whole batch with it.

#[path = "../../probe/src/order.rs"]
mod order;

use helix_sdk::prelude::*;

#[helix_sdk::event_batch]
fn on_events(batch: Batch<Event<order::Order>>) -> Vec<Handled> {
    batch.each(|event| event.data.obey(event))
}
