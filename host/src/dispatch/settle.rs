//! Carries a verdict out: durable effects first, then the acknowledgement. A crash in between is a duplicate, never a loss.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::OwnedSemaphorePermit;

use super::context::Context;
use crate::broker::{PublishError, Receipt};
use crate::model::{DeadLetter, Failure, MessageKind, Outgoing};

/// A message that no handler will see: its letter, its receipt, its permit.
pub(super) type Refused = (DeadLetter, Receipt, OwnedSemaphorePermit);

/// Waits between tries of an effect while its target is away. The messages keep their permits, so intake slows down.
fn waits() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Tries a write to the store until it succeeds. None: the drain limit came first, nothing is known to be written.
pub(super) async fn persist<F, W, T>(context: &Context, what: &str, write: W) -> Option<T>
where
    W: Fn() -> F,
    F: Future<Output = Result<T, crate::store::Error>>,
{
    let mut waits = waits();
    let mut said = false;
    loop {
        let error = tokio::select! {
            biased;
            result = write() => match result {
                Ok(written) => return Some(written),
                Err(error) => error,
            },
            () = context.abort.cancelled() => return None,
        };
        if !said {
            said = true;
            tracing::error!(%error, "cannot {what}; the message stays unacknowledged and is tried again. Free disk space or repair the store (HX0401)");
        }
        tokio::select! {
            () = context.abort.cancelled() => return None,
            () = tokio::time::sleep(waits.next().unwrap_or_default()) => {}
        }
    }
}

/// Writes letters, then acknowledges their messages. Runs by itself; drain waits for it.
pub(super) fn bury_all(context: Arc<Context>, refused: Vec<Refused>) {
    context.busy.enter(refused.len());
    tokio::spawn(async move {
        let letters: Vec<DeadLetter> = refused.iter().map(|(letter, _, _)| letter.clone()).collect();
        let written = persist(&context, "write a dead letter", || {
            context.letters.enter(letters.clone())
        })
        .await;
        let n = refused.len();
        let mut ids = written.map(Vec::into_iter);
        for (letter, receipt, permit) in refused {
            if let Some(ids) = &mut ids {
                let id = ids.next();
                count_letter(&context, &letter, id.as_deref().unwrap_or(&letter.id));
                receipt.ack();
            }
            drop(permit);
        }
        context.busy.leave(n);
    });
}

/// `row`: the id of its row, another one than its own when it was sent again from there.
pub(super) fn count_letter(context: &Context, letter: &DeadLetter, row: &str) {
    let destination = &letter.raw.origin.destination;
    context
        .metrics
        .dead_lettered
        .with_label_values(&[&**destination, letter.class.as_str()])
        .inc();
    tracing::warn!(
        letter = %row,
        origin = %letter.raw.origin,
        class = letter.class.as_str(),
        code = letter.code.as_deref().unwrap_or(""),
        reason = %crate::telemetry::logs::printable(&letter.reason),
        "dead letter; look at it with `helix dlq show`"
    );
}

/// Why the output of a handler that said done could not be sent.
#[derive(Debug)]
pub(super) enum PublishFailure {
    /// No retry can help.
    Permanent(Failure),
    /// The drain limit came first.
    GivenUp,
}

/// Publishes all outputs of one message and waits for their confirms; tries again while brokers are away. The ids stay the
/// same, so a receiver recognises what arrives twice.
pub(super) async fn publish(context: &Context, mut outputs: Vec<Outgoing>) -> Result<(), PublishFailure> {
    let mut waits = waits();
    let mut said = false;
    loop {
        let mut again = Vec::new();
        let mut cause = None;
        for kind in [MessageKind::Task, MessageKind::Event] {
            let batch: Vec<Outgoing> = outputs.iter().filter(|o| o.kind == kind).cloned().collect();
            if batch.is_empty() {
                continue;
            }
            let (broker, publisher) = context.targets.of(kind);
            let results = tokio::select! {
                biased;
                results = publisher.publish(batch.clone()) => results,
                () = context.abort.cancelled() => return Err(PublishFailure::GivenUp),
            };
            for (output, result) in batch.into_iter().zip(results) {
                match result {
                    Ok(_) => {
                        context
                            .metrics
                            .published
                            .with_label_values(&[&**broker, &*output.destination])
                            .inc();
                    }
                    Err(error) if error.is_transient() => {
                        cause = Some(error);
                        again.push(output);
                    }
                    Err(error) => return Err(PublishFailure::Permanent(refusal(&output, &error))),
                }
            }
        }
        let Some(error) = cause else { return Ok(()) };
        if !said {
            said = true;
            tracing::warn!(%error, outputs = again.len(), "cannot publish handler output; its input stays unacknowledged and is tried again");
        }
        outputs = again;
        tokio::select! {
            () = context.abort.cancelled() => return Err(PublishFailure::GivenUp),
            () = tokio::time::sleep(waits.next().unwrap_or_default()) => {}
        }
    }
}

fn refusal(output: &Outgoing, error: &PublishError) -> Failure {
    let code = match error {
        PublishError::UnknownTarget(_) => "publish.unknown-target",
        PublishError::TooLarge { .. } => "publish.too-large",
        _ => "publish.invalid",
    };
    Failure::coded(
        code,
        format!("output {} to {}: {error}", output.id, output.destination),
    )
}
