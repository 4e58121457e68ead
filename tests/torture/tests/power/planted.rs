//! The run has to find a broker that does not sync.

use std::process::Command;

#[test]
fn a_broker_that_does_not_sync_is_caught() {
    let run = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "everything_confirmed_survives_power_cuts"])
        .env("HELIX_PLANTED", "fsync-skipped")
        .env("HELIX_POWER_SEEDS", "20")
        .env_remove("HELIX_POWER_SEED")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&run.stdout) + String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success(), "not caught: {text}");
    // Lost messages, or acknowledgements that were said to be on disk: whichever comes first.
    let caught = text.contains("HELIX_POWER_SEED=") && (text.contains("is lost") || text.contains("on disk"));
    assert!(caught, "failed for another reason: {text}");
}
