//! Power cuts and disk faults under the embedded broker and the store.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "tests")]

use helix_torture::power;

#[test]
fn everything_confirmed_survives_power_cuts() {
    let seeds = match std::env::var("HELIX_POWER_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("HELIX_POWER_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..400,
    };
    match power::run(seeds) {
        Ok(summary) => eprintln!("{summary:?}"),
        Err(failure) => panic!("{failure}"),
    }
}
