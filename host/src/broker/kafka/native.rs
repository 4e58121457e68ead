//! The few librdkafka calls that rdkafka does not wrap: one queue for all fetched messages, commits with a deadline, a
//! metadata request that names no topics.
//!
//! Why a queue of our own: in the consumer's queue, messages and group events share one line, so a host that is full
//! could only pause its partitions, and a pause throws away everything fetched ahead. With messages in a queue of
//! their own, a full host just does not take any; group events are served all the same, and the local queue's size
//! (`queued.max.messages.kbytes`) stays the bound of memory.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::bindings as sys;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::{RDKafka, RDKafkaRespErr};

use super::convert::{Pairs, Record};

/// The handle of a client, valid while the client lives.
pub type Handle = *mut RDKafka;

/// An owned `rd_kafka_queue_t`. Must be dropped before the client is.
pub struct Queue(NonNull<sys::rd_kafka_queue_t>);

// SAFETY: librdkafka's queues are locked inside; every call used here is documented as thread-safe.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the pointer came from rd_kafka_queue_new or _get_partition and is destroyed once, here.
        unsafe { sys::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

impl Queue {
    pub fn new(client: Handle) -> Option<Self> {
        // SAFETY: the caller's client is alive.
        NonNull::new(unsafe { sys::rd_kafka_queue_new(client) }).map(Self)
    }

    /// Lets everything fetched from a partition arrive here. Called before the partition is assigned, and again from
    /// time to time: librdkafka takes the forwarding back when a partition stops. Harmless when it is in place.
    pub fn collect(&self, client: Handle, topic: &str, partition: i32) {
        let Ok(topic) = CString::new(topic) else { return };
        // SAFETY: the client is alive, the name is a C string that outlives the call.
        let source = unsafe { sys::rd_kafka_queue_get_partition(client, topic.as_ptr(), partition) };
        let Some(source) = NonNull::new(source).map(Queue) else {
            return;
        };
        // SAFETY: both queues are alive and belong to the same client; librdkafka counts its own reference to ours.
        unsafe { sys::rd_kafka_queue_forward(source.0.as_ptr(), self.0.as_ptr()) }
    }

    /// Waits up to `wait` for a first message, then takes what is there, at most `max`. Each message or consumer error is
    /// shown to `see` once; what it borrows is gone afterwards.
    pub fn take(
        &self,
        max: usize,
        wait: Duration,
        mut see: impl FnMut(Result<Record<'_>, RDKafkaErrorCode>),
    ) {
        let mut messages = vec![ptr::null_mut::<sys::rd_kafka_message_t>(); max.max(1)];
        // A batch call waits until it is full or the time is up, hence one message with a wait, the rest without.
        let mut count = self.fill(&mut messages, 1, wait);
        if count == 1 && max > 1 {
            count += messages
                .get_mut(1..)
                .map_or(0, |rest| self.fill(rest, max - 1, Duration::ZERO));
        }
        for &message in messages.iter().take(count) {
            // SAFETY: librdkafka filled in the first `count` pointers; each is alive until destroyed right below.
            unsafe {
                if let Some(message) = message.as_ref() {
                    see(record(message));
                }
                sys::rd_kafka_message_destroy(message);
            }
        }
    }

    fn fill(&self, room: &mut [*mut sys::rd_kafka_message_t], max: usize, wait: Duration) -> usize {
        let size = max.min(room.len());
        // SAFETY: the array has room for `size` pointers.
        let count = unsafe {
            sys::rd_kafka_consume_batch_queue(self.0.as_ptr(), millis(wait), room.as_mut_ptr(), size)
        };
        usize::try_from(count).unwrap_or(0)
    }
}

/// # Safety
/// The message and what it points to must be alive for as long as the result.
unsafe fn record(message: &sys::rd_kafka_message_t) -> Result<Record<'_>, RDKafkaErrorCode> {
    if message.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Err(message.err.into());
    }
    let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: the caller vouches for the message.
    unsafe {
        Ok(Record {
            partition: u32::try_from(message.partition).unwrap_or(0),
            offset: u64::try_from(message.offset).unwrap_or(0),
            timestamp_ms: u64::try_from(sys::rd_kafka_message_timestamp(message, &raw mut kind)).ok(),
            key: slice(message.key, message.key_len),
            body: slice(message.payload, message.len),
            headers: headers(message),
        })
    }
}

