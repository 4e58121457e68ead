//! One event inside a packed buffer.

/// Bytes before the fields: numbers, then the table of places.
pub(crate) const FIXED: usize = 48 + 4 * PLACES;
const PLACES: usize = 14;
const TABLE: usize = 48;
const REDELIVERED: u32 = 1;
const TOMBSTONE: u32 = 2;

const ID: usize = 0;
const MESSAGE_TYPE: usize = 1;
const TOPIC: usize = 2;
const DATA: usize = 3;
const SOURCE: usize = 4;
const SUBJECT: usize = 5;
const CONTENT_TYPE: usize = 6;
const SCHEMA: usize = 7;
const KEY: usize = 8;
const REPLAY: usize = 9;
const CORRELATION_ID: usize = 10;
const TRACEPARENT: usize = 11;
const TRACESTATE: usize = 12;
const HEADERS: usize = 13;

/// The bytes of one event. Its table of places is known to be in bounds and in order.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View<'b>(&'b [u8]);

impl<'b> View<'b> {
    /// The event at the start of the buffer, and what follows it.
    pub(crate) fn split(buffer: &'b [u8]) -> Option<(Self, &'b [u8])> {
        let size = u32::from_le_bytes(*buffer.first_chunk()?) as usize;
        let (bytes, rest) = buffer.split_at_checked(size)?;
        let mut least = FIXED;
        for place in bytes.get(TABLE..FIXED)?.as_chunks().0 {
            let start = u32::from_le_bytes(*place) as usize;
            if start < least || start > size {
                return None;
            }
            least = start;
        }
        Some((Self(bytes), rest))
    }

    fn number<const N: usize>(self, at: usize) -> [u8; N] {
        self.0
            .get(at..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .unwrap_or_else(|| broken("a number is missing"))
    }

    fn u32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.number(at))
    }

    fn u64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.number(at))
    }

    fn place(self, field: usize) -> usize {
        self.u32(TABLE + 4 * field) as usize
    }

    fn bytes(self, field: usize) -> &'b [u8] {
        self.0
            .get(self.place(field)..self.place(field + 1))
            .unwrap_or_else(|| broken("a field leaves its event"))
    }

    fn optional(self, field: usize) -> Option<&'b [u8]> {
        (self.u32(40) >> field & 1 == 1).then(|| self.bytes(field))
    }

    pub(crate) fn id(self) -> &'b str {
        text(self.bytes(ID))
    }
    pub(crate) fn message_type(self) -> &'b str {
        text(self.bytes(MESSAGE_TYPE))
    }
    pub(crate) fn topic(self) -> &'b str {
        text(self.bytes(TOPIC))
    }
    pub(crate) fn data(self) -> &'b [u8] {
        self.bytes(DATA)
    }
    pub(crate) fn source(self) -> Option<&'b str> {
        self.optional(SOURCE).map(text)
    }
    pub(crate) fn subject(self) -> Option<&'b str> {
        self.optional(SUBJECT).map(text)
    }
    pub(crate) fn content_type(self) -> Option<&'b str> {
        self.optional(CONTENT_TYPE).map(text)
    }
    pub(crate) fn schema(self) -> Option<&'b str> {
        self.optional(SCHEMA).map(text)
    }
    pub(crate) fn key(self) -> Option<&'b [u8]> {
        self.optional(KEY)
    }
    pub(crate) fn replay(self) -> Option<&'b str> {
        self.optional(REPLAY).map(text)
    }
    pub(crate) fn correlation_id(self) -> Option<&'b str> {
        self.optional(CORRELATION_ID).map(text)
    }
    pub(crate) fn traceparent(self) -> Option<&'b str> {
        self.optional(TRACEPARENT).map(text)
    }
    pub(crate) fn tracestate(self) -> Option<&'b str> {
        self.optional(TRACESTATE).map(text)
    }
    pub(crate) fn redelivered(self) -> bool {
        self.u32(4) & REDELIVERED != 0
    }
    pub(crate) fn tombstone(self) -> bool {
        self.u32(4) & TOMBSTONE != 0
    }
    pub(crate) fn time_ms(self) -> u64 {
        self.u64(8)
    }
    pub(crate) fn offset(self) -> Option<u64> {
        Some(self.u64(16)).filter(|offset| *offset != u64::MAX)
    }
    pub(crate) fn partition(self) -> Option<u32> {
        Some(self.u32(24)).filter(|partition| *partition != u32::MAX)
    }
    pub(crate) fn attempt(self) -> u32 {
        self.u32(28)
    }
    pub(crate) fn max_attempts(self) -> u32 {
        self.u32(32)
    }
    pub(crate) fn reprocessed(self) -> u32 {
        self.u32(36)
    }

    pub(crate) fn headers(self) -> HeaderViews<'b> {
        let rest = self
            .0
            .get(self.place(HEADERS)..)
            .unwrap_or_else(|| broken("the headers leave their event"));
        HeaderViews {
            left: self.u32(44),
            rest,
        }
    }
}

/// Headers, each with the lengths of its name and value before them.
#[derive(Debug, Clone)]
pub(crate) struct HeaderViews<'b> {
    left: u32,
    rest: &'b [u8],
}

impl<'b> Iterator for HeaderViews<'b> {
    type Item = (&'b str, &'b [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let name = self.take();
        let value = self.take();
        Some((text(name), value))
    }
}

impl<'b> HeaderViews<'b> {
    fn take(&mut self) -> &'b [u8] {
        let taken = self
            .rest
            .split_first_chunk()
            .and_then(|(length, rest)| rest.split_at_checked(u32::from_le_bytes(*length) as usize));
        let (taken, rest) = taken.unwrap_or_else(|| broken("a header leaves its event"));
        self.rest = rest;
        taken
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_else(|_| broken("text is not UTF-8"))
}

#[cold]
#[allow(clippy::panic, reason = "the host broke the contract: a trap is the answer")]
fn broken(what: &str) -> ! {
    panic!("the packed buffer of the host breaks the contract: {what}")
}
