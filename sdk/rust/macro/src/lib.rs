//! The attributes of helix-sdk: each leaves the function as it is, and beside it makes a type of the same name that the
//! SDK can call, exported from the component when the target is WebAssembly.

mod expand;

use proc_macro::TokenStream;

use expand::Kind;

/// See `helix_sdk::task`.
#[proc_macro_attribute]
pub fn task(options: TokenStream, function: TokenStream) -> TokenStream {
    expand::handler(Kind::Task, options.into(), &function.into()).into()
}

/// See `helix_sdk::event`.
#[proc_macro_attribute]
pub fn event(options: TokenStream, function: TokenStream) -> TokenStream {
    expand::handler(Kind::Event, options.into(), &function.into()).into()
}

/// See `helix_sdk::event_batch`.
#[proc_macro_attribute]
pub fn event_batch(options: TokenStream, function: TokenStream) -> TokenStream {
    expand::handler(Kind::EventBatch, options.into(), &function.into()).into()
}
