//! What is in the store that hosts share, read once they have left.

use std::sync::Arc;

use anyhow::Result;
use helix_host::model::clock::SystemClock;
use helix_host::store::postgres::{Options, PostgresStore};
use helix_host::store::{DeadLetters, Jobs, LetterFilter, Page, Replays};
use helix_tests::variable;

use crate::history::{History, Step, What};

/// Letters with their trails, jobs, replays.
///
/// # Errors
/// When it cannot be read.
pub async fn all(schema: &str, history: &History) -> Result<()> {
    let options = Options {
        url: variable("HELIX_TEST_POSTGRES_URL").into(),
        schema: schema.to_owned(),
        host: "observer".into(),
    };
    let store = PostgresStore::open(&options, Arc::new(SystemClock)).await?;
    let read = read(&store, history).await;
    store.close().await;
    read
}

async fn read(store: &PostgresStore, history: &History) -> Result<()> {
    let mut cursor = None;
    loop {
        let page = Page {
            limit: 500,
            offset: 0,
            cursor,
        };
        let found = store.list(&LetterFilter::default(), &page).await?;
        for letter in found.letters {
            let trail = store.trail(&letter.id).await?;
            history.add(What::Kept {
                class: letter.class.as_str().to_owned(),
                state: letter.state.as_str().to_owned(),
                id: letter.message_id.unwrap_or_else(|| letter.id.clone()),
                letter: letter.id,
                trail: trail
                    .into_iter()
                    .map(|entry| Step {
                        at: history.at(entry.at_ms),
                        actor: entry.note.actor,
                        action: entry.note.action.into_owned(),
                        from: entry.from.as_str().to_owned(),
                        to: entry.to.as_str().to_owned(),
                        reason: entry.note.reason,
                    })
                    .collect(),
            });
        }
        cursor = found.next;
        if cursor.is_none() {
            break;
        }
    }
    for job in store.jobs(None, 1000).await? {
        history.add(What::Job {
            id: job.id,
            state: job.state.as_str().to_owned(),
            total: job.total,
            done: job.done + job.failed + job.skipped,
        });
    }
    for replay in store.newest(1000).await? {
        let (plan, progress) = (&replay.plan, &replay.progress);
        let offset = |offset: u64| i64::try_from(offset).unwrap_or(i64::MAX);
        history.add(What::Replay {
            state: replay.status.as_str().to_owned(),
            batch: plan.options.batch_size as u64,
            total: replay.total(),
            replayed: progress.replayed,
            done: progress.done(),
            from: history.at(replay.created_ms),
            to: replay.ended_ms.map_or(u64::MAX, |at| history.at(at)),
            stretches: plan
                .stretches
                .iter()
                .map(|of| (i64::from(of.partition), offset(of.from), offset(of.to)))
                .collect(),
            id: replay.id,
        });
    }
    Ok(())
}
