//! What was asked of the broker and what it answered: all that a restart may be judged by.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use helix_host::broker::{Confirmed, PublishError};
use helix_host::encode::encode;
use helix_host::model::{MessageKind, Outgoing, RawMessage, WireFormat};

/// Messages of one `publish` that fill no more than a job go into one transaction.
const ONE_JOB: usize = 256;

#[derive(Default)]
pub struct Model(Mutex<Known>);

#[derive(Default)]
pub struct Known {
    pub messages: BTreeMap<String, Message>,
    /// Ids of one call, in order.
    calls: Vec<Vec<String>>,
    /// What `close` of the event source answered for: by partition, the position it promised.
    pub flushed_to: HashMap<u32, u64>,
    pub confirmed: u64,
    pub acked: u64,
}

pub struct Message {
    pub kind: MessageKind,
    pub priority: u8,
    body: Option<Vec<u8>>,
    key: Option<Vec<u8>>,
    pub stored: Stored,
    /// Partition and offset; tasks have no partition, delayed ones no offset either.
    place: Option<(u32, u64)>,
    /// A handler may have run.
    begun: bool,
    pub acked: bool,
    /// The acknowledgement is on disk, says the broker.
    flushed: bool,
}

/// Without its bytes.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            stored,
            place,
            begun,
            acked,
            flushed,
            ..
        } = self;
        let marks = [("begun", *begun), ("acked", *acked), ("ack on disk", *flushed)];
        let marks: Vec<_> = marks
            .iter()
            .filter(|(_, is)| *is)
            .map(|(mark, _)| *mark)
            .collect();
        write!(f, "{:?} at {place:?}, stored: {stored:?}, {marks:?}", self.kind)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// No answer yet, or "unknown".
    Maybe,
    /// Confirmed, or seen after a restart.
    Yes,
    /// Refused, not found after a restart, or acknowledged and gone.
    No,
}

impl Model {
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn asked(&self, batch: &[Outgoing]) {
        let mut known = self.known();
        known.calls.push(batch.iter().map(|m| m.id.clone()).collect());
        for message in batch {
            let wire = encode(message, WireFormat::default());
            let fresh = Message {
                kind: message.kind,
                priority: message.priority.unwrap_or(0),
                body: wire.body.map(Into::into),
                key: wire.key.map(Into::into),
                stored: Stored::Maybe,
                place: None,
                begun: false,
                acked: false,
                flushed: false,
            };
            known.messages.insert(message.id.clone(), fresh);
        }
    }

    pub fn answered(&self, ids: &[String], answers: &[Result<Confirmed, PublishError>]) {
        let mut known = self.known();
        for (id, answer) in ids.iter().zip(answers) {
            known.confirmed += u64::from(answer.is_ok());
            let Some(message) = known.messages.get_mut(id) else {
                continue;
            };
            match answer {
                Ok(at) => {
                    message.stored = Stored::Yes;
                    message.place = at.offset.map(|offset| (at.partition.unwrap_or(0), offset));
                }
                Err(PublishError::Unknown(_)) => {}
                Err(_) => message.stored = Stored::No,
            }
        }
    }

    pub fn begun(&self, id: &str) {
        if let Some(message) = self.known().messages.get_mut(id) {
            message.begun = true;
        }
    }

    /// To be called before the acknowledgement is given.
    pub fn acked(&self, id: &str) {
        let mut known = self.known();
        known.acked += 1;
        if let Some(message) = known.messages.get_mut(id) {
            message.acked = true;
        }
    }

    /// A source of that kind, the only one, was closed in good order: all its acknowledgements are on disk.
    pub fn flushed(&self, kind: MessageKind) {
        let mut known = self.known();
        if kind == MessageKind::Event {
            for partition in 0..3 {
                let to = known.acked_to(partition);
                known.flushed_to.insert(partition, to);
            }
            return;
        }
        let acked = known.messages.values_mut().filter(|m| m.kind == kind && m.acked);
        acked.for_each(|message| message.flushed = true);
    }
}

