//! Two hosts on one Postgres and one queue of RabbitMQ: what one leaves, the other goes on with.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::time::Duration;

use helix_tests::{Host, Setup, brokers, unique, until, variable};
use serde_json::{Value, json};

use crate::seen::{self, Seen};

const LIMIT: Duration = Duration::from_secs(60);

struct Pair {
    queue: String,
    config: String,
    topology: String,
}

impl Pair {
    fn new() -> Self {
        let queue = unique("takeover");
        let config = format!(
            "[messaging]\ntasks = \"rabbitmq\"\n{}single_active_consumer = true\n\
             [store]\nurl = \"env:HELIX_STORE_URL\"\nschema = \"{}\"\n\
             [[routes]]\nname = \"work\"\nqueue = \"{queue}\"\nplugin = \"probe\"\norder = \"key\"\n\
             retry = {{ delay = \"4s\", jitter = 0.0 }}\n[plugins.probe]\npublish = [\"handled\"]\n",
            brokers::rabbitmq_toml(),
            unique("takeover").replace('-', "_"),
        );
        let topology = format!(
            "[[queues]]\nname = \"{queue}\"\narguments = {{ x-single-active-consumer = true }}\n[[topics]]\nname = \"handled\"\n"
        );
        Self {
            queue,
            config,
            topology,
        }
    }

    async fn host(&self) -> (Setup, Host) {
        let setup = Setup::new(&self.config, &["probe"])
            .topology(&self.topology)
            .env("HELIX_STORE_URL", &variable("HELIX_TEST_POSTGRES_URL"));
        let host = setup.start().await;
        host.ready().await;
        (setup, host)
    }

    async fn send(&self, host: &Host, id: &str, payload: Value) {
        let body = json!({ "type": "probe", "id": id, "key": "k", "payload": payload });
        let (status, answer) = host
            .post(&format!("/v1/messaging/tasks/{}", self.queue), &body)
            .await;
        assert_eq!(status, 202, "{answer}");
    }
}

async fn outcomes(host: &Host, outcome: &str, count: f64) {
    let labels = [("route", "work"), ("outcome", outcome)];
    host.wait_metric("messaging_outcomes_total", &labels, count).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_host_that_becomes_active_keeps_a_key_behind_what_the_other_parked() {
    let pair = Pair::new();
    let (first_setup, first) = pair.host().await;
    // Its consumer is there before anything is parked, and waits.
    let (second_setup, second) = pair.host().await;
    pair.send(
        &first,
        "k-1",
        json!({ "do": "retry", "until": 2, "report": "handled" }),
    )
    .await;
    outcomes(&first, "retry", 1.0).await;
    until("it is parked", LIMIT, || async {
        let (_, health) = second.get("/v1/messaging/health").await;
        (health["retries_pending"] == 1).then_some(())
    })
    .await;
    let (status, log) = first.terminate().await;
    assert!(status.success(), "{log}");
    pair.send(&second, "k-2", json!({ "report": "handled" })).await;
    outcomes(&second, "done", 2.0).await;
    let (status, log) = second.terminate().await;
    assert!(status.success(), "{log}");
    assert!(seen::topic(&first_setup, "handled").await.is_empty());
    let order: Vec<String> = seen::topic(&second_setup, "handled")
        .await
        .iter()
        .map(|report: &Seen| report.of().to_owned())
        .collect();
    assert_eq!(
        order,
        ["k-1", "k-2"],
        "what came later overtook what waits for its retry"
    );
}

/// What an endpoint does with those that ask it, in turn: breaks off, keeps them waiting, answers. Says who is there.
fn endpoint() -> (String, mpsc::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let (came, comes) = mpsc::channel();
    std::thread::spawn(move || {
        let mut waiting: Vec<TcpStream> = Vec::new();
        for (n, stream) in listener.incoming().enumerate() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]);
            match n {
                0 => drop(stream),
                1 => waiting.push(stream),
                _ => {
                    let _ = stream
                        .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                }
            }
            if came.send(n).is_err() {
                break;
            }
        }
    });
    (url, comes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_a_host_could_not_finish_before_it_left_runs_on_the_other_at_once() {
    let queue = unique("takeover");
    let config = format!(
        "[messaging]\ntasks = \"rabbitmq\"\n{}\
         [store]\nurl = \"env:HELIX_STORE_URL\"\nschema = \"{}\"\n\
         [[routes]]\nname = \"work\"\nqueue = \"{queue}\"\nplugin = \"probe\"\ntimeout = \"5m\"\n\
         retry = {{ delay = \"10ms\" }}\n\
         [host]\nlisten = \"127.0.0.1:0\"\nstate_dir = \"state\"\nplugins_dir = \"plugins\"\ndrain = \"2s\"\n[plugins.probe]\nfetch = [\"127.0.0.1\"]\nfetch_private = true\nfetch_timeout = \"5m\"\n",
        brokers::rabbitmq_toml(),
        unique("takeover").replace('-', "_"),
    );
    let pair = Pair {
        topology: format!("[[queues]]\nname = \"{queue}\"\n"),
        queue,
        config,
    };
    let (url, comes) = endpoint();
    let (_setup, first) = pair.host().await;
    // Its first attempt is broken off, so that it is parked; its second is in the hands of this host when it stops, and takes
    // longer than the two seconds that it has.
    pair.send(&first, "late", json!({ "do": "fetch", "url": url }))
        .await;
    for n in 0..2 {
        assert_eq!(comes.recv_timeout(LIMIT).unwrap(), n);
    }
    outcomes(&first, "retry", 1.0).await;
    let (_other, second) = pair.host().await;
    let (status, log) = first.terminate().await;
    assert!(status.success(), "{log}");
    // Waited for two minutes at most; its lease would be ten.
    outcomes(&second, "done", 1.0).await;
    assert_eq!(comes.recv_timeout(LIMIT).unwrap(), 2);
    let (status, log) = second.terminate().await;
    assert!(status.success(), "{log}");
}
