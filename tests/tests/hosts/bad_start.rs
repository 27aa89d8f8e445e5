//! Bad input to `overlay run`: one clear line, exit 1 or 2, and no trace on the host.

use std::{fs, net::TcpListener, path::PathBuf, process::Command};

use overlay_lab::{
    Agent, Lab, Run,
    agent::{self, FAILED, USAGE},
    lab::{Host, traces},
    overlay,
};
use overlay_user::model::Snapshot;
use rusqlite::Connection;

const NOTHING: [PathBuf; 0] = [];

/// A host on which `overlay run` is to fail.
struct Fresh {
    host: Host,
    lab: Lab,
}

impl Fresh {
    fn new() -> Self {
        let lab = Lab::new();
        let [host] = lab.hosts();
        Self { host, lab }
    }

    fn instance(&self) -> &str {
        self.host.netns.name()
    }

    fn run(&self, options: &str) -> Run {
        self.run_with(
            self.host.netns.command(agent::binary().to_str().unwrap()),
            options,
        )
    }

    fn run_with(&self, mut command: Command, options: &str) -> Run {
        command.args(["--log", "off", "--instance", self.instance(), "run"]);
        for (option, value) in [
            ("--node", self.instance()),
            ("--registry", &self.lab.registry()),
        ] {
            if !options.contains(option) {
                command.args([option, value]);
            }
        }
        Run::of(command.args(options.split_whitespace()))
    }

    /// Checks that `run` is refused with `code` and a line that has each of `parts`, and leaves no
    /// trace on the host.
    #[track_caller]
    fn refuses(&self, options: &str, code: i32, parts: &[&str]) {
        let links = self.host.netns.configuration();
        let line = self.run(options).error(code);
        for part in parts {
            assert!(line.contains(part), "run {options}: {line}");
        }
        let message = self.run(&format!("-o json {options}")).json_error(code);
        assert_eq!(message, line);
        assert_eq!(self.host.netns.configuration(), links, "run {options}");
        assert_eq!(traces(self.instance()), NOTHING, "run {options}");
    }

    fn is_unregistered(&self) -> bool {
        let Snapshot {
            networks,
            nodes,
            endpoints,
            ..
        } = self.lab.snapshot();
        networks.is_empty() && nodes.is_empty() && endpoints.is_empty()
    }
}

#[test]
fn run_refuses_what_can_not_be_its_underlay() {
    let fresh = Fresh::new();
    let netns = &fresh.host.netns;
    fresh.refuses(
        "--iface u9 --vni 42",
        FAILED,
        &["u9 does not exist", "--iface", "u0"],
    );
    fresh.refuses("--iface lo", FAILED, &["lo", "no Ethernet interface"]);
    fresh.refuses(
        "--iface u0 --local-ip 10.0.0.9",
        FAILED,
        &["10.0.0.9", "--local-ip", "10.0.0.1"],
    );
    netns.ip("link set u0 mtu 1300");
    fresh.refuses(
        "--iface u0 --vni 42",
        FAILED,
        &["1300", "1330", "ip link set u0 mtu"],
    );
    netns.ip("link set u0 mtu 1500");
    netns.ip("link set u0 down");
    fresh.refuses(
        "--iface u0 --vni 42",
        FAILED,
        &["u0 is down", "ip link set u0 up"],
    );
    netns.ip("link set u0 up");
    netns.ip("address flush dev u0");
    fresh.refuses(
        "--iface u0 --vni 42",
        FAILED,
        &["no IPv4 address", "ip address add"],
    );
    assert!(fresh.is_unregistered());
}

#[test]
fn run_refuses_a_port_for_metrics_that_is_taken() {
    let fresh = Fresh::new();
    let taken = fresh
        .host
        .netns
        .enter(|| TcpListener::bind("127.0.0.1:9478").unwrap());
    fresh.refuses(
        "--iface u0 --metrics 9478",
        FAILED,
        &["127.0.0.1:9478", "--metrics", "in use"],
    );
    drop(taken);
    assert!(fresh.is_unregistered());
}

