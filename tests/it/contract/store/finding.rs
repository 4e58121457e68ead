//! Lists, counts and groups say what filtering everything by hand says; and where that would take long they say so and go on later.

use std::collections::{BTreeMap, HashSet};

use helix_host::model::{DeadLetter, FailureClass, Fingerprint, LetterState};
use helix_host::store::{Change, LetterFilter, Page};

use super::differential::Dice;
use super::stage::{Engine, LEASE, Stage, Store, letter, note};

on_both! {
    a_list_is_what_filtering_everything_finds
    a_word_that_is_nowhere_near_is_looked_for_page_by_page
    words_follow_a_letter_that_fails_again
    counts_of_a_time_say_when_there_are_more
    a_list_of_hundreds_of_kinds_is_in_order
}

const ROUTES: [&str; 3] = ["work", "mail", "a route"];
const WORDS: [&str; 6] = ["timeout", "time", "Ti", "\u{c9}t\u{e9}", "4711", "no"];

fn drawn(dice: &mut Dice, number: usize) -> DeadLetter {
    let mut drawn = DeadLetter {
        route: dice.chance(80).then(|| dice.of(&ROUTES).to_owned()),
        message_type: dice
            .chance(80)
            .then(|| dice.of(&["t", "u", "*"]).repeat(dice.of(&[1, 1, 1, 300]))),
        class: dice.of(&[FailureClass::Exhausted, FailureClass::Rejected]),
        state: dice.of(&[LetterState::Dead, LetterState::Dead, LetterState::Expired]),
        digest: dice
            .chance(50)
            .then(|| dice.of(&["sha256:1", "sha256:2"]).to_owned()),
        reason: format!("{} after {}", dice.of(&WORDS), dice.of(&WORDS)),
        code: dice.chance(50).then(|| dice.of(&WORDS).to_owned()),
        message_id: Some(format!("m-{number}")),
        // Many share a time, so that ids have to decide.
        ..letter(&format!("l{number:03}"), dice.below(20) as u64)
    };
    drawn.raw.origin.destination = dice.of(&["q1", "q2"]).into();
    drawn
}

fn some(dice: &mut Dice) -> LetterFilter {
    LetterFilter {
        route: dice.chance(30).then(|| dice.of(&ROUTES).to_owned()),
        message_type: dice.chance(20).then(|| dice.of(&["t", "u"]).to_owned()),
        class: dice.chance(20).then_some(FailureClass::Rejected),
        state: dice.chance(30).then(|| dice.of(&LetterState::ALL)),
        open: dice.chance(40),
        destination: dice.chance(20).then(|| dice.of(&["q1", "q2", "q3"]).to_owned()),
        digest: dice
            .chance(20)
            .then(|| dice.of(&["sha256:1", "sha256:2"]).to_owned()),
        since_ms: dice.chance(20).then(|| dice.below(20) as u64),
        until_ms: dice.chance(20).then(|| dice.below(20) as u64),
        text: dice.chance(40).then(|| {
            dice.of(&[
                "tim",
                "TI",
                "\u{e9}T\u{e9}",
                "no after",
                "m 17",
                "4711 time",
                "q1",
            ])
            .to_owned()
        }),
        ..LetterFilter::default()
    }
}

/// What the documentation says of `text`, once more and in another way.
fn has_words(letter: &DeadLetter, text: &str) -> bool {
    let all = [
        Some(letter.reason.clone()),
        letter.code.clone(),
        letter.message_id.clone(),
        Some(letter.raw.origin.destination.to_string()),
    ];
    let all = all
        .into_iter()
        .flatten()
        .collect::<Vec<_>>()
        .join(" ")
        .to_lowercase();
    let words = |text: &str| -> Vec<String> {
        let apart: String = text
            .chars()
            .map(|c| if c.is_alphanumeric() { c } else { ' ' })
            .collect();
        apart.split_whitespace().map(str::to_owned).collect()
    };
    let has = words(&all);
    words(&text.to_lowercase()).iter().all(|sought| {
        has.iter()
            .any(|word| word == sought || (sought.chars().count() >= 3 && word.starts_with(sought)))
    })
}

