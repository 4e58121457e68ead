//! `helix send`: publishes one message through the running host.

use std::io::Read;

use base64::Engine;
use clap::Args;
use serde_json::{Map, Value, json};

use super::client::{Client, segment};
use super::output::{self, Format};
use super::{Exit, Global};
use crate::error;

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  helix send --queue helixagent.tasks.llm --type llm.request '{\"prompt\":\"hi\"}'"
)]
pub struct Send {
    /// Queue to send a task to
    #[arg(
        long,
        value_name = "QUEUE",
        conflicts_with = "topic",
        required_unless_present = "topic"
    )]
    queue: Option<String>,
    /// Topic to send an event to
    #[arg(long, value_name = "TOPIC")]
    topic: Option<String>,
    /// What it is; routes select by it
    #[arg(long = "type", value_name = "TYPE")]
    message_type: String,
    /// Id; the host makes one when it is missing
    #[arg(long)]
    id: Option<String>,
    /// Ordering key
    #[arg(long)]
    key: Option<String>,
    /// 0 (lowest) to 10
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=10))]
    priority: Option<u8>,
    /// Deliver not before so many milliseconds from now
    #[arg(long, value_name = "MS")]
    delay_ms: Option<u64>,
    /// Header as NAME=VALUE; may be repeated
    #[arg(long = "header", value_name = "NAME=VALUE")]
    headers: Vec<String>,
    /// Payload: JSON, or any text; `-` reads stdin, `@FILE` a file
    payload: String,
}

impl Send {
    pub async fn run(self, global: &Global) -> Result<(), Exit> {
        let body = self.body()?;
        let path = match (&self.queue, &self.topic) {
            (Some(queue), _) => format!("/v1/messaging/tasks/{}", segment(queue)),
            (None, Some(topic)) => format!("/v1/messaging/events/{}", segment(topic)),
            (None, None) => return Err(Exit::usage("give --queue or --topic")),
        };
        let accepted: Value = Client::new(global)?.post(&path, &body).await?;
        if global.output == Format::Json {
            return output::json(&accepted);
        }
        let text = |key: &str| accepted.get(key).and_then(Value::as_str).unwrap_or_default();
        output::line(&format!(
            "accepted {} in {}/{}",
            text("id"),
            text("broker"),
            text("destination")
        ))
    }

    fn body(&self) -> Result<Value, Exit> {
        let mut body = Map::new();
        body.insert("type".into(), json!(self.message_type));
        let payload = read(&self.payload)?;
        match serde_json::from_slice::<Value>(&payload) {
            Ok(value) => body.insert("payload".into(), value),
            Err(_) => body.insert(
                "payload_base64".into(),
                json!(base64::engine::general_purpose::STANDARD.encode(&payload)),
            ),
        };
        for (name, value) in [("id", &self.id), ("key", &self.key)] {
            if let Some(value) = value {
                body.insert(name.into(), json!(value));
            }
        }
        if let Some(priority) = self.priority {
            body.insert("priority".into(), json!(priority));
        }
        if let Some(delay) = self.delay_ms {
            body.insert("delay_ms".into(), json!(delay));
        }
        let mut headers = Map::new();
        for header in &self.headers {
            let (name, value) = header
                .split_once('=')
                .ok_or_else(|| Exit::usage(format!("--header takes NAME=VALUE, got `{header}`")))?;
            headers.insert(name.to_owned(), json!(value));
        }
        body.insert("headers".into(), headers.into());
        Ok(body.into())
    }
}

/// Text as it is, `-` = stdin, `@FILE` = a file.
pub(super) fn read(argument: &str) -> Result<Vec<u8>, Exit> {
    let mut bytes = Vec::new();
    match argument.strip_prefix('@') {
        _ if argument == "-" => {
            std::io::stdin()
                .read_to_end(&mut bytes)
                .map_err(|e| Exit::failed(format!("cannot read stdin: {e}")))?;
        }
        Some(file) => {
            bytes = std::fs::read(file)
                .map_err(|e| Exit::failed(format!("cannot read {file}: {e}")).coded(error::CLI_FILE))?;
        }
        None => bytes.extend_from_slice(argument.as_bytes()),
    }
    Ok(bytes)
}
