//! Endpoints in namespaces that a process or a path names.

use std::{fs, path::Path};

use overlay_lab::{
    Agent, Container, Lab, Netns,
    agent::{FAILED, netns_names},
    until,
};

struct Fixture {
    one: Agent,
    lab: Lab,
}

/// An agent, and an endpoint 7.7.7.3 in a namespace of its own.
fn fixture() -> Fixture {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let one = Agent::start(&lab, &host, "--vni 42");
    one.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    Fixture { one, lab }
}

fn state(agent: &Agent, name: &str) -> String {
    let shown = agent.json(&format!("endpoint show {name}"));
    shown["state"].as_str().unwrap().to_owned()
}

fn error(agent: &Agent, name: &str) -> String {
    let shown = agent.json(&format!("endpoint show {name}"));
    shown["error"].as_str().unwrap_or_default().to_owned()
}

/// The links that the instance's agent made to namespaces of others.
fn links(agent: &Agent) -> Vec<String> {
    netns_names(&format!("{}-", agent.instance()))
}

/// A container named by a process gets an endpoint; its namespace stays its owner's.
#[test]
fn a_containers_pid_names_its_namespace() {
    let Fixture { mut one, lab } = fixture();
    let (container, web) = (Container::start(), lab.name("web"));
    let (pid, words) = (container.pid(), format!("endpoint add {web} --vni 42"));
    one.does(&format!("{words} --ip 7.7.7.2/24 --netns {pid}"));
    container.reaches("7.7.7.3");
    assert!(!Netns::named(pid.to_string()).exists());
    let [link] = &links(&one)[..] else {
        panic!("{:?}", links(&one));
    };
    assert_eq!(one.json(&format!("endpoint show {web}"))["netns"], **link);
    // The next agent finds the same namespace.
    one.kill();
    container.run(&["ip", "link", "set", "eth0", "down"]);
    one.restart("--vni 42");
    one.await_ready();
    container.reaches("7.7.7.3");
    one.does(&format!("endpoint rm {web}"));
    assert_eq!(links(&one), [""; 0]);
    let left = container.run(&["ip", "-br", "link"]);
    assert!(!left.contains("eth0"), "{left}");
}

#[test]
fn two_endpoints_of_a_container_go_one_by_one() {
    let Fixture { one, lab } = fixture();
    let (container, a, b) = (Container::start(), lab.name("a"), lab.name("b"));
    let path = container.path();
    one.does(&format!(
        "endpoint add {a} --vni 42 --ip 7.7.7.5/24 --netns {path}"
    ));
    one.does(&format!(
        "endpoint add {b} --vni 42 --ip 7.7.7.6/24 --ifname eth1 --netns {}",
        container.pid()
    ));
    assert_eq!(links(&one).len(), 1);
    one.does(&format!("endpoint rm {a}"));
    assert_eq!(links(&one).len(), 1);
    assert_eq!(state(&one, &b), "ready");
    one.does(&format!("endpoint rm {b}"));
    assert_eq!(links(&one), [""; 0]);
}

/// An endpoint that another way to its container asks for is there already.
#[test]
fn the_same_container_by_another_way_is_there() {
    let Fixture { one, lab } = fixture();
    let (container, other, web) = (Container::start(), Container::start(), lab.name("web"));
    let add = |netns: &str| format!("endpoint add {web} --vni 42 --ip 7.7.7.2/24 --netns {netns}");
    let (pid, path) = (container.pid().to_string(), container.path());
    one.does(&add(&pid));
    for netns in [&pid, &path] {
        let again = one.json(&add(netns));
        assert_eq!(again["existed"], true, "{netns}");
    }
    let elsewhere = one.overlay(&add(&other.pid().to_string()));
    assert!(elsewhere.error(FAILED).contains("is taken by"));
    // What was not attached in the end has no name.
    assert_eq!(links(&one).len(), 1);
    container.reaches("7.7.7.3");
}

