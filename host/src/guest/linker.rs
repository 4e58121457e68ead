//! What components are linked against: all of WASI 0.2, `wasi:http` and our own imports. One linker serves all plugins,
//! since grants are asked when something is used.

use wasmtime::Engine;
use wasmtime::component::{HasSelf, Linker};

use super::bindings::helix::messaging::{fetch, publisher};
use super::sandbox::Sandbox;

pub(super) fn linker(engine: &Engine) -> wasmtime::Result<Linker<Sandbox>> {
    let mut linker = Linker::new(engine);
    wasmtime_wasi::p2::add_to_linker_async(&mut linker)?;
    wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut linker)?;
    publisher::add_to_linker::<_, HasSelf<_>>(&mut linker, |sandbox| sandbox)?;
    fetch::add_to_linker::<_, HasSelf<_>>(&mut linker, |sandbox| sandbox)?;
    Ok(linker)
}
