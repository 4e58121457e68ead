//! The probe without `packed-handler`: events come one by one, as typed records.

#[path = "../../probe/src/order.rs"]
mod order;

use helix_sdk::prelude::*;

#[helix_sdk::task]
fn on_task(order: Json<order::Order>, context: &Context) -> Handled {
    order.obey(context)
}

#[helix_sdk::event(packed = false)]
fn on_event(order: Json<order::Order>, context: &Context) -> Handled {
    order.obey(context)
}
