//! Knows how long messages were under way: the payload begins with the Unix time in nanoseconds when it was sent, 19 digits.
//! `bench.each` prints each one, and says which is the first of this instance; other types are gathered until
//! `bench.report` asks for them.

use std::cell::{Cell, RefCell};
use std::time::{SystemTime, UNIX_EPOCH};

use helix_sdk::prelude::*;

thread_local! {
    static TIMES: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static FIRST: Cell<bool> = const { Cell::new(true) };
}

fn handle(payload: &[u8], message_type: &str) -> Handled {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    if message_type == "bench.report" {
        TIMES.with_borrow_mut(|times| {
            times.sort_unstable();
            let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or(0);
            println!("bench count={} p50_ns={} p99_ns={}", times.len(), at(50), at(99));
            times.clear();
        });
        return Ok(());
    }
    let sent: u128 = std::str::from_utf8(payload.get(..19).unwrap_or_default())?.parse()?;
    let took = u64::try_from(now.saturating_sub(sent))?;
    if message_type == "bench.each" {
        let first = if FIRST.replace(false) { " first" } else { "" };
        println!("bench took_ns={took}{first}");
    } else {
        TIMES.with_borrow_mut(|times| times.push(took));
    }
    Ok(())
}

#[helix_sdk::task]
fn on_task(payload: &[u8], context: &Context) -> Handled {
    handle(payload, context.message_type())
}

#[helix_sdk::event]
fn on_event(payload: &[u8], context: &Context) -> Handled {
    handle(payload, context.message_type())
}
