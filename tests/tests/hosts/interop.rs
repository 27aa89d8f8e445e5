//! A host without an agent: the kernel's own VXLAN device and bridge, with static entries or dynamic
//! ones, or Open vSwitch. Its endpoints reach our registry by `import arpd`.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Stdio},
    time::{Duration, Instant},
};

use overlay_lab::{
    Agent, Lab, Netns, OpenVswitch,
    lab::Host,
    traffic::{self, Stream},
    until,
};

const GREEN_MAC: &str = "02:42:07:07:07:03";
const BLUE_MAC: &str = "02:42:07:07:07:02";

/// Makes `host` a VXLAN host of the kernel's with one endpoint, 7.7.7.3, which knows blue.
fn kernel_host(lab: &Lab, host: &Host, peer: &Host, options: &str) -> Netns {
    let Host { netns, ip, .. } = host;
    netns.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0");
    netns.ip(&format!(
        "link add vx0 mtu 1450 type vxlan id 42 dstport 4789 local {ip} dev u0 nolearning {options}"
    ));
    netns.ip("link set vx0 master br0 up");
    netns.ip("link set br0 up");
    let green = lab.netns("kernel-green");
    netns.ip(&format!(
        "link add p0 mtu 1450 type veth peer name eth0 netns {}",
        green.name()
    ));
    netns.ip("link set p0 master br0 up");
    green.ip(&format!("link set eth0 address {GREEN_MAC} mtu 1450 up"));
    green.ip("address add 7.7.7.3/24 dev eth0");
    green.ip("address add fd07::3/64 dev eth0 nodad");
    netns.run(
        "bridge",
        &format!("fdb replace {BLUE_MAC} dev vx0 self dst {}", peer.ip),
    );
    netns.run(
        "bridge",
        &format!("fdb replace {BLUE_MAC} dev vx0 master static"),
    );
    for ip in ["7.7.7.2", "fd07::2"] {
        green.ip(&format!(
            "neigh replace {ip} lladdr {BLUE_MAC} dev eth0 nud permanent"
        ));
    }
    green
}

/// A folder as arpd keeps it.
fn arpd_folder(lab: &Lab, vtep: &str) -> PathBuf {
    let folder = lab.dir().join("arpd");
    for kind in ["arp", "fdb"] {
        fs::create_dir_all(folder.join(kind)).unwrap();
    }
    fs::write(folder.join("arp/7.7.7.3"), format!("{GREEN_MAC}\n")).unwrap();
    fs::write(folder.join("arp/fd07::3"), format!("{GREEN_MAC}\n")).unwrap();
    fs::write(folder.join("fdb").join(GREEN_MAC), format!("{vtep}\n")).unwrap();
    folder
}

