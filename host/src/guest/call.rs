//! One version of a plugin at work: which export to call, and what its answer means for each message.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::engine::TickingEngine;
use super::grants::Denial;
use super::instance::{Ended, Entry, START_LIMIT, StartFault};
use super::log::Stream;
use super::packed::Said;
use super::pool::Pool;
use super::trap::{self, Fault};
use super::{Completion, Exports, ImportStatus, Invocation, Version, grants, log};
use crate::error::{PLUGIN_INVALID, PLUGIN_WRONG_WORLD};
use crate::model::{Digest, Failure, MessageKind, Outcome, Outgoing};
use crate::planted::{self, Bug};

/// Codes are kept with every attempt, and dead letters are grouped by them.
const CODE: usize = 255;

/// Above this, packing copies more than it saves (measured: 16 KiB still gains, 64 KiB does not).
const PACKED_PAYLOAD: usize = 16 << 10;

pub(super) struct Loaded {
    pub(super) digest: Digest,
    pub(super) exports: Exports,
    /// Interfaces the component imports, with their versions.
    pub(super) imports: Vec<String>,
    pub(super) pool: Pool,
    /// Keeps the epoch going while a call holds on to this version.
    pub(super) _engine: Arc<TickingEngine>,
}

#[async_trait]
impl Version for Loaded {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn exports(&self) -> Exports {
        self.exports
    }

    fn batch_limit(&self, kind: MessageKind) -> usize {
        // As `batching` decides: a handler that reaches out is entered once a message.
        if self.pool.mould.reaches_out && !self.exports.event_batch {
            return 1;
        }
        self.exports.max_batch(kind)
    }

    async fn call(&self, batch: &[Invocation<'_>]) -> Vec<Completion> {
        let Some(first) = batch.first() else {
            return Vec::new();
        };
        let kind = first.envelope.origin.kind;
        if !self.exports.handles(kind) {
            return batch.iter().map(|_| self.no_handler(kind)).collect();
        }
        let Some(_permit) = self.pool.permit().await else {
            return batch
                .iter()
                .map(|_| refused("host.stopping", "the plugin's pool is closed"))
                .collect();
        };
        if batch.len() > 1
            && !batch.iter().any(|i| i.fresh)
            && let Some((entry, limit)) = self.batching(kind, batch)
            && let Some(completions) = self.many(entry, batch, limit).await
        {
            return completions;
        }
        // One by one: no batch, or one that trapped and must not cost the messages beside the culprit.
        let mut completions = Vec::with_capacity(batch.len());
        for invocation in batch {
            let one = std::slice::from_ref(invocation);
            completions.push(self.one(self.entry(kind, one), invocation).await);
        }
        completions
    }
}

impl Loaded {
    pub(super) fn import_status(&self) -> Vec<ImportStatus> {
        let plugin = self.pool.settings();
        let status = |interface: &String| {
            let (granted, grant) = grants::import(&plugin, interface);
            ImportStatus {
                interface: interface.clone(),
                granted,
                grant,
            }
        };
        self.imports.iter().map(status).collect()
    }

