//! Bad input: one clear line that says what is wrong and what to do, exit 1 or 2, nothing changed.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use overlay_lab::{
    Agent, Lab, Netns, Run,
    agent::{self, FAILED, USAGE},
    lab::{Host, traces},
    overlay,
};
use serde_json::Value;

const NOTHING: [PathBuf; 0] = [];

/// All that a refusal must leave as it is.
#[derive(Debug, PartialEq)]
struct State {
    links: Vec<Value>,
    files: Vec<PathBuf>,
    namespaces: BTreeSet<String>,
    endpoints: Vec<Value>,
    networks: Value,
}

impl State {
    fn of(agent: &Agent, lab: &Lab) -> Self {
        Self {
            links: agent.netns().configuration(),
            files: traces(agent.instance()),
            namespaces: lab.namespaces(),
            endpoints: agent.json("endpoint ls").as_array().unwrap().clone(),
            networks: agent.json("network ls"),
        }
    }
}

/// Checks that `words` are refused with `code` and a line that has each of `parts`, for people and
/// for programs.
#[track_caller]
fn refused(agent: &Agent, words: &str, code: i32, parts: &[&str]) {
    let line = agent.overlay(words).error(code);
    let message = agent.overlay(&format!("-o json {words}")).json_error(code);
    for part in parts {
        assert!(line.contains(part), "{words}: {line}");
        assert!(message.contains(part), "{words}: {message}");
    }
}

struct Fixture {
    one: Agent,
    _two: Agent,
    blue: Netns,
    lab: Lab,
}

/// VNI 42 takes any address, VNI 50 those of `10.50.0.0/29` and `fd50::/64`.
fn fixture() -> Fixture {
    let lab = Lab::new();
    let hosts: [Host; 2] = lab.hosts();
    let [one, two] = Agent::on_each(&lab, &hosts, "--vni 42");
    one.does("network create fifty --vni 50 --subnet 10.50.0.0/29 --subnet fd50::/64");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    two.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    blue.reaches("7.7.7.3");
    Fixture {
        one,
        _two: two,
        blue,
        lab,
    }
}

/// A command line, and what its error has to say.
const MALFORMED: &str = "
    endpoint add x --vni 0 --ip 7.7.7.9                   | VNI | 1 to 16777215
    endpoint add x --vni 16777216 --ip 7.7.7.9            | VNI | 1 to 16777215
    endpoint add x --vni -1 --ip 7.7.7.9                  | -1
    network create x --vni 16777216                       | VNI | 1 to 16777215
    network create x --vni 60 --subnet 10.0.0.0/33        | subnet | 7.7.7.0/24
    network create x --vni 60 --mtu 65536                 | MTU | 65485
    network create x --vni 60 --mtu 100                   | MTU | 576
    network create x --vni 60 --flood sometimes           | flood | head-end
    endpoint add x --vni 42 --ip 7.7.7                    | IP | 7.7.7.2/24
    endpoint add x --vni 42 --ip 7.7.7.256                | IP | 7.7.7.2/24
    endpoint add x --vni 42 --ip 7.7.7.9/33               | IP | 7.7.7.2/24
    endpoint add x --vni 42 --ip 224.0.0.1                | 224.0.0.1 | unicast
    endpoint add x --vni 42 --ip 127.0.0.1                | 127.0.0.1 | unicast
    endpoint add x --vni 42 --ip 0.0.0.0                  | 0.0.0.0 | unicast
    endpoint add x --vni 42 --ip 7.7.7.255/24             | 7.7.7.255 | broadcast address
    endpoint add x --vni 42 --ip 7.7.7.0/24               | 7.7.7.0 | network address
    endpoint add x --vni 42 --ip fd00::/64                | fd00:: | anycast address
    endpoint add x --vni 42 --mac 02:42                   | MAC | six hexadecimal octets
    endpoint add x --vni 42 --mac 02:42:00:00:00:0g       | MAC | six hexadecimal octets
    endpoint add x --vni 42 --mac ff:ff:ff:ff:ff:ff       | MAC | unicast
    endpoint add x --vni 42 --mac 00:00:00:00:00:00       | MAC | unicast
    endpoint add ../x --vni 42 --ip 7.7.7.9               | ../x | a-z A-Z 0-9
    endpoint add .. --vni 42 --ip 7.7.7.9                 | name | a-z A-Z 0-9
    endpoint add x/y --vni 42 --ip 7.7.7.9                | x/y | a-z A-Z 0-9
    endpoint add x;reboot --vni 42 --ip 7.7.7.9           | a-z A-Z 0-9
    endpoint add x --vni 42 --netns a:b                   | a-z A-Z 0-9 | process ID
    endpoint add x --vni 42 --netns 0                     | process ID | /run/netns/0
    endpoint add x --vni 42 --ifname a/b                  | interface name | 1 to 15
    endpoint add x --vni 42 --ifname sixteen-letters0     | interface name | 1 to 15
    endpoint rm ../x                                      | a-z A-Z 0-9
    endpoint show ../x                                    | a-z A-Z 0-9
    endpoint add x --ip 7.7.7.9                           | --vni
    endpoint add --vni 42                                 | NAME
    endpoint add x --vni 42 --colour blue                 | --colour
    endpoint paint x                                      | paint
