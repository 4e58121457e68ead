//! `on_dead_letter = "park"`: a message that is given up on holds up its key and nothing else, whatever happens to the host,
//! until somebody deals with its letter.

use std::time::Duration;

use helix_tests::{Host, Setup, brokers, unique, until};
use serde_json::{Value, json};

use crate::kafka_client;
use crate::seen;

/// Where messages come from, and how their route is written.
struct Way {
    /// In front of the routes.
    brokers: String,
    source: String,
    topology: String,
    path: String,
}

impl Way {
    fn queue(name: &str) -> Self {
        Self {
            brokers: String::new(),
            source: format!("queue = \"{name}\""),
            topology: format!("[[queues]]\nname = \"{name}\"\n"),
            path: format!("/v1/messaging/tasks/{name}"),
        }
    }

    fn topic(name: &str) -> Self {
        Self {
            brokers: String::new(),
            source: format!("topic = \"{name}\""),
            topology: format!("[[topics]]\nname = \"{name}\"\npartitions = 1\n"),
            path: format!("/v1/messaging/events/{name}"),
        }
    }

    /// `policy`: further keys of the route.
    fn config(&self, max_retries: u32, policy: &str, handled: &str) -> String {
        format!(
            r#"
{}
[[routes]]
name = "work"
{}
plugin = "probe"
order = "key"
concurrency = 4
retry = {{ max_retries = {max_retries}, delay = "10ms" }}
{policy}
[plugins.probe]
publish = ["{handled}"]
"#,
            self.brokers, self.source
        )
    }

    fn setup(&self, policy: &str, handled: &str) -> Setup {
        let topology = format!("{}[[topics]]\nname = \"{handled}\"\n", self.topology);
        Setup::new(&self.config(0, policy, handled), &["probe"]).topology(&topology)
    }

    /// The n-th message of a key. A bad one is given up on, unless it may be tried twice.
    async fn send(&self, host: &Host, handled: &str, key: &str, n: u32, bad: bool) {
        let payload = match bad {
            true => json!({ "do": "retry", "until": 2, "report": handled }),
            false => json!({ "report": handled }),
        };
        let body = json!({ "type": "probe", "id": format!("{key}-{n}"), "key": key, "payload": payload });
        let (status, answer) = host.post(&self.path, &body).await;
        assert_eq!(status, 202, "{answer}");
    }
}

const PARK: &str = "on_dead_letter = \"park\"";

async fn parked(host: &Host) -> Vec<Value> {
    let (status, listing) = host.get("/v1/messaging/dlq/parked?route=work").await;
    assert_eq!(status, 200, "{listing}");
    listing["keys"].as_array().unwrap().clone()
}

/// The key `bad` waits behind a letter, and so many behind that; its id.
async fn wait_parked(host: &Host, waiting: u32) -> String {
    until(
        &format!("{waiting} wait behind the letter"),
        Duration::from_secs(60),
        || async {
            let keys = parked(host).await;
            let key = keys.iter().find(|held| held["key"] == "bad")?;
            (key["waiting"] == waiting).then(|| key["letter"].as_str().unwrap().to_owned())
        },
    )
    .await
}

async fn act(host: &Host, id: &str, verb: &str) -> (u16, Value) {
    host.post(
        &format!("/v1/messaging/dlq/{id}/{verb}"),
        &json!({ "actor": "ann" }),
    )
    .await
}

async fn letter(host: &Host, id: &str) -> Value {
    host.get(&format!("/v1/messaging/dlq/{id}")).await.1
}

async fn reconfigure(setup: &Setup, host: &Host, config: &str) {
    let before = host.metric("messaging_config_generation", &[]).await;
    setup.configure(config);
    host.wait_metric("messaging_config_generation", &[], before + 1.0)
        .await;
}

async fn wait_done(host: &Host, n: u32) {
    let labels = [("route", "work"), ("outcome", "done")];
    host.wait_metric("messaging_outcomes_total", &labels, n.into())
        .await;
}

