//! Clients of the agent that ask for more than their share.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::{
        fs::{MetadataExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use nix::{
    fcntl::{Flock, FlockArg},
    sys::resource::{Resource, getrlimit, setrlimit},
};
use overlay_lab::{
    Agent, Host, Lab, Netns, agent::FAILED, eventually, lab::traces, traffic::Stream, until,
};

const ADDRESS: &str = "127.0.0.1:9478";
/// Fewer than connections come.
const DESCRIPTORS: u64 = 1024;

/// What starts a program with this limit of open files, soft and hard.
fn with_descriptors(soft: u64, hard: u64) -> Vec<String> {
    vec!["prlimit".to_owned(), format!("--nofile={soft}:{hard}")]
}

/// As many of this process's descriptors as it may have.
fn raise_own_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

/// The value of a series on the metrics page. `None`: no page within some seconds.
fn metric(netns: &Netns, series: &str) -> Option<String> {
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {ADDRESS}\r\n\r\n");
    let page = netns.enter(|| {
        let address = ADDRESS.parse().unwrap();
        let mut connection = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
        connection
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        connection.write_all(request.as_bytes()).ok()?;
        let mut page = String::new();
        connection.read_to_string(&mut page).ok()?;
        Some(page)
    })?;
    let line = page.lines().find(|line| line.starts_with(series))?;
    Some(line.rsplit_once(' ')?.1.to_owned())
}

/// Idle connections to the metrics port cost nothing.
#[test]
fn idle_connections_to_the_metrics_port_are_free() {
    raise_own_limit();
    let lab = Lab::new();
    let hosts: [Host; 2] = lab.hosts();
    let starter = with_descriptors(256, DESCRIPTORS);
    let options = format!("--vni 42 --metrics {ADDRESS}");
    let agents = hosts
        .each_ref()
        .map(|host| Agent::spawn_through(&lab, host, &starter, &options));
    agents.iter().for_each(Agent::await_ready);
    let [one, two] = &agents;
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    let green = two.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    blue.reaches("7.7.7.3");

    let stream = Stream::start(&blue, &green, "7.7.7.3");
    let mut idle = Vec::new();
    for count in [1100, 5000] {
        while idle.len() < count {
            let address = ADDRESS.parse().unwrap();
            let connected = one.netns().enter(|| {
                let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(10));
                (0..100).map(|_| connect()).collect::<Result<Vec<_>, _>>()
            });
            idle.extend(connected.unwrap());
        }
        // While all of them are held, and longer than two of the agent's looks at its host.
        assert_eq!(metric(one.netns(), "overlay_ready").as_deref(), Some("1"));
        stream.flows(1000);
        let status = one.json("status");
        assert_eq!(status["ready"], true, "{status}");
        assert_eq!(status["registry"]["connected"], true, "{status}");
        let last = 10 + count / 1000;
        let address = format!("7.7.7.{last}/24");
        one.endpoint(&lab.name(&format!("x{last}")), 42, &[&address]);
    }
    let open = fs::read_dir(format!("/proc/{}/fd", one.pid()))
        .unwrap()
        .count();
    assert!(open < 300, "{open} descriptors");
    let looks = |agent: &Agent| {
        let series = "overlay_reconcile_duration_seconds_count{cause=\"chore\"}";
        let count = metric(agent.netns(), series)?;
        count.parse::<u64>().ok()
    };
    let before = eventually("a page", || looks(one));
    until("the host is looked at", || {
        looks(one).is_some_and(|now| now > before)
    });
    drop(idle);
    let (sent, lost) = stream.finish();
    assert!(lost.is_empty(), "{} of {sent} lost", lost.len());
}

/// Idle connections to the agent's socket keep no command out.
#[test]
fn idle_connections_keep_no_command_out() {
    raise_own_limit();
    let lab = Lab::new();
    let [host] = lab.hosts();
    let agent = Agent::spawn_through(&lab, &host, &with_descriptors(256, DESCRIPTORS), "--vni 42");
    agent.await_ready();
    let socket = format!("/run/overlay/{}.sock", agent.instance());
    let idle: Vec<_> = (0..300)
        .map_while(|_| UnixStream::connect(&socket).ok())
        .collect();
    assert!(idle.len() > 128, "more than the agent serves at once");
    assert_eq!(agent.json("status")["ready"], true);
    agent.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
}

