//! The verbs that look at a cluster and change it: verify, monitor, doctor, move, registry.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStderr, ChildStdout, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use overlay_lab::{
    Agent, Lab,
    agent::{self, FAILED},
    overlay, until,
};
use overlay_user::{
    model::{Change, Node, Session, Vtep},
    registry,
};
use serde_json::Value;

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What `verify` printed as JSON.
fn verify(agent: &Agent) -> (i32, Value) {
    let run = agent.overlay("-o json verify");
    (run.code, parse(&run.stdout))
}

/// `verify` names the entry that one host lacks, and agrees once it is repaired.
#[test]
fn verify_names_the_missing_entry() {
    let lab = Lab::new();
    let [one, two] = lab.hosts();
    let one = Agent::start(&lab, &one, "--vni 42");
    let two = Agent::start(&lab, &two, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    two.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"])
        .reaches("7.7.7.2");
    let (code, agreed) = verify(&one);
    assert_eq!(
        (code, &agreed["agree"]),
        (0, &Value::Bool(true)),
        "{agreed}"
    );
    assert_eq!(agreed["hosts"].as_array().unwrap().len(), 2);

    two.clear("neighbors");
    let (code, differing) = verify(&one);
    assert_eq!((code, &differing["agree"]), (FAILED, &Value::Bool(false)));
    let lacking: Vec<_> = differing["differences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| (&entry["node"], &entry["map"], &entry["entry"]))
        .collect();
    let here = Value::from(two.instance());
    let map = Value::from("neighbors");
    let [blues, greens] = ["7.7.7.2", "7.7.7.3"].map(Value::from);
    assert_eq!(
        lacking,
        [(&here, &map, &blues), (&here, &map, &greens)],
        "{differing}"
    );
    let said = one.overlay("verify");
    assert!(said.stdout.contains(blue.name()), "{}", said.stdout);
    assert!(
        said.stderr.starts_with("error: ") && said.stderr.contains(two.instance()),
        "{}",
        said.stderr
    );
    // The agent's own look at the tables finds it too.
    let deadline = Instant::now() + Duration::from_mins(1);
    while verify(&one).0 != 0 {
        assert!(Instant::now() < deadline, "{}", verify(&one).1);
    }
}

/// `verify` tells hosts that do not answer from those that agree.
#[test]
fn verify_tells_silent_hosts_from_agreeing_ones() {
    let lab = Lab::new();
    let [one, two] = lab.hosts();
    let one = Agent::start(&lab, &one, "--vni 42");
    let two = Agent::start(&lab, &two, "--vni 42");
    one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    let stopped = two.stop();
    let (code, silent) = verify(&one);
    drop(stopped);
    assert_eq!(code, FAILED, "{silent}");
    let verdicts: Vec<_> = silent["hosts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|host| host["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(verdicts, ["agrees", "silent"]);
}

/// `overlay monitor -o json`.
struct Monitor {
    child: Child,
    lines: mpsc::Receiver<String>,
    stderr: Option<ChildStderr>,
}

impl Monitor {
    /// Starts one and waits until it listens.
    fn start(agent: &Agent) -> Self {
        let mut child = agent::command(agent.instance())
            .args(["-o", "json", "monitor"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let monitor = Self {
            lines: lines(child.stdout.take().unwrap()),
            stderr: child.stderr.take(),
            child,
        };
        // It listens once it tells of anything.
        let mut number = 50;
        until("the monitor to listen", || {
            number += 1;
            agent.does(&format!("network create listen{number} --vni {number}"));
            monitor
                .lines
                .recv_timeout(Duration::from_millis(200))
                .is_ok()
        });
        monitor
    }

    /// The next event that `is_it`.
    fn next(&self, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let line = self.lines.recv_timeout(Duration::from_secs(20));
            let event = parse(&line.unwrap_or_else(|error| panic!("no such event: {error}")));
            assert!(event["time"].is_string(), "{event}");
            if is_it(&event) {
                return event;
            }
        }
    }

    /// The next event of this kind about the address. There are others: each endpoint, too, asks
    /// whether somebody has the link-local address that it is about to take.
    fn next_about(&self, kind: &str, ip: &str) -> Value {
        self.next(|event| event["event"] == kind && event["wanted"]["ip"] == ip)
    }

    /// Waits for its end; exit code and what it complained of.
    fn end(mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        let stderr = std::io::read_to_string(self.stderr.take().unwrap()).unwrap();
        (code, stderr)
    }
}

/// The lines of a pipe, as they come.
fn lines(pipe: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut lines = BufReader::new(pipe).lines().map_while(Result::ok);
        lines.try_for_each(|line| sender.send(line))
    });
    receiver
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `monitor` prints misses, drops, moves and registry changes until Ctrl-C.
#[test]
fn monitor_prints_every_kind_of_event() {
    let lab = Lab::new();
    let [one, two] = lab.hosts();
    let one = Agent::start(&lab, &one, "");
    let two = Agent::start(&lab, &two, "");
    let monitor = Monitor::start(&one);
    one.does("network create vast --vni 42 --subnet 7.7.0.0/16 --resolve on-demand");
    let put = monitor.next(|event| event["vni"] == 42);
    assert_eq!(put["network"], "vast");
    until("the other agent to know", || {
        two.json("network ls")
            .as_array()
            .unwrap()
            .iter()
            .any(|network| network["resolve"] == "on-demand")
    });

    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.0.2/16"]);
    let green = two.endpoint(&lab.name("green"), 42, &["7.7.0.3/16"]);
    blue.reaches("7.7.0.3");
    let miss = monitor.next_about("miss", "7.7.0.3");
    assert_eq!(miss["asker"], blue.name(), "{miss}");
    let resolved = monitor.next_about("resolved", "7.7.0.3");
    assert_eq!(resolved["endpoint"], green.name(), "{resolved}");
    assert!(resolved["took_us"].is_u64(), "{resolved}");

    two.does(&format!(
        "endpoint move {} --node {}",
        green.name(),
        one.instance()
    ));
    let moved = monitor.next(|event| event["event"] == "move");
    assert_eq!(
        (&moved["from"], &moved["to"]),
        (&Value::from(two.instance()), &Value::from(one.instance()))
    );

    assert!(!blue.pings("7.7.0.99", "-c 1 -W 1"));
    monitor.next_about("unresolved", "7.7.0.99");
    // It is known by now that nobody has it.
    assert!(!blue.pings("7.7.0.99", "-c 1 -W 1"));
    monitor.next(|event| event["event"] == "drop" && event["reason"] == "neighbor_unknown");

    let pid = Pid::from_raw(monitor.child.id().try_into().unwrap());
    kill(pid, Signal::SIGINT).unwrap();
    assert_eq!(monitor.end(), (Some(0), String::new()));
}

/// `monitor` tells what the agent repairs, and so does its log.
#[test]
fn monitor_and_log_tell_of_repairs() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let one = Agent::start(&lab, &host, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    let monitor = Monitor::start(&one);
    let repaired = |what: &str| {
        monitor.next(|event| {
            event["event"] == "repaired" && event["what"].as_str().unwrap().contains(what)
        })
    };
    blue.ip("link set eth0 address 02:00:00:00:00:99");
    let mac = repaired("its MAC was 02:00:00:00:00:99");
    assert_eq!(mac["endpoint"], blue.name());
    blue.ip("address del 7.7.7.2/24 dev eth0");
    repaired("its address 7.7.7.2/24 was gone");
    blue.ip("link del eth0");
    repaired("its interface was gone");
    let links = one.netns().links();
    let vxlan = links.iter().find(|name| name.starts_with("ovx")).unwrap();
    one.netns().ip(&format!("link del {vxlan}"));
    let device = repaired(&format!("device {vxlan} was gone"));
    assert_eq!(device["endpoint"], Value::Null);
    one.does(&format!("endpoint rm {}", blue.name()));
    monitor.next(|event| event["event"] == "gone" && event["endpoint"] == blue.name());
    // The next look found nothing changed, and reports nothing.
    let log = one.log();
    assert!(!log.contains("MTU was"), "{log}");
    let has = |level: &str, what: &str| {
        log.lines()
            .any(|line| line.contains(level) && line.contains(what))
    };
    assert!(has("WARN", "02:00:00:00:00:99"), "{log}");
    assert!(has("INFO", "endpoint stands"), "{log}");
    assert!(has("INFO", "endpoint is gone"), "{log}");
}

/// `monitor` ends with its agent, and does not keep it from ending.
#[test]
fn monitor_ends_with_its_agent() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let mut agent = Agent::start(&lab, &host, "--vni 42");
    let monitor = Monitor::start(&agent);
    let begun = Instant::now();
    let pid = Pid::from_raw(agent.pid().try_into().unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    agent.wait();
    assert!(begun.elapsed() < Duration::from_secs(5));
    let (code, stderr) = monitor.end();
    assert_eq!(code, Some(FAILED), "{stderr}");
    assert!(stderr.contains("has ended"), "{stderr}");
    agent.restart("--vni 42");
    agent.await_ready();
}

/// `doctor` accepts a sound cluster, and names a peer of another ABI.
#[test]
fn doctor_names_a_peer_of_another_abi() {
    let lab = Lab::new();
    let [one, two] = lab.hosts();
    let one = Agent::start(&lab, &one, "--vni 42");
    let _two = Agent::start(&lab, &two, "--vni 42");
    let sound = one.overlay("-o json doctor");
    assert_eq!(sound.code, 0, "{} {}", sound.stdout, sound.stderr);
    assert_eq!(parse(&sound.stdout)["healthy"], true);

    let vtep = Vtep {
        ip: "10.0.0.77".parse().unwrap(),
        port: 4789,
    };
    let stranger = lab.name("stranger");
    enter(
        &lab,
        Node {
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            abi: Some(99),
            ..Node::new(stranger.parse().unwrap(), vtep, true)
        },
    );
    let run = one.overlay("doctor");
    assert_eq!(run.code, FAILED, "{}", run.stdout);
    let line = run
        .stdout
        .lines()
        .find(|line| line.contains(&stranger))
        .unwrap_or_else(|| panic!("{}", run.stdout));
    assert!(
        line.starts_with("problem: ") && line.contains("ABI version 99"),
        "{line}"
    );
    assert!(run.stderr.starts_with("error: "), "{}", run.stderr);
}

/// Enters a node that lives into the lab's registry.
fn enter(lab: &Lab, node: Node) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let settings = registry::RegistrySettings::new(lab.registry());
        let registry = registry::open(&settings).await.unwrap();
        registry
            .heartbeat(&node.name, &Session::new(node.name.to_string()))
            .await
            .unwrap();
        registry.commit(&[Change::PutNode(node)]).await.unwrap();
    });
}

