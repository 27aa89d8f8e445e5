//! What the demo makes on the machine, and how that goes away again, whatever happens.
//!
//! A record of the names that a run takes is written before it makes the first of them, and removed
//! after the last is gone. So what stands in a record is ours, also for the next run after one that
//! was killed; what has such a name without a record is somebody else's and stays.

use std::ffi::OsString;
use std::fs;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, io};

use anyhow::{Context as _, Result, bail};
use duct::Expression;
use serde::{Deserialize, Serialize};

use super::READY_TIMEOUT;
use super::topology::{self, Host, STATE};
use overlay_lab::process::{self, Running};
use overlay_lab::{interrupt, netns};

/// Held by the only demo of this machine. The kernel takes it back however the demo ends, and it
/// leaves no file.
pub(super) struct Claim {
    _socket: UnixListener,
}

pub(super) fn claim() -> Result<Claim> {
    let name = SocketAddr::from_abstract_name("overlay-demo")?;
    match UnixListener::bind_addr(&name) {
        Ok(socket) => Ok(Claim { _socket: socket }),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            bail!("another demo is running: wait for its end, or end it with Ctrl-C there")
        }
        Err(error) => Err(error).context("claiming the demo's names"),
    }
}

/// The names that a run has taken.
#[derive(Serialize, Deserialize)]
struct Record {
    namespaces: Vec<String>,
    /// The agents'.
    instances: Vec<String>,
    /// It was left up on purpose.
    kept: bool,
}

impl Record {
    fn path() -> PathBuf {
        Path::new(STATE).join("taken.json")
    }

    /// Of an earlier run.
    fn read() -> Result<Option<Self>> {
        let path = Self::path();
        match fs::read(&path) {
            Ok(text) => {
                let record = serde_json::from_slice(&text)
                    .with_context(|| format!("{} is no record of a demo", path.display()))?;
                Ok(Some(record))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
        }
    }

    fn write(&self) -> Result<()> {
        let fresh = Self::path().with_extension("new");
        fs::write(&fresh, serde_json::to_vec(self)?)?;
        Ok(fs::rename(&fresh, Self::path())?)
    }

    /// Takes the names for this run, if nobody has them.
    fn take() -> Result<Self> {
        let record = Self {
            namespaces: topology::namespaces(),
            instances: Host::BOTH.map(|host| host.instance().to_owned()).to_vec(),
            kept: false,
        };
        if let Some(name) = record.namespaces_present().next() {
            bail!(
                "the demo needs the name `{name}` for a network namespace, and there is one that is \
                 not the demo's: remove it with `ip netns del {name}` if nobody needs it"
            );
        }
        if let Some(name) = record.instances_present().next() {
            bail!(
                "the demo needs the name `{name}` for an agent, and there is one that is not the \
                 demo's: remove it with `overlay --instance {name} down` if nobody needs it"
            );
        }
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(STATE)
            .with_context(|| format!("making {STATE}"))?;
        record.write()?;
        Ok(record)
    }

    fn namespaces_present(&self) -> impl Iterator<Item = &str> {
        let names = self.namespaces.iter().map(String::as_str);
        names.filter(|name| netns::Netns::named(*name).exists())
    }

    fn instances_present(&self) -> impl Iterator<Item = &str> {
        let names = self.instances.iter().map(String::as_str);
        names.filter(|name| {
            let lock = Path::new("/run/overlay").join(format!("{name}.lock"));
            lock.exists() || topology::pins(name).exists()
        })
    }

    /// Removes everything that has one of the names, then itself. Goes on past errors.
    fn strike(&self, shell: &Shell) -> Result<()> {
        let mut errors = Vec::new();
        let down = |errors: &mut Vec<_>| {
            for instance in self.instances_present() {
                errors.extend(shell.down(instance).err());
            }
        };
        // What fails while its host is there may work without: those errors don't count.
        down(&mut Vec::new());
        for namespace in self.namespaces_present() {
            errors.extend(netns::remove(namespace).err());
        }
        down(&mut errors);
        if errors.is_empty() {
            return fs::remove_dir_all(STATE).with_context(|| format!("removing {STATE}"));
        }
        let errors: Vec<_> = errors.iter().map(|error| format!("{error:#}")).collect();
        bail!(
            "not everything could be removed: {}: try again with `cargo xtask demo --down`",
            errors.join("; ")
        )
    }
}

/// Where lines run: on a host, or beside both.
struct Shell {
    path: OsString,
}

impl Shell {
    /// One that finds this agent as `overlay`.
    fn new(agent: &Path) -> Result<Self> {
        let folder = agent.parent().context("the agent is in no folder")?;
        let search = env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(folder.to_owned()).chain(env::split_paths(&search));
        Ok(Self {
            path: env::join_paths(folders).context("PATH can't be extended")?,
        })
    }

    /// nsenter rather than `ip netns exec`: bpffs stays in sight.
    fn line(&self, host: Option<Host>, line: &str) -> Expression {
        let command = if let Some(host) = host {
            let enter = format!("--net={}", netns::Netns::named(host.netns()).path());
            duct::cmd!("nsenter", enter, "sh", "-c", line).env("OVERLAY_INSTANCE", host.instance())
        } else {
            duct::cmd!("sh", "-c", line)
        };
        command.dir(STATE).env("PATH", &self.path)
    }

    fn start(&self, host: Option<Host>, line: &str) -> Result<Running> {
        interrupt::check()?;
        Running::start(line, &self.line(host, line))
    }

