//! Outgoing message → bytes and headers on the wire, in the format its target asks for. Pure.

use bytes::Bytes;

use crate::model::raw::Properties;
use crate::model::{Headers, Outgoing, WireFormat};

/// What a broker adapter puts on its wire: body, key, headers and (AMQP, embedded) properties.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    pub body: Option<Bytes>,
    pub key: Option<Bytes>,
    pub headers: Headers,
    pub props: Properties,
}

pub fn encode(message: &Outgoing, _format: WireFormat) -> Wire {
    let mut headers = message.headers.clone();
    headers.push("type", message.message_type.clone());
    headers.push("id", message.id.clone());
    Wire {
        body: (!message.tombstone).then(|| message.payload.clone()),
        key: message.key.clone(),
        headers,
        props: Properties {
            content_type: message.content_type.clone(),
            message_type: Some(message.message_type.clone()),
            message_id: Some(message.id.clone()),
            correlation_id: message.correlation_id.clone(),
            reply_to: message.reply_to.clone(),
            priority: message.priority,
            expires_ms: message.deadline_ms,
        },
    }
}
