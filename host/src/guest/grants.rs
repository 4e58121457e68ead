//! What a plugin may do, and the sentence that tells how to grant what it may not.

use super::log;
use crate::config::valid::Plugin;
use crate::model::MessageKind;

/// Something that was refused: kept for the outcome of the call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Denial {
    /// `denied.publish` or `denied.fetch`.
    pub(super) code: &'static str,
    pub(super) text: String,
}

/// Of the name that a guest asks for, so much is repeated. Brokers take 255 bytes at most.
const NAME: usize = 255;

/// None = the plugin may publish there.
pub(super) fn publish(plugin: &Plugin, kind: MessageKind, destination: &str) -> Option<Denial> {
    if plugin.publish.iter().any(|pattern| pattern.matches(destination)) {
        return None;
    }
    let place = match kind {
        MessageKind::Task => "queue",
        MessageKind::Event => "topic",
    };
    let destination = log::brief(destination, NAME);
    let grant = grant_line(plugin, "publish", &destination);
    Some(Denial {
        code: "denied.publish",
        text: format!(
            "plugin `{}` may not publish to {place} `{destination}`; {grant}",
            plugin.name
        ),
    })
}

pub(super) fn fetch(plugin: &Plugin, host: &str, port: u16) -> Option<Denial> {
    if super::allow::allows(&plugin.fetch, host, port) {
        return None;
    }
    let host = log::brief(host, NAME);
    let grant = grant_line(plugin, "fetch", &format!("{host}:{port}"));
    Some(Denial {
        code: "denied.fetch",
        text: format!(
            "plugin `{}` may not fetch from `{host}:{port}`; {grant}",
            plugin.name
        ),
    })
}

pub(super) fn address(plugin: &Plugin, host: &str, why: &str) -> Denial {
    Denial {
        code: "denied.fetch",
        text: format!(
            "`{host}` leads to {why}, which plugin `{}` may not fetch from; to allow it, put `fetch_private = true` {}",
            plugin.name,
            place(plugin),
        ),
    }
}

/// "to allow it, put `publish = ["x"]` under [plugins.p] (config/helix.toml:12)"
fn grant_line(plugin: &Plugin, key: &str, value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    format!("to allow it, put `{key} = [\"{value}\"]` {}", place(plugin))
}

pub(super) fn place(plugin: &Plugin) -> String {
    format!("under [plugins.{}] ({})", plugin.name, plugin.declared_at)
}

/// Whether calls through an imported interface can succeed, and if not, what would allow them.
pub(super) fn import(plugin: &Plugin, interface: &str) -> (bool, Option<String>) {
    let name = interface.split('@').next().unwrap_or(interface);
    match name {
        "helix:messaging/publisher" => (
            !plugin.publish.is_empty(),
            Some(format!("publish = [\"<queue or topic>\"] {}", place(plugin))),
        ),
        "helix:messaging/fetch" | "wasi:http/outgoing-handler" => (
            !plugin.fetch.is_empty(),
            Some(format!("fetch = [\"<host>\"] {}", place(plugin))),
        ),
        // Linked, since some toolchains import it unasked, and never granted.
        _ if name.starts_with("wasi:sockets/") || name.starts_with("wasi:filesystem/") => (false, None),
        _ => (true, None),
    }
}
