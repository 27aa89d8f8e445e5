//! `cargo xtask demo`: two hosts, two agents, two tenants, from nothing to figures and away again.
//!
//! What stands behind a prompt is what runs: each line goes to a shell as it is printed, and what it
//! prints is shown as it is. Only the maps are decoded ([`maps`]), and the figures are the
//! benchmark's.

mod banner;
mod maps;
mod screen;
mod stage;
mod topology;

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};
use comfy_table::CellAlignment;
use indicatif::{ProgressBar, ProgressStyle};

use crate::bench::glance;
use crate::bench::process::Running;
use crate::bench::{become_root, interrupt};
use crate::build;
use crate::host;
use crate::setup::{self, Work};
use crate::workspace::{Profile, Workspace};
use screen::Screen;
use stage::Stage;
use topology::{Endpoint, Host, KERNEL_HOSTS, STATE, UNDERLAY};

/// Shows the overlay at work: two hosts, two tenants with the same addresses, real packets.
///
/// Everything happens in network namespaces that it makes and removes, also on Ctrl-C and when
/// something fails. Nothing leaves the machine.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  cargo xtask demo                 half a minute
  cargo xtask demo | tee demo.txt  without colours
  cargo xtask demo --keep          leave it up, to look around
  cargo xtask demo --down          remove it")]
pub(crate) struct Args {
    /// Leave everything up at the end, and say how to look around.
    #[arg(long)]
    keep: bool,

    /// Remove a demo that was kept, or what is left of one that was killed.
    #[arg(long, conflicts_with = "keep")]
    down: bool,

    /// Show this agent rather than build one.
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, workspace: &Workspace) -> Result<()> {
    setup::ensure(Work::Demo)?;
    let agent = match &args.agent {
        Some(agent) => std::path::absolute(agent)?,
        None => build::build(workspace, Profile::Debug)?,
    };
    if !host::is_root() {
        return become_root(args.agent.is_none().then_some(("--agent", agent.as_path())));
    }
    let claim = stage::claim()?;
    interrupt::install()?;
    if args.down {
        return stage::remove(&agent);
    }
    let mut demo = Demo {
        screen: Screen::new(),
        stage: Stage::set(&agent, claim)?,
    };
    demo.play()?;
    if args.keep {
        demo.keep(&agent)
    } else {
        demo.end()
    }
}

/// Longer than any line of the demo takes.
const PATIENCE: Duration = Duration::from_secs(30);

struct Demo {
    screen: Screen,
    stage: Stage,
}

impl Demo {
    fn play(&mut self) -> Result<()> {
        self.screen
            .title("overlay: one network for many hosts", topology::DRAWING)?;
        self.hosts()?;
        self.agents()?;
        self.endpoints()?;
        self.second_tenant()?;
        self.wire()?;
        self.maps()?;
        self.figures()
    }

    fn hosts(&mut self) -> Result<()> {
        self.screen.step("Two hosts and a cable between them", "")?;
        let [one, two] = Host::BOTH.map(Host::netns);
        let mut lines = vec![
            format!("ip netns add {one}"),
            format!("ip netns add {two}"),
            format!(
                "ip link add {UNDERLAY} netns {one} type veth peer name {UNDERLAY} netns {two}"
            ),
        ];
        for host in Host::BOTH {
            let (netns, ip) = (host.netns(), host.underlay_ip());
            lines.push(format!("ip -n {netns} address add {ip}/24 dev {UNDERLAY}"));
            lines.push(format!("ip -n {netns} link set {UNDERLAY} up"));
        }
        lines
            .iter()
            .try_for_each(|line| self.run(None, line).map(drop))
    }