impl Known {
    /// The end of the acknowledged prefix of a partition.
    pub fn acked_to(&self, partition: u32) -> u64 {
        let events = self.messages.values().filter(|m| m.kind == MessageKind::Event);
        let places = events.filter_map(|m| {
            m.place
                .filter(|(p, _)| *p == partition)
                .map(|(_, at)| (at, m.acked))
        });
        let places: BTreeMap<u64, bool> = places.collect();
        let mut end = 0;
        while places.get(&end) == Some(&true) {
            end += 1;
        }
        end
    }

    /// A stored message is what was published, in its place.
    pub fn check(&self, raw: &RawMessage) -> Result<(), String> {
        let id = id(raw);
        let Some(message) = self.messages.get(id) else {
            return Err(format!("`{id}` is there and was never published"));
        };
        if message.stored == Stored::No {
            return Err(format!("`{id}` is there again, or was refused: {message:?}"));
        }
        if message.body.as_deref() != raw.body.as_deref() || message.key.as_deref() != raw.key.as_deref() {
            return Err(format!("`{id}` is there with other bytes"));
        }
        let place = raw
            .origin
            .offset
            .map(|offset| (raw.origin.partition.unwrap_or(0), offset));
        if message.place.is_some() && message.place != place {
            return Err(format!(
                "`{id}` was confirmed at {:?} and is at {place:?}",
                message.place
            ));
        }
        Ok(())
    }

    /// A message that will be delivered again.
    pub fn check_delivery(&self, raw: &RawMessage) -> Result<(), String> {
        self.check(raw)?;
        let (id, message) = (id(raw), self.messages.get(id(raw)));
        match message {
            Some(m) if m.flushed => Err(format!(
                "`{id}` comes again although its acknowledgement was on disk"
            )),
            Some(m) if m.begun && !raw.redelivered => Err(format!(
                "`{id}` may have run and is not flagged: {:?} {m:?}",
                raw.origin
            )),
            _ => Ok(()),
        }
    }

    /// Every message that has to be stored is among `found`, and calls are stored in their order.
    pub fn check_complete(&self, found: &BTreeSet<String>) -> Result<(), String> {
        for (id, message) in &self.messages {
            let may_be_gone = message.kind == MessageKind::Task && message.acked;
            if message.stored == Stored::Yes && !may_be_gone && !found.contains(id) {
                return Err(format!("`{id}` was confirmed and is lost: {message:?}"));
            }
        }
        for call in &self.calls {
            let open = |id: &String| {
                self.messages
                    .get(id)
                    .is_some_and(|m| m.stored == Stored::Maybe && !m.acked)
            };
            if !call.iter().all(open) {
                continue;
            }
            let there: Vec<bool> = call.iter().map(|id| found.contains(id)).collect();
            let whole = there.iter().all(|there| *there == there_first(call, found));
            if !there.is_sorted_by(|a, b| a >= b) || (call.len() <= ONE_JOB && !whole) {
                return Err(format!("a part of one call is stored: {call:?} {there:?}"));
            }
        }
        Ok(())
    }

    /// From now on this is what is stored, and what will be delivered.
    pub fn settle(&mut self, found: &BTreeMap<String, (u32, u64)>, deliverable: &BTreeSet<String>) {
        for (id, message) in &mut self.messages {
            let Some(place) = found.get(id) else {
                message.stored = Stored::No;
                continue;
            };
            message.stored = Stored::Yes;
            message.place = Some(*place);
            message.acked = !deliverable.contains(id);
        }
        self.calls.clear();
        let ends: Vec<_> = (0..3)
            .map(|partition| (partition, self.acked_to(partition)))
            .collect();
        self.flushed_to.extend(ends);
    }
}

fn there_first(call: &[String], found: &BTreeSet<String>) -> bool {
    call.first().is_some_and(|id| found.contains(id))
}

pub fn id(raw: &RawMessage) -> &str {
    raw.props.message_id.as_deref().unwrap_or("(none)")
}
