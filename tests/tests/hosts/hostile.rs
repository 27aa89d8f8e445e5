//! Attacks by a tenant that rules its namespace's network, and shortages of the kernel: nothing.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use overlay_lab::{
    Agent, Host, Lab, Netns, netns,
    traffic::{Stream, timed},
    until, until_within,
};
use serde_json::Value;

/// Soon, on a slow machine too: a look that nothing has told of comes far later.
const SOON: Duration = Duration::from_secs(15);

/// An XDP program that drops all; fixtures/README.md has more.
const XDP_DROP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/xdp-drop.bpf.o");

/// `ip -n NETNS WORDS... LAST`, where the last word need not be text.
fn ip_bytes(netns: &Netns, words: &str, last: &[u8]) {
    let mut ip = Command::new("ip");
    ip.args(["-n", netns.name()])
        .args(words.split_whitespace())
        .arg(OsStr::from_bytes(last));
    assert!(ip.status().unwrap().success(), "{words}");
}

/// Limits how many files the agent may have open.
fn limit_files(agent: &Agent, soft: u32) {
    let pid = agent.pid().to_string();
    netns::run("prlimit", &["--pid", &pid, &format!("--nofile={soft}:")]);
}

/// The interface `name` with its addresses.
fn interface(netns: &Netns, name: &str) -> Option<Value> {
    let mut ip = Command::new("ip");
    ip.args(["-n", netns.name(), "-j", "address", "show", "dev", name]);
    let found = ip.stderr(Stdio::null()).output().unwrap().stdout;
    let links: Value = serde_json::from_slice(&found).ok()?;
    Some(links[0].clone())
}

/// Whether `eth0` is up, has this MTU and MAC, and these addresses besides whatever else.
fn is_as_made(netns: &Netns, mtu: &Value, mac: &Value, addresses: &[&str]) -> bool {
    let Some(link) = interface(netns, "eth0") else {
        return false;
    };
    let empty = Vec::new();
    let infos = link["addr_info"].as_array().unwrap_or(&empty);
    let has = |wanted: &&str| infos.iter().any(|info| info["local"] == **wanted);
    let is_up = link["flags"]
        .as_array()
        .is_some_and(|flags| flags.contains(&"UP".into()));
    is_up && link["mtu"] == *mtu && link["address"] == *mac && addresses.iter().all(has)
}

/// Bytes on a tenant's link that are no text hold nobody up.
#[test]
fn bytes_that_are_no_text_hold_nobody_up() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let mut agent = Agent::start(&lab, &host, "--vni 42,43");
    let tenant = agent.endpoint(&lab.name("tenant"), 43, &["7.7.7.9/24"]);
    ip_bytes(&tenant, "link set eth0 alias", b"\xff");
    ip_bytes(&tenant, "link property add dev eth0 altname", b"\xfe\xff");
    let one = agent.endpoint(&lab.name("one"), 42, &["7.7.7.2/24"]);
    ip_bytes(&tenant, "link set eth0 name", b"et\xffh");
    let two = agent.endpoint(&lab.name("two"), 42, &["7.7.7.3/24"]);
    two.reaches("7.7.7.2");
    until_within(SOON, "the interface has its name again", || {
        // What it says of the link is no text.
        let mut ip = tenant.command("ip");
        ip.args(["link", "show", "dev", "eth0"])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        ip.status().unwrap().success()
    });
    agent.kill();
    ip_bytes(&tenant, "link set eth0 alias", b"\xff\xff");
    agent.restart("--vni 42,43");
    agent.await_ready();
    agent.endpoint(&lab.name("three"), 42, &["7.7.7.4/24"]);
    one.reaches("7.7.7.4");
    agent.does(&format!("endpoint rm {}", tenant.name()));
    assert!(!tenant.exists());
}

/// Agents of two hosts.
fn agents(lab: &Lab, options: &str) -> [Agent; 2] {
    let hosts: [Host; 2] = lab.hosts();
    Agent::on_each(lab, &hosts, options)
}

