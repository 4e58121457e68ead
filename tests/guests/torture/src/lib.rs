//! The handler of the torture run: tells the observer what it is about to say, then says it.
//!
//! A message orders what is said at each attempt, so the observer knows what each of them must come to. Output is
//! published before the handler fails: nobody may ever see that of an attempt that was not done.

use std::hint::black_box;
use std::time::Duration;

use helix_sdk::prelude::*;
use serde_json::json;

#[derive(Deserialize)]
struct Order {
    /// Where the observer listens.
    sink: String,
    /// `done`, `retry-once`, `retry-twice`, `reject`, `trap`, `loop-once`, `repair`: rejected until it is sent again.
    #[serde(rename = "do")]
    action: String,
    /// Topic for an output event, if there shall be one.
    out: Option<String>,
}

#[helix_sdk::task]
fn on_task(order: Json<Order>, context: &Context) -> Handled {
    order.obey(context)
}

#[helix_sdk::event]
fn on_event(order: Json<Order>, context: &Context) -> Handled {
    order.obey(context)
}

impl Order {
    fn says(&self, attempt: u32, again: bool) -> &'static str {
        match (self.action.as_str(), attempt) {
            ("retry-once", 1) | ("retry-twice", 1 | 2) => "retry",
            ("reject", _) => "reject",
            ("repair", _) if !again => "reject",
            ("trap", _) => "trap",
            ("loop-once", 1) => "loop",
            _ => "done",
        }
    }

    fn obey(&self, context: &Context) -> Handled {
        let (id, attempt) = (context.id(), context.attempt());
        let said = self.says(attempt, context.reprocessed() > 0);
        if let Some(topic) = &self.out {
            publish::event("torture.out")
                .topic(topic)
                .key(context.key().unwrap_or(id.as_bytes()))
                .json(&json!({ "id": id, "attempt": attempt, "said": said }))?
                .send()?;
        }
        let instance = std::env::var("INSTANCE").unwrap_or_default();
        fetch::get(format!(
            "{}/ran?id={id}&attempt={attempt}&said={said}&instance={instance}",
            self.sink
        ))
        .timeout(Duration::from_secs(5))
        .send()?;
        match said {
            "retry" => Err(retry("ordered")),
            "reject" => Err(reject("ordered")),
            "trap" => panic!("ordered"),
            "loop" => loop {
                black_box(());
            },
            _ => Ok(()),
        }
    }
}