#[test]
fn an_agent_takes_as_many_descriptors_as_it_may() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let agent = Agent::spawn_through(&lab, &host, &with_descriptors(64, DESCRIPTORS), "");
    agent.await_ready();
    let limits = fs::read_to_string(format!("/proc/{}/limits", agent.pid())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<_> = line.unwrap().split_whitespace().collect();
    assert_eq!(words[3..5], ["1024", "1024"], "{limits}");
}

/// A monitor of the agent, and the first line of the answer.
fn monitor(agent: &Agent) -> (UnixStream, String) {
    let mut stream =
        UnixStream::connect(format!("/run/overlay/{}.sock", agent.instance())).unwrap();
    stream
        .write_all(b"GET /v1/monitor HTTP/1.1\r\nHost: overlay\r\n\r\n")
        .unwrap();
    let mut line = String::new();
    BufReader::new(stream.try_clone().unwrap())
        .read_line(&mut line)
        .unwrap();
    (stream, line)
}

/// More monitors than the agent serves are refused until one of them ends.
#[test]
fn too_many_monitors_are_refused() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let agent = Agent::start(&lab, &host, "--vni 42");
    let mut monitors: Vec<_> = (0..16).map(|_| monitor(&agent)).collect();
    for (_, line) in &monitors {
        assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
    }
    let error = agent.overlay("monitor").error(FAILED);
    assert!(error.contains("end one of them"), "{error}");
    drop(monitors.pop());
    until("there is room again", || {
        monitor(&agent).1.starts_with("HTTP/1.1 200 ")
    });
}

/// Whether a user without rights can take a lock on this.
fn can_be_locked_by_anybody(path: &str) -> bool {
    let mut flock = Command::new("setpriv");
    flock
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "flock"])
        .args(["--nonblock", path, "true"])
        .stderr(Stdio::null());
    flock.status().unwrap().success()
}

#[test]
fn nobody_but_the_agents_user_can_hold_its_lock() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let lock = format!("/run/overlay/{}.lock", host.netns.name());
    // What an agent of an earlier version left, started by hand, and who holds it now.
    fs::create_dir_all("/run/overlay").unwrap();
    fs::write(&lock, "").unwrap();
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(can_be_locked_by_anybody(&lock));

    let starter = ["sh", "-c", "umask 0; exec \"$@\"", "sh"].map(str::to_owned);
    let mut agent = Agent::spawn_through(&lab, &host, &starter, "--vni 42");
    agent.await_ready();
    assert!(!can_be_locked_by_anybody(&lock));
    let blue = agent.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    assert!(blue.exists());
    for path in traces(agent.instance()) {
        let metadata = fs::symlink_metadata(&path).unwrap();
        assert_eq!(metadata.mode() & 0o022, 0, "{}", path.display());
    }
    agent.kill();
    assert!(!can_be_locked_by_anybody(&lock));
    agent.restart("--vni 42");
    agent.await_ready();
}

/// A lock on the folder of namespaces keeps no endpoint waiting.
#[test]
fn a_lock_on_the_namespaces_keeps_nobody_waiting() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let agent = Agent::start(&lab, &host, "--vni 42");
    // Any user may open the folder, and so hold this.
    let folder = fs::File::open("/run/netns").unwrap();
    let locked = Flock::lock(folder, FlockArg::LockShared).unwrap();
    let started = Instant::now();
    agent.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    assert!(started.elapsed() < Duration::from_secs(20));
    drop(locked);
}

/// An agent that may have too few files is refused and takes nothing away.
#[test]
fn too_few_files_are_refused() {
    let lab = Lab::new();
    let hosts: [Host; 2] = lab.hosts();
    let [mut one, two] = Agent::on_each(&lab, &hosts, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    let green = two.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    blue.reaches("7.7.7.3");
    let stream = Stream::start(&blue, &green, "7.7.7.3");
    one.kill();
    for few in [16, 64, 255] {
        let starter = with_descriptors(few, few);
        let mut starved = Agent::spawn_through(&lab, &hosts[0], &starter, "--vni 42");
        assert_eq!(starved.exit_code(), FAILED, "{few}");
        let log = starved.log();
        let line = log.lines().next_back().unwrap();
        assert!(
            line.contains(&format!("may have {few} files open")),
            "{line}"
        );
    }
    let starter = with_descriptors(16, 256);
    let enough = Agent::spawn_through(&lab, &hosts[0], &starter, "--vni 42");
    enough.await_ready();
    let (sent, lost) = stream.finish();
    assert!(lost.is_empty(), "{} of {sent} lost: {lost:?}", lost.len());
}
