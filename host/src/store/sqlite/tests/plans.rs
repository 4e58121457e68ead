//! What is asked about letters is answered by an index, whatever the filter: a million of them are not walked.

use sqlx::{AssertSqlSafe, Row as _};

use super::*;

/// One of each filter, and all pairs of them.
fn filters() -> Vec<LetterFilter> {
    let any = LetterFilter::default;
    let text = || Some("x".to_owned());
    let single: [fn(&mut LetterFilter, Option<String>); 10] = [
        |filter, text| filter.route = text,
        |filter, text| filter.message_type = text,
        |filter, text| filter.destination = text,
        |filter, text| filter.digest = text,
        |filter, text| filter.group = text,
        |filter, _| filter.class = Some(FailureClass::Rejected),
        |filter, _| filter.state = Some(LetterState::Discarded),
        |filter, _| filter.open = true,
        |filter, _| filter.since_ms = Some(1),
        |filter, _| filter.until_ms = Some(1),
    ];
    let mut all = vec![any()];
    for (at, one) in single.iter().enumerate() {
        for other in single.iter().skip(at) {
            let mut filter = any();
            one(&mut filter, text());
            other(&mut filter, text());
            all.push(filter);
        }
    }
    all
}

#[tokio::test]
async fn no_question_walks_all_letters() {
    let (_folder, path, _clock, store) = fresh().await;
    store.enter(vec![letter("a", 1)]).await.unwrap();
    let mut shell = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&path))
        .await
        .unwrap();
    let mut seen = HashSet::new();
    for filter in filters() {
        for sql in super::sql::find::statements(&filter) {
            if !seen.insert(sql.clone()) {
                continue;
            }
            let plan = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}")))
                .fetch_all(&mut shell)
                .await
                .unwrap();
            let steps: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
            for step in &steps {
                // In the order of its answer, up to its LIMIT.
                let ordered = ["dead_letters_newest", "dead_letters_open", "dead_letters_first"]
                    .iter()
                    .any(|index| step.ends_with(&format!("INDEX {index}")));
                let walks =
                    step.starts_with("SCAN dead_letters") || step.starts_with("SCAN d ") || step == "SCAN d";
                assert!(!walks || ordered, "{steps:#?}\n{sql}");
                assert!(!step.contains("TEMP B-TREE"), "{steps:#?}\n{sql}");
            }
        }
    }
    assert!(seen.len() > 100, "only {} statements", seen.len());
}
