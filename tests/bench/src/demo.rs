//! `cargo xtask demo`: two hosts, two agents, what goes on when one of them is killed, a live move, and a
//! look at the speed, from nothing and away again.
//!
//! What stands behind a prompt is what runs: each line goes to a shell as it is printed, and what it
//! prints is shown as it is, but for lines that are wider than a terminal.

mod bars;
mod environment;
mod pings;
mod screen;
mod topology;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressStyle};
use overlay_lab::interrupt;
use overlay_lab::process::Running;

use crate::quick;
use environment::Environment;
use pings::Pings;
use screen::Screen;
use topology::{
    Endpoint, FLOAT, GREEN_ON_ONE, Host, KERNEL_HOSTS, OUTSIDE, OUTSIDE_IP, STATE, UNDERLAY,
    UPLINK, UPLINK_IP,
};

/// Shows the overlay at work.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leaves everything up at the end.
    #[arg(long)]
    keep: bool,
    /// Removes a demo that was kept, or what is left of one that was killed.
    #[arg(long)]
    down: bool,
    /// The agent that is shown.
    #[arg(long)]
    agent: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let agent = &args.agent;
    let claim = environment::claim()?;
    interrupt::install()?;
    if args.down {
        return environment::remove(agent);
    }
    let started = Instant::now();
    let mut demo = Demo {
        screen: Screen::new(),
        environment: Environment::set(agent, claim)?,
    };
    demo.play()?;
    if args.keep {
        demo.keep(agent)?;
    } else {
        demo.end()?;
    }
    println!("\nThat took {:.0} s.", started.elapsed().as_secs_f32());
    Ok(())
}

/// Longer than any line of the demo takes.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

struct Demo {
    screen: Screen,
    environment: Environment,
}

impl Demo {
    fn play(&mut self) -> Result<()> {
        self.screen
            .title("overlay: one network for many hosts", topology::DRAWING)?;
        self.hosts()?;
        self.endpoints()?;
        self.killed()?;
        self.moved()?;
        self.outside()?;
        self.figures()
    }

    fn hosts(&mut self) -> Result<()> {
        self.screen.step(
            "Two hosts and a cable, an agent on each",
            "Hosts are namespaces here. The agents share one registry.",
        )?;
        let [one, two] = Host::BOTH.map(Host::netns);
        let mut lines = vec![
            format!("ip netns add {one} && ip netns add {two}"),
            format!(
                "ip link add {UNDERLAY} netns {one} type veth peer name {UNDERLAY} netns {two}"
            ),
        ];
        for host in Host::BOTH {
            let (netns, ip) = (host.netns(), host.underlay_ip());
            lines.push(format!("ip -n {netns} address add {ip}/24 dev {UNDERLAY}"));
            lines.push(format!("ip -n {netns} link set {UNDERLAY} up"));
        }
        lines.extend([
            format!("ip netns add {OUTSIDE}"),
            format!(
                "ip link add {UPLINK} netns {one} type veth peer name {UPLINK} netns {OUTSIDE}"
            ),
            format!("ip -n {one} address add {UPLINK_IP}/24 dev {UPLINK}"),
            format!("ip -n {one} link set {UPLINK} up"),
            format!("ip -n {OUTSIDE} address add {OUTSIDE_IP}/24 dev {UPLINK}"),
            format!("ip -n {OUTSIDE} link set {UPLINK} up"),
        ]);
        for line in &lines {
            self.run(None, line)?;
        }
        let agents = Host::BOTH.map(|host| (host, self.start(host, &agent_line(host))));
        for (host, agent) in agents {
            self.await_agent(host, agent?)?;
        }
        Ok(())
    }

    fn endpoints(&mut self) -> Result<()> {
        self.screen.step(
            "Two endpoints, and a ping",
            "Nothing is flooded and nothing learned: the first packet finds its way.",
        )?;
        for endpoint in [Endpoint::BLUE, Endpoint::GREEN] {
            let line = format!(
                "overlay endpoint add {} --vni 42 --ip {}/24",
                endpoint.name, endpoint.ip
            );
            self.run(Some(endpoint.host), &line)?;
        }
        self.environment.wait_for_remote(Host::One, 1)?;
        let line = format!(
            "ip netns exec {} ping -c 3 -i 0.2 {}",
            Endpoint::BLUE.name,
            Endpoint::GREEN.ip
        );
        self.run(Some(Host::One), &line)
    }

    fn killed(&mut self) -> Result<()> {
        self.screen.step(
            "An agent is killed",
            "The programs and maps are the kernel's: traffic does not notice.",
        )?;
        let pings = self.ping()?;
        let agent = self.environment.agent(Host::One)?;
        self.run(Some(Host::One), &format!("kill -9 {}", agent.pid()?))?;
        // It has failed, as it was told to.
        agent.output(READY_TIMEOUT)?;
        let next = self.start(Host::One, &agent_line(Host::One))?;
        self.await_agent(Host::One, next)?;
        self.count(pings, "an agent killed, and another started")
    }

