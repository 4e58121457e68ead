//! Guests for tests, as text: a core module per behaviour, made into a component with the project's own wit/.

use std::path::Path;

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// What every guest needs: memory, an allocator that only goes forward, and a result "ok" at address 16.
const FRAME: &str = r#"
  (memory (export "memory") 2)
  (global $next (mut i32) (i32.const 65536))
  (func $alloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
    (;first;)
    (local.set $at (i32.and (i32.add (global.get $next) (i32.const 15)) (i32.const -16)))
    (global.set $next (i32.add (local.get $at) (local.get 3)))
    (block $enough
      (br_if $enough (i32.le_u (global.get $next) (i32.mul (memory.size) (i32.const 65536))))
      (br_if $enough (i32.ne (memory.grow (i32.add (i32.div_u (local.get 3) (i32.const 65536)) (i32.const 1))) (i32.const -1)))
      unreachable)
    (local.get $at))
"#;

/// A component of `world` whose core module has these imports and these functions, beside [`FRAME`].
pub fn component(world: &str, imports: &str, body: &str) -> Vec<u8> {
    component_of(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit"),
        world,
        imports,
        body,
    )
}

pub fn component_of(wit: &Path, world: &str, imports: &str, body: &str) -> Vec<u8> {
    encode(wit, world, core(imports, body))
}

/// A task handler of `body` whose [`FRAME`] has another memory.
pub fn task_with_memory(memory: &str, body: &str) -> Vec<u8> {
    let frame = FRAME.replace(r#"(memory (export "memory") 2)"#, memory);
    let module = wat::parse_str(format!("(module {frame} {body})")).unwrap();
    encode(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit"),
        "task-worker",
        module,
    )
}

/// The same with an allocator that runs this code first. Its parameters: old place, old size, alignment, new size.
pub fn component_with_realloc(world: &str, imports: &str, first: &str, body: &str) -> Vec<u8> {
    let frame = FRAME.replace("(;first;)", first);
    let module = wat::parse_str(format!("(module {imports} {frame} {body})")).unwrap();
    encode(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../wit"),
        world,
        module,
    )
}

fn encode(wit: &Path, world: &str, mut module: Vec<u8>) -> Vec<u8> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default()
        .module(&module)
        .unwrap()
        .validate(true)
        .encode()
        .unwrap()
}

pub fn core(imports: &str, body: &str) -> Vec<u8> {
    wat::parse_str(format!("(module {imports} {FRAME} {body})")).unwrap()
}

/// A task handler with this code; it has to leave the address of its result.
pub fn task(code: &str) -> Vec<u8> {
    component("task-worker", "", &with_code("task", code))
}

pub fn with_code(kind: &str, code: &str) -> String {
    format!(
        r#"(func (export "helix:messaging/{kind}-handler@0.1.0#handle") (param $in i32) (result i32) {code})"#
    )
}

/// Says ok.
pub const OK: &str = "(i32.const 16)";

/// `fetch.send`, parameters flat.
pub const FETCH: &str = r#"(import "helix:messaging/fetch@0.1.0" "send" (func $send (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i64 i32)))"#;
pub const PUBLISH: &str =
    r#"(import "helix:messaging/publisher@0.1.0" "publish-task" (func $publish (param i32 i32)))"#;
