//! Starts an agent as a user does, and waits until it is ready.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use overlay_lab::process::{self, Running};
use overlay_lab::{Netns, interrupt};

use crate::lab::UNDERLAY;
use crate::usage::Usage;

/// Where agents pin their maps, by instance.
pub(crate) const PINS: &str = "/sys/fs/bpf/overlay";
/// Later than that it never comes.
const LIMIT: Duration = Duration::from_mins(10);

/// A running agent. Its datapath goes away with it.
pub(crate) struct Agent {
    binary: PathBuf,
    instance: String,
    registry: String,
    process: Option<Running>,
    notices: UnixDatagram,
    started: Instant,
    _folder: TempDir,
}

impl Agent {
    /// Starts one in `host`, with the URL of its registry and more words for `run`.
    pub(crate) fn start(
        binary: &Path,
        host: &Netns,
        instance: &str,
        registry: &str,
        words: &[&str],
    ) -> Result<Self> {
        let folder = tempfile::tempdir().context("making a folder for a socket")?;
        let socket = folder.path().join("notify");
        let notices = UnixDatagram::bind(&socket).context("making a socket")?;
        notices.set_read_timeout(Some(interrupt::POLL))?;
        let program = binary.to_str().context("the agent's path is not UTF-8")?;
        let mut line = vec![program, "--instance", instance, "run", "--iface", UNDERLAY];
        line.extend(["--node", instance, "--registry", registry]);
        line.extend(words);
        // As a service manager asks for it (sd_notify(3)).
        let command = host.line(&line).env("NOTIFY_SOCKET", &socket);
        let started = Instant::now();
        let process = Running::start(&format!("agent {instance}"), &command)?;
        Ok(Self {
            binary: binary.to_owned(),
            instance: instance.to_owned(),
            registry: registry.to_owned(),
            process: Some(process),
            notices,
            started,
            _folder: folder,
        })
    }

    /// Waits until the kernel is first what the registry wants; how long after the start that is.
    pub(crate) fn await_ready(&self) -> Result<Duration> {
        let mut notice = [0; 256];
        loop {
            interrupt::check()?;
            self.process()?.check()?;
            if let Ok(len) = self.notices.recv(&mut notice) {
                let text = notice.get(..len).unwrap_or_default();
                if text.starts_with(b"READY=1") {
                    return Ok(self.started.elapsed());
                }
            }
            if self.started.elapsed() > LIMIT {
                bail!(
                    "agent {} is not ready after {} s",
                    self.instance,
                    LIMIT.as_secs()
                );
            }
        }
    }

    fn process(&self) -> Result<&Running> {
        self.process.as_ref().context("the agent has ended")
    }

    /// What it takes of the machine.
    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::of(self.process()?.pid()?)
    }

    /// The URL of its registry.
    pub(crate) fn registry(&self) -> &str {
        &self.registry
    }

    /// The folder of its pins.
    pub(crate) fn pins(&self) -> PathBuf {
        pins(&self.instance)
    }

    /// Memory that the kernel accounts to its maps, MiB.
    pub(crate) fn map_memory_mib(&self) -> Result<f64> {
        let mut bytes = 0;
        for version in fs::read_dir(self.pins()).context("reading the agent's pins")? {
            let maps = version?.path().join("maps");
            for map in fs::read_dir(maps).into_iter().flatten() {
                let map = map?.path();
                let shown = process::run(
                    "asking for a map",
                    &process::command(
                        "bpftool",
                        &["-j", "map", "show", "pinned", &map.to_string_lossy()],
                    ),
                )?;
                let shown: serde_json::Value = serde_json::from_str(&shown)?;
                bytes += shown
                    .get("bytes_memlock")
                    .and_then(serde_json::Value::as_u64)
                    .context("bpftool does not tell a map's memory")?;
            }
        }
        Ok(f64::from(u32::try_from(bytes >> 10)?) / 1024.0)
    }

    /// A verb of its command line; what it prints.
    pub(crate) fn verb(&self, words: &[&str]) -> Result<String> {
        process::run(
            &format!("overlay {}", words.join(" ")),
            &verb(&self.binary, &self.instance, words)?,
        )
    }

    /// Entries of its FDB, by its own account.
    pub(crate) fn fdb_entries(&self) -> Result<u32> {
        let status: serde_json::Value =
            serde_json::from_str(&self.verb(&["-o", "json", "status"])?)?;
        let entries = status
            .pointer("/datapath/maps/fdb/entries")
            .and_then(serde_json::Value::as_u64)
            .context("the agent's status has no count of the FDB's entries")?;
        Ok(u32::try_from(entries)?)
    }

    fn down(&mut self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(30);
        remove_instance(&self.binary, &self.instance)?;
        match self.process.take() {
            Some(process) => process.terminate(LIMIT),
            None => Ok(()),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Err(error) = self.down() {
            eprintln!("warning: agent {}: {error:#}", self.instance);
        }
    }
}

fn pins(instance: &str) -> PathBuf {
    Path::new(PINS).join(instance)
}

fn verb(binary: &Path, instance: &str, words: &[&str]) -> Result<duct::Expression> {
    let program = binary.to_str().context("the agent's path is not UTF-8")?;
    let mut line = vec!["--instance", instance];
    line.extend(words);
    Ok(process::command(program, &line))
}

fn remove_instance(binary: &Path, instance: &str) -> Result<()> {
    const LIMIT: Duration = Duration::from_mins(1);
    let down = verb(binary, instance, &["down"])?;
    Running::start(&format!("overlay --instance {instance} down"), &down)?.settle(LIMIT)
}

/// Takes away what a killed run's agents left pinned, whose names start so.
pub(crate) fn remove_instances(binary: &Path, prefix: &str) -> Result<()> {
    for entry in fs::read_dir(PINS).into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str()
            && name.starts_with(prefix)
        {
            remove_instance(binary, name)?;
        }
    }
    Ok(())
}

/// Removes the pins of control loops that are no agents, whose folders' names start so. Their
/// programs are on devices of a namespace that goes too.
pub(crate) fn remove_pins(prefix: &str) -> Result<()> {
    for entry in fs::read_dir(PINS).into_iter().flatten().flatten() {
        if let Some(name) = entry.file_name().to_str()
            && name.starts_with(prefix)
        {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("removing {}", entry.path().display()))?;
        }
    }
    Ok(())
}
