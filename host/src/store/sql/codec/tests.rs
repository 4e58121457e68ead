//! Whatever a broker hands over comes back the same, and nothing else is taken for a message.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;

fn text() -> impl Strategy<Value = String> {
    ".{0,8}"
}

fn bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

prop_compose! {
    fn any_message()(
        (broker, destination, task) in (text(), text(), any::<bool>()),
        (partition, offset, timestamp_ms, redelivered) in any::<(Option<u32>, Option<u64>, Option<u64>, bool)>(),
        (body, key) in (of(bytes()), of(bytes())),
        headers in vec((text(), bytes()), 0..5),
        (content_type, message_type, message_id) in (of(text()), of(text()), of(text())),
        (correlation_id, reply_to) in (of(text()), of(text())),
        (priority, expires_ms) in any::<(Option<u8>, Option<u64>)>(),
    ) -> RawMessage {
        let kind = if task { MessageKind::Task } else { MessageKind::Event };
        RawMessage {
            origin: Origin { broker: broker.into(), kind, destination: destination.into(), partition, offset },
            body,
            key,
            headers: headers.into_iter().collect::<Headers>(),
            props: Properties { content_type, message_type, message_id, correlation_id, reply_to, priority, expires_ms },
            timestamp_ms,
            redelivered,
        }
    }
}

proptest! {
    #[test]
    fn a_message_is_kept_byte_for_byte(message in any_message()) {
        let blob = write(&message);
        prop_assert_eq!(read(blob.clone()), Some(message));
        for cut in 0..blob.len() {
            prop_assert_eq!(read(blob[..cut].to_vec()), None);
        }
    }

    #[test]
    fn foreign_bytes_are_no_message_and_no_panic(mut blob in vec(any::<u8>(), 0..80)) {
        if let Some(first) = blob.first_mut() {
            *first = 1;
        }
        let _ = read(blob);
    }
}
