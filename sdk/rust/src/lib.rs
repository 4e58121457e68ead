//! Write a Helix handler: one function, one attribute, built with `cargo build --target wasm32-wasip2`.
//!
//! ```
//! use helix_sdk::prelude::*;
//!
//! #[derive(Deserialize)]
//! struct Request {
//!     prompt: String,
//! }
//!
//! #[helix_sdk::task]
//! fn handle(request: Json<Request>, context: &Context) -> Handled {
//!     if request.prompt.is_empty() {
//!         return Err(reject("the prompt is empty").code("prompt.empty"));
//!     }
//!     publish::event("llm.response")
//!         .key(context.id())
//!         .json(&serde_json::json!({ "text": request.prompt.to_uppercase() }))?
//!         .send()?;
//!     Ok(())
//! }
//!
//! // The same function runs in a unit test, without a host.
//! use helix_sdk::testing::{run, task};
//! let report = run::<handle>(task("llm.request").json(&serde_json::json!({ "prompt": "hi" })));
//! assert_eq!(report.events[0].data, br#"{"text":"HI"}"#);
//! ```
//!
//! - [`macro@task`], [`macro@event`], [`macro@event_batch`] make a function a handler. Its arguments are whatever implements
//!   [`FromMessage`]: [`Json<T>`], [`Task<T>`], [`Event<T>`], [`&Context`](Context), `&[u8]`.
//! - `Ok(())` is done, [`retry`] and [`reject`] are the two failures; `?` on any `std` error is a retry.
//! - [`publish`] sends tasks and events, [`mod@fetch`] speaks HTTP. Both need a grant of the host's configuration.
//! - [`testing`] (native targets only) runs a handler against a recording host.
//!
//! Delivery is at least once: [`Context::id`] is the same in every attempt, use it to make effects idempotent.

// The exported macros and the attributes name this crate by its name, also from inside it.
extern crate self as helix_sdk;

mod batch;
#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod bindings;
mod context;
mod extract;
mod failure;
pub mod fetch;
mod host;
#[cfg_attr(
    not(target_family = "wasm"),
    allow(dead_code, reason = "only the wasm export calls it")
)]
mod packed;
pub mod publish;
mod record;
#[doc(hidden)]
pub mod rt;
#[cfg(not(target_family = "wasm"))]
pub mod testing;

pub use batch::Batch;
pub use context::{Context, Headers};
pub use extract::{Event, FromMessage, Json, Task};
pub use failure::{Failure, Handled, IntoHandled, OrFail, Verdict, reject, retry, retry_after};
/// Makes a function the component's event handler, called with one event at a time.
///
/// Beside `event-handler` it exports `packed-handler`, which the host prefers: many small events in one call, at about
/// a tenth of the cost. Nothing changes for the function. `#[event(packed = false)]` leaves it out.
pub use helix_sdk_macro::event;
/// Makes a function the component's event handler, called with many events at a time: one result each, same order.
///
/// It takes a [`Batch`] (which attributes what is published by itself) or a slice, and returns `Vec<Handled>`.
/// An event whose payload cannot be read is rejected before the function sees it.
pub use helix_sdk_macro::event_batch;
/// Makes a function the component's task handler. One per component; it may have an event handler beside it.
pub use helix_sdk_macro::task;
pub use record::{EventMessage, TaskMessage};

/// What a handler file needs, `use helix_sdk::prelude::*;`.
pub mod prelude {
    pub use crate::{
        Batch, Context, Event, Failure, Handled, Json, OrFail, Task, fetch, publish, reject, retry,
        retry_after,
    };
    pub use serde::{Deserialize, Serialize};
}

/// Compiles and runs the guide.
#[cfg(doctest)]
#[doc = include_str!("../../../docs/handlers.md")]
struct Guide;