";

/// Malformed values are usage errors and change nothing.
#[test]
fn malformed_values_are_usage_errors() {
    let Fixture { one, lab, .. } = &fixture();
    let before = State::of(one, lab);
    for line in MALFORMED.lines().filter(|line| !line.is_empty()) {
        let (words, parts) = line.split_once('|').unwrap();
        let parts: Vec<_> = parts.split('|').map(str::trim).collect();
        refused(one, words.trim(), USAGE, &parts);
    }
    let long = format!("endpoint rm {}", "n".repeat(64));
    refused(one, &long, USAGE, &["1 to 63"]);
    let evil = overlay("../evil", &["status"]);
    assert!(evil.error(USAGE).contains("a-z A-Z 0-9"));
    assert_eq!(State::of(one, lab), before);
}

/// What the registry holds already is refused with its owner, and changes nothing.
#[test]
fn what_is_taken_is_refused_with_its_owner() {
    let Fixture { one, lab, blue, .. } = &fixture();
    let before = State::of(one, lab);
    let (x, green) = (lab.name("x"), lab.name("green"));
    for (words, parts) in [
        (
            format!("endpoint add {x} --vni 42 --ip 7.7.7.3/24"),
            &["7.7.7.3", "taken by", green.as_str()][..],
        ),
        (
            format!("endpoint add {x} --vni 42 --ip 7.7.7.2/24"),
            &["7.7.7.2", "taken by", blue.name()],
        ),
        (
            format!("endpoint add {x} --vni 42 --ip 7.7.7.9/24 --mac 02:42:07:07:07:03"),
            &["MAC 02:42:07:07:07:03", "taken by", green.as_str()],
        ),
        (
            format!("endpoint add {green} --vni 42 --ip 7.7.7.9/24"),
            &["endpoint name", "taken by"],
        ),
        (
            format!("endpoint add {x} --vni 42 --ip 7.7.7.9/24 --ip 7.7.7.9/24"),
            &["7.7.7.9", "twice"],
        ),
        (
            format!("endpoint add {x} --vni 41 --ip 7.7.7.9/24"),
            &["VNI 41", "overlay network create"],
        ),
        (
            format!("endpoint add {x} --vni many --ip 7.7.7.9/24"),
            &["no network many", "overlay network create"],
        ),
        (
            format!("endpoint add {x} --vni 50 --ip 7.7.7.9/24"),
            &["7.7.7.9", "10.50.0.0/29"],
        ),
        (
            format!("endpoint add {x} --vni 50 --ip 10.50.0.3/8"),
            &["10.50.0.0/29", "write 10.50.0.3/29"],
        ),
        (
            format!("endpoint add {x} --vni 50 --ip 10.50.0.7"),
            &["10.50.0.7/29", "broadcast"],
        ),
        (
            format!("endpoint add {x} --vni 50 --ip fd50::"),
            &["fd50::/64", "anycast"],
        ),
        (format!("endpoint add {x} --vni 42"), &["no subnet", "--ip"]),
        (
            "network create other --vni 52 --subnet 10.52.0.1/24".to_owned(),
            &["host bits", "write 10.52.0.0/24"],
        ),
        (
            "network create other --vni 52 --subnet 10.52.0.0/24 --subnet 10.52.0.0/28".to_owned(),
            &["10.52.0.0/24", "10.52.0.0/28", "overlap"],
        ),
        (
            "network create other --vni 52 --subnet 127.0.0.0/24".to_owned(),
            &["127.0.0.0/24", "loopback", "choose another"],
        ),
        (
            "network create other --vni 52 --subnet fd52::/64 --mtu 1000".to_owned(),
            &["MTU 1000", "1280"],
        ),
        (
            "network create other --vni 42".to_owned(),
            &["VNI 42", "taken by"],
        ),
        (
            "network create fifty --vni 51".to_owned(),
            &["fifty", "taken by"],
        ),
        ("network rm vni-42".to_owned(), &["endpoint"]),
        (
            format!("endpoint show {x}"),
            &["no endpoint", "overlay endpoint ls"],
        ),
    ] {
        refused(one, &words, FAILED, parts);
    }
    assert_eq!(State::of(one, lab), before);
}

