//! Our own: an agent on each host, both on one SQLite registry, and an endpoint behind each.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

use super::{End, Host, Mode, PREFIX, UNDERLAY, VNI, VXLAN_PORT};
use crate::bench::interrupt;
use crate::bench::netns::Netns;
use crate::bench::process::{self, Running};

/// Where the agent pins its maps and links, by instance.
const PINS: &str = "/sys/fs/bpf/overlay";
/// The endpoint's interface; the agent's default.
const INSIDE: &str = "eth0";

/// A running agent. Its datapath goes away with it.
pub(in crate::bench) struct Agent {
    binary: PathBuf,
    instance: String,
    /// URL of the registry.
    registry: String,
    process: Option<Running>,
    // The last agent that goes removes the registry.
    _folder: Arc<TempDir>,
}

impl Agent {
    fn start(host: Host, underlay: &Netns, binary: &Path, folder: &Arc<TempDir>) -> Result<Self> {
        let instance = instance(host);
        let url = format!("sqlite://{}/registry.db", folder.path().display());
        let program = binary.to_str().context("the agent's path is not UTF-8")?;
        let process = Running::start(
            &format!("agent {instance}"),
            &underlay.command(&[
                program,
                "--instance",
                &instance,
                "run",
                "--iface",
                UNDERLAY,
                "--vni",
                &VNI.to_string(),
                "--registry",
                &url,
                "--node",
                &instance,
                "--port",
                &VXLAN_PORT.to_string(),
            ])?,
        )?;
        Ok(Self {
            binary: binary.to_owned(),
            instance,
            process: Some(process),
            registry: url,
            _folder: Arc::clone(folder),
        })
    }

    fn wait_until_ready(&self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(30);
        let status = verb(&self.binary, &self.instance, &["-o", "json", "status"])?;
        interrupt::wait_until(&format!("agent {} is ready", self.instance), LIMIT, || {
            if let Some(process) = &self.process {
                process.check()?;
            }
            let Ok(answer) = process::run("status", &status) else {
                return Ok(false);
            };
            let answer: serde_json::Value =
                serde_json::from_str(&answer).context("the agent's status is no JSON")?;
            Ok(answer.get("ready").and_then(serde_json::Value::as_bool) == Some(true))
        })
    }

    fn add_endpoint(&self, host: Host) -> Result<End> {
        let name = format!("{}-c", host.name(Mode::Overlay));
        let address = format!("{}/24", host.container_ip());
        // Before the agent makes the namespace, so that it goes also if the agent fails half-way.
        let netns = Netns::adopt(&name);
        process::run(
            &format!("adding endpoint {name}"),
            &verb(
                &self.binary,
                &self.instance,
                &[
                    "endpoint",
                    "add",
                    &name,
                    "--vni",
                    &VNI.to_string(),
                    "--ip",
                    &address,
                    "--netns",
                    &name,
                ],
            )?,
        )?;
        Ok(End::new(Arc::new(netns), INSIDE, host.container_ip()))
    }

    /// URL of the registry that it shares with the other host's agent.
    pub(in crate::bench) fn registry(&self) -> &str {
        &self.registry
    }

    /// The folder of its pins.
    pub(in crate::bench) fn pins(&self) -> PathBuf {
        pins(&self.instance)
    }

    fn down(&mut self) -> Result<()> {
        const LIMIT: Duration = Duration::from_secs(10);
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

/// Starts both agents and gives client, server and the agents.
pub(super) fn build(hosts: &[Arc<Netns>; 2], binary: &Path) -> Result<(End, End, Vec<Agent>)> {
    if !binary.exists() {
        bail!(
            "{} is not there: build it with `cargo xtask build --release`",
            binary.display()
        );
    }
    let folder = tempfile::Builder::new().prefix("overlay-bench-").tempdir();
    let folder = Arc::new(folder.context("making a folder for the registry")?);
    let [one, two] = hosts;
    let first = Agent::start(Host::One, one, binary, &folder)?;
    let second = Agent::start(Host::Two, two, binary, &folder)?;
    first.wait_until_ready()?;
    second.wait_until_ready()?;
    let client = first.add_endpoint(Host::One)?;
    let server = second.add_endpoint(Host::Two)?;
    Ok((client, server, vec![first, second]))
}

/// Takes away what killed agents left pinned.
pub(super) fn remove_instances(binary: &Path) -> Result<()> {
    Host::BOTH
        .map(instance)
        .iter()
        .filter(|instance| pins(instance).exists())
        .try_for_each(|instance| remove_instance(binary, instance))
}

fn remove_instance(binary: &Path, instance: &str) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(20);
    let down = verb(binary, instance, &["down"])?;
    Running::start(&format!("overlay --instance {instance} down"), &down)?.settle(LIMIT)
}

fn pins(instance: &str) -> PathBuf {
    Path::new(PINS).join(instance)
}

/// The agent's instance on this host, and its node's name.
fn instance(host: Host) -> String {
    format!("{PREFIX}{}", host.number())
}

/// A command line of the agent's client.
fn verb(binary: &Path, instance: &str, words: &[&str]) -> Result<duct::Expression> {
    let program = binary.to_str().context("the agent's path is not UTF-8")?;
    let line: Vec<_> = ["--instance", instance]
        .into_iter()
        .chain(words.iter().copied())
        .collect();
    process::command(program, &line)
}
