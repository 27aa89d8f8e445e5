//! The verbs' output and patience while no agent, registry or peer answers.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    os::fd::AsFd as _,
    process::{Child, ChildStdout, Stdio},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, poll},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use overlay_lab::{
    Agent, Lab,
    agent::{self, FAILED},
    overlay, until,
};
use overlay_user::model::{Attachment, Change, Endpoint};
use serde_json::Value;

/// Far less than any verb waits by itself.
const SOON: Duration = Duration::from_secs(10);

/// Without an agent, `status` and `drops` tell what the pinned datapath holds.
#[test]
fn status_and_drops_work_without_an_agent() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let mut one = Agent::start(&lab, &host, "--vni 42 --port 4790");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    assert!(!blue.pings("7.7.7.9", "-c 1 -W 1"));
    let (before, dropped) = (one.json("status"), one.drops("neighbor_unknown"));
    assert!(dropped > 0);
    assert_eq!(before["agent"], true);
    one.kill();
    let status = one.json("status");
    assert_eq!(
        (&status["ready"], &status["agent"]),
        (&false.into(), &false.into())
    );
    assert_eq!(status["registry"]["connected"], false);
    for key in ["instance", "node", "iface", "vtep", "port", "networks"] {
        assert_eq!(status[key], before[key], "{key}");
    }
    assert_eq!(status["endpoints"]["local"], 1);
    assert_eq!(status["paths"], serde_json::json!({}));
    for key in ["attach", "abi"] {
        assert_eq!(status["datapath"][key], before["datapath"][key], "{key}");
    }
    let first_line = format!("{} (no agent; the datapath is up)", one.instance());
    assert!(one.does("status").contains(&first_line));
    // It counts on.
    assert!(!blue.pings("7.7.7.9", "-c 1 -W 1"));
    assert!(one.drops("neighbor_unknown") > dropped);
    let run = one.overlay("drops");
    assert!(run.stderr.contains("no agent"), "{run:?}");
}

#[test]
fn without_an_agent_the_lists_are_the_registrys() {
    let lab = Lab::new();
    let hosts: [_; 2] = lab.hosts();
    let [mut one, two] = Agent::on_each(&lab, &hosts, "--vni 42,43");
    let [blue, green] = ["blue", "green"].map(|short| lab.name(short));
    two.endpoint(&blue, 43, &["7.7.7.3/24"]);
    one.endpoint(&green, 42, &["7.7.7.2/24"]);
    one.kill();
    let endpoints = one.json("endpoint ls");
    let told = |index: usize| {
        let endpoint = &endpoints[index];
        ["name", "state", "node"].map(|key| endpoint[key].as_str().unwrap())
    };
    // By VNI, then by name.
    assert_eq!(told(0), [&green, "unknown", one.instance()]);
    assert_eq!(told(1), [&blue, "remote", two.instance()]);
    for network in ["43", "vni-43"] {
        let listed = one.json(&format!("endpoint ls --vni {network}"));
        let names: Vec<_> = listed.as_array().unwrap().iter().collect();
        assert_eq!(names.len(), 1, "{network}");
        assert_eq!(names[0]["name"], *blue);
    }
    for network in ["44", "nope"] {
        let run = one.overlay(&format!("endpoint ls --vni {network}"));
        assert_eq!(run.code, FAILED, "{run:?}");
        assert!(run.stderr.contains("there is no network"), "{run:?}");
    }
    assert_eq!(one.json("network ls").as_array().unwrap().len(), 2);
    let vteps = one.json("vtep ls");
    assert_eq!(vteps.as_array().unwrap().len(), 2);
    // How the ways there are only an agent knows.
    assert_eq!(vteps[1]["path"], Value::Null);
    for words in ["endpoint ls", "network ls", "vtep ls"] {
        let run = one.overlay(words);
        assert_eq!(run.code, 0, "{run:?}");
        assert!(run.stderr.starts_with("note: no agent of"), "{run:?}");
    }
}

/// Where nothing is left of an instance there is nothing to report.
#[test]
fn of_a_removed_instance_nothing_is_told() {
    let lab = Lab::new();
    let nobody = lab.name("nobody");
    for words in [&["status"][..], &["drops"], &["endpoint", "ls"]] {
        let line = overlay(&nobody, words).error(FAILED);
        assert!(line.contains("no agent of instance"), "{line}");
    }
}

/// While the registry is away, endpoints are listed as this host knows them.
#[test]
fn endpoints_are_listed_without_the_registry() {
    let lab = Lab::new();
    let hosts: [_; 2] = lab.hosts();
    let [one, two] = Agent::on_each(&lab, &hosts, "--vni 42");
    let [blue, green] = ["blue", "green"].map(|short| lab.name(short));
    one.endpoint(&green, 42, &["7.7.7.2/24"]);
    two.endpoint(&blue, 42, &["7.7.7.3/24"]);
    until("one knows both", || {
        one.json("status")["endpoints"]["remote"] == 1
    });
    let before = one.json("endpoint ls");
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(lab.dir().join(format!("registry.db{suffix}")));
    }
    until("one misses it", || {
        one.json("status")["registry"]["followed"] == false
            || one.json("status")["registry"]["connected"] == false
    });
    let run = one.overlay("-o json endpoint ls");
    assert_eq!(run.code, 0, "{run:?}");
    let listed: Value = serde_json::from_str(&run.stdout).unwrap();
    let told = |list: &Value| {
        let endpoints = list.as_array().unwrap().iter();
        let keys = ["name", "vni", "mac", "addresses", "node", "vtep", "state"];
        let told = |endpoint: &Value| keys.map(|key| endpoint[key].clone());
        endpoints.map(told).collect::<Vec<_>>()
    };
    assert_eq!(told(&listed), told(&before));
    assert!(run.stderr.contains("this host knows of"), "{run:?}");
    assert_eq!(told(&one.json("endpoint ls --vni vni-42")), told(&before));
    let line = one.overlay("endpoint ls --vni nope").error(FAILED);
    assert!(line.contains("there is no network nope"), "{line}");
}

