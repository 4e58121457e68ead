//! The words of the trade. Plain values, no I/O, nothing of ours is imported here.

pub mod clock;
pub mod dead_letter;
pub mod digest;
pub mod envelope;
pub mod fingerprint;
pub mod header;
pub mod ids;
pub mod origin;
pub mod outcome;
pub mod outgoing;
pub mod raw;
pub mod replay;
pub mod role;
pub mod verdict;

pub use clock::{Clock, SystemClock, UnixMs};
pub use dead_letter::{Attempt, DeadLetter, FailureClass, LetterState};
pub use digest::Digest;
pub use envelope::{Envelope, TraceContext};
pub use fingerprint::Fingerprint;
pub use header::Headers;
pub use ids::{Ids, UuidIds};
pub use origin::{BrokerKind, MessageKind, Origin};
pub use outcome::{Failure, Outcome};
pub use outgoing::{Outgoing, WireFormat};
pub use raw::RawMessage;
pub use replay::{Replay, ReplayStatus};
pub use role::Role;
pub use verdict::Verdict;