    fn agents(&mut self) -> Result<()> {
        self.screen.step(
            "An agent on each host, both on one registry",
            "From here on `host-1 $` is a shell in namespace overlay-h1, where the agent is instance \
             demo1.",
        )?;
        for host in Host::BOTH {
            let line = format!(
                "overlay run --iface {UNDERLAY} --node {} --vni 42 --vni 43 \\\n    --registry \
                 sqlite://{STATE}/registry.db 2> {}",
                host.name(),
                host.log()
            );
            let agent = self.start(host, &line)?;
            self.stage.wait_until_ready(host, &agent)?;
            self.stage.keep_running(agent);
        }
        self.run(Some(Host::One), "overlay status")?;
        self.run(Some(Host::One), "overlay vtep ls").map(drop)
    }

    fn endpoints(&mut self) -> Result<()> {
        self.screen.step(
            "Two endpoints on network 42",
            "Each is a namespace with an interface in it. Nothing is flooded and nothing learned: \
             the first packet finds its way.",
        )?;
        self.run(
            Some(Host::One),
            "overlay endpoint add blue --vni 42 --ip 7.7.7.2/24",
        )?;
        self.run(
            Some(Host::Two),
            "overlay endpoint add green --vni 42 --ip 7.7.7.3/24",
        )?;
        self.stage.wait_for_remote(Host::One, 1)?;
        self.run(
            Some(Host::One),
            "ip netns exec blue ping -c 3 -i 0.2 7.7.7.3",
        )
        .map(drop)
    }

    fn second_tenant(&mut self) -> Result<()> {
        self.screen.step(
            "A second tenant with the very same addresses",
            "blue-43 is 7.7.7.2 too, on network 43. Nobody is 7.7.7.3 there yet, so nobody \
             answers, however well green is, and the drop has a name.",
        )?;
        self.run(
            Some(Host::One),
            "overlay endpoint add blue-43 --vni 43 --ip 7.7.7.2/24",
        )?;
        self.run_failing(
            Host::One,
            "ip netns exec blue-43 ping -c 1 -W 1 7.7.7.3",
            "network 43 must not reach network 42, but it does",
        )?;
        self.run(Some(Host::One), "overlay drops")?;

        self.screen
            .note("Give network 43 a 7.7.7.3 of its own, and each tenant finds its own one.")?;
        self.run(
            Some(Host::Two),
            "overlay endpoint add green-43 --vni 43 --ip 7.7.7.3/24",
        )?;
        self.stage.wait_for_remote(Host::One, 2)?;
        self.run(Some(Host::One), "overlay endpoint ls")?;
        for (client, server) in [("blue", Endpoint::GREEN), ("blue-43", Endpoint::GREEN_43)] {
            let listener = banner::listen(server)?;
            let line = format!(
                "ip netns exec {client} bash -c 'cat < /dev/tcp/{}/{}'",
                server.ip,
                banner::PORT
            );
            self.prompt(Some(Host::One), &line)?;
            let asking = self.stage.start(Some(Host::One), &line)?;
            banner::answer(&listener, server)?;
            let answer = asking.finish(PATIENCE)?;
            self.screen.output(&answer)?;
        }
        Ok(())
    }

    fn wire(&mut self) -> Result<()> {
        const LOG: &str = "tcpdump.log";
        self.screen.step(
            "On the wire",
            "One ping of each tenant, caught where it comes in at host-2: the same addresses inside, \
             another VNI. ARP is not seen, the sender's host has answered it.",
        )?;
        let capture = self.start(
            Host::Two,
            &format!("tcpdump -nt -i {UNDERLAY} -Q in -c 2 udp port 4789 2> {LOG}"),
        )?;
        interrupt::wait_until("tcpdump listens", PATIENCE, || {
            capture.check()?;
            let said = fs::read_to_string(Path::new(STATE).join(LOG)).unwrap_or_default();
            Ok(said.contains("listening on"))
        })?;
        for client in ["blue", "blue-43"] {
            let line = format!("ip netns exec {client} ping -c 1 7.7.7.3 > /dev/null");
            self.run(Some(Host::One), &line)?;
        }
        let packets = capture.finish(PATIENCE)?;
        self.prompt(Some(Host::Two), "fg")?;
        self.screen.output(&packets)
    }

