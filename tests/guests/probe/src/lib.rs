//! A guest that does what its message says: a task handler and an event handler (`event-handler` and `packed-handler`).
//! The orders are in `order.rs`.

mod order;

use helix_sdk::prelude::*;

#[helix_sdk::task]
fn on_task(order: Json<order::Order>, context: &Context) -> Handled {
    order.obey(context)
}

#[helix_sdk::event]
fn on_event(order: Json<order::Order>, context: &Context) -> Handled {
    order.obey(context)
}

#[cfg(test)]
mod tests {
    use helix_sdk::testing::{Message, event, host, run, task};

    use helix_sdk::prelude::*;
    use serde_json::{Value, json};

    use super::{on_event, on_task};

    fn order(order: Value) -> Message {
        task("probe").id("t-1").json(&order)
    }

    #[test]
    fn reports_what_it_did() {
        let report = run::<on_task>(order(json!({ "report": "out" })).attempt(3));
        let body: Value = serde_json::from_slice(&report.events[0].data).unwrap();
        assert_eq!(
            body,
            json!({ "id": "t-1", "type": "probe", "attempt": 3, "version": "0", "found": null })
        );
        assert_eq!(report.events[0].key.as_deref(), Some(&b"t-1"[..]));
        let report = run::<on_event>(
            event("x")
                .json(&json!({ "do": "echo", "report": "out" }))
                .at(2, 7),
        );
        let body: Value = serde_json::from_slice(&report.events[0].data).unwrap();
        assert_eq!(
            (&body["found"]["partition"], &body["found"]["offset"]),
            (&json!(2), &json!(7))
        );
    }

    #[test]
    fn fails_as_told() {
        let busy = json!({ "do": "retry", "reason": "busy", "code": "b", "until": 2 });
        let failure = run::<on_task>(order(busy.clone())).result.unwrap_err();
        assert_eq!(
            (failure.is_reject(), failure.reason(), failure.code_str()),
            (false, "busy", Some("b"))
        );
        assert_eq!(run::<on_task>(order(busy).attempt(2)).result, Ok(()));
        assert!(
            run::<on_task>(order(json!({ "do": "dance" })))
                .result
                .unwrap_err()
                .is_reject()
        );
    }

    #[test]
    fn publishes_as_told() {
        let many = order(json!({ "do": "publish-many", "count": 5, "topic": "t" }));
        assert_eq!(run::<on_task>(many).events.len(), 5);
        let both = run::<on_task>(order(json!({ "do": "publish", "queue": "q", "topic": "t" })));
        assert_eq!((both.events.len(), both.tasks.len()), (1, 1));
        let refused = host()
            .on_publish(|to| {
                if to == "t" {
                    Err(publish::PublishError::Denied(to.into()))
                } else {
                    Ok(())
                }
            })
            .run::<on_task>(order(
                json!({ "do": "publish-denied", "topic": "t", "report": "out" }),
            ));
        let body: Value = serde_json::from_slice(&refused.events[0].data).unwrap();
        assert_eq!(body["found"], "publishing is not granted: t");
    }
}
