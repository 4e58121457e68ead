//! `helix call`: one handler, one message file, no broker.

use std::path::PathBuf;
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
#[command(after_help = "Example:\n  helix call plugins/hello.wasm '{\"type\":\"hello.greet\",\"payload\":{\"name\":\"Ada\"}}'")]
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
        let runtime = guest::Runtime::for_one(&plugin).map_err(|error| Exit::failed(error.to_string()))?;
        let report = runtime.reload(&name).await;
        if let Some(error) = report.error {
            return Err(Exit::invalid(error.to_string()));
        }
        let version = runtime.current(&name).ok_or_else(|| Exit::failed("the plugin did not load"))?;
        let kind = self.kind(version.exports());
        let raw = self.raw(kind)?;
        let envelope = decode::decode(&raw, &UuidIds.next(), SystemClock.now_ms())
            .map_err(|error| Exit::invalid(format!("the message cannot be decoded: {error} ({}); give --type if that is what is missing", error.code)))?;
        let invocation = Invocation {
            envelope: &envelope,
            attempt: self.attempt,
            max_attempts: 4,
            timeout: Duration::from_secs(self.timeout),
            headers: None,
            fresh: false,
        };
        let completion = version.call(&[invocation]).await.pop();
        runtime.stop().await;
        let completion = completion.ok_or_else(|| Exit::failed("the handler gave no result"))?;
        print(global, &completion)
    }

    fn plugin(&self, global: &Global) -> (String, valid::Plugin) {
        let file = PathBuf::from(&self.plugin);
        let name = file.file_stem().map_or_else(|| self.plugin.clone(), |s| s.to_string_lossy().into_owned());
        let configured = load::load(global).ok().and_then(|loaded| loaded.settings.plugins.get(&name).cloned());
        let mut plugin = configured.unwrap_or_else(|| valid::Plugin::without_grants(&name, file.clone()));
        if file.is_file() {
            plugin.file = file;
        }
        (name, plugin)
    }

    fn kind(&self, exports: Exports) -> MessageKind {
        if self.event || !exports.handles(MessageKind::Task) { MessageKind::Event } else { MessageKind::Task }
    }

    fn raw(&self, kind: MessageKind) -> Result<RawMessage, Exit> {
        let body: Bytes = send::read(&self.message)?.into();
        Ok(RawMessage {
            origin: Origin { broker: "call".into(), kind, destination: "call".into(), partition: None, offset: None },
            body: Some(body),
            key: None,
            headers: Headers::new(),
            props: Properties { message_type: self.message_type.clone(), ..Properties::default() },
            timestamp_ms: None,
            redelivered: false,
        })
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
        let why = completion.outcome.failure().map(|f| format!(": {}", f.reason)).unwrap_or_default();
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
        other => Err(Exit::failed(format!("the handler did not finish with done but with {other}"))),
    }
}

impl valid::Plugin {
    /// A plugin that no configuration names: defaults, nothing granted.
    pub(crate) fn without_grants(name: &str, file: PathBuf) -> Self {
        Self { file, ..valid::Plugin::named(name) }
    }
}

