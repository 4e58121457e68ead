//! From a file to bytes that may be compiled, and from a component to one that has a handler: read once, hashed, its imports
//! and exports looked at.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::{Component, InstancePre, Linker};

use super::bindings::exports::helix::messaging::{
    event_batch_handler, event_handler, packed_handler, task_handler,
};
use super::error::Error;
use super::instance::Indices;
use super::sandbox::Sandbox;
use crate::config::valid::Plugin;
use crate::error::{
    PLUGIN_CONTRACT, PLUGIN_DIGEST, PLUGIN_INVALID, PLUGIN_MISSING, PLUGIN_PATH, PLUGIN_TOO_LARGE,
    PLUGIN_WRONG_WORLD,
};
use crate::model::Digest;

const OURS: &str = "helix:messaging/";
/// Within 0.1.x only interfaces and functions are added, so all of them are served.
const SERVED: &str = "0.1.";

/// The bytes of a plugin and who they are.
pub(super) struct Source {
    pub(super) bytes: Vec<u8>,
    pub(super) digest: Digest,
}

impl Source {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        let digest = Digest::new(Sha256::digest(&bytes).into());
        Self { bytes, digest }
    }
}

/// Reads the file of a plugin: a regular file inside `folder`, at most `limit` bytes.
pub(super) fn read(folder: &Path, file: &Path, limit: u64) -> Result<Source, Error> {
    let shown = file.display();
    let unreadable = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::new(
            PLUGIN_MISSING,
            format!("there is no file {shown}"),
            "Build the handler and copy its .wasm there, or correct `file`",
        ),
        _ => Error::new(
            PLUGIN_INVALID,
            format!("{shown} cannot be read: {error}"),
            "Check its permissions",
        ),
    };
    let real = fs::canonicalize(file).map_err(unreadable)?;
    let root = fs::canonicalize(folder).map_err(unreadable)?;
    if !real.starts_with(&root) {
        return Err(Error::new(
            PLUGIN_PATH,
            format!(
                "{shown} leads to {}, outside of the plugins folder {}",
                real.display(),
                root.display()
            ),
            "Copy the file into the folder instead of linking to it",
        ));
    }
    // The path is resolved: a link put in its place meanwhile is refused, and a pipe is not waited for.
    let opened = fs::OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(&real);
    let opened = opened.map_err(unreadable)?;
    let meta = opened.metadata().map_err(unreadable)?;
    if !meta.is_file() {
        return Err(Error::new(
            PLUGIN_INVALID,
            format!("{shown} is no regular file"),
            "Put a .wasm component there",
        ));
    }
    let mut bytes = Vec::new();
    if meta.len() <= limit {
        // It may grow while it is read.
        opened
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(unreadable)?;
    }
    if meta.len() > limit || bytes.len() as u64 > limit {
        return Err(Error::new(
            PLUGIN_TOO_LARGE,
            format!(
                "{shown} has {} bytes, the limit is {limit}",
                meta.len().max(bytes.len() as u64)
            ),
            "Strip debug information from it, or raise `limits.wasm_size`",
        ));
    }
    Ok(Source::new(bytes))
}

/// Accepts only the pinned content, when the configuration pins one.
pub(super) fn check_pin(plugin: &Plugin, digest: Digest) -> Result<(), Error> {
    match plugin.digest.as_deref() {
        Some(pinned)
            if !pinned
                .trim_start_matches("sha256:")
                .eq_ignore_ascii_case(&digest.hex()) =>
        {
            Err(Error::new(
                PLUGIN_DIGEST,
                format!("{} is {digest}, but {pinned} is pinned", plugin.file.display()),
                format!(
                    "Put the right file there, or change `digest` {}",
                    super::grants::place(plugin)
                ),
            ))
        }
        _ => Ok(()),
    }
}

const BUILD: &str = "Build it as a component (Rust: cargo build --release --target wasm32-wasip2)";

pub(super) fn check_header(bytes: &[u8]) -> Result<(), Error> {
    match bytes {
        [0, b'a', b's', b'm', 1, 0, 0, 0, ..] => Err(Error::new(
            PLUGIN_INVALID,
            "this is a core WebAssembly module, not a component",
            BUILD,
        )),
        [0, b'a', b's', b'm', 0x0d, 0, 1, 0, ..] => Ok(()),
        _ if Engine::detect_precompiled(bytes).is_some() => Err(Error::new(
            PLUGIN_INVALID,
            "this is compiled machine code (.cwasm), which is never run from the plugins folder",
            "Put the .wasm component there",
        )),
        [0, b'a', b's', b'm', ..] => Err(Error::new(
            PLUGIN_INVALID,
            "this is WebAssembly of a version this host does not know",
            BUILD,
        )),
        [] => Err(Error::new(
            PLUGIN_INVALID,
            "the file is empty",
            "Copy it again; write elsewhere first and rename it",
        )),
        _ => Err(Error::new(PLUGIN_INVALID, "this is no WebAssembly file", BUILD)),
    }
}

