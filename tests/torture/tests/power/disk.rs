//! The disk itself: does it tell a synced commit from one that is not?

use helix_torture::power::{Attached, Disk};
use rusqlite::Connection;

/// Commits one row after the other, cuts the power, and returns how many rows there are after it, of twenty.
fn rows_after_a_cut(synchronous: &str, seed: u64) -> usize {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("some.db");
    let disk = Attached::new(Disk::new(folder.path()));
    let db = Connection::open(&file).unwrap();
    db.execute_batch("PRAGMA journal_mode=WAL; CREATE TABLE t(n INTEGER PRIMARY KEY, body TEXT)")
        .unwrap();
    db.execute_batch(&format!("PRAGMA synchronous={synchronous}"))
        .unwrap();
    for n in 0..20 {
        db.execute("INSERT INTO t VALUES(?1, ?2)", (n, "x".repeat(1_000)))
            .unwrap();
    }
    let after = disk.reboot(&mut fastrand::Rng::with_seed(seed));
    drop((disk, db));

    let _disk = Attached::new(after);
    let db = Connection::open(&file).unwrap();
    let whole: String = db.query_row("PRAGMA integrity_check", [], |r| r.get(0)).unwrap();
    assert_eq!(whole, "ok", "{synchronous}, seed {seed}");
    let mut select = db.prepare("SELECT n FROM t ORDER BY n").unwrap();
    let rows: Vec<i64> = select
        .query_map([], |r| r.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(
        rows.iter().copied().eq((0..).take(rows.len())),
        "a prefix: {rows:?}"
    );
    rows.len()
}

#[test]
fn a_cut_takes_unsynced_commits_and_no_others() {
    for seed in 0..50 {
        assert_eq!(rows_after_a_cut("FULL", seed), 20, "seed {seed}");
    }
    for unsafe_mode in ["NORMAL", "OFF"] {
        let left: std::collections::BTreeSet<_> =
            (0..50).map(|seed| rows_after_a_cut(unsafe_mode, seed)).collect();
        assert!(left.len() > 5, "{unsafe_mode}: {left:?}");
    }
}
