//! Kafka's jars from Maven Central, once per machine, with class-data archives for a fast start.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use super::super::process::{Process, await_line, free};
use crate::run::{exists, quiet, say};

const VERSION: &str = "4.3.1";

// connect-runtime (Jetty, Jersey) is needed by one tool of Kafka Connect only.
const POM: &str = r#"<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>helix.tests</groupId><artifactId>kafka-dist</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId><version>@VERSION@</version></dependency>
<dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId><version>@VERSION@</version>
<exclusions><exclusion><groupId>org.apache.kafka</groupId><artifactId>connect-runtime</artifactId></exclusion></exclusions></dependency>
<dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId><version>2.25.4</version></dependency>
</dependencies></project>
"#;

const BROKER_LOG: &str = "appender.out.type=Console
appender.out.name=out
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=[%d] %p %m (%c)%n
rootLogger.level=INFO
rootLogger.appenderRef.out.ref=out
logger.clients.name=org.apache.kafka.clients
logger.clients.level=WARN
logger.config.name=org.apache.kafka.common.config.AbstractConfig
logger.config.level=WARN
";

const TOOLS_LOG: &str = "appender.err.type=Console
appender.err.name=err
appender.err.target=SYSTEM_ERR
appender.err.layout.type=PatternLayout
appender.err.layout.pattern=%p %m (%c)%n
rootLogger.level=ERROR
rootLogger.appenderRef.err.ref=err
";

/// Downloads are kept for all checkouts of this user.
fn cache() -> PathBuf {
    if let Some(dir) = std::env::var_os("HELIX_BROKERS_CACHE") {
        return PathBuf::from(dir);
    }
    std::env::var_os("HOME")
        .map_or_else(std::env::temp_dir, PathBuf::from)
        .join(".cache/helix-brokers")
}

/// The installed distribution.
pub fn home() -> PathBuf {
    cache().join(format!("kafka-{VERSION}"))
}

pub fn class_path() -> String {
    format!("{}/libs/*", home().display())
}

/// The option for a class-data archive, if there is one. It halves the CPU time of a start.
pub fn archive(name: &str) -> Option<String> {
    let file = home().join(format!("{name}.jsa"));
    file.exists()
        .then(|| format!("-XX:SharedArchiveFile={}", file.display()))
}

pub fn install() -> Result<()> {
    crate::install::apt(&["default-jre-headless"], || !exists("java"))?;
    let home = home();
    if home.join(".complete").exists() {
        return Ok(());
    }
    crate::install::apt(&["maven"], || !exists("mvn"))?;
    let cache = cache();
    fs::create_dir_all(&cache)?;
    let lock = File::create(cache.join(".install-kafka.lock"))?;
    lock.lock().context("cannot lock the cache of brokers")?;
    if home.join(".complete").exists() {
        return Ok(());
    }
    say(format!(
        "fetching Kafka {VERSION} from Maven Central (about 40 MB, once)"
    ));
    let fresh = cache.join(format!(".kafka-{VERSION}.{}", std::process::id()));
    fs::create_dir_all(&fresh)?;
    let fetched = fetch(&fresh);
    if fetched.is_err() {
        fs::remove_dir_all(&fresh).ok();
        return fetched;
    }
    fs::remove_dir_all(&home).ok();
    fs::rename(&fresh, &home)?;
    if let Err(e) = make_archives() {
        say(format!("no class-data archives, starts take longer: {e:#}"));
    }
    // Last: an archive that is being written must never be used.
    fs::write(home.join(".complete"), "")?;
    Ok(())
}

fn fetch(dir: &Path) -> Result<()> {
    fs::write(dir.join("pom.xml"), POM.replace("@VERSION@", VERSION))?;
    fs::write(dir.join("log4j2.properties"), BROKER_LOG)?;
    fs::write(dir.join("log4j2-tools.properties"), TOOLS_LOG)?;
    let mut mvn = Command::new("mvn");
    mvn.args([
        "-B",
        "-q",
        "dependency:copy-dependencies",
        "-DincludeScope=runtime",
    ])
    .arg(format!("-DoutputDirectory={}", dir.join("libs").display()))
    .current_dir(dir);
    quiet(&mut mvn).map(drop).context("Maven could not fetch Kafka")
}

/// One run of a broker and of a tool records the classes that later runs map from the archive.
fn make_archives() -> Result<()> {
    let dir = std::env::temp_dir().join(format!("helix-kafka-archive-{}", std::process::id()));
    fs::create_dir_all(&dir)?;
    let made = record(&dir);
    fs::remove_dir_all(&dir).ok();
    made
}

fn record(dir: &Path) -> Result<()> {
    let port = (22_000..32_000)
        .step_by(7)
        .find(|port| free(*port) && free(port + 1))
        .context("no free port")?;
    let controller = port + 1;
    let properties = dir.join("server.properties");
    let settings = format!(
        "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         controller.listener.names=CONTROLLER\nlisteners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT\nlog.dirs={}\n\
         log.cleaner.dedupe.buffer.size=16777216\noffsets.topic.replication.factor=1\n",
        dir.join("data").display()
    );
    fs::write(&properties, settings)?;
    super::format(&properties, &[])?;
    let recording = |name: &str| {
        format!(
            "-XX:ArchiveClassesAtExit={}",
            home().join(format!("{name}.jsa")).display()
        )
    };
    let mut java = super::broker(false);
    java.arg(recording("broker"))
        .args(["-cp", &class_path(), "kafka.Kafka"])
        .arg(&properties);
    let log = dir.join("log");
    let broker = Process::spawn(&mut java, &log)?;
    let recorded = await_line(
        broker,
        &log,
        "Kafka Server started",
        &log,
        Duration::from_secs(120),
    )
    .and_then(|()| {
        let mut create = super::tool(&[
            recording("tools"),
            "org.apache.kafka.tools.TopicCommand".to_owned(),
        ]);
        create.args([
            "--bootstrap-server",
            &format!("127.0.0.1:{port}"),
            "--create",
            "--topic",
            "warm",
        ]);
        quiet(&mut create).map(drop)
    });
    // The archive of the broker is written while it stops.
    broker.end(libc::SIGTERM, Duration::from_secs(60))?;
    recorded
}
