//! Message headers: ordered, repeatable, compared without case, values are bytes.

use std::sync::Arc;

use bytes::Bytes;

/// Names that start with this belong to the host: stamped by it, dropped when a guest sets them.
pub const HOST_PREFIX: &str = "helix-";

/// Cheap to clone: clones share the list until one of them is changed.
#[derive(Debug, Clone, Default)]
pub struct Headers(Option<Arc<List>>);

type List = Vec<(Arc<str>, Bytes)>;

impl Headers {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn push(&mut self, name: impl Into<Arc<str>>, value: impl Into<Bytes>) {
        self.list_mut().push((name.into(), value.into()));
    }

    fn list(&self) -> &[(Arc<str>, Bytes)] {
        self.0.as_deref().map_or(&[], Vec::as_slice)
    }

    fn list_mut(&mut self) -> &mut List {
        Arc::make_mut(self.0.get_or_insert_default())
    }

    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&Bytes> {
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
        self.list_mut().retain(|(n, _)| !n.eq_ignore_ascii_case(name));
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
        Self((!list.is_empty()).then(|| Arc::new(list)))
    }
}
