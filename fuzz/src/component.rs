//! A file in the plugins folder: a plugin, or an error with a code that says what to do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use helix_host::config::valid::Plugin;
use helix_host::error;
use helix_host::guest::{self, PluginStatus, Runtime, RuntimeOptions, Targets};
use helix_host::model::{MessageKind, SystemClock};

/// Larger ones spend their time in the compiler, which is not ours.
const LARGEST: usize = 64 << 10;

pub fn component(data: &[u8]) {
    if data.len() > LARGEST {
        return;
    }
    match inspect(data) {
        Ok(status) => {
            let has = status.exports;
            assert!(
                has.task || has.event || has.event_batch || has.packed,
                "a plugin without a handler"
            );
            assert!(status.digest.is_some());
            for import in &status.imports {
                crate::assert_tame(&import.interface);
            }
        }
        Err(e) => {
            assert!(
                error::ALL.contains(&e.code) && (300..400).contains(&e.code.0),
                "{e}"
            );
            assert!(!e.what.is_empty() && !e.next.is_empty(), "{e}");
            assert!(!e.next.contains("fault of the host"), "{e}");
            crate::assert_tame(&e.to_string());
        }
    }
}

fn inspect(data: &[u8]) -> Result<PluginStatus, guest::Error> {
    let (waits, runtime) = host();
    let plugin = Plugin::without_grants("fuzzed", PathBuf::from("fuzzed.wasm"));
    waits.block_on(runtime.inspect(data.to_vec(), plugin))
}

/// One engine for all inputs: starting it costs more than most of them.
fn host() -> &'static (tokio::runtime::Runtime, Runtime) {
    static HOST: OnceLock<(tokio::runtime::Runtime, Runtime)> = OnceLock::new();
    HOST.get_or_init(|| {
        let waits = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a tokio runtime");
        let options = RuntimeOptions {
            plugins: BTreeMap::new(),
            plugins_dir: PathBuf::new(),
            // No folder, no cache: nothing is written, and each input is compiled.
            cache_dir: PathBuf::from("/dev/null/none"),
            max_wasm_bytes: LARGEST as u64,
            max_message_bytes: 1 << 20,
            clock: Arc::new(SystemClock),
            targets: Arc::new(Nowhere),
        };
        let runtime = {
            let _inside = waits.enter();
            Runtime::start(options).expect("a guest runtime")
        };
        (waits, runtime)
    })
}

struct Nowhere;

impl Targets for Nowhere {
    fn resolve(&self, _: MessageKind, _: &str) -> Option<Arc<str>> {
        None
    }

    fn exists(&self, _: MessageKind, _: &str) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// Seeds that are no plugins any more (the contract has moved on) would leave most of the code unreached.
    #[test]
    fn seeds_reach_the_end() {
        for name in ["task", "event", "publishes", "fetches"] {
            let path = format!("{}/seeds/component/{name}", env!("CARGO_MANIFEST_DIR"));
            let inspected = inspect(&std::fs::read(path).unwrap());
            assert!(inspected.is_ok(), "{name}: {inspected:?}");
        }
    }
}
