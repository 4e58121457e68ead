//! What the attributes accept, and what their handlers do: from the outside, as a user crate sees it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use std::time::{Duration, UNIX_EPOCH};

use helix_sdk::prelude::*;
use helix_sdk::testing::{event, host, run, run_batch, task};
use serde_json::json;

#[derive(Debug, Deserialize)]
struct Scores {
    scores: Vec<Score>,
}

#[derive(Debug, Deserialize)]
struct Score {
    value: f64,
}

mod by_argument {
    use super::*;

    #[helix_sdk::task]
    pub fn json_and_context(scores: Json<Scores>, context: &Context) -> Handled {
        let total: f64 = scores.scores.iter().map(|score| score.value).sum();
        publish::event(context.message_type()).json(&total)?.send()?;
        Ok(())
    }

    #[helix_sdk::task]
    pub fn whole_task(task: Task<Scores>) -> Handled {
        match task.payload.scores.len() {
            0 => Err(reject(format_args!("{} has no scores", task.id()))),
            _ => Ok(()),
        }
    }

    #[helix_sdk::event]
    pub fn raw(bytes: &[u8]) {
        assert_eq!(bytes, [0, 255]);
    }

    #[helix_sdk::event(packed = false)]
    pub fn borrowed(Json(words): Json<Vec<&str>>, text: &str) -> Result<(), std::num::ParseIntError> {
        assert!(text.starts_with('['));
        words[0].parse::<u8>().map(|_| ())
    }

    #[helix_sdk::event]
    pub fn maybe(event: Event<Option<Scores>>) -> Handled {
        if event.data.is_none() && event.tombstone() {
            Ok(())
        } else {
            Err(retry("no tombstone"))
        }
    }
}

#[test]
fn arguments_are_made_from_the_message() {
    let scores = json!({ "scores": [{ "value": 1.5 }, { "value": 2.0 }] });
    let report = run::<by_argument::json_and_context>(task("sum").json(&scores));
    assert_eq!(report.result, Ok(()));
    assert_eq!(
        (report.events[0].message_type.as_str(), &report.events[0].data[..]),
        ("sum", &b"3.5"[..])
    );
    let report = run::<by_argument::whole_task>(task("x").id("t-9").json(&json!({ "scores": [] })));
    assert_eq!(report.failure().unwrap().reason(), "t-9 has no scores");
    assert_eq!(
        run::<by_argument::raw>(event("x").payload([0, 255])).result,
        Ok(())
    );
    let report = run::<by_argument::borrowed>(event("x").json(&["300"]));
    let failure = report.failure().unwrap();
    assert_eq!(
        (failure.is_reject(), failure.reason()),
        (false, "number too large to fit in target type")
    );
    assert_eq!(run::<by_argument::maybe>(event("x").tombstone()).result, Ok(()));
}

#[test]
fn bad_json_is_rejected_with_its_place() {
    let bad = json!({ "scores": [{ "value": 1 }, { "value": "high" }] });
    let report = run::<by_argument::json_and_context>(task("sum").json(&bad));
    let failure = report.failure().unwrap();
    assert!(failure.is_reject());
    assert_eq!(failure.code_str(), Some("payload.invalid"));
    assert_eq!(
        failure.reason(),
        "payload: scores[1].value: invalid type: string \"high\", expected f64 at line 1 column 38"
    );
    for (payload, reason) in [
        ("", "payload: EOF while parsing a value at line 1 column 0"),
        ("{}", "payload: missing field `scores` at line 1 column 2"),
        (
            "{\"scores\":[]} x",
            "payload: trailing characters at line 1 column 15",
        ),
    ] {
        let report = run::<by_argument::json_and_context>(task("sum").payload(payload));
        assert_eq!(report.failure().unwrap().reason(), reason);
    }
    let report = run::<by_argument::borrowed>(event("x").payload([0xff]));
    assert_eq!(report.failure().unwrap().code_str(), Some("payload.invalid"));
}

#[helix_sdk::task]
fn everything(context: &Context) -> Handled {
    assert_eq!(context.id(), "t-1");
    assert_eq!(
        (
            context.attempt(),
            context.max_attempts(),
            context.is_last_attempt()
        ),
        (4, 4, true)
    );
    assert!(context.redelivered());
    assert_eq!(context.replay(), Some("r-1"));
    assert_eq!(context.correlation_id(), Some("c-1"));
    assert_eq!(context.reply_to(), Some("answers"));
    assert_eq!(context.traceparent(), Some("00-a-b-01"));
    assert_eq!(
        context.deadline(),
        Some(UNIX_EPOCH + Duration::from_millis(1_500))
    );
    assert_eq!(
        (context.header_str("X-TENANT"), context.header("x-none")),
        (Some("a"), None)
    );
    assert_eq!(context.headers().count(), 2);
    assert_eq!((context.key(), context.priority()), (Some(&b"k"[..]), 7));
    assert_eq!((context.partition(), context.offset()), (None, None));
    Ok(())
}