/// Two endpoints of one agent and one of another, which reach each other.
fn endpoints(lab: &Lab, agent: &Agent, other: &Agent) -> [Netns; 3] {
    let blue = agent.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    let near = agent.endpoint(&lab.name("near"), 42, &["7.7.7.4/24"]);
    let green = other.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    blue.reaches("7.7.7.3");
    near.reaches("7.7.7.2");
    green.reaches("7.7.7.4");
    [blue, near, green]
}

#[test]
fn a_look_that_fails_takes_nothing_away() {
    let lab = Lab::new();
    let [agent, other] = agents(&lab, "--vni 42");
    let [blue, near, green] = endpoints(&lab, &agent, &other);
    let tables = || ["fdb", "neighbors", "endpoints"].map(|map| agent.dump(map).len());
    let before = tables();
    let streams = [(&green, &blue, "7.7.7.2"), (&blue, &near, "7.7.7.4")];
    let streams = streams.map(|(from, to, ip)| Stream::start(from, to, ip));

    limit_files(&agent, 24);
    // Something to look at, and nothing to look with.
    blue.ip("link set eth0 mtu 1400");
    let failures = || agent.log().matches("Too many open files").count();
    until("looks fail", || failures() >= 5);
    assert_eq!(tables(), before);
    limit_files(&agent, 1024);
    until("the next look succeeds", || {
        interface(&blue, "eth0").is_some_and(|link| link["mtu"] == 1450)
    });
    for stream in streams {
        stream.flows(1000);
        let (sent, lost) = stream.finish();
        assert!(lost.is_empty(), "{lost:?} of {sent}");
    }
    until("the agent is well again", || {
        agent.is_ready()
            && agent.json(&format!("endpoint show {}", blue.name()))["state"] == "ready"
    });
}

#[test]
fn what_somebody_changes_inside_is_put_right_at_once() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let agent = Agent::start(&lab, &host, "--vni 42");
    let addresses = ["7.7.7.2", "fd07::2"];
    let blue = agent.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24", "fd07::2/64"]);
    let link = interface(&blue, "eth0").unwrap();
    let (mtu, mac) = (link["mtu"].clone(), link["address"].clone());
    let is_right = || is_as_made(&blue, &mtu, &mac, &addresses);
    assert!(is_right(), "{link}");
    for changes in [
        &["address del 7.7.7.2/24 dev eth0"][..],
        &["address flush dev eth0"],
        // Takes the IPv6 addresses with it.
        &["link set eth0 down", "link set eth0 up"],
        &["link set eth0 down"],
        &["link set eth0 mtu 1300"],
        &["link set eth0 address 02:00:00:00:00:99"],
        &["link set eth0 name other"],
        &["link del eth0"],
    ] {
        for change in changes {
            blue.ip(change);
        }
        let ((), took) = timed(|| until_within(SOON, changes[0], is_right));
        println!("{}: {took:?}", changes[0]);
    }
    // What is others' stays.
    blue.ip("address add 9.9.9.9/24 dev eth0");
    blue.ip("link set eth0 mtu 1300");
    until_within(SOON, "the MTU is right", is_right);
    assert!(is_as_made(&blue, &mtu, &mac, &["9.9.9.9"]));
}

/// What happens while events are lost for a tenant's noise is still put right.
#[test]
fn lost_events_are_made_up_for() {
    let lab = Lab::new();
    let [agent, other] = agents(&lab, "--vni 42");
    let [tenant, near, far] = endpoints(&lab, &agent, &other);
    let lost = || -> u64 {
        let sockets = agent.netns().run("cat", "/proc/net/netlink");
        let drops = |line: &str| line.split_whitespace().nth(8)?.parse::<u64>().ok();
        sockets.lines().filter_map(drops).sum()
    };
    assert_eq!(lost(), 0);

    let stopped = agent.stop();
    let batch = lab.dir().join("noise");
    let names =
        (0..400).map(|number| format!("link property add dev eth0 altname {number:0>100}\n"));
    let aliases = (0..1000).map(|number| format!("link set eth0 alias {number}\n"));
    fs::write(&batch, names.chain(aliases).collect::<String>()).unwrap();
    tenant.ip(&format!("-batch {}", batch.display()));
    assert!(lost() > 0, "the noise was not enough");
    near.ip("addr flush dev eth0");
    drop(stopped);
    far.reaches("7.7.7.4");
}

