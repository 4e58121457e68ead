//! Files in the drop folder that are no sound handler: each is reported in the log, the metric, `/readyz` and `helix plugin
//! ls`, and the version that was loaded before goes on serving.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use helix_tests::{Host, Setup, guests, until};
use serde_json::{Value, json};

const TOPOLOGY: &str = "[[queues]]\nname = \"work\"\n";
const ROUTE: &str =
    "[[routes]]\nname = \"work\"\nqueue = \"work\"\nplugin = \"probe\"\nretry = { max_retries = 0 }\n";
const FAILURES: &str = "messaging_plugin_reload_failures_total";
/// Compiling a component takes 24 s on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

async fn status(host: &Host) -> Value {
    host.get("/v1/messaging/plugins").await.1[0].clone()
}

fn digest(status: &Value) -> String {
    status["digest"].as_str().unwrap_or_default().to_owned()
}

/// What is said everywhere about a refused file, and that `serving` goes on; how many refusals there were so far is `count`.
async fn refused(setup: &Setup, host: &Host, serving: &str, count: u32, parts: &[&str]) {
    let status = until(&format!("refusal {count}, {parts:?}"), LIMIT, || async {
        let status = status(host).await;
        (status["failed_reloads"].as_u64() >= Some(count.into())).then_some(status)
    })
    .await;
    assert_eq!(digest(&status), serving);
    assert_eq!(status["failed_reloads"], count, "{status}");
    let stale = status["stale"].as_str().unwrap().to_owned();
    for part in parts {
        assert!(stale.contains(part), "{part} is not in {stale}");
    }

    assert!((host.metric(FAILURES, &[("plugin", "probe")]).await - f64::from(count)).abs() < f64::EPSILON);
    assert!(
        (host
            .metric(
                "messaging_plugin_info",
                &[("plugin", "probe"), ("digest", serving)]
            )
            .await
            - 1.0)
            .abs()
            < f64::EPSILON
    );

    let lines = host.log_lines();
    let said = lines
        .iter()
        .filter(|l| l["level"] == "ERROR" && l["fields"]["plugin"] == "probe")
        .collect::<Vec<_>>();
    assert_eq!(said.len(), count as usize, "one line for each refusal: {said:#?}");
    let last = said.last().unwrap().to_string();
    assert!(last.contains("the last good version serves"), "{last}");
    for part in parts {
        assert!(
            said.last().unwrap()["fields"]["error"]
                .as_str()
                .is_some_and(|e| e.contains(part)),
            "{part} is not in {last}"
        );
    }

    // Messages flow, so it is ready; somebody should look all the same.
    let (code, report) = host.get("/readyz").await;
    assert_eq!((code, &report["status"]), (200, &json!("degraded")), "{report}");
    assert!(
        report["reasons"].to_string().contains("plugin `probe` is STALE"),
        "{report}"
    );
    let reasons = report["reasons"].as_array().unwrap();
    assert!(
        reasons
            .iter()
            .any(|r| r.as_str().is_some_and(|r| r.contains(&stale))),
        "{report}"
    );

    let shown = setup.helix(&["plugin", "ls", "--url", host.url()]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("STALE") && shown.contains(parts[0]), "{shown}");
    let short = serving.chars().take("sha256:".len() + 12).collect::<String>();
    assert!(shown.contains(&short), "{shown}");
    handles(host).await;
}

async fn handles(host: &Host) {
    let done = [("route", "work"), ("outcome", "done")];
    let before = host.metric("messaging_outcomes_total", &done).await;
    host.send_task("work", "probe", json!({})).await;
    host.wait_metric("messaging_outcomes_total", &done, before + 1.0)
        .await;
    assert_eq!(host.letter_count().await, 0);
}

async fn swapped(host: &Host, old: &str) -> String {
    let status = until("the good file serves", LIMIT, || async {
        let status = status(host).await;
        (status["stale"].is_null() && digest(&status) != old).then_some(status)
    })
    .await;
    let (code, report) = host.get("/readyz").await;
    assert_eq!((code, &report["status"]), (200, &json!("ready")), "{report}");
    handles(host).await;
    digest(&status)
}

