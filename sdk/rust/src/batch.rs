//! Many events at once: what could be read goes to the function, what could not is already decided.

use std::ops::Deref;

use crate::context::Context;
use crate::extract::FromMessage;
use crate::failure::{Failure, Handled};
use crate::host;

/// The events of one call, in the order of their partitions. `E` is what each is read as: `Event<T>`, `Json<T>`, `&Context`.
#[derive(Debug)]
pub struct Batch<E> {
    /// The event and its place in the call.
    items: Vec<E>,
    places: Vec<u32>,
}

impl<E> Batch<E> {
    /// Handles them one after another. What is published inside belongs to the event at hand, without being told.
    pub fn each(&self, mut handle: impl FnMut(&E) -> Handled) -> Vec<Handled> {
        self.items
            .iter()
            .zip(&self.places)
            .map(|(item, place)| host::with_input(*place, || handle(item)))
            .collect()
    }
}

impl<E> Deref for Batch<E> {
    type Target = [E];
    fn deref(&self) -> &[E] {
        &self.items
    }
}

/// The results so far: those of unreadable events are in, the others are open.
#[derive(Debug)]
pub struct Pending(Vec<Option<Failure>>);

pub fn extract<'m, E: FromMessage<'m>>(contexts: &'m [Context<'m>]) -> (Batch<E>, Pending) {
    let mut batch = Batch {
        items: Vec::with_capacity(contexts.len()),
        places: Vec::with_capacity(contexts.len()),
    };
    let mut decided = Vec::with_capacity(contexts.len());
    for (context, place) in contexts.iter().zip(0..) {
        match E::from_message(context) {
            Ok(item) => {
                batch.items.push(item);
                batch.places.push(place);
                decided.push(None);
            }
            Err(failure) => decided.push(Some(failure)),
        }
    }
    (batch, Pending(decided))
}

impl Pending {
    /// Puts the function's results where they belong.
    ///
    /// # Panics
    /// When there are more or fewer than events handed out: the host would not know which is which.
    #[allow(clippy::panic, reason = "a trap is what the contract asks for here")]
    pub fn finish(self, results: Vec<Handled>) -> Vec<Handled> {
        let open = self.0.iter().filter(|decided| decided.is_none()).count();
        if results.len() != open {
            panic!(
                "the batch handler returned {} results for {open} events",
                results.len()
            );
        }
        let mut results = results.into_iter();
        self.0
            .into_iter()
            .map(|decided| match decided {
                Some(failure) => Err(failure),
                None => results.next().unwrap_or(Ok(())),
            })
            .collect()
    }
}