    fn maps(&mut self) -> Result<()> {
        self.screen.step(
            "In the kernel",
            "What the programs on host-1 look up, decoded from bpftool's JSON. Whom a frame is for \
             is looked up by VNI and address, never by address alone: that keeps tenants apart.",
        )?;
        for (map, decode) in maps::SHOWN {
            let line = format!(
                "bpftool -j map dump pinned {}/{map}",
                Host::One.maps().display()
            );
            self.prompt(Some(Host::One), &line)?;
            let dump = self.stage.start(Some(Host::One), &line)?.finish(PATIENCE)?;
            let table = decode(&dump).with_context(|| format!("reading map {map}"))?;
            self.screen.table(table)?;
        }
        Ok(())
    }

    fn figures(&mut self) -> Result<()> {
        self.screen.step(
            "How fast",
            &format!(
                "From blue to green (iperf3, trafgen), in turn with two hosts that have the kernel's \
                 VXLAN device and a bridge, over a veth like ours: the best of {} short rounds. `cargo \
                 xtask bench` does it at length.",
                glance::ROUNDS
            ),
        )?;
        if thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
            return self
                .screen
                .note("Left out: client and server need a CPU each, and there is only one.");
        }
        let progress = ProgressBar::new_spinner()
            .with_style(ProgressStyle::with_template("{spinner} [{elapsed}] {msg}")?);
        progress.enable_steady_tick(Duration::from_millis(120));
        let figures = glance::compare(
            &Endpoint::BLUE.at_a_glance(),
            &Endpoint::GREEN.at_a_glance(),
            &KERNEL_HOSTS.map(str::to_owned),
            |doing| progress.set_message(doing.to_owned()),
        );
        progress.finish_and_clear();

        let mut table = screen::table(&["", "", "kernel", "overlay", "ratio"]);
        for figure in figures? {
            table.add_row([
                figure.title.to_owned(),
                figure.unit.to_owned(),
                format!("{:.1}", figure.kernel),
                format!("{:.1}", figure.overlay),
                format!("{:.2}", figure.overlay / figure.kernel),
            ]);
        }
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        self.screen.table(table)
    }

    fn end(mut self) -> Result<()> {
        self.screen.step("And away again", "")?;
        for host in Host::BOTH {
            self.run(Some(host), "overlay down")?;
        }
        for host in Host::BOTH {
            self.run(None, &format!("ip netns del {}", host.netns()))?;
        }
        self.stage.strike()?;
        self.screen.note(
            "Nothing is left: no process, no namespace, no interface, no pinned program or map.",
        )
    }

    fn keep(mut self, agent: &Path) -> Result<()> {
        let folder = agent.parent().context("the agent is in no folder")?;
        self.stage.keep()?;
        self.screen
            .step("It stays up", "To look around, as root:")?;
        self.screen.output(&topology::look_around(folder))?;
        self.screen.note("To remove it: cargo xtask demo --down")
    }

    fn prompt(&mut self, host: Option<Host>, line: &str) -> Result<()> {
        self.screen.command(host.map(Host::name), line)
    }

    /// Shows a line, runs it and shows what it prints.
    fn run(&mut self, host: Option<Host>, line: &str) -> Result<()> {
        self.prompt(host, line)?;
        let output = self.stage.start(host, line)?.finish(PATIENCE)?;
        self.screen.output(&output)
    }

    /// The same for a line that has to fail; `unless` says what is wrong where it does not.
    fn run_failing(&mut self, host: Host, line: &str, unless: &str) -> Result<()> {
        self.prompt(Some(host), line)?;
        let running = self.stage.start(Some(host), line)?;
        let output = running.output(PATIENCE)?;
        self.screen
            .output(&String::from_utf8_lossy(&output.stdout))?;
        anyhow::ensure!(!output.status.success(), "{unless}");
        Ok(())
    }

    /// Shows a line with & behind it and starts it.
    fn start(&mut self, host: Host, line: &str) -> Result<Running> {
        self.prompt(Some(host), &format!("{line} &"))?;
        self.stage.start(Some(host), &format!("exec {line}"))
    }
}