#[test]
fn a_subnet_that_is_used_up_is_refused() {
    let Fixture { one, lab, .. } = &fixture();
    one.does("network create small --vni 60 --subnet 10.60.0.0/29");
    // 10.60.0.1 is left to a gateway, .7 is the broadcast address.
    for number in 2..=6 {
        one.does(&format!(
            "endpoint add {} --vni 60",
            lab.name(&format!("n{number}"))
        ));
    }
    let before = State::of(one, lab);
    let words = format!("endpoint add {} --vni 60", lab.name("n7"));
    refused(one, &words, FAILED, &["small", "no free IPv4 address"]);
    assert_eq!(State::of(one, lab), before);
}

/// Names that are taken on the host are refused, and their owners stay.
#[test]
fn names_taken_on_the_host_are_refused() {
    let Fixture { one, lab, blue, .. } = &fixture();
    let users = lab.netns("users");
    users.ip("link add eth0 type bridge");
    let file = lab.name("file");
    fs::write(Path::new("/run/netns").join(&file), "not a namespace").unwrap();
    let before = (State::of(one, lab), users.ip("link"));
    let x = lab.name("x");
    for (netns, parts) in [
        (users.name(), &["eth0", users.name(), "--ifname"][..]),
        // Another endpoint's interface has the name.
        (blue.name(), &["eth0", blue.name(), "--ifname"]),
        (&file, &["no network namespace", "--netns"]),
        // `bpf_redirect_peer` could not deliver there.
        (one.netns().name(), &["the agent's own", "--netns"]),
    ] {
        let words = format!("endpoint add {x} --vni 42 --ip 7.7.7.9/24 --netns {netns}");
        refused(one, &words, FAILED, parts);
    }
    let after = (State::of(one, lab), users.ip("link"));
    assert_eq!(after, before);
    assert_eq!(
        fs::read_to_string(Path::new("/run/netns").join(&file)).unwrap(),
        "not a namespace"
    );
    one.does(&format!(
        "endpoint add {x} --vni 42 --ip 7.7.7.9/24 --netns {} --ifname eth1",
        users.name()
    ));
}

/// An endpoint for which a map has no room is rolled back.
#[test]
fn an_endpoint_without_room_in_a_map_is_undone() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let one = Agent::start(&lab, &host, "--vni 42 --fdb-entries 1024");
    let folder = lab.dir().join("arpd");
    fs::create_dir_all(folder.join("fdb")).unwrap();
    for number in 0..1024 {
        let mac = format!("02:00:00:00:{:02x}:{:02x}", number / 256, number % 256);
        fs::write(folder.join("fdb").join(mac), "10.9.9.9\n").unwrap();
    }
    one.does(&format!("import arpd {} --vni 42", folder.display()));
    let before = State::of(&one, &lab);
    let words = format!("endpoint add {} --vni 42 --ip 7.7.7.2/24", lab.name("x"));
    refused(
        &one,
        &words,
        FAILED,
        &["map fdb is full", "1024", "--fdb-entries"],
    );
    assert_eq!(State::of(&one, &lab), before);
}

/// An MTU beyond what the underlay leaves is refused where it is used.
#[test]
fn an_mtu_beyond_the_underlays_is_refused() {
    let Fixture { one, lab, .. } = &fixture();
    one.does("network create jumbo --vni 60 --mtu 9000");
    let before = State::of(one, lab);
    let words = format!("endpoint add {} --vni 60 --ip 7.7.7.9/24", lab.name("x"));
    refused(one, &words, FAILED, &["jumbo", "9000", "1450"]);
    assert_eq!(State::of(one, lab), before);
}