    fn down(&self, instance: &str) -> Result<()> {
        let line = format!("overlay --instance {instance} down");
        Running::start(&line, &self.line(None, &line))?.settle(READY_TIMEOUT)
    }
}

/// What we read of an agent's answer.
#[derive(Deserialize)]
struct Status {
    ready: bool,
    endpoints: EndpointCounts,
}

/// What we read of external ports.
#[derive(Deserialize)]
struct Nat {
    blocks: Vec<Block>,
}

#[derive(Deserialize)]
struct Block {
    used: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct EndpointCounts {
    remote: u64,
}

/// The hosts, the agents and what they made. All of it goes away with this value.
pub(super) struct Environment {
    shell: Shell,
    agents: Vec<(Host, Running)>,
    /// None once nothing is left to remove.
    record: Option<Record>,
    _claim: Claim,
}

impl Environment {
    /// Takes the names; removes what an earlier run left that could not do so itself.
    pub(super) fn set(agent: &Path, claim: Claim) -> Result<Self> {
        let shell = Shell::new(agent)?;
        if let Some(earlier) = Record::read()? {
            if earlier.kept {
                bail!("a demo is up: remove it with `cargo xtask demo --down`");
            }
            eprintln!("removing what an earlier demo left that was killed");
            earlier.strike(&shell)?;
        }
        Ok(Self {
            shell,
            agents: Vec::new(),
            record: Some(Record::take()?),
            _claim: claim,
        })
    }

    /// Starts a line on a host, or on the machine itself.
    pub(super) fn start(&self, host: Option<Host>, line: &str) -> Result<Running> {
        self.shell.start(host, line)
    }

    /// Holds an agent until the end.
    pub(super) fn keep_running(&mut self, host: Host, agent: Running) {
        self.agents.push((host, agent));
    }

    /// The agent of a host, which is not held any more.
    pub(super) fn agent(&mut self, host: Host) -> Result<Running> {
        let place = self.agents.iter().position(|(of, _)| *of == host);
        let place = place.with_context(|| format!("no agent runs on {}", host.name()))?;
        Ok(self.agents.swap_remove(place).1)
    }

    pub(super) fn wait_until_ready(&self, host: Host, agent: &Running) -> Result<()> {
        let what = format!("the agent on {} is ready", host.name());
        self.wait_for_status(host, &what, |status| {
            if agent.check().is_err() {
                let log = fs::read_to_string(Path::new(STATE).join(host.log())).unwrap_or_default();
                let reason = log.lines().next_back().unwrap_or("it said nothing");
                bail!("the agent on {} has ended: {reason}", host.name());
            }
            Ok(status.is_some_and(|status| status.ready))
        })
    }

    /// Waits until a host knows this many endpoints of others.
    pub(super) fn wait_for_remote(&self, host: Host, endpoints: u64) -> Result<()> {
        let what = format!("{} knows of {endpoints} endpoints elsewhere", host.name());
        self.wait_for_status(host, &what, |status| {
            Ok(status.is_some_and(|status| status.endpoints.remote == endpoints))
        })
    }

    /// Waits until a host's endpoint has ports to leave the overlay by.
    pub(super) fn wait_for_block(&self, host: Host) -> Result<()> {
        let list = self.shell.line(Some(host), "overlay -o json nat ls");
        let what = format!("an endpoint of {} has external ports", host.name());
        interrupt::wait_until(&what, READY_TIMEOUT, || {
            let listed = process::run("nat ls", &list)?;
            let listed: Nat =
                serde_json::from_str(&listed).context("the agent's answer is no JSON")?;
            // Known to the kernel too.
            Ok(listed.blocks.iter().any(|block| block.used.is_some()))
        })
    }

    fn wait_for_status(
        &self,
        host: Host,
        what: &str,
        mut fits: impl FnMut(Option<Status>) -> Result<bool>,
    ) -> Result<()> {
        let status = self.shell.line(Some(host), "overlay -o json status");
        interrupt::wait_until(what, READY_TIMEOUT, || {
            // No answer: not there yet.
            let answer = process::run("status", &status).ok();
            let status = answer.map(|text| serde_json::from_str(&text)).transpose();
            fits(status.context("the agent's status is no JSON")?)
        })
    }

    /// Leaves everything up, past our own end.
    pub(super) fn keep(&mut self) -> Result<()> {
        let mut record = self.record.take().context("nothing is up")?;
        record.kept = true;
        if let Err(error) = record.write() {
            self.record = Some(record);
            return Err(error);
        }
        // Dropping them would end them.
        self.agents.drain(..).for_each(std::mem::forget);
        Ok(())
    }

    /// Removes everything.
    pub(super) fn strike(&mut self) -> Result<()> {
        let Some(record) = self.record.take() else {
            return Ok(());
        };
        record.strike(&self.shell)?;
        self.agents
            .drain(..)
            .try_for_each(|(_, agent)| agent.terminate(Duration::from_secs(5)))
    }
}

impl Drop for Environment {
    fn drop(&mut self) {
        if self.record.is_some() {
            eprintln!("cleaning up");
        }
        if let Err(error) = self.strike() {
            eprintln!("warning: {error:#}");
        }
    }
}

/// Removes a demo that was kept, or the rest of one that was killed.
pub(super) fn remove(agent: &Path) -> Result<()> {
    match Record::read()? {
        Some(record) => {
            record.strike(&Shell::new(agent)?)?;
            println!("the demo is removed");
        }
        None => println!("no demo is up"),
    }
    Ok(())
}