fn matches(letter: &DeadLetter, filter: &LetterFilter) -> bool {
    let same = |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
    let closed = matches!(letter.state, LetterState::Reprocessed | LetterState::Discarded);
    same(&filter.route, letter.route.as_deref())
        && same(&filter.message_type, letter.message_type.as_deref())
        && same(&filter.destination, Some(&letter.raw.origin.destination))
        && same(&filter.digest, letter.digest.as_deref())
        && filter.class.is_none_or(|class| class == letter.class)
        && filter.state.is_none_or(|state| state == letter.state)
        && !(filter.open && closed)
        && filter
            .since_ms
            .is_none_or(|since| letter.last_failure_ms >= since)
        && filter.until_ms.is_none_or(|until| letter.last_failure_ms < until)
        && filter.text.as_deref().is_none_or(|text| has_words(letter, text))
}

/// All pages of a list: the ids in their order, and what the first page said of the count.
async fn walk(store: &dyn Store, filter: &LetterFilter, limit: usize) -> (Vec<String>, u64, bool) {
    let (mut ids, mut cursor, mut first) = (Vec::new(), None, None);
    loop {
        let page = Page {
            limit,
            cursor,
            ..Page::default()
        };
        let found = store.list(filter, &page).await.unwrap();
        assert!(found.letters.len() <= limit);
        first.get_or_insert((found.count, found.at_least));
        ids.extend(found.letters.into_iter().map(|letter| letter.id));
        cursor = found.next;
        if cursor.is_none() {
            let (count, at_least) = first.unwrap();
            return (ids, count, at_least);
        }
    }
}

async fn a_list_is_what_filtering_everything_finds(stage: &Stage) {
    let store = stage.open().await;
    let mut dice = Dice(17);
    let letters: Vec<DeadLetter> = (0..400).map(|number| drawn(&mut dice, number)).collect();
    for some in letters.chunks(90) {
        store.enter(some.to_vec()).await.unwrap();
    }
    for letter in &letters {
        let holder = "h".to_owned();
        let claim = Change::Claim {
            holder: holder.clone(),
            lease: LEASE,
        };
        let changes = match dice.below(4) {
            0 => vec![Change::Discard],
            1 => vec![claim, Change::Sent { holder, park: None }],
            2 if dice.chance(30) => vec![claim],
            _ => Vec::new(),
        };
        for change in changes {
            store.change(&letter.id, change, note("test")).await.unwrap();
        }
    }
    let everything = Page {
        limit: 1_000,
        ..Page::default()
    };
    let mut all = store
        .list(&LetterFilter::default(), &everything)
        .await
        .unwrap()
        .letters;
    assert_eq!(all.len(), letters.len());
    all.sort_by(|a, b| (b.last_failure_ms, &b.id).cmp(&(a.last_failure_ms, &a.id)));
    for _ in 0..400 {
        let filter = some(&mut dice);
        let want: Vec<&DeadLetter> = all.iter().filter(|letter| matches(letter, &filter)).collect();
        let ids: Vec<&String> = want.iter().map(|letter| &letter.id).collect();
        let limit = 1 + dice.below(90);
        let (found, count, at_least) = walk(&*store, &filter, limit).await;
        assert_eq!(found.iter().collect::<Vec<_>>(), ids, "{filter:?}");
        assert!(
            count == ids.len() as u64 || (at_least && count <= ids.len() as u64),
            "{count} of {}: {filter:?}",
            ids.len()
        );
        assert!(
            !at_least || filter.text.is_some(),
            "so few are counted: {filter:?}"
        );
        let offset = dice.below(30);
        let skipped = Page {
            limit: 7,
            offset,
            cursor: None,
        };
        let skipped = store.list(&filter, &skipped).await.unwrap().letters;
        let after: Vec<&String> = ids.iter().copied().skip(offset).take(7).collect();
        assert_eq!(
            skipped.iter().map(|letter| &letter.id).collect::<Vec<_>>(),
            after,
            "{filter:?}"
        );

        let mut groups = BTreeMap::<String, (u64, &str)>::new();
        for letter in want {
            groups
                .entry(Fingerprint::of(letter).group)
                .or_insert((0, &letter.id))
                .0 += 1;
        }
        let found = store.groups(&filter, 1_000).await.unwrap();
        assert_eq!(
            (found.count, found.at_least),
            (groups.len() as u64, false),
            "{filter:?}"
        );
        let said: BTreeMap<String, (u64, &str)> = found
            .groups
            .iter()
            .map(|group| {
                (
                    group.id.clone(),
                    (group.count, group.sample.as_ref().unwrap().0.as_str()),
                )
            })
            .collect();
        assert_eq!(said, groups, "{filter:?}");
        assert!(
            found
                .groups
                .is_sorted_by(|a, b| (b.count, &a.id) <= (a.count, &b.id))
        );
    }
}