#[test]
fn thousands_of_addresses_of_a_tenant_hold_nobody_up() {
    const MANY: usize = 4_000;
    let lab = Lab::new();
    let [host] = lab.hosts();
    let agent = Agent::start(&lab, &host, "--vni 42,43");
    let tenant = agent.endpoint(&lab.name("tenant"), 43, &["7.7.7.9/24"]);
    let add = |name: &str, ip: &str| timed(|| agent.endpoint(&lab.name(name), 42, &[ip])).1;
    let quiet = add("quiet", "7.7.7.2/24");
    let addresses = (0..MANY).map(|number| {
        let (high, low) = (number / 250, number % 250 + 1);
        format!("address add 10.7.{high}.{low}/32 dev eth0")
    });
    let batch = addresses.collect::<Vec<_>>().join("\n");
    let file = lab.dir().join("addresses");
    fs::write(&file, batch).unwrap();
    netns::run(
        "ip",
        &["-n", tenant.name(), "-batch", file.to_str().unwrap()],
    );
    tenant.ip("link set eth0 mtu 1300");
    let limit = Duration::from_secs(3).max(quiet * 10);
    for number in 0..5 {
        let took = add(&format!("busy{number}"), &format!("7.7.7.1{number}/24"));
        assert!(took < limit, "{took:?}, {quiet:?} before");
    }
    until_within(SOON, "the tenant's port is looked at too", || {
        tenant.ip("link show dev eth0").contains("mtu 1450 ")
    });
    let link = interface(&tenant, "eth0").unwrap();
    let left = link["addr_info"].as_array().unwrap().iter();
    let left = left.filter(|info| info["family"] == "inet").count();
    assert_eq!(left, MANY + 1, "they are the tenant's own");
}

/// A namespace of a container runtime is waited for and never made.
#[test]
fn a_runtimes_namespace_is_awaited_never_made() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let agent = Agent::start(&lab, &host, "--vni 42");
    let near = agent.endpoint(&lab.name("near"), 42, &["7.7.7.3/24"]);
    let name = lab.name("runtimes");
    let make = || netns::run("ip", &["netns", "add", &name]);
    make();
    let guest = agent.endpoint(&name, 42, &["7.7.7.2/24"]);
    near.reaches("7.7.7.2");
    for _ in 0..2 {
        netns::run("ip", &["netns", "del", &name]);
        until("the endpoint waits", || {
            let shown = agent.json(&format!("endpoint show {name}"));
            shown["state"] == "failed" && shown["error"].as_str().unwrap().contains("gone")
        });
        assert!(!guest.exists());
        make();
        near.reaches("7.7.7.2");
    }
    // Gone and there again before anybody looks.
    netns::run("ip", &["netns", "del", &name]);
    make();
    near.reaches("7.7.7.2");
    agent.does(&format!("endpoint rm {name}"));
    assert!(guest.exists(), "it is the runtime's");
}

