//! `overlay down` leaves nothing behind.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use overlay_lab::{Agent, Lab, Netns, TwoHosts, lab::traces, overlay, two_hosts::IPV4};

const VNI: u32 = 42;
const NOTHING: [String; 0] = [];

/// Everything that is there of `agent`, but its rows in the registry.
fn all_of(agent: &Agent) -> Vec<String> {
    let files = traces(agent.instance());
    let mut all: Vec<_> = files
        .iter()
        .map(|path| path.display().to_string())
        .collect();
    let links = agent
        .netns()
        .links()
        .into_iter()
        .filter(|link| link != "u0");
    all.extend(links.map(|link| format!("link {link}")));
    let filters = agent.netns().run("bpftool", "-j net show dev u0");
    if filters.contains("ingress") {
        all.push(format!("programs on u0: {filters}"));
    }
    all
}

struct Fixture {
    blue: Netns,
    green: Netns,
    one: Agent,
    two: Agent,
    lab: Lab,
}

fn fixture() -> Fixture {
    let TwoHosts {
        agents: [one, two],
        blue,
        green,
        lab,
        ..
    } = TwoHosts::new("--vni 42", IPV4);
    Fixture {
        blue,
        green,
        one,
        two,
        lab,
    }
}

#[test]
fn a_running_instance_is_taken_away_whole_and_ends() {
    let mut fixture = fixture();
    assert!(
        all_of(&fixture.one).len() >= 7,
        "{:?}",
        all_of(&fixture.one)
    );
    fixture.one.does("down");
    fixture.one.wait();
    assert_eq!(all_of(&fixture.one), NOTHING);
    assert!(!fixture.blue.exists());
    let snapshot = fixture.lab.snapshot();
    let nodes: Vec<_> = snapshot
        .nodes
        .iter()
        .map(|node| node.name.as_str())
        .collect();
    assert_eq!(nodes, [fixture.two.instance()]);
    let endpoints: Vec<_> = snapshot
        .endpoints
        .iter()
        .map(|endpoint| endpoint.name.as_str())
        .collect();
    assert_eq!(endpoints, [fixture.green.name()]);
}

#[test]
fn a_killed_agents_instance_is_taken_away_whole() {
    let mut fixture = fixture();
    fixture.one.kill();
    let run = overlay(fixture.one.instance(), &["down"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(all_of(&fixture.one), NOTHING);
    assert!(!fixture.blue.exists());
    assert_eq!(fixture.lab.snapshot().nodes.len(), 1);
}

#[test]
fn down_works_from_any_namespace_and_twice_in_a_row() {
    let mut fixture = fixture();
    fixture.one.kill();
    for _ in 0..2 {
        // From another host than the agent's.
        let down = fixture.two.netns().run(
            overlay_lab::agent::binary().to_str().unwrap(),
            &format!("--instance {} down", fixture.one.instance()),
        );
        assert!(down.contains("is down"), "{down}");
        assert_eq!(all_of(&fixture.one), NOTHING);
    }
    assert_eq!(overlay(&fixture.lab.name("never-was"), &["down"]).code, 0);
    assert!(
        !Path::new("/run/overlay")
            .join(fixture.lab.name("never-was.lock"))
            .exists()
    );
}

#[test]
fn the_other_host_is_untouched_and_forgets() {
    let Fixture {
        one,
        two,
        green,
        lab,
        ..
    } = &fixture();
    let red = two.endpoint(&lab.name("red"), VNI, &["7.7.7.4/24"]);
    // What an agent just writes has that name until it is whole.
    let settled = || {
        let mut all = all_of(two);
        all.retain(|name| name.rsplit_once('.').is_none_or(|(_, kind)| kind != "new"));
        all
    };
    let before = settled();
    one.does("down");
    assert_eq!(settled(), before);
    red.reaches("7.7.7.3");
    overlay_lab::until("the other host's rows to go", || {
        two.dump("fdb").len() == 2 && two.dump("vteps").is_empty()
    });
    assert!(!green.pings("7.7.7.2", "-c 1 -W 1"));
}

/// A namespace that the user made survives with all that is in it.
#[test]
fn a_users_namespace_survives() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let one = Agent::start(&lab, &host, "--vni 42");
    let users = lab.netns("users");
    users.ip("link add mine0 type bridge");
    users.ip("address add 192.0.2.1/24 dev mine0");
    let before = users.links();
    one.does(&format!(
        "endpoint add {} --vni 42 --ip 7.7.7.2/24 --netns {} --ifname ov0",
        lab.name("blue"),
        users.name()
    ));
    assert!(users.links().contains(&"ov0".to_owned()));
    one.does("down");
    assert_eq!(users.links(), before);
    assert!(users.ip("address show dev mine0").contains("192.0.2.1"));
}

#[test]
fn an_agent_started_again_after_down_begins_afresh() {
    let mut fixture = fixture();
    fixture.one.does("down");
    fixture.one.wait();
    fixture.one.restart("--vni 42");
    fixture.one.await_ready();
    let blue = fixture
        .one
        .endpoint(fixture.blue.name(), VNI, &["7.7.7.2/24"]);
    blue.reaches("7.7.7.3");
}

#[test]
fn an_instance_whose_host_is_gone_is_forgotten() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let mut agent = Agent::start(&lab, &host, "--vni 42");
    let blue = agent.endpoint(&lab.name("blue"), VNI, &["7.7.7.2/24"]);
    agent.kill();
    overlay_lab::netns::run("ip", &["netns", "del", host.netns.name()]);
    let run = overlay(agent.instance(), &["down"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(lab.snapshot().nodes, []);
    assert!(!blue.exists());
    for path in ["/run/overlay", "/sys/fs/bpf/overlay"] {
        assert!(!Path::new(path).join(agent.instance()).exists(), "{path}");
    }
}

#[test]
fn a_person_at_a_terminal_sees_what_goes_and_is_asked() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let mut agent = Agent::start(&lab, &host, "--vni 42");
    let blue = agent.endpoint(&lab.name("blue"), VNI, &["7.7.7.2/24"]);
    let down =
        |options: &str, answer: &str| at_terminal(&agent, &format!("down {options}"), answer);
    let asked = down("", "n\n");
    for part in [
        blue.name(),
        "endpoints",
        "namespaces",
        "/sys/fs/bpf/overlay",
        "[y/N]",
    ] {
        assert!(asked.contains(part), "{part}: {asked}");
    }
    assert!(!asked.contains("is down") && agent.is_ready());
    let done = down("", "y\n");
    assert!(done.contains("is down"), "{done}");
    agent.wait();
    agent.restart("--vni 42");
    agent.await_ready();
    let done = at_terminal(&agent, "down --yes", "");
    assert!(
        done.contains("is down") && !done.contains("[y/N]"),
        "{done}"
    );
    agent.wait();
    assert_eq!(all_of(&agent), NOTHING);
}

/// What a person sees who types these words, and this answer.
fn at_terminal(agent: &Agent, words: &str, answer: &str) -> String {
    let binary = overlay_lab::agent::binary();
    let line = format!(
        "{} --instance {} {words}",
        binary.display(),
        agent.instance()
    );
    let mut script = Command::new("script")
        .args(["-qec", &line, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut keyboard = script.stdin.take().unwrap();
    keyboard.write_all(answer.as_bytes()).unwrap();
    let output = script.wait_with_output().unwrap();
    drop(keyboard);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