/// Entered many at a time.
async fn fill(store: &dyn Store, letters: Vec<DeadLetter>) {
    for some in letters.chunks(400) {
        store.enter(some.to_vec()).await.unwrap();
    }
}

async fn a_word_that_is_nowhere_near_is_looked_for_page_by_page(stage: &Stage) {
    const OLD: usize = 2_300;
    const NEW: usize = 2_600;
    let store = stage.open().await;
    let of = |number: usize| DeadLetter {
        reason: if number < OLD {
            "a common cause"
        } else {
            "another cause"
        }
        .to_owned(),
        // One that nobody else is like.
        code: (number == 1_000).then(|| "c4711".to_owned()),
        ..letter(&format!("l{number:04}"), number as u64)
    };
    fill(&*store, (0..OLD + NEW).map(of).collect()).await;
    let by = |text: &str| LetterFilter {
        text: Some(text.to_owned()),
        open: true,
        ..LetterFilter::default()
    };
    let first = store.list(&by("common"), &Page::default()).await.unwrap();
    assert!(first.at_least && first.next.is_some(), "it is not over");
    assert!(first.letters.is_empty(), "and nothing was found among the newest");
    let (ids, ..) = walk(&*store, &by("common"), 100).await;
    let want: Vec<String> = (0..OLD).rev().map(|number| format!("l{number:04}")).collect();
    assert_eq!(ids, want);
    // In all of the newest: the page is full at once.
    let page = store
        .list(
            &by("ANOTHER"),
            &Page {
                limit: 50,
                ..Page::default()
            },
        )
        .await
        .unwrap();
    assert_eq!(page.letters.len(), 50);
    assert!(page.at_least);
    // In one: the index knows where.
    for text in ["c4711", "m l1000", "common c47"] {
        let page = store.list(&by(text), &Page::default()).await.unwrap();
        let ids: Vec<&str> = page.letters.iter().map(|letter| letter.id.as_str()).collect();
        assert_eq!(
            (ids, page.count, page.at_least),
            (vec!["l1000"], 1, false),
            "{text}"
        );
        assert_eq!(page.next, None);
    }
    // The letter that has the one has not the other.
    let none = store.list(&by("c4711 another"), &Page::default()).await.unwrap();
    assert_eq!((none.letters.len(), none.count, none.at_least), (0, 0, false));
    assert!(store.groups(&by("common"), 10).await.unwrap().at_least);
    let one = store.groups(&by("c4711"), 10).await.unwrap();
    assert_eq!((one.count, one.at_least, one.groups[0].count), (1, false, 1));
    // As if they were from before there were words, and the host starts anew.
    let nothing = store.list(&by("%"), &Page::default()).await;
    assert!(nothing.is_err(), "no word");
}