/// A namespace of a container runtime is not made after a reboot either.
#[test]
fn a_runtimes_namespace_is_not_made_after_a_reboot() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let mut agent = Agent::start(&lab, &host, "--vni 42");
    let own = agent.endpoint(&lab.name("own"), 42, &["7.7.7.3/24"]);
    let name = lab.name("runtimes");
    netns::run("ip", &["netns", "add", &name]);
    let guest = agent.endpoint(&name, 42, &["7.7.7.2/24"]);
    agent.kill();
    for netns in [&own, &guest] {
        netns::run("ip", &["netns", "del", netns.name()]);
    }
    for folder in ["/run/overlay", "/sys/fs/bpf/overlay"] {
        fs::remove_dir_all(Path::new(folder).join(agent.instance())).unwrap();
    }
    fs::remove_file(format!("/run/overlay/{}.json", agent.instance())).unwrap();

    agent.restart("--vni 42");
    until("the endpoint waits", || {
        let shown = agent.overlay(&format!("-o json endpoint show {name}"));
        shown.stdout.contains("whoever did has to make")
    });
    assert!(own.exists() && !guest.exists());
    netns::run("ip", &["netns", "add", &name]);
    own.reaches("7.7.7.2");
    agent.does(&format!("endpoint rm {name}"));
    assert!(guest.exists(), "it is the runtime's");
    // Nor is it remembered for longer than the endpoint lives.
    netns::run("ip", &["netns", "del", &name]);
    agent.endpoint(&name, 42, &["7.7.7.2/24"]);
}

/// Whose a namespace was is remembered for as long as the endpoint lives.
#[test]
fn a_namespaces_owner_is_remembered() {
    let lab = Lab::new();
    let [mut agent, other] = agents(&lab, "--vni 42");
    let name = lab.name("runtimes");
    let guest = || {
        netns::run("ip", &["netns", "add", &name]);
        let guest = agent.endpoint(&name, 42, &["7.7.7.2/24"]);
        netns::run("ip", &["netns", "del", &name]);
        guest
    };
    // Removed while its namespace is away.
    let away = guest();
    agent.does(&format!("endpoint rm {name}"));
    agent.endpoint(&name, 42, &["7.7.7.2/24"]);
    agent.does(&format!("endpoint rm {name}"));
    until("the namespace goes", || !away.exists());
    // Removed while the agent is away.
    guest();
    agent.kill();
    other.does(&format!("endpoint rm {name}"));
    agent.restart("--vni 42");
    agent.await_ready();
    agent.endpoint(&name, 42, &["7.7.7.2/24"]);
}

/// A tenant with all rights in its namespace's network.
struct Tenant {
    netns: Netns,
    /// Another namespace of its own.
    den: Netns,
    rng: fastrand::Rng,
}

impl Tenant {
    /// Does something random that the kernel allows, or refuses. Gives what it was.
    fn act(&mut self) -> String {
        let words = self.words();
        let mut command = self.netns.command(words[0].to_str().unwrap());
        command
            .args(&words[1..])
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let text = format!("{words:?}");
        // What waits for ever is the tenant's own affair.
        let _ = command.status();
        text
    }

    fn words(&mut self) -> Vec<std::ffi::OsString> {
        let number = self.rng.u8(..8);
        let octet = self.rng.u8(1..);
        let den = format!("/run/netns/{}", self.den.name());
        let text = match self.rng.u8(..32) {
            0 => "ip link set eth0 down".to_owned(),
            1 => "ip link set eth0 up".to_owned(),
            2 => format!("ip link set eth0 mtu {}", self.rng.u32(68..9000)),
            3 => format!("ip link set eth0 address 02:00:00:00:00:{octet:02x}"),
            4 => return self.bytes("ip link set eth0 alias"),
            5 => return self.bytes("ip link property add dev eth0 altname"),
            6 => return self.bytes("ip link set eth0 name"),
            7 => format!("ip link set eth0 name x{number}"),
            8 => format!("ip link add d{number} type dummy"),
            9 => format!("ip link add v{number} type veth peer name w{number}"),
            10 => "ip link add eth0 up type bridge".to_owned(),
            11 => format!("ip link del d{number}"),
            12 => format!("ip link del v{number}"),
            13 => "ip link del eth0".to_owned(),
            14 => format!("ip link set eth0 netns {den}"),
            15 => format!(
                "nsenter --net={den} ip link set eth0 netns {}",
                self.netns.path()
            ),
            16 => format!("ip address add 10.{octet}.0.{number}/24 dev eth0"),
            17 => "ip address flush dev eth0".to_owned(),
            18 => format!("ip address add fd99::{octet:x}/64 dev eth0"),
            19 => format!("ip route add 10.{octet}.1.0/24 dev eth0"),
            20 => "ip route flush table main".to_owned(),
            21 => format!("ip rule add from 10.{octet}.0.0/16 table {octet}"),
            22 => format!("tc qdisc replace dev eth0 root netem delay {octet}ms loss 50%"),
            23 => "tc qdisc replace dev eth0 root tbf rate 1kbit burst 2k latency 1s".to_owned(),
            24 => "tc qdisc del dev eth0 root".to_owned(),
            25 => "tc qdisc replace dev eth0 clsact".to_owned(),
            26 => "tc filter replace dev eth0 ingress prio 1 bpf da bytecode 1,6 0 0 0".to_owned(),
            27 => format!("sysctl -qw net.ipv6.conf.eth0.disable_ipv6={}", number % 2),
            28 => format!(
                "ip link set eth0 txqueuelen {octet} gso_max_size {}",
                2000 * u32::from(octet)
            ),
            29 => {
                let mode = ["xdpgeneric", "xdpdrv"][usize::from(number % 2)];
                format!("ip link set dev eth0 {mode} obj {XDP_DROP} sec xdp")
            }
            30 => "ip link set dev eth0 xdp off".to_owned(),
            _ => "ethtool -K eth0 gro off tso off".to_owned(),
        };
        text.split_whitespace().map(Into::into).collect()
    }

