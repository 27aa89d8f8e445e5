//! Commands: short ones that are run, long ones that run beside us.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use duct::{Expression, Handle};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::interrupt;

/// A program with these words.
pub fn command(program: &str, words: &[&str]) -> Expression {
    duct::cmd(program, words)
}

/// Runs a short command to its end. What it printed is in the error if it fails. Ctrl-C on the
/// terminal does not reach it.
pub fn run(what: &str, command: &Expression) -> Result<String> {
    let output = command
        .stdin_null()
        .stderr_to_stdout()
        .stdout_capture()
        .unchecked()
        .before_spawn(own_group)
        .run()
        .with_context(|| format!("{what}: the command can't be started"))?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() {
        bail!("{what}: {text}");
    }
    Ok(text)
}

/// How long a command may take to end by itself, and to reap what it forked.
const GRACE: Duration = Duration::from_secs(1);

/// A command that runs beside us, with everything that it forks. Ended when dropped.
///
/// It has a process group of its own: Ctrl-C on the terminal then reaches us alone, and we end it in
/// order.
pub struct Running {
    what: String,
    handle: Handle,
    group: Pid,
}

impl Running {
    /// Starts it; standard output is kept for [`Running::finish`].
    pub fn start(what: &str, command: &Expression) -> Result<Self> {
        let handle = command
            .stdin_null()
            .stdout_capture()
            .stderr_capture()
            .unchecked()
            .before_spawn(own_group)
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

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        self.check()?;
        self.handle
            .pids()
            .first()
            .copied()
            .with_context(|| format!("{} has no process", self.what))
    }

    /// Fails if it has ended, with what it said.
    pub fn check(&self) -> Result<()> {
        match self.handle.try_wait()? {
            None => Ok(()),
            Some(output) => bail!("{} has ended: {}", self.what, last_words(output)),
        }
    }

    /// Waits for its end and gives its standard output.
    pub fn finish(self, limit: Duration) -> Result<String> {
        let output = self.output(limit)?;
        if !output.status.success() {
            bail!("{} failed: {}", self.what, last_words(output));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits for its end, be it a failure.
    pub fn output(&self, limit: Duration) -> Result<&Output> {
        let end = Instant::now() + limit;
        loop {
            interrupt::check()?;
            if let Some(output) = self.handle.wait_timeout(interrupt::POLL)? {
                return Ok(output);
            }
            if Instant::now() >= end {
                bail!("{} did not end within {} s", self.what, limit.as_secs());
            }
        }
    }

    /// Waits for its end also after an interruption: for cleaning up.
    pub fn settle(self, limit: Duration) -> Result<()> {
        match self.handle.wait_timeout(limit)? {
            Some(output) if output.status.success() => Ok(()),
            Some(output) => bail!("{} failed: {}", self.what, last_words(output)),
            None => bail!("{} did not end within {} s", self.what, limit.as_secs()),
        }
    }

    /// Asks it to end, and kills it if it does not within `limit`.
    pub fn terminate(self, limit: Duration) -> Result<()> {
        if self.handle.try_wait()?.is_none() {
            killpg(self.group, Signal::SIGTERM).with_context(|| format!("ending {}", self.what))?;
            self.handle.wait_timeout(limit)?;
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Once it is reaped its number may be somebody else's.
        let running = || matches!(self.handle.try_wait(), Ok(None));
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if running() {
                let _ = killpg(self.group, signal);
                let _ = self.handle.wait_timeout(GRACE);
            }
        }
    }
}

/// Makes a command the leader of a process group.
#[expect(
    clippy::unnecessary_wraps,
    reason = "duct calls it, and takes a failure"
)]
fn own_group(command: &mut Command) -> io::Result<()> {
    command.process_group(0);
    Ok(())
}

/// What a command that failed leaves to read: its standard error, else the end of its output.
fn last_words(output: &Output) -> String {
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
