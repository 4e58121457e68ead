//! What the README tells an operator to type, typed: fail, list, send again, discard, replay, look, cancel. On the
//! configuration that ships, on the embedded default and on RabbitMQ, Kafka and Postgres.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use helix_tests::{Host, Setup, brokers, unique, until, variable};
use serde_json::json;

const FAILED: &str = "## Something failed";
const AGAIN: &str = "## The last hours again";
const TOPIC: &str = "helixagent.events.verification.results";
/// At the README's 50 a second it takes six seconds, of which the test waits for the first.
const EVENTS: usize = 300;
const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readme_on_the_embedded_default() {
    walk(Setup::new(&shipped("config/helix.toml"), &[])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_readme_on_rabbitmq_kafka_and_postgres() {
    let config = format!(
        "[messaging]\ntasks = \"rabbitmq\"\nevents = \"kafka\"\n[store]\nurl = \"env:HELIX_STORE_URL\"\nschema = \"{}\"\n{}{}\n{}",
        unique("readme").replace('-', "_"),
        brokers::rabbitmq_toml(),
        brokers::kafka_toml(&unique("readme")),
        shipped("config/helix.toml"),
    );
    let setup = Setup::new(&config, &[])
        .topology(&shipped("config/topology.toml"))
        .env("HELIX_STORE_URL", &variable("HELIX_TEST_POSTGRES_URL"));
    let out = setup.helix(&["topology", "apply"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    walk(setup).await;
}

async fn walk(setup: Setup) {
    for plugin in ["llm-request", "verification-completed", "notify"] {
        let bytes = std::fs::read(root().join(format!("plugins/{plugin}.wasm"))).unwrap();
        helix_tests::guests::install(&setup.plugins(), plugin, &bytes);
    }
    let host = setup.start().await;
    host.ready().await;
    let readme = shipped("README.md");
    let mut desk = Desk {
        setup: &setup,
        host: &host,
        letter: String::new(),
    };

    let [before, after] = &blocks(&readme, FAILED)[..] else {
        panic!("two blocks under {FAILED}")
    };
    let (sends, looks) = before.split_at(2);
    for line in sends {
        assert!(line.starts_with("helix send"), "{line}");
        desk.types(line);
    }
    desk.letter = until("the letter that is our mistake", LIMIT, async || {
        let letters = host.letters().await;
        let found = letters.iter().find(|letter| letter["type"] == "llm.summary")?;
        (letters.len() == 2).then(|| found["id"].as_str().unwrap().to_owned())
    })
    .await;
    desk.expect(&looks[0], &["unrouted", "rejected", "the prompt is empty"]);
    desk.expect(&looks[1], &["unrouted", "rejected"]);
    desk.expect(&looks[2], &["llm.summary", "Helix in one sentence"]);
    assert_eq!(looks.len(), 3, "{looks:?}");

    // What the host serves, not what stands in the file.
    let before = host.metric("messaging_config_generation", &[]).await;
    desk.mends(&readme);
    host.wait_metric("messaging_config_generation", &[], before + 1.0)
        .await;
    let done = host
        .metric("messaging_outcomes_total", &[("outcome", "done")])
        .await;
    desk.expect(&after[0], &["reprocessed"]);
    host.wait_metric("messaging_outcomes_total", &[("outcome", "done")], done + 1.0)
        .await;
    desk.expect(&after[1], &["1"]);
    desk.expect(&after[2], &["reprocessed", "discarded"]);
    assert_eq!(after.len(), 3, "{after:?}");
    assert_eq!(host.letter_count().await, 0);

    replay(&desk).await;
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
}

async fn replay(desk: &Desk<'_>) {
    let host = desk.host;
    for n in 0..EVENTS {
        let result = json!({ "verification_id": format!("v-{n}"), "score": 0.9 });
        host.send_event(TOPIC, "verification.completed", &format!("v-{}", n % 7), result)
            .await;
    }
    let readme = shipped("README.md");
    let [lines] = &blocks(&readme, AGAIN)[..] else {
        panic!("one block under {AGAIN}")
    };
    let [dry, start, show, cancel, list] = &lines[..] else {
        panic!("five lines under {AGAIN}: {lines:?}")
    };
    desk.expect(dry, &["completed", "matching", "(dry run)"]);
    desk.expect(start, &["morning"]);
    let progress = until("copies are on their way", LIMIT, async || {
        let (_, view) = host.get("/v1/messaging/replay/morning").await;
        (view["replayed_count"].as_u64()? > 0).then_some(view)
    })
    .await;
    assert!(
        progress["total_messages"].as_u64().unwrap() >= EVENTS as u64,
        "{progress}"
    );
    desk.expect(show, &["running"]);
    desk.expect(cancel, &["morning"]);
    let view = until("the cancelled replay is at rest", LIMIT, async || {
        let (_, view) = host.get("/v1/messaging/replay/morning").await;
        (view["status"] == "cancelled").then_some(view)
    })
    .await;
    let sent = view["replayed_count"].as_u64().unwrap();
    assert!(sent < EVENTS as u64, "{view}");
    desk.expect(list, &["morning", "cancelled"]);
}

/// The operator's terminal.
struct Desk<'a> {
    setup: &'a Setup,
    host: &'a Host,
    letter: String,
}

impl Desk<'_> {
    /// One line of the README in a shell.
    fn types(&self, line: &str) -> String {
        let helix = variable("HELIX_BIN");
        let folder = Path::new(&helix).parent().unwrap();
        let path = format!("{}:{}", folder.display(), variable("PATH"));
        let out = Command::new("sh")
            .args(["-c", line])
            .current_dir(self.setup.path())
            .env("PATH", path)
            .env("NO_COLOR", "1")
            .env("HELIX_URL", self.host.url())
            .env("HELIX_CONFIG", "helix.toml")
            .env("LETTER", &self.letter)
            .output()
            .unwrap();
        let said = [&out.stdout[..], &out.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        assert!(out.status.success(), "$ {line}\n{said}\n{}", self.host.log_text());
        said
    }

    fn expect(&self, line: &str, wanted: &[&str]) {
        let said = self.types(line);
        for words in wanted {
            assert!(said.contains(words), "no {words:?} from\n$ {line}\n{said}");
        }
    }

    /// The change of the configuration that stands between the two blocks.
    fn mends(&self, readme: &str) {
        let (from, to) = ("type = \"llm.request\"", "type = \"llm.*\"");
        assert!(
            readme.contains(&format!("`{from}` becomes `{to}`")),
            "the README names the change"
        );
        let config = std::fs::read_to_string(self.setup.path().join("helix.toml")).unwrap();
        assert!(config.contains(from), "{config}");
        self.setup.configure(&config.replace(from, to));
    }
}

/// The commands of each `sh` block under a heading, without their remarks.
fn blocks(text: &str, heading: &str) -> Vec<Vec<String>> {
    let (_, section) = text.split_once(heading).expect(heading);
    let section = section.split("\n## ").next().unwrap();
    section
        .split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap())
        .map(|block| block.lines().map(str::to_owned).collect())
        .collect()
}

fn shipped(file: &str) -> String {
    let path = root().join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}
