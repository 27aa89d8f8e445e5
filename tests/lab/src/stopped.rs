//! Processes that are stopped for a while.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// A process that stands where it is, keeps what it has open, and answers nobody; goes on when this goes, also
/// where a test fails, or taking its lab down would wait for it.
#[derive(Debug)]
#[must_use]
pub struct Stopped(Pid);

impl Stopped {
    /// Stops a process of ours.
    pub fn now(pid: u32) -> Self {
        let pid = Pid::from_raw(pid.try_into().unwrap());
        kill(pid, Signal::SIGSTOP).unwrap();
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have been ended meanwhile.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}
