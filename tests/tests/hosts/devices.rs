//! Changes to the tunnels' devices are undone, or reported where they can't be.

use std::{fs, time::Duration};

use overlay_ebpf::abi::ABI_VERSION;
use overlay_lab::{
    Agent, Lab, Netns,
    frame::{self, BROADCAST, Party, RawSocket, arp_request, default_mac},
    lab::Host,
    until, until_within,
};
use serde_json::Value;

const BLUE: &str = "7.7.7.2";
const GREEN: &str = "7.7.7.3";
const CYAN: &str = "7.7.7.4";

struct Fixture {
    one: Agent,
    _two: Agent,
    blue: Netns,
    cyan: Netns,
    host: Host,
    _lab: Lab,
}

fn fixture() -> Fixture {
    let lab = Lab::new();
    let [first, second] = lab.hosts();
    let one = Agent::start(&lab, &first, "--vni 42 --vni 43");
    let two = Agent::start(&lab, &second, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    // Of another tenant.
    let cyan = one.endpoint(&lab.name("cyan"), 43, &["7.7.7.4/24"]);
    let _green = two.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    blue.reaches(GREEN);
    Fixture {
        one,
        _two: two,
        blue,
        cyan,
        host: first,
        _lab: lab,
    }
}

impl Fixture {
    fn links(&self) -> Vec<Value> {
        serde_json::from_str(&self.host.netns.ip("-j -d link")).unwrap()
    }

    /// The device whose name begins so, if it is there.
    fn device(&self, prefix: &str) -> Option<Value> {
        let is_it = |link: &Value| link["ifname"].as_str().unwrap().starts_with(prefix);
        self.links().into_iter().find(is_it)
    }

    fn name(&self, prefix: &str) -> String {
        self.device(prefix).unwrap()["ifname"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// Whether all of them are what the agent makes.
    fn is_whole(&self) -> bool {
        let (Some(vxlan), Some(headroom), Some(bridge)) =
            (self.device("ovx"), self.device("ovh"), self.device("ovb"))
        else {
            return false;
        };
        let settings = &vxlan["linkinfo"]["info_data"];
        let ports: Vec<_> = self
            .links()
            .into_iter()
            .filter(|link| link["master"] == bridge["ifname"])
            .collect();
        let is_isolated = |port: &Value| port["linkinfo"]["info_slave_data"]["isolated"] == true;
        is_up(&vxlan)
            && vxlan["master"] == Value::Null
            && settings["external"] == true
            && settings["learning"] == false
            && settings["port"] == 4789
            && vxlan["ifalias"] == bridge["ifalias"]
            && !is_up(&headroom)
            && !is_up(&bridge)
            && ports.len() == 3
            && ports.iter().all(is_isolated)
    }

    fn fast_path(&self) -> (bool, String) {
        let datapath = &self.one.json("status")["datapath"];
        let error = datapath["fast_path_error"].as_str().unwrap_or_default();
        (datapath["fast_path"].as_bool().unwrap(), error.to_owned())
    }

    /// What is pinned in one of the instance's folders.
    fn pinned(&self, kind: &str) -> Vec<String> {
        let folder = format!(
            "/sys/fs/bpf/overlay/{}/v{ABI_VERSION}/{kind}",
            self.one.instance()
        );
        let mut names: Vec<String> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn is_up(link: &Value) -> bool {
    link["flags"].as_array().unwrap().contains(&"UP".into())
}

/// Devices that were removed or changed are put back at once.
#[test]
fn changed_devices_are_put_back_at_once() {
    let fixture = fixture();
    assert!(fixture.is_whole());
    let host = &fixture.host.netns;
    let devices = ["ovx", "ovh", "ovb"].map(|prefix| fixture.name(prefix));
    let [vxlan, headroom, bridge] = &devices;
    let port = fixture.name("ovl");
    for what in [
        format!("link del {vxlan}"),
        format!("link set {vxlan} down"),
        format!("link set {vxlan} type vxlan learning"),
        format!("link set {vxlan} master {bridge}"),
        format!("link del {headroom}"),
        format!("link set {headroom} up"),
        format!("link set {headroom} nomaster"),
        format!("link set {headroom} type bridge_slave isolated off"),
        format!("link set {bridge} up"),
        format!("link del {bridge}"),
    ] {
        host.ip(&what);
        until(&format!("{what} to be undone"), || fixture.is_whole());
        assert!(fixture.blue.pings(GREEN, "-c 1 -W 5"), "{what}");
    }
    // By its other name.
    host.ip(&format!("link set {vxlan} down"));
    host.ip(&format!("link set {vxlan} name renamed"));
    until("its name to come back", || fixture.is_whole());
    until("the fast path to be on", || {
        fixture.fast_path() == (true, String::new())
    });
    // Ports are looked at with the devices.
    host.ip(&format!("link set {port} type bridge_slave isolated off"));
    host.ip(&format!("link set {bridge} up"));
    until("the port to be isolated again", || fixture.is_whole());
}

/// `status` says that the fast path is off, and why, until it is on again.
#[test]
fn status_says_why_the_fast_path_is_off() {
    let fixture = fixture();
    assert_eq!(fixture.fast_path(), (true, String::new()));
    let host = &fixture.host.netns;
    let vxlan = fixture.name("ovx");
    // Somebody takes the port before the agent takes it back.
    let stopped = fixture.one.stop();
    for theft in [
        format!("link del {vxlan}"),
        "link add theirs type vxlan external dstport 4789".to_owned(),
        "link set theirs up".to_owned(),
    ] {
        host.ip(&theft);
    }
    drop(stopped);
    until("the fast path to be off", || !fixture.fast_path().0);
    until("the reason to name the thief", || {
        let (is_on, why) = fixture.fast_path();
        !is_on && why.contains("theirs") && why.contains("4789")
    });
    let text = fixture.one.does("status");
    assert!(
        text.contains("fast path off") && text.contains("theirs"),
        "{text}"
    );
    assert!(
        fixture.blue.pings(GREEN, "-c 1 -W 5"),
        "it is slower, no more"
    );
    host.ip("link del theirs");
    until("the fast path to be on", || {
        fixture.fast_path() == (true, String::new())
    });
    assert!(fixture.is_whole());
}

#[test]
fn a_bridge_that_is_up_joins_nobody() {
    let fixture = fixture();
    let host = &fixture.host.netns;
    let bridge = fixture.name("ovb");
    // Without its programs nothing but the bridge's settings keeps an endpoint's frames in.
    let agent = &fixture.one;
    let stopped = agent.stop();
    let links = format!(
        "/sys/fs/bpf/overlay/{}/v{ABI_VERSION}/links",
        agent.instance()
    );
    let is_tcx = fs::read_dir(&links).unwrap().count() > 0;
    if is_tcx {
        fs::remove_dir_all(&links).unwrap();
        fs::create_dir(&links).unwrap();
    } else {
        for link in host.links() {
            if link.starts_with("ovl") {
                host.run("tc", &format!("qdisc del dev {link} clsact"));
            }
        }
    }
    host.ip(&format!("link set {bridge} up"));
    for link in fixture.links() {
        if link["master"] == bridge.as_str() && is_up(&link) {
            let name = link["ifname"].as_str().unwrap().to_owned();
            until("the bridge to forward", || {
                let text = host.ip(&format!("-j -d link show dev {name}"));
                let link: Value = serde_json::from_str(&text).unwrap();
                link[0]["linkinfo"]["info_slave_data"]["state"] == "forwarding"
            });
        }
    }
    let sink = RawSocket::open(&fixture.cyan, "eth0");
    let source = RawSocket::open(&fixture.blue, "eth0");
    let (blue, cyan) = (default_mac(BLUE), default_mac(CYAN));
    for to in [
        cyan,
        BROADCAST,
        [0x33, 0x33, 0, 0, 0, 1],
        [0x01, 0, 0x5e, 0, 0, 1],
        [0x01, 0x80, 0xc2, 0, 0, 0x03],
        [0x02, 9, 9, 9, 9, 9],
    ] {
        let party = Party::at(BLUE);
        let host = Party::at(CYAN).with_mac(to);
        source.send(&frame::udp(party, host, etherparse::IpEcn::ZERO, b"across"));
        let mut request = arp_request(blue, party, CYAN);
        request[..6].copy_from_slice(&to);
        source.send(&request);
    }
    let crossed = sink.all(|frame| (frame[6..12] == blue).then(|| format!("{frame:02x?}")));
    assert_eq!(crossed, [""; 0]);
    drop(stopped);
    until("the bridge to be down", || fixture.is_whole());
    until("the programs to be back", || {
        fixture.blue.pings(GREEN, "-c 1 -W 1")
    });
}

#[test]
fn programs_that_somebody_takes_off_come_back() {
    let fixture = fixture();
    let before = ["links", "programs", "maps"].map(|kind| fixture.pinned(kind));
    for kind in ["links", "programs", "maps"] {
        let folder = format!(
            "/sys/fs/bpf/overlay/{}/v{ABI_VERSION}/{kind}",
            fixture.one.instance()
        );
        for name in fixture.pinned(kind) {
            fs::remove_file(format!("{folder}/{name}")).unwrap();
        }
    }
    // Programs go with the pins of their links; the agent looks for them each second.
    until_within(Duration::from_secs(5), "the programs to be back", || {
        fixture.blue.pings(GREEN, "-c 1 -W 1")
    });
    until("all pins to be back", || {
        ["links", "programs", "maps"].map(|kind| fixture.pinned(kind)) == before
    });
}