#[test]
fn run_refuses_malformed_settings_as_usage_errors() {
    let fresh = Fresh::new();
    let file = fresh.lab.dir().join("overlay.toml");
    let with_file = format!("--config {}", file.display());
    fresh.refuses("", USAGE, &["--iface", "OVERLAY_IFACE"]);
    fresh.refuses("--iface u0 --vni 0", USAGE, &["VNI", "1 to 16777215"]);
    fresh.refuses(
        "--iface u0 --vni 16777216",
        USAGE,
        &["VNI", "1 to 16777215"],
    );
    fresh.refuses("--iface a-name-too-long0", USAGE, &["1 to 15"]);
    fresh.refuses("--iface u0 --port 0", USAGE, &["UDP port", "65535"]);
    fresh.refuses("--iface u0 --port 65536", USAGE, &["UDP port", "65535"]);
    fresh.refuses("--iface u0 --local-ip nowhere", USAGE, &["IP"]);
    fresh.refuses("--iface u0 --node a/b", USAGE, &["a-z A-Z 0-9"]);
    fresh.refuses(
        "--iface u0 --registry registry.db",
        USAGE,
        &["registry URL", "sqlite:///PATH"],
    );
    fresh.refuses(
        "--iface u0 --registry mysql://db",
        USAGE,
        &["registry URL", "sqlite:///PATH"],
    );
    fresh.refuses("--iface u0 --fdb-entries 1", USAGE, &["1024", "16777216"]);
    fresh.refuses(&with_file, USAGE, &["overlay.toml"]);
    fs::write(&file, "iface = \"u0\"\nvni = [0]\n").unwrap();
    fresh.refuses(&with_file, USAGE, &["overlay.toml", "line 2", "VNI"]);
    fs::write(&file, "iface = \"u0\"\ncolour = \"blue\"\n").unwrap();
    fresh.refuses(&with_file, USAGE, &["overlay.toml", "line 2", "colour"]);
    assert!(fresh.is_unregistered());
}

#[test]
fn run_refuses_a_port_that_another_vxlan_device_has() {
    let fresh = Fresh::new();
    let netns = &fresh.host.netns;
    netns.ip("link add other0 type vxlan id 9 dstport 4789 dev u0");
    netns.ip("link set other0 up");
    fresh.refuses("--iface u0 --vni 42", FAILED, &["4789", "other0", "--port"]);
    assert!(fresh.is_unregistered());
    let _agent = Agent::start(&fresh.lab, &fresh.host, "--vni 42 --port 8472");
}

#[test]
fn run_refuses_a_port_that_a_program_has() {
    let fresh = Fresh::new();
    let _socket = fresh
        .host
        .netns
        .enter(|| std::net::UdpSocket::bind("0.0.0.0:4789").unwrap());
    fresh.refuses("--iface u0 --vni 42", FAILED, &["4789", "--port"]);
    assert!(fresh.is_unregistered());
}

/// `run` refuses registries that it can't use, and leaves them as they are.
#[test]
fn run_leaves_foreign_registries_as_they_are() {
    let fresh = Fresh::new();
    let file = |name: &str| fresh.lab.dir().join(name);
    let options = |name: &str| {
        format!(
            "--iface u0 --vni 42 --registry sqlite://{}",
            file(name).display()
        )
    };

    fs::write(file("text.db"), "this is no database\n".repeat(500)).unwrap();
    fresh.refuses(&options("text.db"), FAILED, &["text.db", "not a registry"]);
    assert!(
        fs::read_to_string(file("text.db"))
            .unwrap()
            .starts_with("this is no database")
    );

    let newer = Connection::open(file("newer.db")).unwrap();
    newer
        .pragma_update(None, "application_id", i32::from_be_bytes(*b"OVLY"))
        .unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    newer.execute_batch("CREATE TABLE future (it)").unwrap();
    drop(newer);
    fresh.refuses(
        &options("newer.db"),
        FAILED,
        &["newer.db", "schema version 99", "upgrade"],
    );

    let others = Connection::open(file("others.db")).unwrap();
    others.execute_batch("CREATE TABLE songs (title)").unwrap();
    drop(others);
    fresh.refuses(
        &options("others.db"),
        FAILED,
        &["others.db", "another program's"],
    );

    fs::create_dir(file("folder.db")).unwrap();
    fresh.refuses(&options("folder.db"), FAILED, &["folder.db", "folder"]);
    fresh.refuses(
        "--iface u0 --registry etcd://127.0.0.1:2379",
        FAILED,
        &["etcd://127.0.0.1:2379", "out of reach", "start etcd"],
    );
}