#[test]
fn the_context_knows_the_delivery() {
    let message = task("x")
        .id("t-1")
        .attempt(4)
        .redelivered(true)
        .replay("r-1")
        .correlation_id("c-1")
        .reply_to("answers")
        .traceparent("00-a-b-01")
        .deadline(UNIX_EPOCH + Duration::from_millis(1_500))
        .header("x-tenant", "a")
        .header("x-tenant", "b")
        .key("k")
        .priority(7);
    assert_eq!(run::<everything>(message).result, Ok(()));
}

#[test]
fn zero_attempts_at_most_means_there_is_no_last_one() {
    let report = host().call(task("x").attempt(9).max_attempts(0), |context| {
        assert!(!context.is_last_attempt());
        Ok(())
    });
    assert_eq!(report.result, Ok(()));
}

#[helix_sdk::task]
fn publishes_then_fails() -> Handled {
    publish::task("a")
        .queue("q")
        .delay(Duration::from_secs(2))
        .bytes("x")
        .send()?;
    Err(retry("later"))
}

#[test]
fn a_failure_sends_nothing() {
    let report = run::<publishes_then_fails>(task("x"));
    assert_eq!(
        (report.tasks.len(), report.events.len(), report.discarded),
        (0, 0, 1)
    );
}

#[test]
fn the_double_refuses_what_the_host_refuses() {
    let report = host().call(event("x"), |_| {
        Ok(publish::task("a").priority(11).send().map(|_| ())?)
    });
    assert_eq!(report.failure().unwrap().code_str(), Some("publish.invalid"));
    let report = host().call(event("x"), |_| {
        Ok(publish::event("a").tombstone().send().map(|_| ())?)
    });
    assert_eq!(report.failure().unwrap().code_str(), Some("publish.invalid"));
    let outside = publish::event("a").send().unwrap_err();
    assert!(outside.to_string().contains("testing::run"), "{outside}");
}

mod in_batches {
    use super::*;

    #[helix_sdk::event_batch]
    pub fn slice(events: &[Event<u32>]) -> Vec<Handled> {
        let mut sum = 0;
        for event in events {
            sum += event.data;
            publish::event("seen")
                .key(event.id())
                .input(event)
                .send()
                .unwrap();
        }
        events
            .iter()
            .map(|event| if event.data > 2 { Err(retry(sum)) } else { Ok(()) })
            .collect()
    }

    #[helix_sdk::event_batch]
    pub fn raw(batch: Batch<&Context>) -> Vec<Handled> {
        batch.each(|context| {
            publish::event("seen").key(context.id()).send()?;
            Ok(())
        })
    }

    #[helix_sdk::event_batch]
    pub fn belongs_to_nobody(events: &[Json<u32>]) -> Vec<Handled> {
        events
            .iter()
            .map(|_| Ok(publish::event("seen").send().map(|_| ())?))
            .collect()
    }

    #[helix_sdk::event_batch]
    pub fn forgetful(_: &[Json<u32>]) -> Vec<Handled> {
        vec![Ok(())]
    }
}

fn numbers(bodies: &[&str]) -> Vec<helix_sdk::testing::Message> {
    bodies
        .iter()
        .zip(0..)
        .map(|(body, place)| event("n").id(format!("e-{place}")).payload(*body))
        .collect()
}

#[test]
fn results_and_outputs_of_a_batch_stay_with_their_events() {
    let report = run_batch::<in_batches::slice>(numbers(&["1", "x", "3", "2"]));
    assert_eq!(report.results[0], Ok(()));
    assert_eq!(
        report.results[1].as_ref().unwrap_err().code_str(),
        Some("payload.invalid")
    );
    assert_eq!(report.results[2].as_ref().unwrap_err().reason(), "6");
    assert_eq!(report.results[3], Ok(()));
    let sent: Vec<_> = report
        .events
        .iter()
        .map(|event| (event.key.clone().unwrap(), event.input))
        .collect();
    assert_eq!(sent, [(b"e-0".to_vec(), Some(0)), (b"e-3".to_vec(), Some(3))]);
    assert_eq!(report.discarded, 1);
    let report = run_batch::<in_batches::raw>(numbers(&["x", "y"]));
    assert_eq!(
        report.events.iter().map(|event| event.input).collect::<Vec<_>>(),
        [Some(0), Some(1)]
    );
}

#[test]
fn an_output_that_belongs_to_nobody_is_refused_with_words() {
    let report = run_batch::<in_batches::belongs_to_nobody>(numbers(&["1"]));
    let failure = report.results[0].as_ref().unwrap_err();
    assert!(failure.reason().contains(".input(&event)"), "{failure:?}");
}

#[test]
#[should_panic(expected = "returned 1 results for 2 events")]
fn a_wrong_number_of_results_traps() {
    let _ = run_batch::<in_batches::forgetful>(numbers(&["1", "2"]));
}