#[test]
fn a_folder_that_can_not_be_imported_is_refused_whole() {
    let Fixture { one, lab, .. } = &fixture();
    let before = State::of(one, lab);
    let folder = lab.dir().join("arpd");
    let import = format!("import arpd {} --vni 42", folder.display());
    refused(one, &import, FAILED, &["arpd"]);
    fs::create_dir_all(folder.join("arp")).unwrap();
    fs::create_dir_all(folder.join("fdb")).unwrap();
    for (files, parts) in [
        (&[("arp/7.7.7.9", "nonsense")][..], &["arp/7.7.7.9"][..]),
        (
            &[
                ("arp/7.7.7.9", "02:42:07:07:07:09"),
                ("fdb/02:42:07:07:07:09", "here"),
            ],
            &["fdb/02:42:07:07:07:09"],
        ),
        (
            &[("arp/7.7.7.9", "02:42:07:07:07:09")],
            &["02:42:07:07:07:09"],
        ),
        (
            &[
                ("arp/7.7.7.2", "02:42:07:07:07:09"),
                ("fdb/02:42:07:07:07:09", "10.0.0.9"),
            ],
            &["7.7.7.2"],
        ),
    ] {
        for (name, text) in files {
            fs::write(folder.join(name), text).unwrap();
        }
        refused(one, &import, FAILED, parts);
        for (name, _) in files {
            fs::remove_file(folder.join(name)).unwrap();
        }
    }
    assert_eq!(State::of(one, lab), before);
}

#[test]
fn the_socket_is_roots_alone_unless_a_group_is_named() {
    let lab = Lab::new();
    let [first, second] = lab.hosts();
    let [one, two] = [(first, ""), (second, "--socket-group nogroup")]
        .map(|(host, options)| Agent::start(&lab, &host, options));
    let mode = |agent: &Agent| {
        let socket = format!("/run/overlay/{}.sock", agent.instance());
        fs::metadata(socket).unwrap().permissions().mode() & 0o777
    };
    assert_eq!((mode(&one), mode(&two)), (0o600, 0o660));
    let as_nobody = |agent: &Agent, words: &str| {
        let copy = lab.dir().join("overlay");
        if !copy.exists() {
            fs::copy(agent::binary(), &copy).unwrap();
        }
        let mut run = Command::new("setpriv");
        run.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
            .arg(copy);
        Run::of(
            run.args(["--instance", agent.instance()])
                .args(words.split_whitespace()),
        )
    };
    for words in ["status", "down", "endpoint ls"] {
        let line = as_nobody(&one, words).error(FAILED);
        assert!(
            line.contains("permission denied") && line.contains("root"),
            "{line}"
        );
    }
    assert_eq!(as_nobody(&two, "status").code, 0);
    let line = as_nobody(&one, "run --iface u0").error(FAILED);
    assert!(line.contains("root"), "{line}");
}

#[test]
fn without_an_agent_the_verbs_say_how_to_start_one() {
    let lab = Lab::new();
    let instance = lab.name("nobody");
    for words in [
        &["status"][..],
        &["endpoint", "ls"],
        &["drops"],
        &["vtep", "ls"],
        &["network", "ls"],
    ] {
        let line = overlay(&instance, words).error(FAILED);
        assert!(
            line.contains("no agent") && line.contains("run --iface"),
            "{line}"
        );
    }
    assert_eq!(traces(&instance), NOTHING);
}

#[test]
fn run_refuses_a_second_agent_of_the_instance() {
    let Fixture { one, blue, lab, .. } = &fixture();
    let before = State::of(one, lab);
    let line = Run::of(&mut one.run_command("")).error(FAILED);
    assert!(
        line.contains("running already") && line.contains(&one.pid().to_string()),
        "{line}"
    );
    assert!(line.contains("--instance"), "{line}");
    assert_eq!(State::of(one, lab), before);
    assert!(blue.pings("7.7.7.3", "-c 1 -W 2"));
}

#[test]
fn an_answer_that_can_not_be_written_is_a_failure() {
    let Fixture { one, .. } = &fixture();
    let mut command = agent::command(one.instance());
    let full = command
        .arg("status")
        .stdout(File::options().write(true).open("/dev/full").unwrap());
    let output = full.stderr(std::process::Stdio::piped()).output().unwrap();
    assert_eq!(output.status.code(), Some(FAILED));
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .starts_with("error: can't write the output")
    );
}
