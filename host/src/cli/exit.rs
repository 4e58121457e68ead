//! How commands end: 0 ok · 1 failed · 2 usage (clap) · 3 invalid · 4 unreachable.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use crate::config::{Faults, Style};
use crate::error::Code;

#[derive(Debug)]
pub struct Exit {
    code: u8,
    message: String,
}

impl Exit {
    pub fn failed(message: impl Into<String>) -> Self {
        Self {
            code: 1,
            message: message.into(),
        }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            code: 2,
            message: message.into(),
        }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self {
            code: 3,
            message: message.into(),
        }
    }

    pub fn unreachable(message: impl Into<String>) -> Self {
        Self {
            code: 4,
            message: message.into(),
        }
    }

    /// What, why, what next, and the code whose page has the remedy.
    pub fn coded(self, code: Code) -> Self {
        Self {
            message: format!("error[{code}]: {}\n  see docs/errors/{code}.md", self.message),
            ..self
        }
    }

    /// Nobody answers, or not now: whatever comes next would end the same.
    pub fn is_unreachable(&self) -> bool {
        self.code == 4
    }

    /// The exit code alone: what there is to say was said.
    pub fn silent(self) -> Self {
        Self {
            message: String::new(),
            ..self
        }
    }

    pub fn message(&self) -> &str {
        &self.message
    }

    pub fn report(&self) -> ExitCode {
        if !self.message.is_empty() {
            // A closed stderr must not turn the exit code into a panic.
            let _ = writeln!(std::io::stderr(), "{}", self.message.trim_end());
        }
        ExitCode::from(self.code)
    }
}

impl From<Faults> for Exit {
    fn from(faults: Faults) -> Self {
        let style = Style::of(
            std::io::stderr().is_terminal(),
            std::env::var_os("NO_COLOR").is_some(),
        );
        Self::invalid(faults.render(style))
    }
}

impl From<crate::app::StartError> for Exit {
    fn from(error: crate::app::StartError) -> Self {
        match error {
            crate::app::StartError::Config(faults) => faults.into(),
            crate::app::StartError::Failed(message) => Self::failed(format!("error: {message}")),
        }
    }
}