    fn moved(&mut self) -> Result<()> {
        let green = Endpoint::GREEN.name;
        self.screen.step(
            "An endpoint moves to the other host, and back",
            "Its addresses and its MAC go with it. What is on its way just then is lost.",
        )?;
        let pings = self.ping()?;
        for (to, netns) in [(Host::One, GREEN_ON_ONE), (Host::Two, green)] {
            let line = format!("overlay endpoint move {green} --netns {netns}");
            self.run(Some(to), &line)?;
        }
        self.count(pings, "two moves")
    }

    fn outside(&mut self) -> Result<()> {
        let blue = Endpoint::BLUE.name;
        self.screen.step(
            "A way out, and a way in",
            "Another namespace is the Internet. A router leads there, behind the host's own address; and a \
             float is an address outside that is blue's alone.",
        )?;
        for line in [
            "overlay router create r1",
            "overlay router attach r1 42 --ip 7.7.7.1/24",
            "overlay router set r1 --outside host",
            "overlay network set vni-42 --snat host",
        ] {
            self.run(Some(Host::One), line)?;
        }
        self.environment.wait_for_block(Host::One)?;
        let line = format!("ip netns exec {blue} ping -c 2 -i 0.2 {OUTSIDE_IP}");
        self.run(Some(Host::One), &line)?;
        let line = format!("overlay float add {FLOAT} --endpoint {blue}");
        self.run(Some(Host::One), &line)?;
        let line = format!("ip netns exec {OUTSIDE} ping -c 2 -i 0.2 {FLOAT}");
        self.run(None, &line)
    }

    /// Pings from now on, every 10 ms.
    fn ping(&mut self) -> Result<Pings> {
        self.prompt(Some(Host::One), &format!("{} &", pings::line()))?;
        Pings::start(&self.environment)
    }

    fn count(&mut self, pings: Pings, during: &str) -> Result<()> {
        let (said, counted) = pings.finish()?;
        self.screen.output(&said)?;
        self.screen.result(&format!("{during}: {counted}"))
    }

    fn figures(&mut self) -> Result<()> {
        self.screen.step(
            "A short look at the speed",
            &format!(
                "From blue to green, in turn with two hosts that have the kernel's VXLAN device and a \
                 bridge: the best of {} seconds each. `cargo xtask bench` is the benchmark.",
                quick::ROUNDS
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
        let figures = quick::compare(
            &Endpoint::BLUE.at_a_glance(),
            &Endpoint::GREEN.at_a_glance(),
            &KERNEL_HOSTS.map(str::to_owned),
            |doing| progress.set_message(doing.to_owned()),
        );
        progress.finish_and_clear();
        self.screen.output(&bars::lines(&figures?).join("\n"))
    }

    fn end(&mut self) -> Result<()> {
        self.screen.step("And away again", "")?;
        for host in Host::BOTH {
            self.run(Some(host), "overlay down")?;
        }
        for netns in Host::BOTH.map(Host::netns).into_iter().chain([OUTSIDE]) {
            self.run(None, &format!("ip netns del {netns}"))?;
        }
        self.environment.strike()?;
        self.screen
            .result("No process, namespace, interface, program or map is left.")
    }

    fn keep(&mut self, agent: &Path) -> Result<()> {
        let folder = agent.parent().context("the agent is in no folder")?;
        self.environment.keep()?;
        self.screen
            .step("It stays up", "To look around, as root:")?;
        self.screen.output(&topology::look_around(folder))?;
        self.screen.note("To remove it: cargo xtask demo --down")
    }

    fn await_agent(&mut self, host: Host, agent: Running) -> Result<()> {
        self.environment.wait_until_ready(host, &agent)?;
        self.environment.keep_running(host, agent);
        Ok(())
    }

    fn prompt(&mut self, host: Option<Host>, line: &str) -> Result<()> {
        self.screen.command(host.map(Host::name), line)
    }

    /// Shows a line, runs it and shows what it prints.
    fn run(&mut self, host: Option<Host>, line: &str) -> Result<()> {
        self.prompt(host, line)?;
        let output = self.environment.start(host, line)?.finish(READY_TIMEOUT)?;
        self.screen.output(&output)
    }

    /// Shows a line with & behind it and starts it.
    fn start(&mut self, host: Host, line: &str) -> Result<Running> {
        self.prompt(Some(host), &format!("{line} &"))?;
        self.environment.start(Some(host), &format!("exec {line}"))
    }
}

/// What starts a host's agent.
fn agent_line(host: Host) -> String {
    let uplink = match host {
        Host::One => format!(" --uplink {UPLINK}"),
        Host::Two => String::new(),
    };
    format!(
        "overlay run --iface {UNDERLAY}{uplink} --node {} --vni 42 --registry sqlite://{STATE}/registry.db 2>> {}",
        host.name(),
        host.log()
    )
}
