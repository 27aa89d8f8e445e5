//! The agent as its systemd unit starts it: not root, and with the unit's capabilities alone.

use std::process::Command;

use overlay_lab::{
    Agent, Container, Host, Lab, Run,
    agent::{self, FAILED},
    lab::traces,
    traffic::Stream,
};

const UNIT: &str = include_str!("../../../overlay-user/packaging/systemd/overlay.service");

/// A user and a group that own nothing.
const NOBODY: &str = "65534";

/// What the agent needs to hear at once of paths that are too narrow; without it, it looks every half a minute.
const HEARS: &str = "CAP_NET_RAW";
/// What the agent needs to hear of changes in namespaces at once; without it, it looks every half a minute.
const LISTENS: &str = "CAP_NET_BROADCAST";
/// What it needs to attach endpoints to the namespaces of others' processes.
const ATTACHES: &str = "CAP_SYS_PTRACE";

/// The words of the unit's only `KEY=` line.
fn setting(key: &str) -> Vec<&'static str> {
    let mut values = UNIT
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let value = values.next().unwrap_or_else(|| panic!("no {key}="));
    assert_eq!(values.next(), None, "{key}");
    value.split_whitespace().collect()
}

/// The service's capabilities but for this one, which it has.
fn without(missing: &str) -> Vec<&'static str> {
    let mut capabilities = setting("AmbientCapabilities");
    let place = capabilities.iter().position(|name| *name == missing);
    capabilities.remove(place.unwrap_or_else(|| panic!("the service has no {missing}")));
    capabilities
}

/// What starts a program with these capabilities and nothing else that root has.
fn starter(capabilities: &[&str]) -> Vec<String> {
    let only = |option: &str| {
        let named = capabilities
            .iter()
            .map(|name| name.strip_prefix("CAP_").unwrap().to_lowercase());
        let sets: Vec<_> = ["-all".to_owned()]
            .into_iter()
            .chain(named.map(|name| format!("+{name}")))
            .collect();
        format!("{option}={}", sets.join(","))
    };
    [
        "setpriv".to_owned(),
        format!("--reuid={NOBODY}"),
        format!("--regid={NOBODY}"),
        "--clear-groups".to_owned(),
        "--no-new-privs".to_owned(),
        only("--inh-caps"),
        only("--ambient-caps"),
        only("--bounding-set"),
    ]
    .into()
}

/// `overlay run` on `host`, started in that way.
fn run_through(starter: &[String], lab: &Lab, host: &Host) -> Command {
    let mut run = host.netns.command(&starter[0]);
    run.args(&starter[1..])
        .arg(agent::binary())
        .args(["--log", "off", "--instance", host.netns.name(), "run"])
        .args(["--registry", &lab.registry(), "--iface", "u0"]);
    run
}

/// With the unit's capabilities alone an agent carries endpoints and restarts without loss.
#[test]
fn the_units_capabilities_are_enough() {
    let capabilities = setting("AmbientCapabilities");
    assert_eq!(capabilities, setting("CapabilityBoundingSet"));
    assert_eq!(setting("NoNewPrivileges"), ["yes"]);
    assert_ne!(setting("User"), ["root"]);

    let lab = Lab::new();
    let hosts: [Host; 2] = lab.hosts();
    let starter = starter(&capabilities);
    let mut agents = hosts
        .each_ref()
        .map(|host| Agent::spawn_through(&lab, host, &starter, "--vni 42"));
    agents.iter().for_each(Agent::await_ready);
    let [one, two] = &agents;
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24", "fd07::2/64"]);
    let green = two.endpoint(&lab.name("green"), 42, &["7.7.7.3/24", "fd07::3/64"]);
    blue.reaches("7.7.7.3");
    blue.reaches("fd07::3");

    let stream = Stream::start(&blue, &green, "7.7.7.3");
    for agent in &mut agents {
        agent.kill();
        stream.flows(1000);
        agent.restart("--vni 42");
        agent.await_ready();
        stream.flows(1000);
    }
    let (sent, lost) = stream.finish();
    assert!(lost.is_empty(), "{} of {sent} lost", lost.len());

    agents[0].does(&format!("endpoint rm {}", blue.name()));
    assert!(!blue.exists());
    agents[1].does("down");
    let left = traces(agents[1].instance());
    assert!(left.is_empty(), "{left:?}");
}

/// Each of the unit's capabilities is needed, and named where it is missing.
#[test]
fn each_missing_capability_is_named() {
    let capabilities = setting("AmbientCapabilities");
    for missing in capabilities
        .iter()
        .filter(|name| ![LISTENS, ATTACHES, HEARS].contains(name))
    {
        let lab = Lab::new();
        let [host] = lab.hosts();
        let others = without(missing);
        let mut run = run_through(&starter(&others), &lab, &host);
        let line = Run::of(&mut run).error(FAILED);
        assert!(line.contains(missing), "without {missing}: {line}");
        assert_eq!(host.netns.links(), ["u0"], "without {missing}");
    }
}

/// Without the capability to listen to all namespaces, endpoints are carried.
#[test]
fn without_net_broadcast_endpoints_are_carried() {
    let others = without(LISTENS);
    let lab = Lab::new();
    let [host] = lab.hosts();
    let agent = Agent::spawn_through(&lab, &host, &starter(&others), "--vni 42");
    agent.await_ready();
    let blue = agent.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    let green = agent.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    blue.reaches("7.7.7.3");
    green.reaches("7.7.7.2");
}

/// Without the capability to hear routers, the log says so, and endpoints are carried.
#[test]
fn without_net_raw_the_log_says_so() {
    let others = without(HEARS);
    let lab = Lab::new();
    let [host] = lab.hosts();
    let agent = Agent::spawn_through(&lab, &host, &starter(&others), "--vni 42");
    agent.await_ready();
    assert!(agent.log().contains("what routers say"), "{}", agent.log());
    let blue = agent.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    agent.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    blue.reaches("7.7.7.3");
}

/// An endpoint is attached to another user's process with the capability for that.
#[test]
fn another_users_process_needs_a_capability() {
    let capabilities = setting("AmbientCapabilities");
    let others = without(ATTACHES);
    let lab = Lab::new();
    let [one, two] = lab.hosts();
    let one = Agent::spawn_through(&lab, &one, &starter(&capabilities), "--vni 42");
    let two = Agent::spawn_through(&lab, &two, &starter(&others), "--vni 42");
    one.await_ready();
    two.await_ready();
    let container = Container::start();
    let words = format!(
        "endpoint add {} --vni 42 --ip 7.7.7.2/24 --netns {}",
        lab.name("web"),
        container.pid()
    );
    let line = two.overlay(&words).error(FAILED);
    assert!(line.contains(ATTACHES), "{line}");
    one.does(&words);
    one.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    container.reaches("7.7.7.3");
}

#[test]
fn a_socket_for_a_group_wants_a_service_that_is_in_it() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let mut starter = starter(&setting("AmbientCapabilities"));
    let mut run = run_through(&starter, &lab, &host);
    let line = Run::of(run.args(["--socket-group", "daemon"])).error(FAILED);
    assert!(
        line.contains("group daemon") && line.contains("CAP_CHOWN"),
        "{line}"
    );
    assert!(traces(host.netns.name()).is_empty());
    for option in &mut starter {
        if option == "--clear-groups" {
            "--groups=daemon".clone_into(option);
        }
    }
    let agent = Agent::spawn_through(&lab, &host, &starter, "--socket-group daemon");
    agent.await_ready();
}