    fn entry(&self, kind: MessageKind, batch: &[Invocation<'_>]) -> Entry {
        let Exports {
            event,
            event_batch,
            packed,
            ..
        } = self.exports;
        match kind {
            MessageKind::Task => Entry::Task,
            MessageKind::Event => {
                let small = batch.iter().all(|i| i.envelope.payload.len() <= PACKED_PAYLOAD);
                if packed && (small || !(event || event_batch)) {
                    Entry::Packed
                } else if event_batch {
                    Entry::Batch
                } else {
                    Entry::Event
                }
            }
        }
    }

    /// How to run several at once, and for how long at most; none = one by one.
    fn batching(&self, kind: MessageKind, batch: &[Invocation<'_>]) -> Option<(Entry, Duration)> {
        match self.entry(kind, batch) {
            // Its author asked for batches: each message brings its time along.
            Entry::Batch => {
                let sum = batch
                    .iter()
                    .fold(Duration::ZERO, |sum, i| sum.saturating_add(i.timeout));
                Some((Entry::Batch, sum))
            }
            // The handler behind it is written for one event. One that asks others over the network gains nothing from
            // packing, and a batch run again would ask them twice. Without effects outside, the time of one message is
            // enough for many, and an endless loop among them costs no more than that.
            Entry::Packed if !self.pool.mould.reaches_out => {
                Some((Entry::Packed, batch.iter().map(|i| i.timeout).max()?))
            }
            _ => None,
        }
    }

    async fn one(&self, entry: Entry, invocation: &Invocation<'_>) -> Completion {
        let started = Instant::now();
        let mut instance = match self.pool.lend(invocation.fresh).await {
            Ok(instance) => instance,
            Err(fault) => return start_failed(fault, started.elapsed()),
        };
        let batch = std::slice::from_ref(invocation);
        let ended = instance
            .run(entry, batch, invocation.timeout, self.pool.mould.speaks)
            .await;
        let Ended {
            said,
            staged,
            denied,
            withheld,
            log,
        } = ended;
        let outcome = match said {
            Ok(said) => {
                if !invocation.fresh {
                    self.pool.give_back(instance);
                }
                said.into_iter().next().map_or(Outcome::Done, outcome)
            }
            // The instance is dropped here, and with it the store.
            Err(fault) => trap::outcome(fault, &log, invocation.timeout),
        };
        let outputs = staged.into_iter().map(|(_, output)| output).collect();
        Completion {
            withheld,
            ..complete(outcome, outputs, denied.as_ref(), lines(log), started.elapsed())
        }
    }

    /// None: the batch trapped or took too long.
    async fn many(&self, entry: Entry, batch: &[Invocation<'_>], limit: Duration) -> Option<Vec<Completion>> {
        let started = Instant::now();
        let mut instance = self.pool.lend(false).await.ok()?;
        let Ended {
            said,
            staged,
            denied,
            withheld,
            log,
        } = instance.run(entry, batch, limit, self.pool.mould.speaks).await;
        let said = match said {
            Ok(said) => said,
            Err(fault) => {
                tracing::debug!(
                    ?fault,
                    messages = batch.len(),
                    "a batch failed and runs again one by one"
                );
                return None;
            }
        };
        self.pool.give_back(instance);

        let mut outputs: Vec<Vec<Outgoing>> = batch.iter().map(|_| Vec::new()).collect();
        for (place, output) in staged {
            if let Some(own) = outputs.get_mut(place) {
                own.push(output);
            }
        }
        let share = started.elapsed() / u32::try_from(batch.len()).unwrap_or(u32::MAX).max(1);
        // Nobody can tell which message a line belongs to: those that failed get all of them, else the first does.
        let log = lines(log);
        let failed = said.iter().any(|s| *s != Said::Ok);
        let completions = said
            .into_iter()
            .zip(outputs)
            .enumerate()
            .map(|(place, (said, outputs))| {
                let wants = if failed { said != Said::Ok } else { place == 0 };
                let log = if wants { log.clone() } else { Vec::new() };
                Completion {
                    withheld: withheld.clone(),
                    ..complete(outcome(said), outputs, denied.as_ref(), log, share)
                }
            });
        Some(completions.collect())
    }

    fn no_handler(&self, kind: MessageKind) -> Completion {
        let plugin = self.pool.settings();
        refused(
            &PLUGIN_WRONG_WORLD.to_string(),
            &format!(
                "plugin `{}` exports no handler for {kind}s; it has {}",
                plugin.name,
                describe(self.exports),
                kind = kind.as_str()
            ),
        )
    }
}

/// "task-handler, event-handler"
pub(super) fn describe(exports: Exports) -> String {
    let names = [
        (exports.task, "task-handler"),
        (exports.event, "event-handler"),
        (exports.event_batch, "event-batch-handler"),
        (exports.packed, "packed-handler"),
    ];
    let names: Vec<_> = names
        .into_iter()
        .filter_map(|(has, name)| has.then_some(name))
        .collect();
    names.join(", ")
}

fn outcome(said: Said) -> Outcome {
    let failure = |reason, code: Option<String>| Failure {
        code: code.map(|code| log::brief(&code, CODE)),
        ..Failure::new(reason)
    };
    match said {
        Said::Ok => Outcome::Done,
        Said::Retry {
            after_ms,
            reason,
            code,
        } => Outcome::Retry {
            failure: failure(reason, code),
            after: after_ms.map(Duration::from_millis),
        },
        Said::Reject { reason, code } => Outcome::Reject {
            failure: failure(reason, code),
        },
    }
}

/// Drops the outputs of what failed, and tells about a refusal that may be the cause.
fn complete(
    mut outcome: Outcome,
    outputs: Vec<Outgoing>,
    denied: Option<&Denial>,
    mut log: Vec<String>,
    duration: Duration,
) -> Completion {
    let outputs = if outcome == Outcome::Done || planted::is(Bug::OutputBeforeDone) {
        outputs
    } else {
        Vec::new()
    };
    if let Some(Denial { code, text }) = denied {
        log.push(format!("helix: refused: {text}"));
        let failure = match &mut outcome {
            Outcome::Done => None,
            Outcome::Retry { failure, .. }
            | Outcome::Reject { failure }
            | Outcome::Trap { failure }
            | Outcome::Timeout { failure, .. }
            | Outcome::Refused { failure } => Some(failure),
        };
        if let Some(failure) = failure {
            let trapped = failure
                .code
                .as_deref()
                .is_none_or(|code| code.starts_with("trap."));
            let code = if trapped {
                Some((*code).to_owned())
            } else {
                failure.code.take()
            };
            let reason = if failure.reason.contains(text.as_str()) {
                std::mem::take(&mut failure.reason)
            } else {
                format!("{text}. The handler said: {}", failure.reason)
            };
            *failure = Failure {
                code,
                ..Failure::new(reason)
            };
        }
    }
    Completion {
        outcome,
        outputs,
        withheld: None,
        log,
        duration,
    }
}

fn start_failed(fault: StartFault, duration: Duration) -> Completion {
    let (outcome, log) = match fault {
        StartFault::Guest(fault, log) => {
            let outcome = match fault {
                Fault::Trap { code, text, place } => {
                    let text = format!("while it started: {text}");
                    trap::outcome(Fault::Trap { code, text, place }, &log, START_LIMIT)
                }
                Fault::Timeout => Outcome::Timeout {
                    limit: START_LIMIT,
                    failure: Failure::coded(
                        "timeout",
                        format!("an instance did not start within {START_LIMIT:?}"),
                    ),
                },
            };
            (outcome, lines(log))
        }
        StartFault::Contract(text) => (
            Outcome::Refused {
                failure: Failure::coded(PLUGIN_INVALID.to_string(), text),
            },
            Vec::new(),
        ),
        StartFault::Room(text) => (
            Outcome::Refused {
                failure: Failure::coded("host.instances", text),
            },
            Vec::new(),
        ),
    };
    complete(outcome, Vec::new(), None, log, duration)
}

fn refused(code: &str, reason: &str) -> Completion {
    let outcome = Outcome::Refused {
        failure: Failure::coded(code, reason),
    };
    Completion {
        outcome,
        outputs: Vec::new(),
        withheld: None,
        log: Vec::new(),
        duration: Duration::ZERO,
    }
}

fn lines(log: Vec<(Stream, String)>) -> Vec<String> {
    log.into_iter().map(|(_, line)| line).collect()
}