#[test]
fn run_refuses_a_registry_with_torn_pages() {
    let fresh = Fresh::new();
    drop(Agent::start(&fresh.lab, &fresh.host, "--vni 42"));
    let path = fresh.lab.dir().join("registry.db");
    // Fold the log into the file, then tear every page but the header.
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "journal_mode", "DELETE")
        .unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes.iter_mut().skip(100).for_each(|byte| *byte = 0xa5);
    fs::write(&path, bytes).unwrap();
    fresh.refuses(
        "--iface u0 --vni 42",
        FAILED,
        &["registry.db", "corrupt", "backup"],
    );
}

/// `run` refuses a registry that another program has locked.
#[test]
fn run_refuses_a_locked_registry() {
    let fresh = Fresh::new();
    drop(Agent::start(&fresh.lab, &fresh.host, "--vni 42"));
    let rival = Connection::open(fresh.lab.dir().join("registry.db")).unwrap();
    rival
        .pragma_update(None, "locking_mode", "EXCLUSIVE")
        .unwrap();
    rival.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let line = fresh.run("--iface u0 --vni 42").error(FAILED);
    assert!(
        line.contains("registry.db is locked") && line.contains("fuser"),
        "{line}"
    );
    assert_eq!(traces(fresh.instance()), NOTHING);
    rival.execute_batch("COMMIT").unwrap();
}

#[test]
fn run_refuses_a_vtep_that_another_node_has() {
    let lab = Lab::new();
    let [first, second] = lab.hosts();
    let one = Agent::start(&lab, &first, "--vni 42");
    second.netns.ip("address add 10.0.0.1/32 dev u0");
    let fresh = Fresh { host: second, lab };
    fresh.refuses(
        "--iface u0 --local-ip 10.0.0.1",
        FAILED,
        &["VTEP", "10.0.0.1", one.instance()],
    );
    assert_eq!(fresh.lab.snapshot().nodes.len(), 1);
}

#[test]
fn run_refuses_a_node_that_lives_elsewhere() {
    let lab = Lab::new();
    let [first, second] = lab.hosts();
    let one = Agent::start(&lab, &first, "--vni 42");
    let fresh = Fresh { host: second, lab };
    let options = format!("--iface u0 --node {}", one.instance());
    fresh.refuses(&options, FAILED, &[one.instance(), "10.0.0.1", "--node"]);
    assert_eq!(one.json("status")["ready"], true);
}

#[test]
fn run_refuses_to_go_without_the_rights_that_it_needs() {
    let fresh = Fresh::new();
    let mut command = fresh.host.netns.command("setpriv");
    command.args([
        "--bounding-set=-bpf,-sys_admin",
        "--inh-caps=-bpf,-sys_admin",
    ]);
    command.arg(agent::binary());
    let line = fresh.run_with(command, "--iface u0 --vni 42").error(FAILED);
    assert!(
        line.contains("permission denied") && line.contains("CAP_SYS_ADMIN"),
        "{line}"
    );
    assert_eq!(traces(fresh.instance()), NOTHING);
    assert_eq!(fresh.host.netns.links(), ["u0"]);
    assert!(fresh.is_unregistered());
}