/// Built for a version of the contract that this host does not serve: the name of every interface says so.
fn of_another_contract() -> Vec<u8> {
    let mut bytes = guests::version("probe", 77);
    let (from, to) = (b"helix:messaging/", b"@0.1.0");
    let mut at = 0;
    let mut changed = 0;
    while let Some(found) = bytes[at..].windows(from.len()).position(|w| w == from) {
        at += found + from.len();
        let end = (at + 40).min(bytes.len());
        if let Some(version) = bytes[at..end].windows(to.len()).position(|w| w == to) {
            bytes[at + version..at + version + to.len()].copy_from_slice(b"@0.9.0");
            changed += 1;
        }
    }
    assert!(changed > 0);
    bytes
}

fn padded(mut bytes: Vec<u8>, size: usize) -> Vec<u8> {
    // A custom section with the name "pad", its size as LEB128 in five bytes.
    let fill = size.saturating_sub(bytes.len());
    let length = u32::try_from(fill + 4).unwrap();
    bytes.push(0);
    for n in 0..5_u32 {
        let more = if n < 4 { 0x80 } else { 0 };
        bytes.push(((length >> (7 * n)) & 0x7f) as u8 | more);
    }
    bytes.extend(b"\x03pad");
    bytes.resize(bytes.len() + fill, 0);
    bytes
}

#[tokio::test]
async fn a_bad_file_is_reported_everywhere_and_the_old_version_serves_until_a_good_one_comes() {
    let good = std::fs::read(guests::path("probe")).unwrap();
    let cap = good.len() + 4096;
    let setup =
        Setup::new(&format!("{ROUTE}[limits]\nwasm_size = \"{cap}B\"\n"), &["probe"]).topology(TOPOLOGY);
    let host = setup.start().await;
    host.ready().await;
    let old = digest(&status(&host).await);
    handles(&host).await;

    let install = |bytes: &[u8]| guests::install(&setup.plugins(), "probe", bytes);
    let precompiled = b"\x7fELF\x02\x01\x01\x00 no WebAssembly at all".to_vec();
    let files: &[(&str, Vec<u8>, &[&str])] = &[
        (
            "truncated",
            good[..good.len() / 2].to_vec(),
            &["HX0301", "cut off"],
        ),
        ("empty", Vec::new(), &["HX0301", "the file is empty"]),
        (
            "a core module",
            b"\0asm\x01\0\0\0".to_vec(),
            &["HX0301", "a core WebAssembly module, not a component"],
        ),
        ("something else", precompiled, &["HX0301", "no WebAssembly file"]),
        (
            "a component without a handler",
            b"\0asm\x0d\0\x01\0".to_vec(),
            &["HX0302", "exports no handler"],
        ),
        (
            "of another world",
            std::fs::read(guests::path("wrong-world")).unwrap(),
            &["HX0302", "tests:foreign/greeter"],
        ),
        ("of another contract", of_another_contract(), &["HX0307", "0.9.0"]),
        (
            "over the size cap",
            padded(guests::version("probe", 3), cap + 1),
            &["HX0303", "limits.wasm_size"],
        ),
    ];
    let mut count = 0;
    for (what, bytes, parts) in files {
        eprintln!("{what}");
        install(bytes);
        count += 1;
        refused(&setup, &host, &old, count, parts).await;
    }

    // A link to a file that would be sound, were it inside.
    let outside = setup.path().join("outside.wasm");
    std::fs::write(&outside, guests::version("probe", 4)).unwrap();
    link(&outside, &setup.plugins().join("probe.wasm"));
    count += 1;
    refused(
        &setup,
        &host,
        &old,
        count,
        &["HX0304", "outside of the plugins folder"],
    )
    .await;

    // A folder in its place.
    std::fs::remove_file(setup.plugins().join("probe.wasm")).unwrap();
    std::fs::create_dir(setup.plugins().join("probe.wasm")).unwrap();
    count += 1;
    refused(&setup, &host, &old, count, &["HX0301", "no regular file"]).await;
    std::fs::remove_dir(setup.plugins().join("probe.wasm")).unwrap();

    install(&guests::version("probe", 5));
    let new = swapped(&host, &old).await;
    assert_ne!(new, old);
    // The swap is no failure, and a refused file never counted as a swap.
    let status = status(&host).await;
    assert_eq!(
        (&status["reloads"], &status["failed_reloads"]),
        (&json!(1), &json!(count)),
        "{status}"
    );
    let (ended, log) = host.terminate().await;
    assert!(ended.success(), "{log}");
}

fn link(target: &Path, place: &Path) {
    let draft = place.with_extension("link");
    std::os::unix::fs::symlink(target, &draft).unwrap();
    std::fs::rename(draft, place).unwrap();
}

