//! Message headers: ordered, repeatable, compared without case, values are bytes.

use std::sync::Arc;

use bytes::Bytes;

/// Names that start with this belong to the host: stamped by it, dropped when a guest sets them.
pub const HOST_PREFIX: &str = "helix-";
/// How often the message was sent again after it was a dead letter.
pub const REPROCESSED: &str = "helix-reprocessed";
/// The dead letter that it was sent again from.
pub const LETTER: &str = "helix-letter";
/// The replay that a copy was made by.
pub const REPLAY: &str = "helix-replay";
/// Where the original of a copy is: broker, topic, partition and offset.
pub const REPLAY_ORIGIN: &str = "helix-replay-origin";
/// The time of the original's record, in Unix milliseconds; the copy's own is that of its replay.
pub const REPLAY_TIME: &str = "helix-replay-time";
/// The replay carried out no side effects: `denied`.
pub const REPLAY_EFFECTS: &str = "helix-replay-effects";
/// The dead letter that somebody changed into this message.
pub const EDITED: &str = "helix-edited-from";
/// The queue of dead letters that the message of a letter was found in.
pub const ADOPTED: &str = "helix-adopted";
/// The letter that a message in the manual's shape is a copy of.
pub const EXPORTED: &str = "helix-exported";

/// Cheap to clone: clones share the list until one of them is changed.
#[derive(Debug, Clone, Default)]
pub struct Headers {
    list: Option<Arc<List>>,
    /// One bit for each name that is there, several names to a bit: most questions are for names that are not.
    marks: u64,
}

type List = Vec<(Arc<str>, Bytes)>;

/// The same for names that are the same without case.
fn mark(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let end = |byte: Option<&u8>| byte.map_or(0, |b| usize::from(b | 0x20));
    1 << ((bytes.len() + 7 * end(bytes.first()) + 13 * end(bytes.last())) % 64)
}

impl Headers {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, name: impl Into<Arc<str>>, value: impl Into<Bytes>) {
        let name = name.into();
        self.marks |= mark(&name);
        self.list_mut().push((name, value.into()));
    }

    fn list(&self) -> &[(Arc<str>, Bytes)] {
        self.list.as_deref().map_or(&[], Vec::as_slice)
    }

    fn list_mut(&mut self) -> &mut List {
        Arc::make_mut(self.list.get_or_insert_default())
    }

    /// False: certainly not.
    fn may_have(&self, name: &str) -> bool {
        self.marks & mark(name) != 0
    }

    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
        if !self.may_have(name) {
            return None;
        }
        self.list()
            .iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v)
    }

    /// The first value of that name, when it is UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Bytes)> {
        self.list().iter().map(|(n, v)| (&**n, v))
    }

    pub fn remove(&mut self, name: &str) {
        if self.may_have(name) {
            // Its mark stays: it may be another name's, too.
            self.list_mut().retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        }
    }

    pub fn len(&self) -> usize {
        self.list().len()
    }

    pub fn is_empty(&self) -> bool {
        self.list().is_empty()
    }

    /// Bytes of all names and values: what a size limit counts.
    pub fn size(&self) -> usize {
        self.list().iter().map(|(n, v)| n.len() + v.len()).sum()
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.list() == other.list()
    }
}

impl Eq for Headers {}

impl<N: Into<Arc<str>>, V: Into<Bytes>> FromIterator<(N, V)> for Headers {
    fn from_iter<T: IntoIterator<Item = (N, V)>>(iter: T) -> Self {
        let list: List = iter.into_iter().map(|(n, v)| (n.into(), v.into())).collect();
        Self {
            marks: list.iter().fold(0, |marks, (name, _)| marks | mark(name)),
            list: (!list.is_empty()).then(|| Arc::new(list)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// What a plain search through the list finds, whatever was pushed and removed before.
        #[test]
        fn names_are_found_without_case(
            names in proptest::collection::vec("[a-cA-C\\-éÉ_]{0,3}", 0..8),
            gone in "[a-cA-C]{0,2}",
            asked in "[a-cA-C\\-éÉ_]{0,3}",
        ) {
            let mut headers: Headers = names.iter().map(|name| (name.as_str(), name.clone())).collect();
            headers.remove(&gone);
            headers.push(gone.to_uppercase(), "again");
            let plain = headers
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(&asked))
                .map(|(_, value)| value);
            prop_assert_eq!(headers.get(&asked), plain);
        }
    }
}
