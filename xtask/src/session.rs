//! What tests of real hosts on real brokers are told, and brokers that are stopped whatever happens.

use anyhow::Result;

use crate::brokers::{self, Cluster, Kind};
use crate::run::say;
use crate::workspace::{host_binary, target};
use crate::{install, plugins};

pub type Env = Vec<(String, String)>;

/// Installs what every one of them needs; answers where things are. `brokers` is the name under which they will run.
pub fn prepare(brokers: &str) -> Result<Env> {
    install::native_build_tools()?;
    install::wasm_target()?;
    Ok([
        ("HELIX_BIN", host_binary()),
        ("HELIX_TEST_GUESTS", plugins::guests_folder()),
        // `$HELIX_TEST_BROKERS_CTL brokers kill|restart|pause|resume rabbitmq|kafka|postgres`
        ("HELIX_TEST_BROKERS_CTL", std::env::current_exe()?),
        ("HELIX_BROKERS_STATE", target().join("brokers")),
        ("HELIX_BROKERS_NAME", brokers.into()),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.display().to_string()))
    .collect())
}

/// Brokers and Postgres under a name of their own, apart from those a person started by hand. Dropping it stops them.
pub struct Session {
    name: String,
    keep: bool,
    clusters: Vec<Cluster>,
}

impl Session {
    /// `nodes` is how many Kafka has.
    pub fn start(name: &str, nodes: u16, keep: bool) -> Result<Self> {
        let options = brokers::Options {
            name: name.to_owned(),
            rabbitmq_port: None,
            kafka_port: None,
            postgres_port: None,
            nodes,
            plain: false,
            for_figures: false,
            temp: false,
            settings: None,
            timeout: 180,
        };
        // Left over from a run that was killed: its messages would confuse this one.
        for kind in Kind::ALL {
            brokers::stop(kind, name, false)?;
        }
        let mut session = Self {
            name: name.to_owned(),
            keep,
            clusters: Vec::new(),
        };
        session.clusters = brokers::start_all(&Kind::ALL, &options)?;
        Ok(session)
    }

    pub fn env(&self) -> Env {
        brokers::env_of(&self.clusters)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.keep {
            say(format!(
                "brokers left running: `cargo xtask brokers stop --name {}`",
                self.name
            ));
            return;
        }
        for kind in Kind::ALL {
            if let Err(e) = brokers::stop(kind, &self.name, false) {
                say(format!("{} did not stop: {e:#}", kind.word()));
            }
        }
    }
}
