//! Many agents on one etcd: from a commit to the last agent's map, at a steady rate of changes, and
//! what that asks of etcd.
//!
//! The agents' control loops run in two processes of the [instrument](crate::instrument):
//! one's loops have real BPF maps, the other's have theirs in memory. Each loop has a connection, a
//! session and a watch of its own. They reach etcd over a veth, whose counters tell the bytes.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use procfs::FromRead as _;
use procfs::net::InterfaceDeviceStatus;
use serde::Serialize;
use tempfile::TempDir;

use super::etcd::Etcd;
use super::{PREFIX, Programs};
use crate::agent::{PINS, remove_pins};
use crate::statistics::Percentiles;
use crate::usage::Usage;
use overlay_lab::OwnedNetns;
use overlay_lab::interrupt;
use overlay_lab::process::Running;

/// For how long nothing changes, to see what that costs.
const IDLE: Duration = Duration::from_secs(15);
/// The veth between etcd and the agents, at both ends.
const LINK: &str = "to-peer";
/// What the names of the agents' folders of pins start with; a number follows.
const AGENT: &str = "bdc-agent";
const ETCD: &str = "192.0.2.1";
const AGENTS: &str = "192.0.2.2";

/// How large a run is.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Size {
    /// Control loops.
    pub(super) agents: u32,
    /// Those of them with BPF maps.
    pub(super) real_maps: u32,
    /// Changes a second.
    pub(super) rate: u32,
    /// Changes of each kind.
    pub(super) changes: u32,
}

/// What a run found.
#[derive(Debug, Clone, Serialize)]
pub(super) struct FanOut {
    pub(super) size: Size,
    /// By kind of change, in the order in which they were made.
    pub(super) kinds: Vec<Kind>,
    /// etcd's share of one CPU while nothing changes, percent.
    pub(super) idle_percent: f64,
    /// Bytes a second between etcd and one agent while nothing changes, both ways.
    pub(super) idle_bytes: f64,
    /// etcd's CPU time for one change, all agents' watches included, microseconds.
    pub(super) etcd_cpu_us: f64,
    /// etcd's resident memory at the end, MiB.
    pub(super) etcd_mib: f64,
    /// Bytes between etcd and one agent for one change, both ways.
    pub(super) change_bytes: f64,
    /// One agent's CPU time for one change, microseconds: the mean of those with maps in memory.
    pub(super) agent_cpu_us: f64,
    /// The mean of those with BPF maps.
    pub(super) agent_with_maps_cpu_us: f64,
    /// One agent's share of the resident memory of the process with maps in memory, MiB.
    pub(super) agent_mib: f64,
}

/// What was found of one kind of change.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Kind {
    /// `add`, `move` or `remove`.
    #[serde(rename = "kind")]
    pub(super) name: String,
    /// Commits a second that were reached.
    pub(super) rate: f64,
    /// The commit itself, microseconds.
    pub(super) commit_us: Percentiles,
    /// From a commit's return to the first agent's map, microseconds.
    pub(super) first_us: Percentiles,
    /// To the last of the agents with BPF maps.
    pub(super) last_real_us: Percentiles,
    /// To the last of all.
    pub(super) last_us: Percentiles,
}

pub(super) fn measure(programs: &Programs<'_>, size: Size) -> Result<FanOut> {
    let Size {
        agents,
        real_maps,
        rate,
        changes,
    } = size;
    eprintln!("{agents} agents, {rate} changes a second");
    let lab = Lab::build(real_maps)?;
    let etcd = Etcd::start(&lab.etcd, ETCD)?;
    let real = lab.start_agents(programs, &etcd, size, 0..real_maps)?;
    let tabled = lab.start_agents(programs, &etcd, size, real_maps..agents)?;

    let idle = lab.reading(&etcd, &real, &tabled)?;
    interrupt::sleep(IDLE)?;
    let begun = lab.reading(&etcd, &real, &tabled)?;
    let output = lab.load(programs, &etcd, size)?;
    let ended = lab.reading(&etcd, &real, &tabled)?;

    let all_changes = f64::from(changes) * 3.0;
    let cpu = |usage: fn(&Reading) -> &Usage, from: &Reading, to: &Reading| {
        usage(to).cpu_s - usage(from).cpu_s
    };
    let bytes = |from: &Reading, to: &Reading| (to.bytes - from.bytes) / f64::from(agents);
    let per_change = |seconds: f64, agents: u32| seconds * 1e6 / all_changes / f64::from(agents);
    Ok(FanOut {
        size,
        kinds: kinds(&output, size)?,
        idle_percent: cpu(|reading| &reading.etcd, &idle, &begun) / IDLE.as_secs_f64() * 100.0,
        idle_bytes: bytes(&idle, &begun) / IDLE.as_secs_f64(),
        etcd_cpu_us: per_change(cpu(|reading| &reading.etcd, &begun, &ended), 1),
        etcd_mib: ended.etcd.resident_mib,
        change_bytes: bytes(&begun, &ended) / all_changes,
        agent_cpu_us: per_change(
            cpu(|reading| &reading.tabled, &begun, &ended),
            agents - real_maps,
        ),
        agent_with_maps_cpu_us: per_change(cpu(|reading| &reading.real, &begun, &ended), real_maps),
        agent_mib: ended.tabled.resident_mib / f64::from(agents - real_maps),
    })
}

