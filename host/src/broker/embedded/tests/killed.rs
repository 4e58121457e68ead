//! SIGKILL in the middle of the work, in a process of its own: this test binary, started again.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

use super::*;

const FOLDER: &str = "HELIX_TEST_KILLED_FOLDER";
const CHILD: &str = "broker::embedded::tests::killed::publishes_and_consumes_until_it_is_killed";

fn lines(rig: &Rig, name: &str) -> Vec<String> {
    // The last line may be cut off by the kill; a complete one ends with a line feed.
    let text = std::fs::read_to_string(rig.dir.path().join(name)).unwrap_or_default();
    text.split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
        .map(str::to_owned)
        .collect()
}

/// Each line is one write, so it is in the page cache before the next step.
struct Diary(File);

impl Diary {
    fn open(folder: &str, name: &str) -> Self {
        let path = Path::new(folder).join(name);
        Self(File::options().create(true).append(true).open(path).unwrap())
    }

    fn note(&mut self, id: &str) {
        self.0.write_all(format!("{id}\n").as_bytes()).unwrap();
    }
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test by itself: the process that gets killed. Runs for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishes_and_consumes_until_it_is_killed() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let options = valid::Embedded {
        path: folder.clone().into(),
        group: "g".into(),
    };
    let clock = Arc::new(crate::model::SystemClock);
    let broker = Embedded::open("local", &options, valid::Formats::default(), clock).unwrap();
    broker.topology().create(&queue("q", 3)).await.unwrap();
    let run = std::process::id();
    for p in 0..20 {
        let (publisher, mut confirmed) = (broker.publisher(), Diary::open(&folder, "confirmed"));
        tokio::spawn(async move {
            for n in 0.. {
                let id = format!("{run}-{p}-{n}");
                let message = Outgoing {
                    priority: Some((n % 4) as u8),
                    ..task(&id)
                };
                publisher.publish(vec![message]).await.pop().unwrap().unwrap();
                confirmed.note(&id);
            }
        });
    }
    let (mut began, mut handled) = (Diary::open(&folder, "began"), Diary::open(&folder, "handled"));
    let mut source = tasks_of(&broker, 32).await;
    loop {
        for delivery in source.recv(16).await.unwrap() {
            began.note(&id_of(&delivery));
            assert!(delivery.receipt.begin());
            handled.note(&id_of(&delivery));
            delivery.receipt.ack();
        }
    }
}

#[tokio::test]
async fn a_killed_process_loses_nothing_and_what_ran_is_flagged() {
    let rig = Rig::new();
    for round in 1..=3 {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", CHILD])
            .env(FOLDER, rig.dir.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let child = Killed(child);
        until("enough is handled", || {
            lines(&rig, "handled").len() >= round * 300
        })
        .await;
        drop(child);
    }
    let (confirmed, began) = (lines(&rig, "confirmed"), lines(&rig, "began"));
    let handled: HashSet<String> = lines(&rig, "handled").into_iter().collect();
    let began: HashSet<String> = began.into_iter().collect();

    let broker = rig.open();
    let depth = usize::try_from(broker.topology().depth(MessageKind::Task, "q").await.unwrap()).unwrap();
    let mut source = tasks_of(&broker, 64).await;
    let mut left = HashSet::new();
    while left.len() < depth {
        for delivery in recv(&mut source, 64).await {
            let id = id_of(&delivery);
            let flagged = delivery.raw.redelivered;
            assert!(
                flagged || !began.contains(&id),
                "{id} ran before and is not flagged"
            );
            assert!(left.insert(id), "twice in the queue");
            delivery.receipt.ack();
        }
    }
    for id in confirmed {
        assert!(
            handled.contains(&id) || left.contains(&id),
            "{id} was confirmed and is lost"
        );
    }
}
