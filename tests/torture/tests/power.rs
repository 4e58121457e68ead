//! Power cuts and disk faults under the embedded broker and the store.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests"
)]

#[path = "power/disk.rs"]
mod disk;
#[path = "power/faults.rs"]
mod faults;
#[cfg(feature = "planted")]
#[path = "power/planted.rs"]
mod planted;
#[path = "power/store.rs"]
mod store;

use helix_torture::power;

#[test]
fn everything_confirmed_survives_power_cuts() {
    match power::run(seeds(300)) {
        Ok(summary) => eprintln!("{summary:?}"),
        Err(failure) => panic!("{failure}"),
    }
}

/// `HELIX_POWER_SEED=<n>` runs one seed, `HELIX_POWER_SEEDS=<n>` that many.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect(name))
    };
    match number("HELIX_POWER_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("HELIX_POWER_SEEDS").unwrap_or(count),
    }
}