#[test]
fn doctor_without_an_agent_says_how_to_start_one() {
    let lab = Lab::new();
    let run = overlay(&lab.name("nobody"), &["-o", "json", "doctor"]);
    assert_eq!(run.code, FAILED);
    let found = parse(&run.stdout);
    assert_eq!(found["findings"][0]["subject"], "agent");
    assert_eq!(found["passed"][0], "kernel");
}

/// An endpoint that moves keeps its addresses and is reached where it went.
#[test]
fn a_moved_endpoint_keeps_its_addresses() {
    let lab = Lab::new();
    let [one, two, three] = lab.hosts();
    let [one, two, three] =
        [one, two, three].map(|host| Agent::start(&lab, &host, "--vni 42 --vni 43"));
    let name = lab.name("blue");
    let blue = one.endpoint(&name, 42, &["7.7.7.2/24"]);
    let green = three.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    green.reaches("7.7.7.2");
    let before = one.json(&format!("endpoint show {name}"));
    let links = one.netns().links().len();

    // Asked of a host that has no part in it.
    let moved = three.json(&format!(
        "endpoint move {name} --node {} --netns {name}-2",
        two.instance()
    ));
    assert_eq!(moved["node"], two.instance());
    for key in ["name", "vni", "mac", "addresses"] {
        assert_eq!(moved[key], before[key], "{key}");
    }
    assert!(moved["generation"].as_u64() > before["generation"].as_u64());
    green.reaches("7.7.7.2");
    until(
        "the old host to take its interface and namespace away",
        || one.netns().links().len() == links - 1 && !blue.exists(),
    );
    until("the new host to say that it is ready", || {
        two.json(&format!("endpoint show {name}"))["state"] == "ready"
    });
    until("all to agree", || verify(&one).0 == 0);
    // Again is fine, and without a node it comes to the host that is asked.
    two.does(&format!("endpoint move {name}"));
    one.does(&format!("endpoint move {name} --netns {name}"));
    green.reaches("7.7.7.2");
}

