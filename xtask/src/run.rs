//! Running other programs: loud when they fail, ended when we are interrupted.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::signals;

/// Talk goes to stderr; stdout is for data.
pub fn say(text: impl std::fmt::Display) {
    eprintln!("xtask: {text}");
}

/// The command line as a person would type it.
pub fn shown(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}

fn spawn(command: &mut Command) -> Result<Child> {
    command
        .spawn()
        .with_context(|| format!("cannot start `{}`", shown(command)))
}

/// Runs to the end with our stdout and stderr.
pub fn status(command: &mut Command) -> Result<ExitStatus> {
    let mut child = spawn(command)?;
    wait(&mut child)
}

/// Like [`status`]; anything but success is an error that names the command.
pub fn run(command: &mut Command) -> Result<()> {
    let status = status(command)?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// Runs quietly; on failure the error carries what the program said.
pub fn quiet(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{}`", shown(command)))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed ({})\n{stdout}{stderr}",
            shown(command),
            output.status
        );
    }
    Ok(stdout)
}

/// Runs with stdout passed on line by line and handed to `seen` as well.
pub fn watched(command: &mut Command, mut seen: impl FnMut(&str)) -> Result<ExitStatus> {
    let mut child = spawn(command.stdout(Stdio::piped()))?;
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { break };
            println!("{line}");
            seen(&line);
            if signals::interrupted() {
                break;
            }
        }
    }
    wait(&mut child)
}

/// True when the program can be started.
pub fn exists(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Polls, because a blocked wait would not see the interrupt flag.
fn wait(child: &mut Child) -> Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            if signals::interrupted() {
                bail!("interrupted");
            }
            return Ok(status);
        }
        if signals::interrupted() {
            // Ctrl-C reached the child too; a SIGTERM meant for us alone did not.
            child.kill().ok();
            child.wait()?;
            bail!("interrupted");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