pub(super) fn invalid(bytes: &[u8], error: &wasmtime::Error) -> Error {
    let cause = error.root_cause().to_string();
    let next = if cause.contains("unexpected end")
        || cause.contains("extends past end")
        // A section whose announced end lies behind the file's.
        || cause.contains("section range")
        || cause.contains("unexpected-end")
    {
        "It seems to be cut off: copy it again (write elsewhere first and rename it)"
    } else {
        BUILD
    };
    Error::new(
        PLUGIN_INVALID,
        format!("the component ({} bytes) is not valid: {cause}", bytes.len()),
        next,
    )
}

/// A component that has a handler and whose imports are all there.
pub(super) struct Checked {
    pub(super) pre: InstancePre<Sandbox>,
    pub(super) indices: Indices,
    pub(super) imports: Vec<String>,
}

/// Links it and finds its handlers. Their types are checked when an instance is made.
pub(super) fn check(linker: &Linker<Sandbox>, component: &Component) -> Result<Checked, Error> {
    let engine = component.engine();
    let ty = component.component_type();
    let exports: Vec<String> = ty.exports(engine).map(|(name, _)| name.to_owned()).collect();
    // `messages` holds types only: nothing to call, nothing to grant.
    let imports: Vec<String> = ty
        .imports(engine)
        .map(|(name, _)| name.to_owned())
        .filter(|name| !name.starts_with("helix:messaging/messages@0.1."))
        .collect();

    let foreign = |name: &&String| {
        name.strip_prefix(OURS)
            .is_some_and(|rest| !version(rest).starts_with(SERVED))
    };
    if let Some(name) = exports.iter().chain(&imports).find(foreign) {
        return Err(Error::new(
            PLUGIN_CONTRACT,
            format!("built for `{name}`; this host serves helix:messaging 0.1"),
            "Rebuild it with the SDK of this host's version",
        ));
    }
    let has = |handler: &str| {
        exports
            .iter()
            .any(|name| name.strip_prefix(OURS).and_then(|rest| rest.split('@').next()) == Some(handler))
    };
    let pre = linker
        .instantiate_pre(component)
        .map_err(|error| unlinkable(&error))?;
    let contract = |error: wasmtime::Error| contract(&format!("{error:#}"));
    let indices = Indices {
        task: has("task-handler")
            .then(|| task_handler::GuestIndices::new(&pre))
            .transpose()
            .map_err(contract)?,
        event: has("event-handler")
            .then(|| event_handler::GuestIndices::new(&pre))
            .transpose()
            .map_err(contract)?,
        event_batch: has("event-batch-handler")
            .then(|| event_batch_handler::GuestIndices::new(&pre))
            .transpose()
            .map_err(contract)?,
        packed: has("packed-handler")
            .then(|| packed_handler::GuestIndices::new(&pre))
            .transpose()
            .map_err(contract)?,
    };
    if indices.exports() == super::Exports::default() {
        let found = if exports.is_empty() {
            "nothing".to_owned()
        } else {
            exports.join(", ")
        };
        return Err(Error::new(
            PLUGIN_WRONG_WORLD,
            format!("the component exports no handler of {OURS}*@{SERVED}x; it exports {found}"),
            "Export task-handler, event-handler or event-batch-handler (see the worlds in wit/)",
        ));
    }
    Ok(Checked {
        pre,
        indices,
        imports,
    })
}

fn version(rest: &str) -> &str {
    rest.split_once('@').map_or("", |(_, version)| version)
}

fn unlinkable(error: &wasmtime::Error) -> Error {
    let text = format!("{error:#}");
    if text.contains(OURS) {
        return contract(&text);
    }
    Error::new(
        PLUGIN_WRONG_WORLD,
        format!("the component needs what this host does not have: {text}"),
        "Build it against WASI 0.2 and helix:messaging 0.1 only",
    )
}

/// The same version in another shape: made with an older or a changed copy of wit/.
pub(super) fn contract(text: &str) -> Error {
    Error::new(
        PLUGIN_CONTRACT,
        format!("built for a different helix:messaging 0.1.0 ({text})"),
        "Rebuild it with the SDK of this host's version",
    )
}