/// `run` refuses to start without the right to load programs.
#[test]
fn run_needs_the_right_to_load_programs() {
    let fresh = Fresh::new();
    // Root of a user namespace may do as he likes with its network, but BPF is the machine's.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-e", "-c"]);
    command.arg(
        "ip link add u0 type veth peer name p0; ip address add 10.0.0.1/24 dev u0
         ip link set p0 up; ip link set u0 up; exec \"$0\" \"$@\"",
    );
    command.arg(agent::binary());
    let line = fresh.run_with(command, "--iface u0 --vni 42").error(FAILED);
    assert!(
        line.contains("no permission to load BPF programs") && line.contains("CAP_BPF"),
        "{line}"
    );
    assert_eq!(traces(fresh.instance()), NOTHING);
    assert!(fresh.is_unregistered());
}

/// A start that is refused leaves an earlier datapath working.
#[test]
fn a_refused_start_leaves_the_datapath_working() {
    let lab = Lab::new();
    let hosts: [Host; 2] = lab.hosts();
    let [mut one, two] = Agent::on_each(&lab, &hosts, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    two.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    blue.reaches("7.7.7.3");
    one.kill();
    // Where nobody listens, the socket's name is left or not.
    let state = |agent: &Agent| {
        let mut files = traces(agent.instance());
        files.retain(|path| path.extension().is_none_or(|kind| kind != "sock"));
        (files, agent.netns().ip("link"))
    };
    let before = state(&one);
    for options in [
        "--iface u9",
        "--registry sqlite:///dev/null/registry.db",
        "--socket-group no-such",
        "--node another",
        &format!("--registry sqlite://{}", lab.dir().join("new.db").display()),
    ] {
        let mut run = one.netns().command(agent::binary().to_str().unwrap());
        run.args(["--log", "off", "--instance", one.instance(), "run"]);
        for (option, value) in [
            ("--iface", "u0"),
            ("--node", one.instance()),
            ("--registry", &lab.registry()),
        ] {
            if !options.contains(option) {
                run.args([option, value]);
            }
        }
        Run::of(run.args(options.split_whitespace())).error(FAILED);
        assert!(blue.pings("7.7.7.3", "-c 1 -W 2"), "{options}");
    }
    assert_eq!(state(&one), before);
    let run = overlay(one.instance(), &["down"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(!blue.exists());
}

/// `run` refuses mounts that nobody else would see, and says how to start.
#[test]
fn run_refuses_private_mounts() {
    let fresh = Fresh::new();
    let mut command = Command::new("ip");
    command.args(["netns", "exec", fresh.instance()]);
    command.arg(agent::binary());
    let line = fresh.run_with(command, "--iface u0 --vni 42").error(FAILED);
    let start = format!("nsenter --net=/run/netns/{} overlay run", fresh.instance());
    assert!(line.contains(&start), "{line}");
    assert_eq!(traces(fresh.instance()), NOTHING);
    assert_eq!(fresh.host.netns.links(), ["u0"]);
    assert!(fresh.is_unregistered());
    drop(Agent::start(&fresh.lab, &fresh.host, "--vni 42"));
}

/// `run` names the instance that has the port, and offers no interface of the overlay.
#[test]
fn run_names_the_owner_of_its_port() {
    let fresh = Fresh::new();
    let one = Agent::start(&fresh.lab, &fresh.host, "--vni 42");
    one.endpoint(&fresh.lab.name("blue"), 42, &["7.7.7.2/24"]);
    let other = fresh.lab.name("other");
    let run = |options: &str| {
        let mut run = fresh.host.netns.command(agent::binary().to_str().unwrap());
        run.args([
            "--log",
            "off",
            "--instance",
            &other,
            "run",
            "--node",
            &other,
        ]);
        run.args(["--registry", &fresh.lab.registry()]);
        Run::of(run.args(options.split_whitespace())).error(FAILED)
    };
    let line = run("--iface u0");
    assert!(
        line.contains("4789") && line.contains(one.instance()) && line.contains("--port"),
        "{line}"
    );
    assert!(!line.contains("link del"), "{line}");
    let line = run("--iface nosuch");
    assert!(line.ends_with(": u0"), "{line}");
}
