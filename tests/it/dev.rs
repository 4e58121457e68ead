//! `helix new hello && cd hello && helix dev`, as a person does it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use helix_tests::{until, variable};

/// One target folder for all runs: what the new project depends on is compiled once.
fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    );
    target.join("new-projects")
}

fn tool(program: &str, arguments: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target())
        .env("NO_COLOR", "1")
        .env("CARGO_TERM_COLOR", "never")
        .env_remove("HELIX_URL")
        .env_remove("HELIX_CONFIG")
        .env_remove("HELIX_SDK")
        .stdin(Stdio::null());
    command
}

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The compiler needs its time on a machine that is busy with other tests.
const BUILD: Duration = Duration::from_secs(180);

async fn said(file: &Path, what: &str) -> String {
    until(&format!("{} says {what:?}", file.display()), BUILD, || async {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.contains(what).then_some(text)
    })
    .await
}

#[tokio::test]
async fn a_new_project_is_tested_runs_and_follows_each_edit() {
    let folder = tempfile::tempdir().unwrap();
    let helix = variable("HELIX_BIN");
    let made = tool(&helix, &["new", "hello"], folder.path()).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    assert!(String::from_utf8_lossy(&made.stdout).contains("cd hello && helix dev"));
    let project = folder.path().join("hello");
    let again = tool(&helix, &["new", "hello"], folder.path()).output().unwrap();
    assert_eq!(
        again.status.code(),
        Some(1),
        "a folder with something in it is left alone"
    );
    let tested = tool("cargo", &["test", "--offline"], &project).output().unwrap();
    let report = String::from_utf8_lossy(&tested.stdout).into_owned();
    assert!(
        tested.status.success() && report.contains("3 passed"),
        "{report}{}",
        String::from_utf8_lossy(&tested.stderr)
    );

    let (banner, log) = (project.join("banner"), project.join("log"));
    let mut dev = tool(&helix, &["dev", "--listen", "127.0.0.1:0"], &project);
    dev.stdout(File::create(&banner).unwrap())
        .stderr(File::create(&log).unwrap());
    let mut dev = Running(dev.spawn().unwrap());
    let shown = said(&banner, "q to quit").await;
    for line in [
        "dev mode · not for production",
        "Broker    tasks embedded, events embedded",
        "Route     task hello hello.greet -> hello",
        "Watching  src Cargo.toml ",
    ] {
        assert!(shown.contains(line), "{line:?} is missing:\n{shown}");
    }
    let url = shown
        .split("http://")
        .nth(1)
        .and_then(|rest| rest.split('/').next())
        .unwrap()
        .to_owned();
    let url = format!("http://{url}");
    let send = |name: &str| {
        let payload = format!("{{\"name\":\"{name}\"}}");
        let arguments = [
            "--url",
            &url,
            "send",
            "--queue",
            "hello",
            "--type",
            "hello.greet",
            &payload,
        ];
        let sent = tool(&helix, &arguments, &project).output().unwrap();
        assert!(sent.status.success(), "{sent:?}");
    };
    send("Ada");
    said(&log, "Hello, Ada! (attempt 1)").await;

    let source = project.join("src/lib.rs");
    let original = std::fs::read_to_string(&source).unwrap();
    std::fs::write(&source, original.replace("Hello, {}!", "Good day, {}!")).unwrap();
    let swaps = |text: &str| text.matches("plugin swapped in").count();
    let before = swaps(&std::fs::read_to_string(&log).unwrap());
    until("the edit is swapped in", BUILD, || async {
        (swaps(&std::fs::read_to_string(&log).unwrap()) > before).then_some(())
    })
    .await;
    send("Grace");
    let text = said(&log, "Grace").await;
    assert!(text.contains("Good day, Grace! (attempt 1)"), "{text}");

    // The compiler's own words, and the last good version serves.
    std::fs::write(&source, original.replace("Ok(())\n}", "Ok(1)\n}")).unwrap();
    let text = said(&log, "the handler does not build, the last good version serves").await;
    assert!(
        text.contains("error[E0308]") && text.contains("src/lib.rs"),
        "{text}"
    );
    send("Edsger");
    said(&log, "Good day, Edsger!").await;

    // And it goes on from there.
    let mut file = File::create(&source).unwrap();
    file.write_all(original.replace("Hello, {}!", "Welcome, {}!").as_bytes())
        .unwrap();
    drop(file);
    until("the repaired source is swapped in", BUILD, || async {
        (swaps(&std::fs::read_to_string(&log).unwrap()) > before + 1).then_some(())
    })
    .await;
    send("Barbara");
    said(&log, "Welcome, Barbara!").await;
    assert!(
        dev.0.try_wait().unwrap().is_none(),
        "it was one process all the time"
    );
}
