//! The generated side of the contract, and the way between its types and ours. Wasm only.
//!
//! One module per world, because each brings the macro that exports it; all share the types and imports of the first.

mod convert;

use std::marker::PhantomData;

use crate::context::Context;
use crate::failure::Handled;
use crate::host::{self, Scope};
use crate::packed;
use crate::rt::{BatchHandler, Handler};

/// World `task-worker`.
#[allow(missing_docs, reason = "generated")]
pub mod task {
    wit_bindgen::generate!({
        path: "wit",
        world: "task-worker",
        pub_export_macro: true,
        export_macro_name: "__export_task",
        default_bindings_module: "::helix_sdk::rt::bindings::task",
        runtime_path: "::helix_sdk::rt::wit_bindgen::rt",
        generate_all,
    });
}

/// World `event-worker`.
#[allow(missing_docs, reason = "generated")]
pub mod event {
    wit_bindgen::generate!({
        path: "wit",
        world: "event-worker",
        pub_export_macro: true,
        export_macro_name: "__export_event",
        default_bindings_module: "::helix_sdk::rt::bindings::event",
        runtime_path: "::helix_sdk::rt::wit_bindgen::rt",
        with: {
            "helix:messaging/messages@0.1.0": crate::bindings::task::helix::messaging::messages,
            "helix:messaging/publisher@0.1.0": crate::bindings::task::helix::messaging::publisher,
            "helix:messaging/fetch@0.1.0": crate::bindings::task::helix::messaging::fetch,
        },
        generate_all,
    });
}

/// What `packed-worker` has beyond `event-worker`: two worlds that export one interface cannot live in one crate.
#[allow(missing_docs, reason = "generated")]
pub mod packed_event {
    wit_bindgen::generate!({
        path: "wit",
        inline: "package helix:sdk; world packed-only { export helix:messaging/packed-handler@0.1.0; }",
        world: "packed-only",
        pub_export_macro: true,
        export_macro_name: "__export_packed_event",
        default_bindings_module: "::helix_sdk::rt::bindings::packed_event",
        runtime_path: "::helix_sdk::rt::wit_bindgen::rt",
        generate_all,
    });
}

/// World `event-batch-worker`.
#[allow(missing_docs, reason = "generated")]
pub mod event_batch {
    wit_bindgen::generate!({
        path: "wit",
        world: "event-batch-worker",
        pub_export_macro: true,
        export_macro_name: "__export_event_batch",
        default_bindings_module: "::helix_sdk::rt::bindings::event_batch",
        runtime_path: "::helix_sdk::rt::wit_bindgen::rt",
        with: {
            "helix:messaging/messages@0.1.0": crate::bindings::task::helix::messaging::messages,
            "helix:messaging/publisher@0.1.0": crate::bindings::task::helix::messaging::publisher,
            "helix:messaging/fetch@0.1.0": crate::bindings::task::helix::messaging::fetch,
        },
        generate_all,
    });
}

pub(crate) use convert::{fetch, publish_event, publish_task};
use task::helix::messaging::messages as wit;

/// Exports the handler `H`.
pub struct Export<H>(PhantomData<H>);

impl<H: Handler> task::exports::helix::messaging::task_handler::Guest for Export<H> {
    fn handle(task: wit::Task) -> Result<(), wit::Failure> {
        convert::handled(H::call(&Context::task(&task.into())))
    }
}

impl<H: Handler> event::exports::helix::messaging::event_handler::Guest for Export<H> {
    fn handle(event: wit::Event) -> Result<(), wit::Failure> {
        convert::handled(H::call(&Context::event(&event.into())))
    }
}

impl<H: Handler> packed_event::exports::helix::messaging::packed_handler::Guest for Export<H> {
    #[allow(clippy::panic, reason = "the host broke the contract: a trap is the answer")]
    fn handle(batch: Vec<u8>) -> Vec<u8> {
        match packed::run(&batch, H::call) {
            Ok(outcomes) => outcomes,
            Err(fault) => panic!("the packed buffer of the host breaks the contract: {fault:?}"),
        }
    }
}

impl<H: BatchHandler> event_batch::exports::helix::messaging::event_batch_handler::Guest for Export<H> {
    fn handle(batch: Vec<wit::Event>) -> Vec<Result<(), wit::Failure>> {
        let events: Vec<crate::EventMessage> = batch.into_iter().map(Into::into).collect();
        let results: Vec<Handled> = host::within(Scope::Batch, || H::call(&contexts(&events)));
        results.into_iter().map(convert::handled).collect()
    }
}

fn contexts(events: &[crate::EventMessage]) -> Vec<Context<'_>> {
    events
        .iter()
        .zip(0..)
        .map(|(event, place)| Context::event(event).at(place))
        .collect()
}
