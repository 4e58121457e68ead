//! Running handlers in unit tests: a message built by hand, a host that records. Native targets only.
//!
//! ```
//! use helix_sdk::prelude::*;
//! use helix_sdk::testing::{answer, host, task};
//!
//! #[helix_sdk::task]
//! fn ping(context: &Context) -> Handled {
//!     fetch::get("https://up.example/").send()?.success()?;
//!     Ok(())
//! }
//!
//! let report = host().on_fetch(|_| answer(503, "busy")).run::<ping>(task("ping").attempt(2));
//! assert_eq!(report.failure().unwrap().code_str(), Some("http.503"));
//! assert_eq!(report.requests[0].url, "https://up.example/");
//! ```

pub(crate) mod double;
mod message;
mod report;

pub use double::{TestHost, host};
pub use message::{Message, event, task};
pub use report::{BatchReport, Report};

use crate::fetch::{FetchError, Response};
use crate::rt::{BatchHandler, Handler};

/// Runs a handler on one message: `run::<handle>(task("llm.request").json(&value))`. Publishing is granted, fetching is
/// not: use [`host`] for that.
pub fn run<H: Handler>(message: Message) -> Report {
    host().run::<H>(message)
}

/// Runs a batch handler on these events.
pub fn run_batch<H: BatchHandler>(messages: impl IntoIterator<Item = Message>) -> BatchReport {
    host().run_batch::<H>(messages)
}

/// An answer for [`TestHost::on_fetch`].
pub fn answer(status: u16, body: impl Into<Vec<u8>>) -> Result<Response, FetchError> {
    Ok(Response {
        status,
        headers: Vec::new(),
        body: body.into(),
    })
}
