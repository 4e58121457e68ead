//! From the message to the arguments of a handler function.

use std::ops::Deref;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::context::Context;
use crate::failure::{Failure, reject};

/// What a handler function may take as an argument. A failure is the outcome: the function is not called.
pub trait FromMessage<'m>: Sized {
    fn from_message(context: &'m Context<'m>) -> Result<Self, Failure>;
}

impl<'m> FromMessage<'m> for &'m Context<'m> {
    fn from_message(context: &'m Context<'m>) -> Result<Self, Failure> {
        Ok(context)
    }
}

/// The payload as it came.
impl<'m> FromMessage<'m> for &'m [u8] {
    fn from_message(context: &'m Context<'m>) -> Result<Self, Failure> {
        Ok(context.payload())
    }
}

/// The payload as text; rejected with `payload.invalid` when it is not UTF-8.
impl<'m> FromMessage<'m> for &'m str {
    fn from_message(context: &'m Context<'m>) -> Result<Self, Failure> {
        std::str::from_utf8(context.payload())
            .map_err(|error| reject(format_args!("payload is not UTF-8: {error}")).code("payload.invalid"))
    }
}

/// The payload, read as JSON. One that does not fit `T` is rejected with the code `payload.invalid` and the place of the
/// fault (`scores[3].value: invalid type: …, at line 1 column 88`). A tombstone reads as JSON `null`, so an
/// `Option<T>` takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Json<T>(pub T);

impl<T> Deref for Json<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'m, T: Deserialize<'m>> FromMessage<'m> for Json<T> {
    fn from_message(context: &'m Context<'m>) -> Result<Self, Failure> {
        parse(context).map(Json)
    }
}

/// A task with its payload read as JSON, and everything [`Context`] knows by dereference: `task.payload`, `task.id()`.
#[derive(Debug, Clone, Copy)]
pub struct Task<'m, T> {
    pub payload: T,
    pub context: &'m Context<'m>,
}

impl<'m, T> Deref for Task<'m, T> {
    type Target = Context<'m>;
    fn deref(&self) -> &Context<'m> {
        self.context
    }
}

impl<'m, T: DeserializeOwned> FromMessage<'m> for Task<'m, T> {
    fn from_message(context: &'m Context<'m>) -> Result<Self, Failure> {
        Ok(Self {
            payload: parse(context)?,
            context,
        })
    }
}

/// An event with its data read as JSON, and everything [`Context`] knows by dereference: `event.data`, `event.offset()`.
#[derive(Debug, Clone, Copy)]
pub struct Event<'m, T> {
    pub data: T,
    pub context: &'m Context<'m>,
}

impl<'m, T> Deref for Event<'m, T> {
    type Target = Context<'m>;
    fn deref(&self) -> &Context<'m> {
        self.context
    }
}

impl<'m, T: DeserializeOwned> FromMessage<'m> for Event<'m, T> {
    fn from_message(context: &'m Context<'m>) -> Result<Self, Failure> {
        Ok(Self {
            data: parse(context)?,
            context,
        })
    }
}

fn parse<'m, T: Deserialize<'m>>(context: &'m Context<'m>) -> Result<T, Failure> {
    let bytes = if context.tombstone() {
        b"null"
    } else {
        context.payload()
    };
    serde_json::from_slice(bytes).map_err(|_| locate::<T>(bytes))
}

/// Reads it once more to learn where the fault is: tracking the path costs time, which only bad payloads pay.
#[cold]
fn locate<'m, T: Deserialize<'m>>(bytes: &'m [u8]) -> Failure {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let reason = match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Ok(_) => match reader.end() {
            Ok(()) => "not stable: it was read the second time only".to_owned(),
            Err(error) => error.to_string(),
        },
        Err(error) if error.path().iter().next().is_none() => error.inner().to_string(),
        Err(error) => error.to_string(),
    };
    reject(format_args!("payload: {reason}")).code("payload.invalid")
}
