//! System calls that take their time, as on a machine that is unwell.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A process some of whose system calls wait before they reach the kernel, made so by strace. They are
/// as they were again when this goes.
#[derive(Debug)]
pub struct Delay {
    strace: Child,
    /// Kept open: strace speaks of each new thread.
    _says: BufReader<ChildStderr>,
}

impl Delay {
    /// Lets `calls`, a list with commas between, of all threads of `pid` wait for `delay` each. Where
    /// `log` is, strace writes what it saw.
    ///
    /// # Panics
    ///
    /// strace can't attach to it.
    #[must_use]
    pub fn attach(pid: u32, calls: &str, delay: Duration, log: &Path) -> Self {
        let mut strace = Command::new("strace")
            .args(["--follow-forks", "--attach", &pid.to_string()])
            .args(["--trace", calls, "--inject"])
            .arg(format!("{calls}:delay_enter={}", delay.as_micros()))
            .arg("--output")
            .arg(log.with_extension("strace"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut says = BufReader::new(strace.stderr.take().unwrap());
        let mut line = String::new();
        says.read_line(&mut line).unwrap();
        assert!(line.contains("attached"), "{line}");
        Self {
            strace,
            _says: says,
        }
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        // At this signal strace lets go of what it traces.
        let pid = i32::try_from(self.strace.id()).unwrap_or_default();
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let _ = self.strace.wait();
    }
}