/// # Safety
/// As [`record`].
unsafe fn headers(message: &sys::rd_kafka_message_t) -> Pairs<'_> {
    let mut out = Pairs::new();
    let mut list = ptr::null_mut();
    // SAFETY: the list belongs to the message; names are C strings, values are `size` bytes or null.
    unsafe {
        if sys::rd_kafka_message_headers(message, &raw mut list) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            return out;
        }
        let (mut name, mut value, mut size) = (ptr::null::<c_char>(), ptr::null::<c_void>(), 0usize);
        while sys::rd_kafka_header_get_all(list, out.len(), &raw mut name, &raw mut value, &raw mut size)
            == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            out.push((
                CStr::from_ptr(name).to_bytes(),
                slice(value, size).unwrap_or_default(),
            ));
        }
    }
    out
}

/// # Safety
/// `data` is null or points to `len` bytes that live as long as the result.
unsafe fn slice<'a>(data: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: the caller vouches for pointer and length.
    (!data.is_null()).then(|| unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) })
}

/// Commits whose answers come to a queue of their own. rdkafka's callback hears nothing of a commit that a rebalance refuses
/// (seen with 2.12.1: "group generation id is not valid" in the log, no callback), and what nobody hears of nobody repeats.
pub struct Commits(Queue);

impl Commits {
    pub fn new(client: Handle) -> Result<Self, KafkaError> {
        let queue = Queue::new(client);
        queue.map(Self).ok_or(KafkaError::ConsumerCommit(
            RDKafkaErrorCode::CriticalSystemResource,
        ))
    }

    /// Exactly one answer follows each `Ok`.
    pub fn ask(&self, client: Handle, offsets: &TopicPartitionList) -> Result<(), KafkaError> {
        // SAFETY: client, list and queue are alive; librdkafka copies the list.
        let sent = unsafe {
            sys::rd_kafka_commit_queue(client, offsets.ptr(), self.0.0.as_ptr(), None, ptr::null_mut())
        };
        match sent {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            error => Err(KafkaError::ConsumerCommit(error.into())),
        }
    }

    /// The next answer, if it comes in time: the first error, of the whole or of a partition.
    pub fn answer(&self, limit: Duration) -> Option<Result<(), KafkaError>> {
        // SAFETY: the queue is alive; event and list are until the event is destroyed, once, at the end.
        let error = unsafe {
            let event = sys::rd_kafka_queue_poll(self.0.0.as_ptr(), millis(limit));
            if event.is_null() {
                return None;
            }
            let mut error = sys::rd_kafka_event_error(event);
            if let Some(list) = sys::rd_kafka_event_topic_partition_list(event).as_ref()
                && error == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
                && !list.elems.is_null()
            {
                let count = usize::try_from(list.cnt).unwrap_or(0);
                let failed = std::slice::from_raw_parts(list.elems, count)
                    .iter()
                    .find(|at| at.err != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
                error = failed.map_or(error, |at| at.err);
            }
            sys::rd_kafka_event_destroy(event);
            error
        };
        Some(match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
            error => Err(KafkaError::ConsumerCommit(error.into())),
        })
    }
}

/// Commits and waits for the broker's answer, but not for longer than `limit` (rdkafka's own waits without a bound).
pub fn commit_within(
    client: Handle,
    offsets: &TopicPartitionList,
    limit: Duration,
) -> Result<(), KafkaError> {
    let commits = Commits::new(client)?;
    commits.ask(client, offsets)?;
    commits.answer(limit).unwrap_or(Err(KafkaError::ConsumerCommit(
        RDKafkaErrorCode::OperationTimedOut,
    )))
}

/// True when some broker answers a metadata request that asks for no topic in particular (asking for all of them is heavy
/// on a large cluster and may not be permitted).
pub fn ping(client: Handle, limit: Duration) -> Result<(), RDKafkaErrorCode> {
    let mut metadata = ptr::null();
    // SAFETY: the client is alive; on success the metadata is ours and destroyed once.
    unsafe {
        let error = sys::rd_kafka_metadata(client, 0, ptr::null_mut(), &raw mut metadata, millis(limit));
        if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(error.into());
        }
        sys::rd_kafka_metadata_destroy(metadata);
    }
    Ok(())
}

fn millis(d: Duration) -> i32 {
    i32::try_from(d.as_millis()).unwrap_or(i32::MAX)
}
