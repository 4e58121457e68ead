//! Bugs on purpose, to prove that the torture run would find them. Nothing of this is in a host that ships.
//!
//! With the cargo feature `planted`, `HELIX_PLANTED=<name>` turns one bug on. Without it [`is`] is a constant `false` and
//! the compiler removes every branch that asks.

use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

/// Between an acknowledgement that comes too early and what it should have waited for: longer than adapters hold
/// acknowledgements back, as a batching writer would make it.
pub const PAUSE: Duration = Duration::from_millis(400);

/// A defect of the kind that loses, repeats or reorders messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// The input is acknowledged when its handler starts.
    AckBeforeHandle,
    /// The commit goes up to the highest finished offset, not to the end of the finished prefix.
    CommitMaximum,
    /// The input is acknowledged before its dead letter is on disk.
    DeadLetterAfterAck,
    /// What was pulled runs although its partition or connection is gone, and its settlement counts.
    NoFence,
    /// Output is sent although the handler did not say done.
    OutputBeforeDone,
    /// A call that a new version overtakes loses its result.
    NonAtomicSwap,
    /// The input is acknowledged before its retry is on disk.
    RetryRowAfterAck,
    /// A message whose handler traps keeps its permit for ever.
    PermitLeakedOnTrap,
    /// The deadline of a call is a time of the wall clock.
    WallClockDeadline,
    /// The embedded broker confirms without syncing its file.
    FsyncSkipped,
    /// A host that starts does not know which keys wait in the store.
    ParkForgottenOverRestart,
    /// A replay writes down that a batch is done before its copies are confirmed.
    CheckpointBeforeConfirm,
    /// Whoever does not get the claim of a dead letter sends it all the same.
    RedriveWithoutCompareAndSet,
    /// A dead letter ends before its queue has confirmed the message.
    LetterRemovedBeforeConfirm,
    /// A job or replay that was cancelled is not asked whether it was.
    CancelOnlyFlipsAFlag,
}

impl Bug {
    pub const ALL: [Self; 15] = [
        Self::AckBeforeHandle,
        Self::CommitMaximum,
        Self::DeadLetterAfterAck,
        Self::NoFence,
        Self::OutputBeforeDone,
        Self::NonAtomicSwap,
        Self::RetryRowAfterAck,
        Self::PermitLeakedOnTrap,
        Self::WallClockDeadline,
        Self::FsyncSkipped,
        Self::ParkForgottenOverRestart,
        Self::CheckpointBeforeConfirm,
        Self::RedriveWithoutCompareAndSet,
        Self::LetterRemovedBeforeConfirm,
        Self::CancelOnlyFlipsAFlag,
    ];

    /// The value of `HELIX_PLANTED`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AckBeforeHandle => "ack-before-handle",
            Self::CommitMaximum => "commit-maximum",
            Self::DeadLetterAfterAck => "dead-letter-after-ack",
            Self::NoFence => "no-fence",
            Self::OutputBeforeDone => "output-before-done",
            Self::NonAtomicSwap => "non-atomic-swap",
            Self::RetryRowAfterAck => "retry-row-after-ack",
            Self::PermitLeakedOnTrap => "permit-leaked-on-trap",
            Self::WallClockDeadline => "wall-clock-deadline",
            Self::FsyncSkipped => "fsync-skipped",
            Self::ParkForgottenOverRestart => "park-forgotten-over-restart",
            Self::CheckpointBeforeConfirm => "checkpoint-before-confirm",
            Self::RedriveWithoutCompareAndSet => "redrive-without-compare-and-set",
            Self::LetterRemovedBeforeConfirm => "letter-removed-before-confirm",
            Self::CancelOnlyFlipsAFlag => "cancel-only-flips-a-flag",
        }
    }
}

/// The bug that this process shall have.
#[cfg(feature = "planted")]
pub fn chosen() -> Option<Bug> {
    static CHOSEN: OnceLock<Option<Bug>> = OnceLock::new();
    *CHOSEN.get_or_init(|| {
        let name = std::env::var("HELIX_PLANTED").ok()?;
        Bug::ALL.into_iter().find(|bug| bug.name() == name)
    })
}

#[cfg(feature = "planted")]
pub fn is(bug: Bug) -> bool {
    chosen() == Some(bug)
}

#[cfg(not(feature = "planted"))]
pub const fn is(_: Bug) -> bool {
    false
}

/// Now, as a program would see it that measures intervals with the wall clock.
pub fn wall_instant() -> Instant {
    static START: OnceLock<(SystemTime, Instant)> = OnceLock::new();
    let (wall, instant) = *START.get_or_init(|| (SystemTime::now(), Instant::now()));
    instant + SystemTime::now().duration_since(wall).unwrap_or_default()
}
