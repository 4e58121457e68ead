//! Running other programs: loud when they fail, ended when we are interrupted.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
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

/// In a process group of its own: on interrupt the whole family is ended, not cargo alone with its tests left behind.
fn spawn(command: &mut Command) -> Result<Child> {
    command
        .process_group(0)
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
pub fn watched(command: &mut Command, mut seen: impl FnMut(&str) + Send) -> Result<ExitStatus> {
    let mut child = spawn(command.stdout(Stdio::piped()))?;
    let stdout = child.stdout.take().context("stdout was asked for")?;
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(std::io::Result::ok) {
                println!("{line}");
                seen(&line);
            }
        });
        wait(&mut child)
    })
}

/// True when the program can be started.
pub fn exists(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// Polls, because a blocked wait would not see the interrupt flag.
fn wait(child: &mut Child) -> Result<ExitStatus> {
    loop {
        let ended = child.try_wait()?;
        if signals::interrupted() {
            end_group(child)?;
            bail!("interrupted");
        }
        if let Some(status) = ended {
            return Ok(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// SIGTERM to the whole group, SIGKILL five seconds later.
fn end_group(child: &mut Child) -> Result<()> {
    let group = -i32::try_from(child.id())?;
    // SAFETY: kill takes plain integers; the group was made by us and its leader is not waited for yet or just ended.
    unsafe { libc::kill(group, libc::SIGTERM) };
    for _ in 0..100 {
        // SAFETY: signal 0 only asks whether the group has members.
        if child.try_wait()?.is_some() && unsafe { libc::kill(group, 0) } != 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // SAFETY: as above.
    unsafe { libc::kill(group, libc::SIGKILL) };
    child.wait()?;
    Ok(())
}
