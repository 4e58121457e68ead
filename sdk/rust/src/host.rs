//! The one door to the host: the imports on wasm, the recording double elsewhere; and which input is being handled.

use std::cell::Cell;

#[cfg(target_family = "wasm")]
pub(crate) use crate::bindings::{fetch, publish_event, publish_task};
#[cfg(not(target_family = "wasm"))]
pub(crate) use crate::testing::double::{fetch, publish_event, publish_task};

/// Whom a published message belongs to, while a handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// One message at a time: the host knows.
    Single,
    /// This place of a batch.
    Input(u32),
    /// A whole batch is at hand: the sender has to say.
    Batch,
}

thread_local! {
    static SCOPE: Cell<Scope> = const { Cell::new(Scope::Single) };
}

pub(crate) fn scope() -> Scope {
    SCOPE.get()
}

/// Runs `work` in a scope. A panic traps on wasm (the instance is gone); natively the scope is put back.
pub(crate) fn within<T>(scope: Scope, work: impl FnOnce() -> T) -> T {
    struct Restore(Scope);
    impl Drop for Restore {
        fn drop(&mut self) {
            SCOPE.set(self.0);
        }
    }
    let _restore = Restore(SCOPE.replace(scope));
    work()
}

pub(crate) fn with_input<T>(input: u32, work: impl FnOnce() -> T) -> T {
    within(Scope::Input(input), work)
}