/// etcd's namespace and the agents'.
struct Lab {
    etcd: OwnedNetns,
    agents: OwnedNetns,
    folder: TempDir,
}

/// What has been taken of the machine up to a moment.
struct Reading {
    etcd: Usage,
    real: Usage,
    tabled: Usage,
    /// Bytes between etcd and the agents, both ways.
    bytes: f64,
}

impl Lab {
    fn build(real_maps: u32) -> Result<Self> {
        let etcd = OwnedNetns::create(&format!("{PREFIX}etcd"))?;
        let agents = OwnedNetns::create(&format!("{PREFIX}agents"))?;
        etcd.try_ip(&format!(
            "link add {LINK} up type veth peer name {LINK} netns {}",
            agents.name()
        ))?;
        agents.try_ip(&format!("link set {LINK} up"))?;
        etcd.try_ip(&format!("address add {ETCD}/24 dev {LINK}"))?;
        agents.try_ip(&format!("address add {AGENTS}/24 dev {LINK}"))?;
        for number in 0..real_maps {
            agents.try_ip(&format!(
                "link add u{number} up type veth peer name nowhere{number}"
            ))?;
        }
        let folder = tempfile::tempdir().context("making a folder for sockets")?;
        Ok(Self {
            etcd,
            agents,
            folder,
        })
    }

    fn socket(&self, is_real: bool) -> PathBuf {
        let name = if is_real { "real" } else { "tabled" };
        self.folder.path().join(name)
    }

    /// Starts control loops in one process; returns when all of them have converged.
    fn start_agents(
        &self,
        programs: &Programs<'_>,
        etcd: &Etcd,
        size: Size,
        numbers: std::ops::Range<u32>,
    ) -> Result<Running> {
        const LIMIT: Duration = Duration::from_mins(5);
        let is_real = numbers.start == 0;
        let socket = self.socket(is_real);
        let [first, count, endpoints] = [numbers.start, numbers.end - numbers.start, size.changes]
            .map(|number| number.to_string());
        let url = etcd.url();
        let path = socket.to_string_lossy();
        let mut line = vec![&programs.instrument, "agents", "--registry", &url];
        line.extend(["--first", &first, "--count", &count]);
        line.extend(["--endpoints", &endpoints, "--socket", &path]);
        let pins = format!("{PINS}/{AGENT}");
        if is_real {
            line.extend(["--pins", &pins]);
        }
        let agents = Running::start("the agents", &self.agents.line(&line))?;
        interrupt::wait_until("all agents are up", LIMIT, || {
            agents.check()?;
            Ok(socket.exists())
        })?;
        Ok(agents)
    }

    /// Has the changes made; gives the driver's lines.
    fn load(&self, programs: &Programs<'_>, etcd: &Etcd, size: Size) -> Result<String> {
        const LIMIT: Duration = Duration::from_mins(20);
        let sockets = [true, false].map(|is_real| self.socket(is_real).display().to_string());
        let [rate, changes] = [size.rate, size.changes].map(|number| number.to_string());
        let (url, sockets) = (etcd.url(), sockets.join(","));
        let mut line = vec![&programs.instrument, "load", "--registry", &url];
        line.extend([
            "--agents",
            &sockets,
            "--rate",
            &rate,
            "--endpoints",
            &changes,
        ]);
        // Beside etcd: its own bytes are no agent's.
        Running::start("the driver", &self.etcd.line(&line))?.finish(LIMIT)
    }

    fn reading(&self, etcd: &Etcd, real: &Running, tabled: &Running) -> Result<Reading> {
        Ok(Reading {
            etcd: etcd.usage()?,
            real: Usage::of(real.pid()?)?,
            tabled: Usage::of(tabled.pid()?)?,
            bytes: self.bytes()?,
        })
    }