/// The numbers of one key, in the order in which its messages were handled.
fn numbers(handled: &[String], key: &str) -> Vec<u32> {
    let mine = handled
        .iter()
        .filter_map(|id| id.strip_prefix(key)?.strip_prefix('-')?.parse().ok());
    mine.collect()
}

async fn end(setup: &Setup, host: Host) -> Vec<String> {
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    let seen = seen::topic(setup, "handled").await;
    seen.iter().map(|report| report.of().to_owned()).collect()
}

/// The first of a key is given up on; its followers wait, through a kill as well, while others go on. The repair comes, and
/// all of them are handled in order.
async fn a_key_waits(setup: &Setup, way: &Way, handled: &str) -> Host {
    let host = setup.start().await;
    host.ready().await;
    for n in 0..5 {
        way.send(&host, handled, "bad", n, n == 0).await;
        way.send(&host, handled, "good", n, false).await;
    }
    let id = wait_parked(&host, 4).await;
    wait_done(&host, 5).await;
    let held = parked(&host).await;
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!(letter(&host, &id).await["waiting"], 4);
    host.kill();

    let host = setup.start().await;
    assert_eq!(
        host.metric("messaging_parked_keys", &[("route", "work")]).await,
        1.0,
        "known from the start"
    );
    way.send(&host, handled, "bad", 5, false).await;
    way.send(&host, handled, "last", 0, false).await;
    host.ready().await;
    assert_eq!(wait_parked(&host, 5).await, id, "the same letter");
    // What came after it is through.
    wait_done(&host, 1).await;

    // Sent again too early it fails again: the same letter, and everybody waits on.
    assert_eq!(act(&host, &id, "reprocess").await.0, 202);
    until("it is dead again", Duration::from_secs(60), || async {
        let again = letter(&host, &id).await;
        (again["state"] == "dead" && again["reprocessed"] == 1).then_some(())
    })
    .await;
    assert_eq!(wait_parked(&host, 5).await, id);
    assert_eq!(host.letter_count().await, 1);

    reconfigure(setup, &host, &way.config(1, PARK, handled)).await;
    assert_eq!(act(&host, &id, "reprocess").await.0, 202);
    until("nothing is parked", Duration::from_secs(60), || async {
        let pending = host.get("/readyz").await.1["retries_pending"].as_u64();
        (parked(&host).await.is_empty() && pending == Some(0)).then_some(())
    })
    .await;
    assert_eq!(letter(&host, &id).await["state"], "reprocessed");
    // The key lives in memory again.
    let labels = [("route", "work"), ("outcome", "done")];
    let before = host.metric("messaging_outcomes_total", &labels).await;
    way.send(&host, handled, "bad", 6, false).await;
    host.wait_metric("messaging_outcomes_total", &labels, before + 1.0)
        .await;
    assert_eq!(host.get("/readyz").await.1["retries_pending"], 0);
    host
}

fn check(handled: &[String]) {
    assert_eq!(numbers(handled, "bad"), [0, 1, 2, 3, 4, 5, 6], "{handled:?}");
    // The kill may have taken acknowledgements of these along.
    let mut good = numbers(handled, "good");
    good.sort_unstable();
    good.dedup();
    assert_eq!(good, [0, 1, 2, 3, 4], "{handled:?}");
    assert!(!numbers(handled, "last").is_empty());
}