async fn words_follow_a_letter_that_fails_again(stage: &Stage) {
    let store = stage.open().await;
    let failing = |reason: &str, at: u64| DeadLetter {
        reason: reason.to_owned(),
        ..letter("one", at)
    };
    // So many others that the newest are not looked at only.
    let others = (0..600)
        .map(|number| letter(&format!("o{number}"), 1_000 + number))
        .collect();
    fill(&*store, others).await;
    store.enter(vec![failing("first cause", 10)]).await.unwrap();
    // Its row stays with the message id and the destination that it has.
    let mut second = DeadLetter {
        message_id: Some("4711".to_owned()),
        ..failing("second cause", 11)
    };
    second.raw.origin.destination = "elsewhere".into();
    store.enter(vec![second]).await.unwrap();
    let found = async |text: &str| {
        let filter = LetterFilter {
            text: Some(text.to_owned()),
            ..LetterFilter::default()
        };
        store.list(&filter, &Page::default()).await.unwrap().count
    };
    assert_eq!((found("first").await, found("second").await), (0, 1));
    assert_eq!((found("m one").await, found("topic second").await), (1, 1));
    assert_eq!((found("4711").await, found("elsewhere").await), (0, 0));
    drop(store);
    let again = stage.open().await;
    let filter = LetterFilter {
        text: Some("seco cau".to_owned()),
        ..LetterFilter::default()
    };
    assert_eq!(again.list(&filter, &Page::default()).await.unwrap().count, 1);
}

async fn a_list_of_hundreds_of_kinds_is_in_order(stage: &Stage) {
    const KINDS: usize = 600;
    let store = stage.open().await;
    let of = |number: usize| DeadLetter {
        message_type: Some(format!("kind-{number}")),
        ..letter(&format!("l{number:04}"), number as u64)
    };
    fill(&*store, (0..KINDS).map(of).collect()).await;
    let filter = LetterFilter {
        route: Some("r".to_owned()),
        ..LetterFilter::default()
    };
    let want: Vec<String> = (0..KINDS).rev().map(|number| format!("l{number:04}")).collect();
    let page = Page {
        limit: 1_000,
        ..Page::default()
    };
    let found = store.list(&filter, &page).await.unwrap().letters;
    let ids: Vec<String> = found.into_iter().map(|letter| letter.id).collect();
    assert_eq!(ids, want);
    assert_eq!(walk(&*store, &filter, 7).await.0, want);
}

async fn counts_of_a_time_say_when_there_are_more(stage: &Stage) {
    const ALL: u64 = 5_050;
    let store = stage.open().await;
    fill(
        &*store,
        (0..ALL)
            .map(|number| letter(&format!("l{number}"), number))
            .collect(),
    )
    .await;
    let since = |since_ms: u64, route: Option<&str>| LetterFilter {
        open: true,
        since_ms: Some(since_ms),
        route: route.map(str::to_owned),
        ..LetterFilter::default()
    };
    for route in [None, Some("r")] {
        let count = async |since_ms: u64| {
            let page = store
                .list(&since(since_ms, route), &Page::default())
                .await
                .unwrap();
            (page.count, page.at_least)
        };
        assert_eq!(count(0).await, (5_000, true), "{route:?}");
        assert_eq!(count(50).await, (5_000, false), "{route:?}");
        assert_eq!(count(ALL - 3).await, (3, false), "{route:?}");
        let groups = store.groups(&since(50, route), 10).await.unwrap().groups;
        assert_eq!(groups.len(), 1);
        assert!(groups[0].at_least, "so many are counted: {}", groups[0].count);
        let few = store.groups(&since(ALL - 3, route), 10).await.unwrap().groups;
        assert_eq!((few[0].count, few[0].at_least), (3, false));
    }
    let whole = LetterFilter {
        open: true,
        ..LetterFilter::default()
    };
    let page = store.list(&whole, &Page::default()).await.unwrap();
    assert_eq!((page.count, page.at_least), (ALL, false), "the counts know");
    let ids: HashSet<String> = walk(&*store, &since(4_000, Some("r")), 500)
        .await
        .0
        .into_iter()
        .collect();
    assert_eq!(ids.len() as u64, ALL - 4_000);
}
