//! Where log lines go: stderr, as text for people or JSON for machines, filtered by `[host] log`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Installs the subscriber for the whole process. A second call changes nothing (tests).
pub fn install(filter: &str, json: bool) {
    // lapin logs every closed channel as an error and payloads of returned messages; the adapter says both in our words.
    let filter = EnvFilter::try_new(format!("{filter},lapin=off"))
        .unwrap_or_else(|_| EnvFilter::new("info,lapin=off"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        .with_target(false);
    let result = if json {
        builder.json().try_init()
    } else {
        builder.compact().try_init()
    };
    drop(result);
}

/// What a handler or a producer wrote, made safe for terminals: control characters are shown, not sent.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() && c != '\n' && c != '\t' {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}
