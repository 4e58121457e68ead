//! A commit that was made and whose answer was lost: an error to its caller, who does it again, and it is as if done once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use helix_host::model::Clock;
use helix_host::store::postgres::PostgresStore;
use helix_host::store::{Change, Changed, DeadLetters, LetterFilter, Page, Retries};
use helix_tests::variable;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::stage::{Hands, LEASE, ids, letter, note, options, parked, postgres, schema};

/// Passes everything on, and when told to cuts the connection in place of the answer to the next commit.
struct Wire {
    url: String,
    cut: Arc<AtomicBool>,
}

impl Wire {
    async fn new() -> Self {
        let url = variable("HELIX_TEST_POSTGRES_URL");
        let (_, place) = url.split_once('@').unwrap();
        let (server, _) = place.split_once('/').unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap().to_string();
        let cut = Arc::new(AtomicBool::new(false));
        let wire = Self {
            url: url.replace(server, &here),
            cut: Arc::clone(&cut),
        };
        let server = server.to_owned();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let upstream = TcpStream::connect(&server).await.unwrap();
                tokio::spawn(pass(client, upstream, Arc::clone(&cut)));
            }
        });
        wire
    }

    fn cut_the_next_answer(&self) {
        self.cut.store(true, Ordering::SeqCst);
    }
}

async fn pass(client: TcpStream, server: TcpStream, cut: Arc<AtomicBool>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut buffer = vec![0; 65_536];
    while let Ok(n @ 1..) = from_server.read(&mut buffer).await {
        let done = buffer[..n].windows(7).any(|tag| tag == b"COMMIT\0");
        if done && cut.swap(false, Ordering::SeqCst) {
            break;
        }
        if to_client.write_all(&buffer[..n]).await.is_err() {
            break;
        }
    }
    up.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_may_be_made_again() {
    let wire = Wire::new().await;
    let (clock, schema) = (Hands::at(1_000), schema());
    let own = options(&wire.url, &schema, "host");
    let store = PostgresStore::open(&own, Arc::clone(&clock) as Arc<dyn Clock>)
        .await
        .unwrap();
    // What is in the database, seen past the wire.
    let beside = postgres(&schema, "beside", &clock).await;

    wire.cut_the_next_answer();
    let row = parked("a", 10, Some(b"l"));
    let error = store.park(vec![row.clone()]).await.unwrap_err().to_string();
    assert!(error.contains("connection"), "{error}");
    assert_eq!(beside.count().await.unwrap(), 1, "it was made");
    store.park(vec![row.clone()]).await.unwrap();
    assert_eq!(beside.count().await.unwrap(), 1);

    wire.cut_the_next_answer();
    store.claim_due(10, LEASE, 9).await.unwrap_err();
    assert!(
        beside.claim_due(10, LEASE, 9).await.unwrap().is_empty(),
        "it was made"
    );
    assert_eq!(
        ids(&store.claim_due(10, LEASE, 9).await.unwrap()),
        ["a"],
        "nobody runs it, so its lease is taken back"
    );

    wire.cut_the_next_answer();
    store.enter(vec![letter("x", 1)]).await.unwrap_err();
    assert_eq!(store.enter(vec![letter("x", 1)]).await.unwrap(), ["x"]);
    let all = beside
        .list(&LetterFilter::default(), &Page::default())
        .await
        .unwrap();
    assert_eq!(all.letters, [letter("x", 1)]);

    wire.cut_the_next_answer();
    let claim = |holder: &str| Change::Claim {
        holder: holder.into(),
        lease: LEASE,
    };
    store
        .change("x", claim("one"), note("reprocess"))
        .await
        .unwrap_err();
    assert_eq!(beside.get("x").await.unwrap().unwrap().state.as_str(), "retrying");
    let changed = store.change("x", claim("two"), note("reprocess")).await.unwrap();
    assert!(matches!(changed, Changed::Done(_)), "{changed:?}");
    let steps: Vec<String> = store
        .trail("x")
        .await
        .unwrap()
        .iter()
        .map(|entry| format!("{} by {}", entry.to.as_str(), entry.note.actor))
        .collect();
    assert_eq!(steps, ["retrying by ann", "dead by host", "retrying by ann"]);

    wire.cut_the_next_answer();
    store.bury("a", letter("a", 1)).await.unwrap_err();
    assert_eq!(store.bury("a", letter("a", 1)).await.unwrap(), "a");
    assert_eq!(beside.count().await.unwrap(), 0);
}
