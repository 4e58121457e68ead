//! Guests that import WASI, with as much of its WIT as the attacks need.

use std::fs;
use std::path::Path;

use super::*;

const PACKAGES: &[(&str, &str)] = &[
    (
        "io",
        "package wasi:io@0.2.0;
        interface error { resource error; }
        interface poll { resource pollable { block: func(); } poll: func(in: list<borrow<pollable>>) -> list<u32>; }
        interface streams { use error.{error}; variant stream-error { last-operation-failed(error), closed }
            resource output-stream { write: func(contents: list<u8>) -> result<_, stream-error>; } }",
    ),
    (
        "clocks",
        "package wasi:clocks@0.2.0;
        interface monotonic-clock { use wasi:io/poll@0.2.0.{pollable}; subscribe-duration: func(when: u64) -> pollable; }",
    ),
    (
        "cli",
        "package wasi:cli@0.2.0;
        interface environment { get-environment: func() -> list<tuple<string, string>>; }
        interface exit { exit: func(status: result); }
        interface stdout { use wasi:io/streams@0.2.0.{output-stream}; get-stdout: func() -> output-stream; }",
    ),
    (
        "random",
        "package wasi:random@0.2.0; interface random { get-random-bytes: func(len: u64) -> list<u8>; }",
    ),
    (
        "sockets",
        "package wasi:sockets@0.2.0;
        interface network { enum ip-address-family { ipv4, ipv6 }
            enum error-code { unknown, access-denied, not-supported, invalid-argument, out-of-memory, timeout, concurrency-conflict,
                not-in-progress, would-block, invalid-state, new-socket-limit, address-not-bindable, address-in-use, remote-unreachable,
                connection-refused, connection-reset, connection-aborted, datagram-too-large, name-unresolvable,
                temporary-resolver-failure, permanent-resolver-failure } }
        interface tcp { resource tcp-socket; }
        interface tcp-create-socket { use network.{ip-address-family, error-code}; use tcp.{tcp-socket};
            create-tcp-socket: func(address-family: ip-address-family) -> result<tcp-socket, error-code>; }",
    ),
];

const WORLD: &str = "package tests:hostile;
world w {
  import wasi:clocks/monotonic-clock@0.2.0;
  import wasi:cli/environment@0.2.0;
  import wasi:cli/exit@0.2.0;
  import wasi:cli/stdout@0.2.0;
  import wasi:random/random@0.2.0;
  import wasi:sockets/tcp-create-socket@0.2.0;
  export helix:messaging/task-handler@0.1.0;
}";

pub const SLEEP: &str = r#"(import "wasi:clocks/monotonic-clock@0.2.0" "subscribe-duration" (func $subscribe (param i64) (result i32)))
    (import "wasi:io/poll@0.2.0" "[method]pollable.block" (func $block (param i32)))"#;
pub const POLL: &str = r#"(import "wasi:io/poll@0.2.0" "poll" (func $poll (param i32 i32 i32)))"#;
pub const ENVIRONMENT: &str =
    r#"(import "wasi:cli/environment@0.2.0" "get-environment" (func $environment (param i32)))"#;
pub const EXIT: &str = r#"(import "wasi:cli/exit@0.2.0" "exit" (func $exit (param i32)))"#;
pub const STDOUT: &str = r#"(import "wasi:cli/stdout@0.2.0" "get-stdout" (func $stdout (result i32)))
    (import "wasi:io/streams@0.2.0" "[method]output-stream.write" (func $write (param i32 i32 i32 i32)))"#;
pub const RANDOM: &str =
    r#"(import "wasi:random/random@0.2.0" "get-random-bytes" (func $random (param i64 i32)))"#;
pub const SOCKET: &str =
    r#"(import "wasi:sockets/tcp-create-socket@0.2.0" "create-tcp-socket" (func $socket (param i32 i32)))"#;

/// A component of a world with these imports.
pub fn component(imports: &str, body: &str) -> Vec<u8> {
    let folder = TempDir::new().unwrap();
    let root = folder.path();
    fs::write(root.join("world.wit"), WORLD).unwrap();
    for (name, text) in PACKAGES {
        let package = root.join("deps").join(name);
        fs::create_dir_all(&package).unwrap();
        fs::write(package.join("package.wit"), text).unwrap();
    }
    let ours = root.join("deps/messaging");
    fs::create_dir(&ours).unwrap();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), ours.join(file.file_name())).unwrap();
    }
    wat::component_of(root, "w", imports, body)
}

pub fn attack(imports: &str, data: &str, code: &str) -> Vec<u8> {
    component(imports, &body(data, code))
}