async fn on_the_embedded_broker(way: Way) {
    let setup = way.setup(PARK, "handled");
    let host = a_key_waits(&setup, &way, "handled").await;
    assert_eq!(
        host.unexpected_lines(&["dead letter; look"]),
        Vec::<String>::new()
    );
    check(&end(&setup, host).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_waits_behind_its_dead_letter_through_a_kill_and_others_do_not_on_an_embedded_topic() {
    on_the_embedded_broker(Way::topic("work")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_waits_behind_its_dead_letter_through_a_kill_and_others_do_not_on_an_embedded_queue() {
    on_the_embedded_broker(Way::queue("work")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_waits_behind_its_dead_letter_through_a_kill_and_others_do_not_on_rabbitmq() {
    let queue = unique("park");
    let way = Way {
        brokers: format!(
            "[messaging]\ntasks = \"rabbitmq\"\n{}single_active_consumer = true\n",
            brokers::rabbitmq_toml()
        ),
        topology: format!(
            "[[queues]]\nname = \"{queue}\"\narguments = {{ x-single-active-consumer = true }}\n"
        ),
        ..Way::queue(&queue)
    };
    on_the_embedded_broker(way).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_waits_behind_its_dead_letter_through_a_kill_and_others_do_not_on_kafka() {
    let (topic, handled) = (unique("park"), unique("park-handled"));
    kafka_client::create(&[&topic, &handled], 1).await;
    // A static member: the host that comes back gets its partition at once.
    let way = Way {
        brokers: format!(
            "[messaging]\nevents = \"kafka\"\n{}instance_id = \"host-1\"\n",
            brokers::kafka_toml(&unique("park"))
        ),
        ..Way::topic(&topic)
    };
    let setup = way.setup(PARK, &handled);
    let host = a_key_waits(&setup, &way, &handled).await;
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    let bodies = tokio::task::block_in_place(|| kafka_client::read(&handled, 1));
    let ids: Vec<String> = bodies
        .iter()
        .map(|body| {
            let body: Value = serde_json::from_slice(body).unwrap();
            let data = body.get("data").or(body.get("payload")).unwrap_or(&body);
            data["id"].as_str().unwrap_or_default().to_owned()
        })
        .collect();
    check(&ids);
    kafka_client::delete(&[&topic, &handled]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_shows_what_waits_and_lets_it_go_on() {
    let way = Way::queue("work");
    let setup = way.setup(PARK, "handled");
    let host = setup.start().await;
    host.ready().await;
    let helix = |arguments: &[&str]| {
        let output = setup.helix(&[&["--url", host.url()], arguments].concat());
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), text)
    };
    assert!(helix(&["dlq", "parked"]).1.contains("no key waits"));
    for n in 0..3 {
        way.send(&host, "handled", "bad", n, n != 1).await;
    }
    let id = wait_parked(&host, 2).await;
    let (_, table) = helix(&["dlq", "parked", "--route", "work"]);
    assert!(table.contains(&id) && table.contains("bad"), "{table}");
    let (_, shown) = helix(&["dlq", "show", &id]);
    assert!(shown.contains("2 messages of its key wait behind it"), "{shown}");

    let (code, said) = helix(&["dlq", "release", &id, "--reason", "a test message"]);
    assert_eq!((code, said.trim()), (Some(0), format!("{id} dead").as_str()));
    // The second goes on, the third fails and holds up the key again.
    wait_done(&host, 1).await;
    let third = wait_parked(&host, 0).await;
    assert_ne!(third, id);
    let released = letter(&host, &id).await;
    assert_eq!(
        (
            &released["state"],
            &released["waiting"],
            &released["trail"][0]["reason"]
        ),
        (&json!("dead"), &Value::Null, &json!("a test message"))
    );
    let (code, said) = helix(&["dlq", "release", &id]);
    assert!(
        code == Some(1) && said.contains("no key waits"),
        "{code:?} {said}"
    );
    let (status, problem) = act(&host, "nobody", "release").await;
    assert_eq!((status, &problem["code"]), (404, &json!("HX0502")), "{problem}");

    way.send(&host, "handled", "bad", 3, false).await;
    wait_parked(&host, 1).await;
    let (code, said) = helix(&["dlq", "discard", &third, "--reason", "no"]);
    assert_eq!(code, Some(0), "{said}");
    wait_done(&host, 2).await;
    assert_eq!(letter(&host, &third).await["state"], "discarded");
    assert_eq!(numbers(&end(&setup, host).await, "bad"), [1, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_full_slows_its_topic_down_and_loses_nothing() {
    let way = Way::topic("work");
    let policy = format!("{PARK}\npark = {{ limit = 4 }}\n[limits]\nin_flight = 10");
    let setup = way.setup(&policy, "handled");
    let host = setup.start().await;
    host.ready().await;
    for n in 0..30 {
        way.send(&host, "handled", "bad", n, n == 0).await;
    }
    way.send(&host, "handled", "good", 0, false).await;
    let id = wait_parked(&host, 3).await;
    host.wait_metric("messaging_parked_full", &[("route", "work")], 1.0)
        .await;
    host.wait_metric("messaging_in_flight", &[], 10.0).await;
    assert_eq!(wait_parked(&host, 3).await, id);
    let consumed = host.metric("messaging_messages_consumed_total", &[]).await;
    assert_eq!(consumed, 14.0, "4 in the store and 10 in flight");
    let said = host.unexpected_lines(&["dead letter; look"]);
    assert!(
        said.len() == 1 && said[0].contains("park.limit"),
        "once: {said:?}"
    );
    // A stop does not wait for them, and a start has them again.
    let (status, log) = host.terminate().await;
    assert!(
        status.success() && !log.contains("not everything finished"),
        "{log}"
    );
    let host = setup.start().await;
    host.wait_metric("messaging_parked_full", &[("route", "work")], 1.0)
        .await;
    assert_eq!(act(&host, &id, "release").await.0, 200);
    wait_done(&host, 30).await;
    host.wait_metric("messaging_in_flight", &[], 0.0).await;
    assert_eq!(
        host.metric("messaging_parked_full", &[("route", "work")]).await,
        0.0
    );
    let handled = end(&setup, host).await;
    assert_eq!(numbers(&handled, "bad"), (1..30).collect::<Vec<_>>());
    assert_eq!(numbers(&handled, "good"), [0]);
}

/// `from`: what the route said when its key was parked; `to`: what ends that.
async fn goes_on_by_itself(from: &str, to: Option<&str>, why: &str) {
    let way = Way::topic("work");
    let setup = way.setup(from, "handled");
    let host = setup.start().await;
    host.ready().await;
    for n in 0..3 {
        way.send(&host, "handled", "bad", n, n == 0).await;
    }
    let id = host.wait_letters(1).await[0]["id"].as_str().unwrap().to_owned();
    if let Some(to) = to {
        wait_parked(&host, 2).await;
        reconfigure(&setup, &host, &way.config(0, to, "handled")).await;
    }
    wait_done(&host, 2).await;
    let released = letter(&host, &id).await;
    let step = &released["trail"][0];
    assert_eq!(
        (&released["state"], &step["actor"], &step["action"]),
        (&json!("dead"), &json!("host"), &json!("release"))
    );
    assert!(step["reason"].as_str().unwrap().contains(why), "{step}");
    assert_eq!(numbers(&end(&setup, host).await, "bad"), [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_waited_as_long_as_its_route_says_goes_on() {
    let expiry = format!("{PARK}\npark = {{ expiry = \"1s\" }}");
    goes_on_by_itself(&expiry, None, "park.expiry").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_that_parks_no_more_lets_its_keys_go_on() {
    goes_on_by_itself(PARK, Some(""), "no longer says").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_route_that_is_gone_wait_until_it_comes_back() {
    let way = Way::topic("work");
    let setup = way.setup(PARK, "handled");
    let host = setup.start().await;
    host.ready().await;
    for n in 0..3 {
        way.send(&host, "handled", "bad", n, n == 0).await;
    }
    let id = wait_parked(&host, 2).await;
    reconfigure(&setup, &host, "[plugins.probe]\npublish = [\"handled\"]\n").await;
    let (status, problem) = act(&host, &id, "reprocess").await;
    assert_eq!((status, &problem["state"]), (409, &json!("dead")), "{problem}");
    way.send(&host, "handled", "bad", 3, false).await;
    wait_parked(&host, 2).await;
    // What comes first under the new one finds the key parked.
    reconfigure(&setup, &host, &way.config(1, PARK, "handled")).await;
    assert_eq!(wait_parked(&host, 3).await, id);
    assert_eq!(act(&host, &id, "reprocess").await.0, 202);
    wait_done(&host, 4).await;
    assert_eq!(numbers(&end(&setup, host).await, "bad"), [0, 1, 2, 3]);
}