    fn bytes(&self) -> Result<f64> {
        let devices = self.etcd.try_enter(|| {
            Ok(InterfaceDeviceStatus::from_file(
                "/proc/thread-self/net/dev",
            )?)
        })?;
        let link = devices.0.get(LINK).context("etcd's link is gone")?;
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes")]
        Ok((link.recv_bytes + link.sent_bytes) as f64)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = remove_pins(AGENT) {
            eprintln!("warning: the agents' maps stay: {error:#}");
        }
    }
}

/// One of the driver's lines, times in microseconds.
struct Change {
    kind: String,
    /// When the commit began and ended, since the kind's first.
    commit: [f64; 2],
    /// What became of it at the agents with BPF maps, and at the others.
    arrivals: [Arrival; 2],
}

/// How many agents of one process had a change, and when, since the commit's return.
struct Arrival {
    agents: u32,
    first: f64,
    last: f64,
}

impl Change {
    fn read(line: &str) -> Option<Self> {
        let mut words = line.split(' ');
        let kind = words.next()?.to_owned();
        let mut figure = || words.next()?.parse().ok();
        let commit = [figure()?, figure()?];
        let mut arrival = || {
            Some(Arrival {
                agents: words.next()?.parse().ok()?,
                first: words.next()?.parse().ok()?,
                last: words.next()?.parse().ok()?,
            })
        };
        let arrivals = [arrival()?, arrival()?];
        words.next().is_none().then_some(Self {
            kind,
            commit,
            arrivals,
        })
    }

    fn to_commit(&self) -> f64 {
        let [begun, ended] = self.commit;
        ended - begun
    }

    fn to_first(&self) -> f64 {
        let [real, tabled] = &self.arrivals;
        real.first.min(tabled.first)
    }

    fn to_last_real(&self) -> f64 {
        let [real, _] = &self.arrivals;
        real.last
    }

    fn to_last(&self) -> f64 {
        let [real, tabled] = &self.arrivals;
        real.last.max(tabled.last)
    }
}

/// What was found of each kind of change, in the order of the driver's lines.
fn kinds(output: &str, size: Size) -> Result<Vec<Kind>> {
    let expected = [size.real_maps, size.agents - size.real_maps];
    let mut changes = Vec::new();
    for line in output.lines() {
        let change = Change::read(line).with_context(|| format!("the driver says {line:?}"))?;
        let arrived = change.arrivals.each_ref().map(|arrival| arrival.agents);
        ensure!(
            arrived == expected,
            "a change arrived at {arrived:?} agents instead of {expected:?}"
        );
        changes.push(change);
    }
    changes
        .chunk_by(|one, next| one.kind == next.kind)
        .map(kind)
        .collect()
}

fn kind(changes: &[Change]) -> Result<Kind> {
    let percentiles = |figure: fn(&Change) -> f64| {
        Percentiles::of(changes.iter().map(figure).collect()).context("nothing was changed")
    };
    let ends = changes.iter().map(
        |Change {
             commit: [_, end], ..
         }| end / 1e6,
    );
    Ok(Kind {
        name: changes.first().context("nothing was changed")?.kind.clone(),
        rate: f64::from(u32::try_from(changes.len())?) / ends.fold(0.0, f64::max),
        commit_us: percentiles(Change::to_commit)?,
        first_us: percentiles(Change::to_first)?,
        last_real_us: percentiles(Change::to_last_real)?,
        last_us: percentiles(Change::to_last)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        agents: 5,
        real_maps: 2,
        rate: 1000,
        changes: 2,
    };

    #[test]
    fn the_last_agent_of_either_process_counts() {
        let output =
            "add 0 500 2 10 30 3 20 40\nadd 1000 2000 2 10 90 3 5 40\nmove 0 1 2 1 2 3 3 4\n";
        let kinds = kinds(output, Size { changes: 2, ..SIZE }).unwrap();
        let [add, relocate] = &kinds[..] else {
            panic!("{kinds:?}");
        };
        assert_eq!((add.name.as_str(), relocate.name.as_str()), ("add", "move"));
        let spread = |figures: Percentiles| [figures.p50, figures.max];
        let found = [add.last_us, add.last_real_us, add.first_us, add.commit_us].map(spread);
        assert_eq!(
            found,
            [[40.0, 90.0], [30.0, 90.0], [5.0, 10.0], [500.0, 1000.0]]
        );
        assert!((add.rate - 1000.0).abs() < 1e-6, "{}", add.rate);
    }

    #[test]
    fn a_change_that_an_agent_missed_is_an_error() {
        for output in [
            "add 0 500 1 10 30 3 20 40",
            "add 0 500 2 10 30 4 20 40",
            "add 1 2",
        ] {
            assert!(kinds(output, SIZE).is_err(), "{output}");
        }
    }
}