/// A move to nowhere is refused, and one that fails is rolled back.
#[test]
fn a_failed_move_is_rolled_back() {
    let lab = Lab::new();
    let [one, two] = lab.hosts();
    let one = Agent::start(&lab, &one, "--vni 42");
    let two = Agent::start(&lab, &two, "--vni 42");
    let name = lab.name("blue");
    one.endpoint(&name, 42, &["7.7.7.2/24"]);
    let line = one
        .overlay(&format!("endpoint move {name} --node nowhere"))
        .error(FAILED);
    assert!(line.contains("there is no node nowhere"), "{line}");
    let line = one.overlay("endpoint move nobody").error(FAILED);
    assert!(line.contains("there is no endpoint nobody"), "{line}");

    // The interface's name is taken in the namespace that it is to go to.
    let green = two.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    let line = two
        .overlay(&format!("endpoint move {name} --netns {}", green.name()))
        .error(FAILED);
    assert!(
        line.contains(&format!("is back on node {}", one.instance())),
        "{line}"
    );
    until("it to be ready again where it was", || {
        one.json(&format!("endpoint show {name}"))["state"] == "ready"
    });
    green.reaches("7.7.7.2");
}

/// Listings are of one network or one node where that is asked for.
#[test]
fn listings_are_of_one_network_or_node() {
    let lab = Lab::new();
    let [one, two] = lab.hosts();
    let one = Agent::start(&lab, &one, "--vni 42,43");
    let two = Agent::start(&lab, &two, "--vni 42,43");
    let [a, b, c] = ["a", "b", "c"].map(|short| lab.name(short));
    one.endpoint(&a, 42, &["7.7.7.2/24"]);
    one.endpoint(&b, 43, &["7.7.7.2/24"]);
    two.endpoint(&c, 42, &["7.7.7.3/24"]);
    let names = |words: &str| -> Vec<String> {
        let listed = two.json(words);
        let endpoints = listed.as_array().unwrap().iter();
        endpoints
            .map(|endpoint| endpoint["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("endpoint ls"), [a.clone(), c.clone(), b.clone()]);
    assert_eq!(names("endpoint ls --vni 42"), [a.clone(), c.clone()]);
    let on_one = format!("endpoint ls --node {}", one.instance());
    assert_eq!(names(&on_one), [a, b.clone()]);
    assert_eq!(names(&format!("{on_one} --vni 43")), [b]);
    let by_name = names("endpoint ls --vni vni-42");
    assert_eq!(by_name, names("endpoint list --vni 42"));
    for nowhere in ["77", "nowhere"] {
        let line = two.overlay(&format!("endpoint ls --vni {nowhere}"));
        let line = line.error(FAILED);
        assert!(line.contains("there is no network"), "{line}");
    }
}

#[test]
fn status_says_how_full_each_map_is() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let agent = Agent::start(&lab, &host, "--vni 42 --fdb-entries 2048");
    let before = agent.json("status");
    agent.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24", "fd07::2/64"]);
    let status = agent.json("status");
    let maps = &status["datapath"]["maps"];
    assert_eq!(maps["fdb"]["capacity"], 2048, "{maps}");
    let grew = |map: &str| {
        let entries = |status: &Value| {
            let entries = &status["datapath"]["maps"][map]["entries"];
            entries
                .as_u64()
                .unwrap_or_else(|| panic!("{map} of {status}"))
        };
        entries(&status) - entries(&before)
    };
    assert_eq!(
        (grew("fdb"), grew("neighbors"), grew("endpoints")),
        (1, 2, 1)
    );
    assert_eq!(status["registry"]["stale_for_s"], 0);
}

/// The registry is exported, checked and imported without an agent.
#[test]
fn the_registry_needs_no_agent() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let mut agent = Agent::start(&lab, &host, "--vni 42");
    agent.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    let backup = lab.dir().join("backup.jsonl");
    let backup = backup.to_str().unwrap();
    agent.kill();
    // The record of the instance says which registry.
    let counts = agent.json(&format!("registry export {backup}"));
    assert_eq!(
        (&counts["networks"], &counts["endpoints"]),
        (&Value::from(1), &Value::from(1))
    );
    agent.does("registry check");

    let nobody = lab.name("nobody");
    let other = format!("sqlite://{}/other.db", lab.dir().display());
    let line = overlay(&nobody, &["registry", "check"]).error(FAILED);
    assert!(line.contains("--registry"), "{line}");
    let named = ["--registry", &*other];
    let run = overlay(
        &nobody,
        &[&["registry", "import", backup], &named[..]].concat(),
    );
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(
        run.stdout
            .contains("made: 1 networks, 1 nodes, 1 endpoints"),
        "{}",
        run.stdout
    );
    let run = overlay(&nobody, &[&["registry", "check"], &named[..]].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    agent.restart("--vni 42");
    agent.await_ready();
}

/// An agent whose node another host has taken over ends, and says why.
#[test]
fn an_agent_whose_node_was_taken_over_ends() {
    let lab = Lab::new();
    let [one, two] = lab.hosts();
    let mut one = Agent::start(&lab, &one, "--vni 42");
    let taken = format!("--vni 42 --node {}", one.instance());
    let stopped = one.stop();
    // Its session ends for want of heartbeats: its name is free then.
    let mut heir = Agent::spawn(&lab, &two, &taken);
    let deadline = Instant::now() + Duration::from_secs(40);
    while !heir.is_ready() {
        assert!(Instant::now() < deadline, "{}", heir.log());
        thread::sleep(Duration::from_millis(200));
        if !heir.is_running() {
            heir.restart(&taken);
        }
    }
    assert!(heir.log().contains(one.instance()), "{}", heir.log());
    drop(stopped);
    assert_eq!(one.exit_code(), FAILED);
    assert!(
        one.log().contains("has given this node to another host"),
        "{}",
        one.log()
    );
    // What it leaves behind is its own to take down, and the other's rows stay.
    let down = one.overlay("down");
    assert_eq!(down.code, 0, "{}", down.stderr);
    assert!(heir.is_ready());
    assert_eq!(heir.json("vtep ls")[0]["ip"], "10.0.0.2");
}
