//! A network namespace by its name under /run/netns.

use std::{
    fs::{self, File},
    net::IpAddr,
    ops::Deref,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, anyhow};
use duct::Expression;
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{lab::names, process, wait::until};

/// A named network namespace. Its maker removes it: [`crate::Lab`] or an agent.
#[derive(Debug, Clone)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// The namespace `name`, which may be yet to come.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into() }
    }

    /// Makes it, loopback up.
    pub(crate) fn create(name: String) -> Self {
        run("ip", &["netns", "add", &name]);
        let netns = Self { name };
        netns.ip("link set lo up");
        netns
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is mounted.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// Whether there is one.
    pub fn exists(&self) -> bool {
        fs::exists(self.path()).unwrap()
    }

    /// A command that runs in it, with this process's mounts.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path())).arg(program);
        command
    }

    /// Runs `program` in it with words of `args`; gives what it printed.
    ///
    /// # Panics
    ///
    /// It fails.
    #[track_caller]
    pub fn run(&self, program: &str, args: &str) -> String {
        let mut command = self.command(program);
        finish(command.args(args.split_whitespace()))
    }

    /// Runs iproute2's `ip` with words of `args`; gives what it printed.
    ///
    /// # Panics
    ///
    /// It fails.
    #[track_caller]
    pub fn ip(&self, args: &str) -> String {
        let mut command = Command::new("ip");
        finish(
            command
                .args(["-n", &self.name])
                .args(args.split_whitespace()),
        )
    }

    /// The same; what `ip` complains of is the error.
    pub fn try_ip(&self, args: &str) -> Result<()> {
        try_ip(&format!("-n {} {args}", self.name))
    }

    /// A command line that runs in it beside us, with this process's mounts.
    pub fn line(&self, words: &[&str]) -> Expression {
        let net = format!("--net={}", self.path());
        process::command("nsenter", &[&[net.as_str()], words].concat())
    }

    /// Does `work` in it, on a thread of its own. Sockets made there stay in the namespace wherever
    /// they are used.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let netns = File::open(self.path()).unwrap();
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
                work()
            });
            inside.join().unwrap()
        })
    }

    /// The same with work that may fail.
    pub fn try_enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let netns = File::open(self.path()).with_context(|| format!("opening {}", self.path()))?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || {
                setns(netns, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("entering namespace {}", self.name))?;
                work()
            });
            let done = inside.join();
            done.map_err(|_| anyhow!("a thread in namespace {} panicked", self.name))?
        })
    }

    /// Whether pings with these options come back. Of several one is enough.
    pub fn pings(&self, ip: &str, options: &str) -> bool {
        let mut ping = self.command("ping");
        ping.args(["-n", "-q", "-i", "0.01"]);
        ping.args(options.split_whitespace())
            .arg(ip)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        ping.status().unwrap().success()
    }

    /// Waits until `ip` answers pings: addresses are in use, the other host's agent has been told.
    #[track_caller]
    pub fn reaches(&self, ip: &str) {
        until(&format!("{} reaches {ip}", self.name), || {
            self.pings(ip, "-c 1 -W 1")
        });
    }

    /// The names of the links in it, but loopback.
    pub fn links(&self) -> Vec<String> {
        let links: serde_json::Value = serde_json::from_str(&self.ip("-j link")).unwrap();
        let names = links.as_array().unwrap().iter();
        let mut names: Vec<_> = names
            .map(|link| link["ifname"].as_str().unwrap().to_owned())
            .collect();
        names.retain(|name| name != "lo");
        names.sort();
        names
    }

    /// Its links as they were set up, without what settles by itself after that.
    pub fn configuration(&self) -> Vec<serde_json::Value> {
        let mut links: Vec<_> = serde_json::from_str(&self.ip("-j -d link")).unwrap();
        links.iter_mut().for_each(take_carrier);
        links
    }

    /// A counter of the link `name`: `rx_packets`, `tx_dropped` and so on.
    pub fn counter(&self, name: &str, counter: &str) -> u64 {
        let (direction, counter) = counter.split_once('_').unwrap();
        let links = self.ip(&format!("-j -s link show dev {name}"));
        let links: serde_json::Value = serde_json::from_str(&links).unwrap();
        links[0]["stats64"][direction][counter].as_u64().unwrap()
    }

    /// The MAC of the link `name`.
    pub fn mac(&self, name: &str) -> String {
        let links = self.ip(&format!("-j link show dev {name}"));
        let links: serde_json::Value = serde_json::from_str(&links).unwrap();
        links[0]["address"].as_str().unwrap().to_owned()
    }
}

/// A namespace that goes with this value, and the links in it too.
#[derive(Debug)]
pub struct OwnedNetns(Netns);

impl OwnedNetns {
    /// Makes it, loopback up.
    pub fn create(name: &str) -> Result<Self> {
        try_ip(&format!("netns add {name}"))?;
        // From here on a failure removes it.
        let made = Self::adopt(name);
        made.try_ip("link set lo up")?;
        Ok(made)
    }

    /// One that somebody else makes for us. It may not be there yet.
    pub fn adopt(name: &str) -> Self {
        Self(Netns::named(name))
    }
}

impl Deref for OwnedNetns {
    type Target = Netns;

    fn deref(&self) -> &Netns {
        &self.0
    }
}

impl Drop for OwnedNetns {
    fn drop(&mut self) {
        if Path::new(&self.path()).exists()
            && let Err(error) = try_ip(&format!("netns del {}", self.name()))
        {
            eprintln!("warning: namespace {} stays: {error:#}", self.name());
        }
    }
}

/// Runs iproute2's `ip`; what it complains of is the error.
pub fn try_ip(args: &str) -> Result<()> {
    let words: Vec<_> = args.split_whitespace().collect();
    process::run(&format!("ip {args}"), &process::command("ip", &words)).map(drop)
}

/// Removes the namespaces whose names start so, and ends what runs in them: what a run leaves that
/// was killed with SIGKILL.
pub fn remove_all(prefix: &str) -> Result<()> {
    names(Path::new("/run/netns"))
        .filter(|name| name.starts_with(prefix))
        .try_for_each(|name| remove(&name))
}

/// Removes one namespace, and ends what runs in it.
pub fn remove(name: &str) -> Result<()> {
    let pids = process::run(
        &format!("listing the processes in namespace {name}"),
        &process::command("ip", &["netns", "pids", name]),
    )?;
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // It may have ended by itself since.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    try_ip(&format!("netns del {name}"))
}

/// Takes away what a link, as `ip -j link` shows it, finds out of its carrier by itself.
pub fn take_carrier(link: &mut serde_json::Value) {
    link["operstate"].take();
    let flags = link["flags"].as_array_mut().unwrap();
    flags.retain(|flag| flag != "NO-CARRIER" && flag != "LOWER_UP");
}

/// Whether `ip` is of version 6, as ping and sockets want to know.
pub fn is_v6(ip: &str) -> bool {
    ip.parse::<IpAddr>().unwrap().is_ipv6()
}

/// Runs a program; gives what it printed.
///
/// # Panics
///
/// It fails.
#[track_caller]
pub fn run(program: &str, args: &[&str]) -> String {
    finish(Command::new(program).args(args))
}

#[track_caller]
fn finish(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