#[tokio::test]
async fn a_file_that_is_written_in_slices_serves_only_when_it_is_whole() {
    let setup = Setup::new(ROUTE, &["probe"]).topology(TOPOLOGY);
    let host = setup.start().await;
    host.ready().await;
    let old = digest(&status(&host).await);
    let bytes = guests::version("probe", 6);
    // Into the place itself, as `cp` does; each slice stays long enough to be looked at.
    let mut file = std::fs::File::create(setup.plugins().join("probe.wasm")).unwrap();
    let slices: Vec<&[u8]> = bytes.chunks(bytes.len().div_ceil(4)).collect();
    for (n, slice) in slices.iter().enumerate() {
        file.write_all(slice).unwrap();
        file.sync_all().unwrap();
        if n + 1 < slices.len() {
            refused(
                &setup,
                &host,
                &old,
                u32::try_from(n).unwrap() + 1,
                &["HX0301", &bytes_of(&slices, n)],
            )
            .await;
        }
    }
    let new = swapped(&host, &old).await;
    // In many small writes without a pause: whether one of them is seen is chance, that the whole one serves is not.
    let bytes = guests::version("probe", 7);
    let mut file = std::fs::File::create(setup.plugins().join("probe.wasm")).unwrap();
    for slice in bytes.chunks(16 << 10) {
        file.write_all(slice).unwrap();
        handles(&host).await;
    }
    drop(file);
    swapped(&host, &new).await;
}

fn bytes_of(slices: &[&[u8]], last: usize) -> String {
    let sum: usize = slices[..=last].iter().map(|s| s.len()).sum();
    format!("({sum} bytes)")
}

#[tokio::test]
async fn only_the_pinned_content_is_loaded_and_a_new_pin_is_obeyed_at_once() {
    let setup = Setup::new(ROUTE, &["probe"]).topology(TOPOLOGY);
    let host = setup.start().await;
    host.ready().await;
    let old = digest(&status(&host).await);
    let pin = |digest: &str| setup.configure(&format!("{ROUTE}[plugins.probe]\ndigest = \"{digest}\"\n"));
    let generation = host.metric("messaging_config_generation", &[]).await;
    pin(&old);
    host.wait_metric("messaging_config_generation", &[], generation + 1.0)
        .await;
    guests::install(&setup.plugins(), "probe", &guests::version("probe", 8));
    refused(
        &setup,
        &host,
        &old,
        1,
        &["HX0306", &old, "is pinned", "helix.toml"],
    )
    .await;
    // What the refusal names is what the file there has.
    let stale = status(&host).await["stale"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let new = stale
        .split_whitespace()
        .find(|w| w.starts_with("sha256:"))
        .unwrap()
        .trim_end_matches(',')
        .to_owned();
    pin(&new);
    assert_eq!(swapped(&host, &old).await, new);
    // A pin of something that is not there: what serves is reported, and goes on.
    pin(&old);
    refused(&setup, &host, &new, 2, &["HX0306", &new, "is pinned"]).await;
}

#[tokio::test]
async fn a_plugin_that_never_had_a_good_file_keeps_the_host_unready_and_its_messages_waiting() {
    let setup = Setup::new(ROUTE, &[]).topology(TOPOLOGY);
    guests::install(&setup.plugins(), "probe", b"\0asm\x01\0\0\0");
    let host = setup.start().await;
    until("the refusal is in /readyz", LIMIT, || async {
        let (code, report) = host.get("/readyz").await;
        (code == 503 && report["reasons"].to_string().contains("HX0301")).then_some(())
    })
    .await;
    host.send_task("work", "probe", json!({})).await;
    let shown = setup.helix(&["plugin", "ls", "--url", host.url()]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("REFUSED: HX0301"), "{shown}");
    let everywhere = format!("{shown}{}{}", host.log_text(), host.get("/readyz").await.1);
    assert!(
        !everywhere.contains("the last good version serves"),
        "there is none: {everywhere}"
    );
    guests::install(
        &setup.plugins(),
        "probe",
        &std::fs::read(guests::path("probe")).unwrap(),
    );
    host.ready().await;
    host.wait_metric(
        "messaging_outcomes_total",
        &[("route", "work"), ("outcome", "done")],
        1.0,
    )
    .await;
    assert_eq!(host.letter_count().await, 0);
}