/// An endpoint whose container ends tells why, and comes back in the next one.
#[test]
fn an_endpoint_follows_its_restarted_container() {
    let Fixture { mut one, lab } = fixture();
    let (first, web) = (Container::start(), lab.name("web"));
    let pid = first.pid();
    one.does(&format!(
        "endpoint add {web} --vni 42 --ip 7.7.7.2/24 --netns {pid}"
    ));
    drop(first);
    let is_told = |agent: &Agent| {
        let told = error(agent, &web);
        state(agent, &web) == "failed"
            && [
                format!("/proc/{pid}/ns/net"),
                "is gone".into(),
                "endpoint move".into(),
            ]
            .iter()
            .all(|part| told.contains(part))
    };
    until("the endpoint says that its namespace is gone", || {
        is_told(&one)
    });
    // Also by an agent that was not there when it happened.
    one.kill();
    one.restart("--vni 42");
    one.await_ready();
    until("the next agent says so too", || is_told(&one));

    let second = Container::start();
    one.does(&format!("endpoint move {web} --netns {}", second.pid()));
    assert_eq!(state(&one, &web), "ready");
    second.reaches("7.7.7.3");
    assert_eq!(links(&one).len(), 1);
}

/// Another namespace under the same path is not taken for the first.
#[test]
fn a_reused_path_is_another_namespace() {
    let Fixture { one, lab } = fixture();
    let (first, web) = (Container::start(), lab.name("web"));
    let path = lab.dir().join("sandbox");
    let lead = |to: &Container| {
        let _ = fs::remove_file(&path);
        std::os::unix::fs::symlink(to.path(), &path).unwrap();
    };
    lead(&first);
    let shown = path.display();
    one.does(&format!(
        "endpoint add {web} --vni 42 --ip 7.7.7.2/24 --netns {shown}"
    ));
    let second = Container::start();
    lead(&second);
    drop(first);
    until("the endpoint says that another namespace is there", || {
        let told = error(&one, &web);
        state(&one, &web) == "failed" && told.contains("another one is there")
    });
    one.does(&format!("endpoint move {web} --netns {shown}"));
    second.reaches("7.7.7.3");
}

/// A namespace that is not there is refused in one line and never made.
#[test]
fn a_missing_namespace_is_refused() {
    let Fixture { one, lab } = fixture();
    let web = lab.name("web");
    let ended = {
        let container = Container::start();
        container.pid()
    };
    let file = lab.dir().join("file");
    fs::write(&file, "").unwrap();
    let missing = format!("/run/netns/{}", lab.name("missing"));
    for (netns, parts) in [
        (ended.to_string(), &["no process", "/run/netns/"][..]),
        (missing.clone(), &["does not exist", "lsns"]),
        (file.display().to_string(), &["no network namespace"]),
        ("/proc/self/ns/net".to_owned(), &["agent's own"]),
    ] {
        let words = format!("endpoint add {web} --vni 42 --ip 7.7.7.2/24 --netns {netns}");
        let line = one.overlay(&words).error(FAILED);
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
    assert!(!Path::new(&missing).exists());
    assert_eq!(links(&one), [""; 0]);
    // By its path a namespace that has a name keeps it.
    let pod = lab.netns("pod");
    one.does(&format!(
        "endpoint add {web} --vni 42 --ip 7.7.7.2/24 --netns {}",
        pod.path()
    ));
    assert_eq!(
        one.json(&format!("endpoint show {web}"))["netns"],
        pod.name()
    );
    assert_eq!(links(&one), [""; 0]);
}

#[test]
fn down_takes_the_links_and_leaves_the_containers() {
    let Fixture { mut one, lab } = fixture();
    let (container, web) = (Container::start(), lab.name("web"));
    let pid = container.pid();
    one.does(&format!(
        "endpoint add {web} --vni 42 --ip 7.7.7.2/24 --netns {pid}"
    ));
    one.does("down");
    one.wait();
    assert_eq!(links(&one), [""; 0]);
    assert!(container.run(&["ip", "-br", "link"]).contains("lo"));
}
