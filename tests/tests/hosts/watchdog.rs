//! Parts of an agent that hang: it says so, tells systemd no more that it is well, and traffic goes on.

use std::{
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    time::{Duration, Instant},
};

use overlay_lab::{
    Agent, Disk, Host, Lab, Netns, agent::FAILED, delay::Delay, traffic::Stream, until,
    until_within,
};

/// Far longer than a part may take for a turn.
const HANG: Duration = Duration::from_mins(10);
/// How long it takes until a part that hangs is noticed, on a slow machine too.
const NOTICED: Duration = Duration::from_mins(3);
/// How often systemd wants to hear of the agent, microseconds.
const WATCHDOG_USEC: u32 = 2_000_000;

/// The agent's notifications to systemd.
struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Systemd {
    fn new(lab: &Lab) -> Self {
        let path = lab.dir().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        Self { socket, path }
    }

    /// What starts a program as systemd does.
    fn starter(&self) -> Vec<String> {
        let path = self.path.display();
        vec![
            "env".to_owned(),
            format!("NOTIFY_SOCKET={path}"),
            format!("WATCHDOG_USEC={WATCHDOG_USEC}"),
        ]
    }

    /// The next message. `None`: there is none for a second.
    fn hears(&self) -> Option<String> {
        let mut buffer = [0; 4096];
        match self.socket.recv(&mut buffer) {
            Ok(length) => Some(String::from_utf8(buffer[..length].to_vec()).unwrap()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits until it hears that the agent is well.
    #[track_caller]
    fn hears_of_health(&self) {
        until("the agent says that it is well", || {
            self.hears().is_some_and(|said| said.contains("WATCHDOG=1"))
        });
    }

    /// Waits until it has heard nothing for as long as it lets an agent be silent.
    #[track_caller]
    fn hears_no_more(&self) {
        let limit = Duration::from_micros(WATCHDOG_USEC.into());
        let mut last = Instant::now();
        until_within(NOTICED, "the agent falls silent", || {
            if self.hears().is_some_and(|said| said.contains("WATCHDOG=1")) {
                last = Instant::now();
            }
            last.elapsed() > limit * 2
        });
    }
}

/// An agent with two endpoints that talk to each other, and what else is told.
fn fixture(lab: &Lab, starter: &[String], options: &str) -> (Agent, [Netns; 2]) {
    let [host]: [Host; 1] = lab.hosts();
    let agent = Agent::spawn_through(lab, &host, starter, options);
    agent.await_ready();
    let endpoints = ["2", "3"].map(|last| {
        let address = format!("7.7.7.{last}/24");
        agent.endpoint(&lab.name(&format!("e{last}")), 42, &[&address])
    });
    endpoints[0].reaches("7.7.7.3");
    (agent, endpoints)
}

fn stalls(agent: &Agent, part: &str) -> bool {
    let status = agent.json("status");
    let stalled = status["stalled"].as_array().unwrap();
    let is_stalled = stalled.iter().any(|one| one["part"] == part);
    assert!(!is_stalled || status["ready"] == false, "{status}");
    is_stalled
}

/// A system call that hangs is reported to people and systemd; no packet is lost.
#[test]
fn a_hanging_system_call_is_told_and_costs_nothing() {
    let lab = Lab::new();
    let systemd = Systemd::new(&lab);
    let (agent, [blue, green]) = fixture(&lab, &systemd.starter(), "--vni 42");
    systemd.hears_of_health();
    let stream = Stream::start(&blue, &green, "7.7.7.3");

    let hang = Delay::attach(agent.pid(), "bpf", HANG, &lab.dir().join("hang"));
    until_within(NOTICED, "the loop is stalled", || stalls(&agent, "loop"));
    systemd.hears_no_more();
    let table = agent.does("status");
    assert!(
        table.contains("not ready") && table.contains("Stalled"),
        "{table}"
    );
    let doctor = agent.overlay("doctor").stdout;
    assert!(doctor.contains("agent's part loop"), "{doctor}");
    assert!(
        agent.log().contains("part loop has not turned"),
        "{}",
        agent.log()
    );
    stream.flows(1000);

    drop(hang);
    agent.await_ready();
    assert_eq!(agent.json("status")["stalled"], serde_json::json!([]));
    systemd.hears_of_health();
    let (sent, lost) = stream.finish();
    assert!(lost.is_empty(), "{} of {sent} lost", lost.len());
}

/// Commands to a stopped agent fail within seconds and are not carried out later.
#[test]
fn commands_to_a_stopped_agent_fail_soon() {
    let lab = Lab::new();
    let (mut agent, [blue, green]) = fixture(&lab, &[], "--vni 42");
    let stream = Stream::start(&blue, &green, "7.7.7.3");

    let stopped = agent.stop();
    let told = format!("(pid {}) is stopped", agent.pid());
    let add = format!("endpoint add {} --vni 42 --ip 7.7.7.9/24", lab.name("e9"));
    for words in ["status", "endpoint ls", &add, "down"] {
        let asked = Instant::now();
        let line = agent.overlay(words).error(FAILED);
        assert!(
            line.contains(&told) && line.contains("kill -CONT"),
            "{line}"
        );
        assert!(asked.elapsed() < Duration::from_secs(5), "{words}");
    }
    let doctor = agent.overlay("doctor").stdout;
    assert!(doctor.contains(&told), "{doctor}");
    stream.flows(1000);

    drop(stopped);
    agent.await_ready();
    // Answered after them, whatever the agent does with them.
    assert_eq!(agent.json("endpoint ls").as_array().unwrap().len(), 2);
    stream.flows(1000);
    assert!(agent.is_running());
    let (sent, lost) = stream.finish();
    assert!(lost.is_empty(), "{} of {sent} lost", lost.len());
}

/// A registry on a hanging disk is reported; no packet is lost, nor the agent.
#[test]
fn a_hanging_registry_is_told_and_costs_nothing() {
    let lab = Lab::new();
    let disk = Disk::new(&lab, "disk");
    let systemd = Systemd::new(&lab);
    let registry = format!("sqlite://{}/registry.db", disk.path().display());
    let options = format!("--vni 42 --registry {registry}");
    let (agent, [blue, green]) = fixture(&lab, &systemd.starter(), &options);
    let stream = Stream::start(&blue, &green, "7.7.7.3");

    let frozen = disk.freeze();
    until_within(NOTICED, "the registry is stalled", || {
        stalls(&agent, "registry")
    });
    // The agent itself is well, and a new one would find the same disk.
    systemd.hears_of_health();
    assert!(!stalls(&agent, "loop"));
    let doctor = agent.overlay("doctor").stdout;
    assert!(doctor.contains("agent's part registry"), "{doctor}");
    let refused = agent.overlay("network create red --vni 43");
    assert_ne!(refused.code, 0, "{refused:?}");

    drop(frozen);
    agent.await_ready();
    let (sent, lost) = stream.finish();
    assert!(lost.is_empty(), "{} of {sent} lost", lost.len());
}
