//! `helix call`: one handler, one message file, no broker.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;

use super::output::{self, Format};
use super::{Exit, Global, load, send};
use crate::config::valid;
use crate::decode;
use crate::guest::{self, Completion, Exports, Invocation, Plugins};
use crate::model::raw::Properties;
use crate::model::{Clock, Headers, Ids, MessageKind, Origin, RawMessage, SystemClock, UuidIds};

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  helix call plugins/hello.wasm '{\"type\":\"hello.greet\",\"payload\":{\"name\":\"Ada\"}}'"
)]
pub struct Call {
    /// A .wasm file, or the name of a plugin of the configuration (its grants apply)
    plugin: String,
    /// The message in any shape a broker may carry; `-` reads stdin, `@FILE` a file
    message: String,
    /// Type, when the message does not say
    #[arg(long = "type")]
    message_type: Option<String>,
    /// Hand it over as an event [default: task when the component handles tasks]
    #[arg(long)]
    event: bool,
    /// Which attempt this is
    #[arg(long, default_value_t = 1)]
    attempt: u32,
    /// Seconds the handler may take
    #[arg(long, default_value_t = 30)]
    timeout: u64,
}

impl Call {
    pub async fn run(self, global: &Global) -> Result<(), Exit> {
        let (name, plugin) = self.plugin(global);
        let runtime = runtime(plugin)?;
        let report = runtime.reload(&name).await;
        if let Some(error) = report.error {
            return Err(Exit::invalid(error.to_string()));
        }
        let version = runtime
            .current(&name)
            .ok_or_else(|| Exit::failed("the plugin did not load"))?;
        let kind = self.kind(version.exports());
        let raw = self.raw(kind)?;
        let envelope = decode::decode(&raw, &UuidIds.next(), SystemClock.now_ms()).map_err(|error| {
            Exit::invalid(format!(
                "the message cannot be decoded: {error} ({}); give --type if that is what is missing",
                error.code
            ))
        })?;
        let invocation = Invocation {
            envelope: &envelope,
            attempt: self.attempt,
            max_attempts: 4,
            timeout: Duration::from_secs(self.timeout),
            headers: None,
            fresh: false,
        };
        let completion = version.call(&[invocation]).await.pop();
        let completion = completion.ok_or_else(|| Exit::failed("the handler gave no result"))?;
        print(global, &completion)
    }

    fn plugin(&self, global: &Global) -> (String, valid::Plugin) {
        let file = PathBuf::from(&self.plugin);
        let name = file
            .file_stem()
            .map_or_else(|| self.plugin.clone(), |s| s.to_string_lossy().into_owned());
        let configured = load::load(global)
            .ok()
            .and_then(|loaded| loaded.settings.plugins.get(&name).cloned());
        let mut plugin = configured.unwrap_or_else(|| valid::Plugin::without_grants(&name, file.clone()));
        if file.is_file() {
            plugin.file = file;
        }
        (name, plugin)
    }

    fn kind(&self, exports: Exports) -> MessageKind {
        if self.event || !exports.handles(MessageKind::Task) {
            MessageKind::Event
        } else {
            MessageKind::Task
        }
    }

    fn raw(&self, kind: MessageKind) -> Result<RawMessage, Exit> {
        let body: Bytes = send::read(&self.message)?.into();
        Ok(RawMessage {
            origin: Origin {
                broker: "call".into(),
                kind,
                destination: "call".into(),
                partition: None,
                offset: None,
            },
            body: Some(body),
            key: None,
            headers: Headers::new(),
            props: Properties {
                message_type: self.message_type.clone(),
                ..Properties::default()
            },
            timestamp_ms: None,
            redelivered: false,
        })
    }
}

fn runtime(plugin: valid::Plugin) -> Result<guest::Runtime, Exit> {
    let plugins_dir = plugin.file.parent().map(Path::to_owned).unwrap_or_default();
    guest::Runtime::start(guest::RuntimeOptions {
        max_wasm_bytes: u64::MAX,
        max_message_bytes: 1 << 20,
        cache_dir: cache_dir(),
        plugins_dir,
        clock: Arc::new(SystemClock),
        targets: Arc::new(Anywhere),
        plugins: std::collections::BTreeMap::from([(plugin.name.clone(), plugin)]),
    })
    .map_err(|error| Exit::failed(error.to_string()))
}

/// Compiled code of files that no host serves.
pub(super) fn cache_dir() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("helix/compiled")
}

/// Without a broker every queue and topic exists; grants still hold.
struct Anywhere;

impl guest::Targets for Anywhere {
    fn resolve(&self, _: MessageKind, _: &str) -> Option<Arc<str>> {
        None
    }

    fn exists(&self, _: MessageKind, _: &str) -> bool {
        true
    }
}

fn print(global: &Global, completion: &Completion) -> Result<(), Exit> {
    let outputs: Vec<_> = completion
        .outputs
        .iter()
        .map(|o| {
            serde_json::json!({
                "id": o.id, "kind": o.kind, "destination": o.destination, "type": o.message_type,
                "payload": String::from_utf8_lossy(&o.payload),
            })
        })
        .collect();
    let ms = completion.duration.as_secs_f64() * 1000.0;
    if global.output == Format::Json {
        output::json(&serde_json::json!({
            "result": completion.outcome, "published": outputs, "log": completion.log, "duration_ms": ms,
        }))?;
    } else {
        let why = completion
            .outcome
            .failure()
            .map(|f| format!(": {}", f.reason))
            .unwrap_or_default();
        output::line(&format!("{}{why} ({ms:.2} ms)", completion.outcome.label()))?;
        for published in &outputs {
            output::line(&format!("  published {published}"))?;
        }
        for text in &completion.log {
            output::line(&format!("  | {text}"))?;
        }
    }
    match completion.outcome.label() {
        "done" => Ok(()),
        other => Err(Exit::failed(format!(
            "the handler did not finish with done but with {other}"
        ))),
    }
}

impl valid::Plugin {
    /// A plugin that no configuration names: defaults, nothing granted.
    pub fn without_grants(name: &str, file: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            file,
            publish: Vec::new(),
            fetch: Vec::new(),
            fetch_private: false,
            fetch_timeout: Duration::from_secs(10),
            env: std::collections::BTreeMap::new(),
            memory_bytes: 64 << 20,
            table_elements: 20_000,
            handles: 1000,
            outputs: 100,
            output_bytes: 4 << 20,
            log_lines: 100,
            instances: 1,
            calls_per_instance: 10_000,
            digest: None,
            declared_at: "helix.toml".to_owned(),
        }
    }
}
