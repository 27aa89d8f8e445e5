//! Network namespaces by name: made, entered and removed.

use std::fs::{self, File};
use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use duct::Expression;
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::process;

const FOLDER: &str = "/run/netns";

/// A named namespace. One that is ours goes away with this value, and the links in it too.
pub(crate) struct Netns {
    name: String,
    ours: bool,
}

impl Netns {
    pub(crate) fn create(name: &str) -> Result<Self> {
        ip(&format!("netns add {name}"))?;
        // From here on a failure removes it.
        let made = Self::adopt(name);
        made.ip("link set lo up")?;
        Ok(made)
    }

    /// One that somebody else makes for us. It may not be there yet.
    pub(crate) fn adopt(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ours: true,
        }
    }

    /// One that is somebody else's to remove.
    pub(crate) fn existing(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ours: false,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// A command line that runs in here. The mounts stay those of the caller, bpffs too.
    pub(crate) fn command(&self, words: &[&str]) -> Result<Expression> {
        let enter = format!("--net={}", self.path().display());
        let line: Vec<_> = std::iter::once(enter.as_str())
            .chain(words.iter().copied())
            .collect();
        process::command("nsenter", &line)
    }

    /// Runs iproute2's ip in here; `words` are separated by blanks.
    pub(crate) fn ip(&self, words: &str) -> Result<()> {
        ip(&format!("-netns {} {words}", self.name))
    }

    /// Runs iproute2's bridge in here; `words` are separated by blanks.
    pub(crate) fn bridge(&self, words: &str) -> Result<()> {
        iproute2("bridge", &format!("-netns {} {words}", self.name))
    }

    /// Calls `work` on a thread that is in here: sockets that it opens and /proc/thread-self/net
    /// belong to this namespace.
    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                let path = self.path();
                let file =
                    File::open(&path).with_context(|| format!("opening {}", path.display()))?;
                setns(file, CloneFlags::CLONE_NEWNET)
                    .with_context(|| format!("entering namespace {}", self.name))?;
                work()
            });
            entered
                .join()
                .map_err(|_| anyhow!("a thread in namespace {} panicked", self.name))?
        })
    }

    fn path(&self) -> PathBuf {
        path(&self.name)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if self.ours
            && self.path().exists()
            && let Err(error) = ip(&format!("netns del {}", self.name))
        {
            eprintln!("warning: namespace {} stays: {error:#}", self.name);
        }
    }
}

/// Where iproute2 keeps a namespace.
pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from(FOLDER).join(name)
}

/// Runs iproute2's ip; `words` are separated by blanks.
pub(crate) fn ip(words: &str) -> Result<()> {
    iproute2("ip", words)
}

fn iproute2(program: &str, words: &str) -> Result<()> {
    let line: Vec<_> = words.split_whitespace().collect();
    let command = process::command(program, &line)?;
    process::run(&format!("{program} {words}"), &command).map(drop)
}

/// Removes the namespaces whose names start so, and ends what runs in them: what a run leaves that
/// was killed with SIGKILL.
pub(crate) fn remove_all(prefix: &str) -> Result<()> {
    let Ok(entries) = fs::read_dir(FOLDER) else {
        return Ok(());
    };
    for entry in entries {
        let name = entry?.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with(prefix)) else {
            continue;
        };
        remove(name)?;
    }
    Ok(())
}

/// Removes one namespace, and ends what runs in it.
pub(crate) fn remove(name: &str) -> Result<()> {
    let pids = process::run(
        &format!("listing the processes in namespace {name}"),
        &process::command("ip", &["netns", "pids", name])?,
    )?;
    for pid in pids.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // It may have ended by itself since.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    ip(&format!("netns del {name}"))
}
