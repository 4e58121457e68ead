//! One attack after the other through the SDK, as an author with bad intentions would write it.

use serde_json::{Value, json};

use super::{CONFIG, RSS_KIB, letter_of, neighbours, peak_kib, start};

struct Attack {
    order: Value,
    class: &'static str,
    /// Of the last attempt.
    outcome: &'static str,
    code: &'static str,
    reason: &'static [&'static str],
}

fn attacks() -> Vec<Attack> {
    let attack = |order, class, outcome, code, reason| Attack {
        order,
        class,
        outcome,
        code,
        reason,
    };
    vec![
        attack(
            json!({ "do": "panic", "reason": "the cake is a lie" }),
            "exhausted",
            "trap",
            "trap.unreachable",
            &["the cake is a lie", "panicked at"],
        ),
        attack(
            json!({ "do": "panic", "reason": "red \u{1b}[31m bell \u{7}" }),
            "exhausted",
            "trap",
            "trap.unreachable",
            &["red \\u{1b}[31m bell \\u{7}"],
        ),
        attack(
            json!({ "do": "alloc" }),
            "exhausted",
            "trap",
            "trap.memory",
            &["memory limit"],
        ),
        // Rust guests keep arrays on a stack in their own memory, below which nothing lies.
        attack(
            json!({ "do": "recurse" }),
            "exhausted",
            "trap",
            "trap.bounds",
            &["recurse"],
        ),
        attack(
            json!({ "do": "huge-reason", "bytes": 1_000_000 }),
            "exhausted",
            "retry",
            "",
            &["xxxx"],
        ),
        attack(
            json!({ "do": "publish", "queue": "secret" }),
            "rejected",
            "reject",
            "publish.denied",
            &[
                "may not publish to queue `secret`",
                "publish = [\"secret\"]",
                "under [plugins.probe]",
                "helix.toml:",
            ],
        ),
        attack(
            json!({ "do": "publish-many", "topic": "reports", "count": 11 }),
            "rejected",
            "reject",
            "publish.too-many",
            &["10"],
        ),
        attack(
            json!({ "do": "huge-publish", "topic": "reports", "bytes": 65_537 }),
            "rejected",
            "reject",
            "publish.too-large",
            &["65536"],
        ),
        attack(
            json!({ "do": "huge-publish", "topic": "reports", "bytes": 4_000_000 }),
            "rejected",
            "reject",
            "publish.too-large",
            &[],
        ),
        attack(
            json!({ "do": "publish-retry", "topic": "reports", "reason": "second thoughts" }),
            "exhausted",
            "retry",
            "",
            &["second thoughts"],
        ),
        attack(
            json!({ "do": "fetch", "url": "http://example.com/x" }),
            "rejected",
            "reject",
            "fetch.denied",
            &[
                "example.com:80",
                "fetch = [\"example.com:80\"]",
                "under [plugins.probe]",
                "helix.toml:",
            ],
        ),
    ]
}

#[tokio::test]
async fn each_attack_gets_its_typed_outcome_and_costs_its_own_message_only() {
    let (_setup, host) = start(CONFIG, &["probe", "batch-liar", "packed-liar"]).await;
    let attacks = attacks();
    for attack in &attacks {
        let id = host.send_task("work", "probe", attack.order.clone()).await;
        neighbours(&host).await;
        let letter = letter_of(&host, &id).await;
        let order = &attack.order;
        assert_eq!(letter["class"], attack.class, "{order}: {letter}");
        let attempt = &letter["history"][0];
        assert_eq!(attempt["outcome"], attack.outcome, "{order}: {letter}");
        if !attack.code.is_empty() {
            assert_eq!(letter["code"], attack.code, "{order}: {letter}");
        }
        let reason = letter["reason"].as_str().unwrap();
        assert!(
            reason.len() <= 4096,
            "{order}: a reason of {} bytes",
            reason.len()
        );
        for part in attack.reason {
            assert!(reason.contains(part), "{order}: {part} is not in {reason}");
        }
        assert!(
            attempt["digest"]
                .as_str()
                .is_some_and(|d| d.starts_with("sha256:")),
            "{letter}"
        );
        if order["reason"] == "the cake is a lie" {
            assert!(
                attempt["log"].to_string().contains("the cake is a lie"),
                "its last words are in the attempt's log: {attempt}"
            );
        }
    }
    assert_eq!(
        host.letter_count().await,
        attacks.len() as u64,
        "nothing was published, and no neighbour died"
    );
    let peak = peak_kib(&host);
    assert!(peak < RSS_KIB, "{peak} KiB");
    let (status, log) = host.terminate().await;
    assert!(status.success(), "{log}");
    assert!(
        !log.contains('\u{1b}') && !log.contains('\u{7}'),
        "control characters of a guest reach no terminal"
    );
}
