//! Commands: short ones that are run, long ones that run beside us.

use std::ffi::OsStr;
use std::os::unix::process::CommandExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use duct::{Expression, Handle};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::interrupt;
use crate::host;

/// A command that finds administration tools on a plain user's PATH too.
pub(super) fn command<S: AsRef<OsStr>>(program: &str, arguments: &[S]) -> Result<Expression> {
    let arguments = arguments.iter().map(AsRef::as_ref);
    Ok(duct::cmd(program, arguments).env("PATH", host::search_path()?))
}

/// Runs a short command to its end. What it printed is in the error if it fails.
pub(super) fn run(what: &str, command: &Expression) -> Result<String> {
    let output = command
        .stdin_null()
        .stderr_to_stdout()
        .stdout_capture()
        .unchecked()
        .run()
        .with_context(|| format!("{what}: the command can't be started"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        bail!("{what}: {text}");
    }
    Ok(text)
}

/// A command that runs beside us, with everything that it forks. Killed when dropped.
///
/// It has a process group of its own: Ctrl-C on the terminal then reaches us alone, and we end it in
/// order.
pub(super) struct Running {
    what: String,
    handle: Handle,
    group: Pid,
}

impl Running {
    /// Starts it; standard output is kept for [`Running::finish`].
    pub(super) fn start(what: &str, command: &Expression) -> Result<Self> {
        let handle = command
            .stdin_null()
            .stdout_capture()
            .stderr_capture()
            .unchecked()
            .before_spawn(|command| {
                command.process_group(0);
                Ok(())
            })
            .start()
            .with_context(|| format!("{what}: the command can't be started"))?;
        let pid = handle.pids().first().copied().unwrap_or_default();
        let group = Pid::from_raw(i32::try_from(pid).context("a process id out of range")?);
        Ok(Self {
            what: what.to_owned(),
            handle,
            group,
        })
    }

    /// Fails if it has ended, with what it said.
    pub(super) fn check(&self) -> Result<()> {
        match self.handle.try_wait()? {
            None => Ok(()),
            Some(output) => bail!("{} has ended: {}", self.what, last_words(output)),
        }
    }

    /// Waits for its end and gives its standard output.
    pub(super) fn finish(self, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        loop {
            interrupt::check()?;
            if let Some(output) = self.handle.wait_timeout(interrupt::POLL)? {
                if !output.status.success() {
                    bail!("{} failed: {}", self.what, last_words(output));
                }
                return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
            }
            if Instant::now() >= end {
                bail!("{} did not end within {} s", self.what, limit.as_secs());
            }
        }
    }

    /// Asks it to end and gives it some time.
    pub(super) fn terminate(self, limit: Duration) -> Result<()> {
        killpg(self.group, Signal::SIGTERM).with_context(|| format!("ending {}", self.what))?;
        if self.handle.wait_timeout(limit)?.is_none() {
            bail!("{} did not end within {} s", self.what, limit.as_secs());
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Once it is reaped its number may be somebody else's.
        if matches!(self.handle.try_wait(), Ok(None)) {
            let _ = killpg(self.group, Signal::SIGKILL);
            let _ = self.handle.wait();
        }
    }
}

/// What a command that failed leaves to read: its standard error, else the end of its output.
fn last_words(output: &std::process::Output) -> String {
    const LINES: usize = 5;
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    let text = if stderr.trim().is_empty() {
        stdout
    } else {
        stderr
    };
    let lines: Vec<_> = text.trim().lines().collect();
    let tail = lines.len().saturating_sub(LINES);
    let tail = lines.get(tail..).unwrap_or_default().join(" | ");
    format!("{}: {tail}", output.status)
}
