//! Handlers that do what they must not: each gets a typed outcome that says so, at the cost of its own message only. The
//! host lives, its memory stays bounded, and neighbours on the same plugin and on another one are handled meanwhile.

mod attacks;
mod flood;
mod neighbours;
mod reach;
mod results;
mod table;
mod time;
mod traps;

use std::time::Duration;

use helix_tests::{Host, Setup, guests, until};
use serde_json::{Value, json};

pub const TOPOLOGY: &str = "
[[queues]]
name = \"work\"
[[queues]]
name = \"beside\"
[[queues]]
name = \"secret\"
[[topics]]
name = \"reports\"
[[topics]]
name = \"batch\"
[[topics]]
name = \"packed\"
";

/// `reports` takes only what nobody sends, so what the probe reports there stays visible as an unrouted letter.
pub const CONFIG: &str = r#"
[[routes]]
name = "work"
queue = "work"
plugin = "probe"
concurrency = 3
timeout = "1s"
retry = { max_retries = 0 }

[[routes]]
name = "beside"
queue = "beside"
plugin = "neighbour"
retry = { max_retries = 0 }

[[routes]]
name = "reports"
topic = "reports"
type = "nobody.sends.this"
plugin = "neighbour"

[[routes]]
name = "batch"
topic = "batch"
plugin = "batch-liar"
retry = { max_retries = 0 }

[[routes]]
name = "packed"
topic = "packed"
plugin = "packed-liar"
retry = { max_retries = 0 }

[plugins.probe]
publish = ["reports"]
memory = "16MiB"
outputs = 10
output_size = "64KiB"
log_lines = 20
"#;

/// A debug build with the compiler in it; what counts is that no attack adds to it. Measured: under 350 MiB.
pub const RSS_KIB: u64 = 700 << 10;

pub async fn start(config: &str, plugins: &[&str]) -> (Setup, Host) {
    let setup = Setup::new(config, plugins).topology(TOPOLOGY);
    // The same code under another name is another plugin.
    guests::install(
        &setup.plugins(),
        "neighbour",
        &std::fs::read(guests::path("probe")).unwrap(),
    );
    let host = setup.start().await;
    host.ready().await;
    (setup, host)
}

pub async fn letter_of(host: &Host, id: &str) -> Value {
    until(
        &format!("a letter of message {id}"),
        Duration::from_secs(30),
        || async {
            let listing = host
                .get(&format!("/v1/messaging/dlq?limit=1000&text={id}"))
                .await
                .1;
            let letter = listing["messages"]
                .as_array()?
                .iter()
                .find(|l| l["message_id"] == id)?["id"]
                .as_str()?
                .to_owned();
            Some(host.get(&format!("/v1/messaging/dlq/{letter}")).await.1)
        },
    )
    .await
}

/// One message for the attacked plugin, one for another: both must be done while the attack goes on or after it.
pub async fn neighbours(host: &Host) {
    let done = |route: &'static str| [("route", route), ("outcome", "done")];
    let before = [
        host.metric("messaging_outcomes_total", &done("work")).await,
        host.metric("messaging_outcomes_total", &done("beside")).await,
    ];
    host.send_task("work", "probe", json!({})).await;
    host.send_task("beside", "probe", json!({})).await;
    host.wait_metric("messaging_outcomes_total", &done("work"), before[0] + 1.0)
        .await;
    host.wait_metric("messaging_outcomes_total", &done("beside"), before[1] + 1.0)
        .await;
}

/// Peak memory of the process so far.
pub fn peak_kib(host: &Host) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", host.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