/// An endpoint that can't be made is counted by `status`.
#[test]
fn status_counts_endpoints_that_fail() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let one = Agent::start(&lab, &host, "--vni 42");
    assert_eq!(one.json("status")["endpoints"]["failed"], 0);
    // Its interface's name is somebody else's there.
    let users = lab.netns("users");
    users.ip("link add eth0 type bridge");
    let blue = Endpoint {
        name: lab.name("blue").parse().unwrap(),
        vni: "42".parse().unwrap(),
        mac: "02:42:07:07:07:02".parse().unwrap(),
        addresses: vec!["7.7.7.2/24".parse().unwrap()],
        node: one.instance().parse().unwrap(),
        attachment: Some(Attachment::veth(
            users.name().parse().unwrap(),
            "eth0".parse().unwrap(),
        )),
        generation: 0,
    };
    lab.commit(&[Change::CreateEndpoint(blue)]);
    until("it has failed", || {
        one.json("status")["endpoints"]["failed"] == 1
    });
    assert!(one.does("status").contains("1 local (1 failed), 0 remote"));
}

/// What is there just as it is asked for is reported as such.
#[test]
fn what_is_there_already_is_told_so() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let one = Agent::start(&lab, &host, "--vni 42");
    let blue = lab.name("blue");
    let add = format!("endpoint add {blue} --vni 42 --ip 7.7.7.2/24");
    assert!(!one.does(&add).contains("already"));
    let made = one.json(&format!("endpoint show {blue}"));
    assert!(one.does(&add).contains("was there already"));
    let again = one.json(&add);
    assert_eq!(again["existed"], true);
    assert_eq!(again["generation"], made["generation"]);
    for other in [
        "--ip 7.7.7.3/24",
        "--ip 7.7.7.2/16",
        "--ip 7.7.7.2/24 --ifname eth1",
    ] {
        let line = one
            .overlay(&format!("endpoint add {blue} --vni 42 {other}"))
            .error(FAILED);
        assert!(line.contains("is taken by"), "{line}");
    }
    // The last address of its network is its own.
    one.does("network create tiny --vni 43 --subnet 10.1.0.0/31");
    let [first, last, more] = ["first", "last", "more"].map(|short| lab.name(short));
    for name in [&first, &last] {
        one.does(&format!("endpoint add {name} --vni tiny"));
    }
    let again = one.json(&format!("endpoint add {last} --vni tiny"));
    assert_eq!(again["existed"], true);
    let full = one.overlay(&format!("endpoint add {more} --vni tiny"));
    assert!(full.error(FAILED).contains("no free IPv4 address"));
    let adopted = one.does("registry adopt --yes");
    assert!(adopted.contains("nothing to adopt"), "{adopted}");
}

#[test]
fn verbs_give_up_after_the_timeout_that_is_asked_for() {
    let lab = Lab::new();
    // It takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("etcd://{}", silent.local_addr().unwrap());
    let nobody = lab.name("nobody");
    let begun = Instant::now();
    let words = ["--timeout", "1s", "registry", "check", "--registry", &url];
    let line = overlay(&nobody, &words).error(FAILED);
    assert!(
        line.contains("within 1 s") && line.contains("--timeout"),
        "{line}"
    );
    assert!(begun.elapsed() < SOON);
}

/// A monitor of an agent that is stopped is told so.
#[test]
fn a_monitor_of_a_stopped_agent_is_told() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let one = Agent::start(&lab, &host, "--vni 42");
    let mut monitor = Watching::start(&one, "monitor");
    let mut vni = 50;
    until("it listens", || {
        vni += 1;
        one.does(&format!("network create listen{vni} --vni {vni}"));
        monitor.has_printed()
    });
    let stopped = one.stop();
    let (code, stderr) = monitor.end();
    drop(stopped);
    assert_eq!(code, Some(FAILED));
    assert!(stderr.contains("is stopped"), "{stderr}");
}

#[test]
fn what_is_watched_is_shown_again_until_ctrl_c() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let one = Agent::start(&lab, &host, "--vni 42");
    for words in ["endpoint ls", "network ls", "vtep ls", "status", "drops"] {
        let mut watching = Watching::start(&one, &format!("{words} --watch=100ms"));
        let first = watching.line();
        while watching.line() != first {}
        kill(watching.pid(), Signal::SIGINT).unwrap();
        assert_eq!(watching.end(), (Some(0), String::new()), "{words}");
    }
}

/// A verb that goes on.
struct Watching {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Watching {
    fn start(agent: &Agent, words: &str) -> Self {
        let mut command = agent::command(agent.instance());
        command.args(words.split_whitespace());
        let piped = command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        Self { child, out }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(self.out.read_line(&mut line).unwrap() > 0, "it has ended");
        line
    }

    /// Whether there is a line to be read by now, or soon.
    fn has_printed(&self) -> bool {
        let pipe = self.out.get_ref().as_fd();
        let mut ends = [PollFd::new(pipe, PollFlags::POLLIN)];
        poll(&mut ends, 200_u16).unwrap() > 0
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// Waits for its end; exit code and what it complained of.
    fn end(&mut self) -> (Option<i32>, String) {
        let code = self.child.wait().unwrap().code();
        let mut stderr = String::new();
        let mut pipe = self.child.stderr.take().unwrap();
        pipe.read_to_string(&mut stderr).unwrap();
        (code, stderr)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
