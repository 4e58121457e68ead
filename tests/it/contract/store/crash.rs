//! A Postgres that is killed, stopped, black-holed or refuses: what was confirmed is there, nothing hangs, and it goes on by itself.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use helix_host::model::Clock;
use helix_host::store::postgres::PostgresStore;
use helix_host::store::{DeadLetters, Error, Retries};
use helix_tests::brokers::Postgres;
use helix_tests::{until, variable};

use super::stage::{Hands, LEASE, ids, letter, options, parked, postgres, schema};

async fn open(url: &str, schema: &str) -> Result<PostgresStore, Error> {
    PostgresStore::open(&options(url, schema, "host"), Hands::at(1_000) as Arc<dyn Clock>).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_confirmed_survives_the_death_of_the_server_and_the_store_goes_on() {
    let server = Postgres::start();
    let store = open(&server.url, "helix").await.unwrap();
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut confirmed = Vec::new();
                for n in 0.. {
                    let id = format!("{writer}-{n}");
                    let written = if n % 2 == 0 {
                        store.park(vec![parked(&id, 10, Some(&[writer]))]).await
                    } else {
                        store.enter(vec![letter(&id, 1)]).await.map(drop)
                    };
                    match written {
                        Ok(()) => confirmed.push(id),
                        Err(error) => return (confirmed, error.to_string()),
                    }
                }
                unreachable!("until the server is gone")
            })
        })
        .collect();
    until("writes are under way", Duration::from_secs(60), || async {
        (store.count().await.unwrap() > 200).then_some(())
    })
    .await;
    server.control("kill");
    let mut confirmed = BTreeSet::new();
    for writer in writers {
        let (ids, error) = tokio::time::timeout(Duration::from_secs(30), writer)
            .await
            .expect("an error, and not nothing")
            .unwrap();
        assert!(error.contains("database"), "{error}");
        confirmed.extend(ids);
    }
    let since = Instant::now();
    assert!(store.count().await.is_err() && store.complete("0-0").await.is_err());
    assert!(since.elapsed() < Duration::from_secs(20), "{:?}", since.elapsed());
    server.control("restart");
    until("the store works again", Duration::from_secs(60), || async {
        store.complete("nobody").await.ok()
    })
    .await;
    let mut kept = BTreeSet::new();
    for id in &confirmed {
        if store.get(id).await.unwrap().is_some() {
            kept.insert(id.clone());
        }
    }
    loop {
        let rows = store.claim_due(1_000, LEASE, 100).await.unwrap();
        if rows.is_empty() {
            break;
        }
        for row in rows {
            store.complete(&row.id).await.unwrap();
            kept.insert(row.id);
        }
    }
    let lost: Vec<_> = confirmed.difference(&kept).collect();
    assert!(
        lost.is_empty(),
        "{} of {} lost: {lost:?}",
        lost.len(),
        confirmed.len()
    );
    assert_eq!(store.count().await.unwrap(), 0, "no lane is stuck");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_an_error_and_later_works_again() {
    let server = Postgres::start();
    let store = open(&server.url, "helix").await.unwrap();
    store.park(vec![parked("a", 10, None)]).await.unwrap();
    store.count().await.unwrap();
    server.control("pause");
    let since = Instant::now();
    let (claim, write, read) = tokio::join!(
        store.claim_due(1_000, LEASE, 9),
        store.park(vec![parked("b", 10, None)]),
        store.count(),
    );
    assert!(claim.is_err() && write.is_err() && read.is_err());
    assert!(since.elapsed() < Duration::from_secs(25), "{:?}", since.elapsed());
    let refused = open(&server.url, "helix").await.err().unwrap();
    assert!(matches!(refused, Error::Away { .. }), "{refused}");
    server.control("resume");
    until("the store works again", Duration::from_secs(60), || async {
        store.park(vec![parked("b", 10, None)]).await.ok()
    })
    .await;
    // Whether the claim got through nobody knew; it was taken back all the same.
    let rows = store.claim_due(1_000, LEASE, 9).await.unwrap();
    assert_eq!(ids(&rows), ["a", "b"]);
    assert_eq!(store.count().await.unwrap(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_opened_says_why_and_no_password() {
    let url = variable("HELIX_TEST_POSTGRES_URL");
    let (_, rest) = url.split_once("://").unwrap();
    let (login, place) = rest.split_once('@').unwrap();
    let (user, password) = login.split_once(':').unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let cases = [
        (
            format!("postgres://{user}:hunter2@{place}"),
            "helix",
            "password authentication failed",
            false,
        ),
        (
            url.replace("/postgres?", "/nobody?"),
            "helix",
            "does not exist",
            false,
        ),
        (
            format!("postgres://u:hunter2@127.0.0.1:{port}/d"),
            "helix",
            "refused",
            true,
        ),
        (format!("mysql://u:{password}@h/d"), "helix", "postgres://", false),
        (
            format!("postgres://u:{password}@h:port/d"),
            "helix",
            "port",
            false,
        ),
        (url.clone(), "a\"; DROP", "schema", false),
    ];
    for (url, schema, why, passes) in cases {
        let error = open(&url, schema).await.err().unwrap();
        assert_eq!(matches!(error, Error::Away { .. }), passes, "{error:?}");
        let said = format!("{error} {error:?}");
        assert!(said.contains(why), "{said}");
        assert!(!said.contains("hunter2") && !said.contains(password), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_somebody_else_is_refused() {
    let url = variable("HELIX_TEST_POSTGRES_URL");
    let with = |ca: &str| {
        let tls = format!(
            "sslmode=verify-full&sslrootcert={}/{ca}",
            variable("HELIX_TEST_TLS_DIR")
        );
        url.replace("sslmode=disable", &tls)
    };
    let schema = schema();
    let store = open(&with("ca.pem"), &schema).await.unwrap();
    store.park(vec![parked("a", 10, None)]).await.unwrap();
    assert_eq!(
        postgres(&schema, "other", &Hands::at(0))
            .await
            .count()
            .await
            .unwrap(),
        1
    );
    let error = open(&with("other-ca.pem"), &schema)
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("certificate"), "{error}");
}
