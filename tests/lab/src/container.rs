//! A process in a network namespace of its own, as container runtimes start them.

use std::{
    fs,
    process::{Child, Command},
};

use crate::{netns::run, wait::until};

/// A process in a namespace of its own, which goes with it.
#[derive(Debug)]
pub struct Container(Child);

impl Container {
    /// Starts one.
    ///
    /// # Panics
    ///
    /// There is no unshare(1).
    pub fn start() -> Self {
        let mut unshare = Command::new("unshare");
        let child = unshare.args(["--net", "sleep", "600"]).spawn().unwrap();
        let own = fs::read_link("/proc/self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", child.id());
        until("the container has a namespace of its own", || {
            fs::read_link(&path).is_ok_and(|netns| netns != own)
        });
        Self(child)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Its namespace.
    pub fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.pid())
    }

    /// Runs a program in it, which must succeed; gives what it printed.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        let net = format!("--net={}", self.path());
        run("nsenter", &[&[net.as_str()], args].concat())
    }

    /// Waits until `ip` answers its pings.
    #[track_caller]
    pub fn reaches(&self, ip: &str) {
        let net = format!("--net={}", self.path());
        until(&format!("the container reaches {ip}"), || {
            let mut ping = Command::new("nsenter");
            ping.args([&net, "ping", "-c1", "-W1", ip]);
            ping.output().unwrap().status.success()
        });
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