fn exchange(options: &str) {
    let lab = Lab::new();
    let [ours, theirs] = lab.hosts();
    let one = Agent::start(&lab, &ours, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24", "fd07::2/64"]);
    let green = kernel_host(&lab, &theirs, &ours, options);
    let folder = arpd_folder(&lab, "10.0.0.2");
    let taken = one.json(&format!("import arpd {} --vni 42", folder.display()));
    assert_eq!(
        (&taken["endpoints"], &taken["vteps"]),
        (&1.into(), &1.into()),
        "{taken}"
    );

    for ip in ["7.7.7.3", "fd07::3"] {
        blue.reaches(ip);
        assert!(blue.pings(ip, "-c 3 -W 2 -M do -s 1402"));
        traffic::tcp(&blue, &green, ip, 9 << 20);
        traffic::udp(&blue, &green, ip, [0, 1, 700, 1402]);
    }
    for ip in ["7.7.7.2", "fd07::2"] {
        green.reaches(ip);
        assert!(green.pings(ip, "-c 3 -W 2 -M do -s 1402"));
        traffic::tcp(&green, &blue, ip, 9 << 20);
        traffic::udp(&green, &blue, ip, [0, 1, 700, 1402]);
    }
}

/// Payloads go both ways between ours and the kernel's VXLAN.
#[test]
fn payloads_cross_to_the_kernels_vxlan_and_back() {
    exchange("");
}

/// A kernel that fills in UDP checksums is understood too.
#[test]
fn udp_checksums_of_a_kernel_are_understood() {
    exchange("udpcsum");
}

/// The same kind of host, which knows nobody: it floods to our VTEP, learns, and asks again and again.
fn asking_kernel_host(lab: &Lab, host: &Host, peer: &Host) -> Netns {
    let green = kernel_host(lab, host, peer, "");
    host.netns.ip("link set vx0 type vxlan learning");
    host.netns.run(
        "bridge",
        &format!("fdb del {BLUE_MAC} dev vx0 self dst {}", peer.ip),
    );
    host.netns.run(
        "bridge",
        &format!("fdb del {BLUE_MAC} dev vx0 master static"),
    );
    host.netns.run(
        "bridge",
        &format!("fdb append 00:00:00:00:00:00 dev vx0 dst {}", peer.ip),
    );
    green.ip("neigh flush dev eth0 nud permanent");
    ask_often(&green);
    green
}

/// Has an endpoint ask for its neighbours' MACs again and again.
fn ask_often(green: &Netns) {
    for (family, setting, value) in [
        ("ipv4", "base_reachable_time_ms", 500),
        ("ipv6", "base_reachable_time_ms", 500),
        ("ipv4", "delay_first_probe_time", 1),
        ("ipv6", "delay_first_probe_time", 1),
    ] {
        green.run(
            "sysctl",
            &format!("-qw net.{family}.neigh.eth0.{setting}={value}"),
        );
    }
}

/// What a host's endpoint may not have been refused while it asked.
const REFUSALS: [&str; 4] = ["arp_malformed", "nd_forged", "source_ip", "source_mac"];

#[test]
fn a_peer_whose_neighbours_are_dynamic_loses_nothing() {
    let lab = Lab::new();
    let [ours, theirs] = lab.hosts();
    let one = Agent::start(&lab, &ours, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24", "fd07::2/64"]);
    let green = asking_kernel_host(&lab, &theirs, &ours);
    let folder = arpd_folder(&lab, "10.0.0.2");
    one.does(&format!("import arpd {} --vni 42", folder.display()));
    for ip in ["7.7.7.2", "fd07::2"] {
        green.reaches(ip);
    }
    let before = one.json("drops");
    let streams = [
        Stream::start(&green, &blue, "7.7.7.2"),
        Stream::start(&green, &blue, "fd07::2"),
        Stream::start(&blue, &green, "7.7.7.3"),
    ];
    // Some twenty rounds of probes, by unicast and, where an entry went, by broadcast.
    for round in 0..20 {
        for stream in &streams {
            stream.flows(800);
        }
        if round % 5 == 4 {
            for ip in ["7.7.7.2", "fd07::2"] {
                green.ip(&format!("neigh del {ip} dev eth0"));
            }
        }
    }
    for stream in streams {
        let (sent, lost) = stream.finish();
        assert!(lost.is_empty(), "{} of {sent}: {lost:?}", lost.len());
    }
    let after = one.json("drops");
    for reason in REFUSALS {
        assert_eq!(after[reason], before[reason], "{reason}");
    }
}

/// Pings that last for a minute.
struct Pings(Child);

impl Pings {
    const COUNT: u32 = 300;

    fn start(from: &Netns, ip: &str) -> Self {
        let mut ping = from.command("ping");
        ping.args(["-n", "-i", "0.2", "-s", "700", "-p", "7e57da7a"]);
        ping.args(["-c", &Self::COUNT.to_string(), ip]);
        Self(ping.stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Waits for their end; each has to have come back as it went, once.
    fn finish(self) {
        let said = self.0.wait_with_output().unwrap().stdout;
        let said = String::from_utf8(said).unwrap();
        let all = format!(
            "{0} packets transmitted, {0} received, 0% packet loss",
            Self::COUNT
        );
        assert!(said.contains(&all), "{said}");
        for wrong in ["wrong data", "DUP!", "errors"] {
            assert!(!said.contains(wrong), "{said}");
        }
    }
}

/// An Open vSwitch with dynamic neighbours loses nothing for a minute.
#[test]
fn a_dynamic_open_vswitch_loses_nothing() {
    const MINUTE: Duration = Duration::from_mins(1);
    // What the switch reads them from holds some 200.
    const PACE: Duration = Duration::from_millis(8);
    let lab = Lab::new();
    let [ours, theirs] = lab.hosts();
    // The switch takes frames as they are, so that this NIC fills the checksums in, as real ones do.
    ours.netns.run("ethtool", "--offload u0 tx off");
    let one = Agent::start(&lab, &ours, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24", "fd07::2/64"]);
    let switch = OpenVswitch::start(&lab, &theirs);
    let green = lab.netns("ovs-green");
    switch.connect(&green, GREEN_MAC, 42, &ours);
    green.ip("address add 7.7.7.3/24 dev eth0");
    green.ip("address add fd07::3/64 dev eth0 nodad");
    ask_often(&green);
    let folder = arpd_folder(&lab, "10.0.0.2");
    one.does(&format!("import arpd {} --vni 42", folder.display()));
    for ip in ["7.7.7.2", "fd07::2"] {
        green.reaches(ip);
    }

    let before = one.json("drops");
    let ways = [
        (&green, &blue, "7.7.7.2"),
        (&green, &blue, "fd07::2"),
        (&blue, &green, "7.7.7.3"),
        (&blue, &green, "fd07::3"),
    ];
    let begun = Instant::now();
    let streams = ways.map(|(from, to, ip)| Stream::every(PACE, from, to, ip));
    let pings = ways.map(|(from, _, ip)| Pings::start(from, ip));
    while begun.elapsed() < MINUTE {
        for stream in &streams {
            stream.flows(400);
        }
        for ip in ["7.7.7.2", "fd07::2"] {
            green.ip(&format!("neigh del {ip} dev eth0"));
        }
    }
    pings.into_iter().for_each(Pings::finish);
    for (stream, (_, _, ip)) in streams.into_iter().zip(ways) {
        let (sent, lost) = stream.finish();
        assert!(
            lost.is_empty(),
            "to {ip}: {} of {sent}: {lost:?}",
            lost.len()
        );
    }
    let after = one.json("drops");
    for reason in REFUSALS {
        assert_eq!(after[reason], before[reason], "{reason}");
    }
    for (from, to, ip) in ways {
        traffic::udp(from, to, ip, [0, 1, 700, 1402]);
        traffic::tcp(from, to, ip, 1 << 20);
    }
    let neighbours = switch.appctl("tnl/neigh/show");
    assert!(neighbours.contains("10.0.0.1"), "{neighbours}");
}

#[test]
fn a_second_import_follows_the_folder() {
    let lab = Lab::new();
    let [ours, theirs] = lab.hosts();
    let one = Agent::start(&lab, &ours, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    let _green = kernel_host(&lab, &theirs, &ours, "");
    let folder = arpd_folder(&lab, "10.0.0.2");
    let import = format!("import arpd {} --vni 42", folder.display());
    for _ in 0..2 {
        one.does(&import);
        blue.reaches("7.7.7.3");
    }
    let vteps = one.json("vtep ls");
    let foreign = vteps
        .as_array()
        .unwrap()
        .iter()
        .find(|vtep| vtep["ip"] == "10.0.0.2")
        .unwrap();
    assert_eq!(
        (&foreign["port"], &foreign["alive"]),
        (&4789.into(), &false.into())
    );

    for file in ["arp/7.7.7.3", "arp/fd07::3", &format!("fdb/{GREEN_MAC}")] {
        fs::remove_file(folder.join(file)).unwrap();
    }
    one.does(&import);
    until("the entries to go", || {
        one.dump("fdb").len() == 1 && one.dump("neighbors").len() == 1
    });
    assert!(!blue.pings("7.7.7.3", "-c 1 -W 1"));
}
