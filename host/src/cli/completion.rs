//! `helix completion SHELL`.

use clap::{Args, CommandFactory};

use super::{Cli, Exit};

#[derive(Debug, Args)]
pub struct Completion {
    shell: clap_complete::Shell,
}

impl Completion {
    #[allow(clippy::unnecessary_wraps, reason = "every command has this signature")]
    pub fn run(self) -> Result<(), Exit> {
        clap_complete::generate(self.shell, &mut Cli::command(), "helix", &mut std::io::stdout());
        Ok(())
    }
}