    /// These words and one of any bytes.
    fn bytes(&mut self, words: &str) -> Vec<std::ffi::OsString> {
        let len = self.rng.usize(1..15);
        let bytes: Vec<u8> = std::iter::repeat_with(|| self.rng.u8(1..))
            .take(len)
            .collect();
        let words = words.split_whitespace().map(Into::into);
        words
            .chain([OsStr::from_bytes(&bytes).to_owned()])
            .collect()
    }
}

/// A tenant that does a thousand legal things disturbs nobody.
#[test]
fn a_busy_tenant_disturbs_nobody() {
    const THINGS: usize = 1000;
    const AT_LEAST: Duration = Duration::from_mins(1);
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let lab = Lab::new();
    let [agent, other] = agents(&lab, "--vni 42,43");
    let tenant = agent.endpoint(&lab.name("tenant"), 43, &["7.7.7.9/24", "fd07::9/64"]);
    let [blue, near, green] = endpoints(&lab, &agent, &other);
    let add = |name: &str, ip: &str| timed(|| agent.endpoint(&lab.name(name), 42, &[ip])).1;
    let quiet = add("quiet", "7.7.7.5/24");
    let limit = Duration::from_secs(3).max(quiet * 10);
    let streams = [(&green, &blue, "7.7.7.2"), (&blue, &near, "7.7.7.4")];
    let streams = streams.map(|(from, to, ip)| Stream::start(from, to, ip));

    let mut worst = Duration::ZERO;
    thread::scope(|scope| {
        let mut tenant = Tenant {
            netns: tenant.clone(),
            den: lab.netns("den"),
            rng: fastrand::Rng::with_seed(seed),
        };
        let acting = scope.spawn(move || {
            let begun = Instant::now();
            let mut things = Vec::new();
            while things.len() < THINGS || begun.elapsed() < AT_LEAST {
                things.push(tenant.act());
            }
            things.len()
        });
        for number in 0_u32.. {
            if acting.is_finished() {
                break;
            }
            let took = add(
                &format!("new{number}"),
                &format!("7.7.{}.{}/16", 8 + number / 250, number % 250 + 1),
            );
            worst = worst.max(took);
            assert!(took < limit, "endpoint add took {took:?}, {quiet:?} before");
            thread::sleep(Duration::from_millis(300));
        }
        println!(
            "{} things; endpoint add took {worst:?} at most, {quiet:?} before",
            acting.join().unwrap()
        );
    });
    for stream in streams {
        let (sent, lost) = stream.finish();
        assert!(lost.is_empty(), "{lost:?} of {sent}");
    }
    assert!(agent.is_ready());
    agent.does(&format!("endpoint rm {}", tenant.name()));
}
