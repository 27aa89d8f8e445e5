//! Peers that lie and strangers: whatever they put into the tunnels' port, and by whatever way it
//! comes, reaches no endpoint and not the host, and nobody answers.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
};

use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, Icmpv6Type, IpEcn, IpHeaders, IpNumber,
    Ipv4Extensions, Ipv4Header, PacketBuilder, icmpv6::NeighborAdvertisementHeader,
};
use overlay_lab::{
    Agent, Lab, Netns,
    frame::{
        self, BROADCAST, Mac, Party, RawSocket, VNI_IS_VALID, arp_request, default_mac, tunnel,
        vxlan,
    },
    lab::Host,
    until,
};

const BLUE: &str = "7.7.7.2";
const GREEN: &str = "7.7.7.3";
const CYAN: &str = "7.7.7.4";
const STRANGER: Mac = [0x02, 0x42, 0xba, 0xdb, 0xad, 0x01];
/// An open port of the host's.
const ECHO: u16 = 5002;
/// Where the first host is by its second interface.
const SIDE_DOOR: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const SIX: &str = "fd10::1";

/// The first host with blue and cyan in network 42 and their namesakes in network 43; the second
/// with green in network 42. The third has no agent, and two ways to the first one.
struct Fixture {
    one: Agent,
    _two: Agent,
    blue: Netns,
    violet: Netns,
    hosts: [Host; 3],
    _lab: Lab,
}

fn fixture() -> Fixture {
    let lab = Lab::new();
    let hosts: [Host; 3] = lab.hosts();
    let [first, second, third] = &hosts;
    let side = lab.switch("side");
    for (host, ip) in [(first, "10.9.0.1"), (third, "10.9.0.3")] {
        side.connect(&host.netns, "side0");
        host.netns.ip(&format!("address add {ip}/24 dev side0"));
    }
    for (host, number) in [(first, 1), (second, 2), (third, 3)] {
        host.netns
            .ip(&format!("address add fd10::{number}/64 dev u0 nodad"));
    }
    let one = Agent::start(&lab, first, "--vni 42 --vni 43");
    let two = Agent::start(&lab, second, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24", "fd07::2/64"]);
    let _cyan = one.endpoint(&lab.name("cyan"), 42, &["7.7.7.4/24", "fd07::4/64"]);
    let violet = one.endpoint(&lab.name("violet"), 43, &["7.7.7.2/24", "fd07::2/64"]);
    let _mauve = one.endpoint(&lab.name("mauve"), 43, &["7.7.7.4/24", "fd07::4/64"]);
    let _green = two.endpoint(&lab.name("green"), 42, &["7.7.7.3/24", "fd07::3/64"]);
    for ip in [GREEN, CYAN, "fd07::3", "fd07::4"] {
        blue.reaches(ip);
    }
    for ip in [CYAN, "fd07::4"] {
        violet.reaches(ip);
    }
    Fixture {
        one,
        _two: two,
        blue,
        violet,
        hosts,
        _lab: lab,
    }
}

/// An ARP reply in a frame from `link`: `sender` is at `mac`.
fn arp_reply(link: Mac, mac: Mac, sender: &str, to: Mac) -> Vec<u8> {
    let octets = |ip: &str| ip.parse::<Ipv4Addr>().unwrap().octets();
    let packet = ArpPacket::new(
        ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REPLY,
        &mac,
        &octets(sender),
        &default_mac(BLUE),
        &octets(BLUE),
    )
    .unwrap();
    let mut frame = Vec::new();
    let builder = PacketBuilder::ethernet2(link, to).arp(packet);
    builder.write(&mut frame).unwrap();
    frame
}

/// An `ICMPv6` message over IPv6 in a frame from `link`.
fn icmpv6(link: Mac, to: Mac, source: &str, kind: Icmpv6Type, payload: &[u8]) -> Vec<u8> {
    let octets = |ip: &str| ip.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(link, to)
        .ipv6(octets(source), octets("fd07::2"), 255)
        .icmpv6(kind)
        .write_to_vec(&mut frame, payload)
        .unwrap();
    frame
}

/// An echo request over IPv4.
fn echo(link: Mac, to: Mac, source: &str, target: &str) -> Vec<u8> {
    let octets = |ip: &str| ip.parse::<Ipv4Addr>().unwrap().octets();
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(link, to)
        .ipv4(octets(source), octets(target), 64)
        .icmpv4_echo_request(1, 1)
        .write_to_vec(&mut frame, b"stranger")
        .unwrap();
    frame
}

/// What somebody with MAC `link` may say to the MAC `to`.
fn frames(link: Mac, to: Mac) -> Vec<Vec<u8>> {
    let advertisement = Icmpv6Type::NeighborAdvertisement(NeighborAdvertisementHeader {
        router: true,
        solicited: true,
        r#override: true,
    });
    let octets = |ip: &str| ip.parse::<std::net::Ipv6Addr>().unwrap().octets();
    let claim = |ip: &str| [octets(ip).as_slice(), &[2, 1], &link].concat();
    let router = icmpv6(
        link,
        to,
        "fe80::bad",
        Icmpv6Type::Unknown {
            type_u8: 134,
            code_u8: 0,
            bytes5to8: [64, 0, 0xff, 0xff],
        },
        &[0; 8],
    );
    let host = |ip: &'static str| Party { mac: to, ip };
    let me = |ip: &'static str| Party { mac: link, ip };
    let asks = |sender, target| {
        let mut request = arp_request(link, sender, target);
        request[..6].copy_from_slice(&to);
        request
    };
    let mut frames = vec![
        frame::udp(me(GREEN), host(BLUE), IpEcn::ZERO, b"stranger"),
        frame::udp(me("10.0.0.3"), host("10.0.0.1"), IpEcn::ZERO, b"stranger"),
        frame::udp(me("10.9.0.3"), host("10.9.0.1"), IpEcn::ZERO, b"stranger"),
        echo(link, to, GREEN, BLUE),
        echo(link, to, "10.0.0.3", "10.0.0.1"),
        echo(link, to, "10.9.0.3", "10.9.0.1"),
        asks(me(CYAN), BLUE),
        asks(me("10.0.0.3"), "10.0.0.1"),
        arp_reply(link, link, CYAN, to),
        icmpv6(link, to, "fd07::4", advertisement, &claim("fd07::4")),
        icmpv6(
            link,
            to,
            "fd07::4",
            Icmpv6Type::NeighborSolicitation,
            &claim("fd07::2"),
        ),
        router,
        // Something else: LLDP, and a bridge's frame without an EtherType.
        [to.as_slice(), &link, &[0x88, 0xcc], &[0x5a; 50]].concat(),
        [
            to.as_slice(),
            &link,
            &[0x00, 0x26, 0x42, 0x42, 0x03],
            &[0; 50],
        ]
        .concat(),
    ];
    let tagged = frame::tagged(&frames[0], &[5]);
    frames.push(tagged);
    frames
}

/// Every MAC that a frame could be taken in by: endpoints', the host's own, and groups'.
fn destinations(first: &Host) -> Vec<Mac> {
    let mut macs = vec![
        default_mac(BLUE),
        default_mac(CYAN),
        BROADCAST,
        [0x33, 0x33, 0, 0, 0, 1],
        [0x33, 0x33, 0xff, 0, 0, 2],
        [0x01, 0, 0x5e, 0, 0, 1],
    ];
    macs.extend((0..16).map(|last| [0x01, 0x80, 0xc2, 0, 0, last]));
    let links = first.netns.links();
    macs.extend(links.iter().map(|name| mac_of(&first.netns, name)));
    macs
}

/// A way into the first host's port.
struct Way<'a> {
    name: &'static str,
    from: &'a Netns,
    to: IpAddr,
}

impl Way<'_> {
    /// Sends payloads, and one in fragments.
    fn send(&self, payloads: &[Vec<u8>]) {
        let any: SocketAddr = if self.to.is_ipv4() {
            "0.0.0.0:0".parse().unwrap()
        } else {
            "[::]:0".parse().unwrap()
        };
        let to = SocketAddr::from((self.to, 4789));
        let socket = self.from.enter(|| UdpSocket::bind(any).unwrap());
        socket.set_broadcast(true).unwrap();
        for payload in payloads {
            // An ICMP error about an earlier one is no matter.
            let _ = socket.send_to(payload, to);
        }
        let long = [payloads[0].as_slice(), &[0; 3000]].concat();
        let _ = socket.send_to(&long, to);
    }
}

/// A packet to the first host's VTEP as `source` would send it, in a frame of its own making.
fn outer(link: Mac, to: Mac, source: &str, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let octets = |ip: &str| ip.parse::<Ipv4Addr>().unwrap().octets();
    let mut ip = Ipv4Header::new(0, 64, IpNumber::UDP, octets(source), octets("10.0.0.1")).unwrap();
    ip.options = options.try_into().unwrap();
    let builder = PacketBuilder::ethernet2(link, to)
        .ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default()))
        .udp(50_000, 4789);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// The MAC of a host's interface.
fn mac_of(netns: &Netns, ifname: &str) -> Mac {
    let text = netns.mac(ifname);
    let octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16));
    let octets: Vec<u8> = octets.collect::<Result<_, _>>().unwrap();
    octets.try_into().unwrap()
}

/// What the host's own stack has been asked, by the names of `/proc/net/snmp` and `snmp6`.
fn asked_of(host: &Netns) -> BTreeMap<String, u64> {
    let mut counters = BTreeMap::new();
    let four = host.run("cat", "/proc/net/snmp");
    let icmp: Vec<Vec<&str>> = four
        .lines()
        .filter(|line| line.starts_with("Icmp:"))
        .map(|line| line.split_whitespace().collect())
        .collect();
    for (name, value) in icmp[0].iter().zip(&icmp[1]) {
        if ["InEchos", "OutEchoReps"].contains(name) {
            counters.insert((*name).to_owned(), value.parse().unwrap());
        }
    }
    for line in host.run("cat", "/proc/net/snmp6").lines() {
        let (name, value) = line.split_once(char::is_whitespace).unwrap();
        if ["Icmp6InEchos", "Icmp6OutEchoReplies"].contains(&name) {
            counters.insert(name.to_owned(), value.trim().parse().unwrap());
        }
    }
    assert_eq!(counters.len(), 4);
    counters
}

/// What an endpoint has come to believe of its neighbours.
fn believes(endpoint: &Netns) -> BTreeMap<String, String> {
    let text = endpoint.ip("-j neigh show dev eth0");
    let rows: serde_json::Value = serde_json::from_str(&text).unwrap();
    rows.as_array()
        .unwrap()
        .iter()
        .filter_map(|row| {
            let text = |key: &str| Some(row[key].as_str()?.to_owned());
            Some((text("dst")?, text("lladdr")?))
        })
        .collect()
}

/// The source MACs of the frames that came to an endpoint from elsewhere.
fn heard(sink: &RawSocket, own: Mac) -> Vec<String> {
    sink.all(|frame| {
        let source: Mac = frame[6..12].try_into().unwrap();
        (source != own).then(|| format!("{frame:02x?}"))
    })
}

/// The tunnels' payloads for these VNIs, with the flags that a VXLAN header may have.
fn payloads(vnis: &[u32], inner: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    for vni in vnis {
        for frame in inner {
            payloads.push(vxlan(VNI_IS_VALID, *vni, frame));
        }
    }
    for flags in [0x00, 0xf7, 0x0c, 0x88, 0xff] {
        payloads.push(vxlan(flags, vnis[0], &inner[0]));
    }
    payloads.push(Vec::new());
    payloads.push(vxlan(VNI_IS_VALID, vnis[0], &[]));
    payloads
}

/// Whatever a stranger sends, by any way, is neither delivered nor answered.
#[test]
fn a_stranger_reaches_nobody_by_any_way() {
    let fixture = fixture();
    let [first, second, third] = &fixture.hosts;
    // The first host answers whoever asks it in the clear, and has an open port.
    assert!(third.netns.pings("10.9.0.1", "-c 1 -W 5"));
    let open = first
        .netns
        .enter(|| UdpSocket::bind(("0.0.0.0", ECHO)).unwrap());
    open.set_nonblocking(true).unwrap();
    let sinks = [&fixture.blue, &fixture.violet].map(|endpoint| RawSocket::open(endpoint, "eth0"));
    let believed = [&fixture.blue, &fixture.violet].map(believes);
    let before = asked_of(&first.netns);
    // What nobody of ours has, what somebody here has, and what the second host's endpoint has.
    let macs = [STRANGER, default_mac(CYAN), default_mac(GREEN)];
    let inner: Vec<Vec<u8>> = destinations(first)
        .into_iter()
        .flat_map(|to| macs.iter().flat_map(move |link| frames(*link, to)))
        .collect();
    let all = payloads(&[42, 43, 0, 0x00ff_ffff], &inner);
    let here = &first.netns;
    let ways = [
        ("the underlay, from a stranger", &third.netns, "10.0.0.1"),
        ("another interface", &third.netns, "10.9.0.1"),
        ("another interface, broadcast", &third.netns, "10.9.0.255"),
        ("the underlay, broadcast", &third.netns, "10.0.0.255"),
        ("IPv6, from a stranger", &third.netns, SIX),
        ("IPv6, from a known host", &second.netns, SIX),
        ("loopback", here, "127.0.0.1"),
        ("loopback, the VTEP's address", here, "10.0.0.1"),
        ("loopback, IPv6", here, "::1"),
    ];
    for (name, from, to) in ways {
        let to = to.parse().unwrap();
        Way { name, from, to }.send(&all);
        for (sink, endpoint) in sinks.iter().zip([&fixture.blue, &fixture.violet]) {
            assert_eq!(
                heard(sink, default_mac(BLUE)),
                [""; 0],
                "{name}: {}",
                endpoint.name()
            );
        }
        assert_eq!(asked_of(&first.netns), before, "{name}");
        assert!(open.recv(&mut [0; 64]).is_err(), "{name}");
    }
    // Frames of its own making: in a known host's name by another door, and with IP options.
    let good = frame::udp(Party::at(GREEN), Party::at(BLUE), IpEcn::ZERO, b"good");
    let packet = vxlan(VNI_IS_VALID, 42, &good);
    let alert = [0x94, 4, 0, 0];
    for (name, ifname, source, options) in [
        (
            "a known host's name by another interface",
            "side0",
            "10.0.0.2",
            &[][..],
        ),
        (
            "IP options by another interface",
            "side0",
            "10.0.0.2",
            &alert,
        ),
        (
            "IP options in a known host's name",
            "u0",
            "10.0.0.2",
            &alert,
        ),
        ("no name at all", "u0", "0.0.0.0", &[]),
        ("this host's name", "u0", "10.0.0.1", &[]),
    ] {
        let [from, to] = [third, first].map(|host| mac_of(&host.netns, ifname));
        let frame = outer(from, to, source, options, &packet);
        RawSocket::open(&third.netns, ifname).send(&frame);
        assert_eq!(heard(&sinks[0], default_mac(BLUE)), [""; 0], "{name}");
    }
    assert_eq!([&fixture.blue, &fixture.violet].map(believes), believed);

    // The sinks hear, and the port is open to who may send.
    tunnel(&second.netns, first.ip, IpEcn::ZERO, &packet);
    assert_eq!(sinks[0].next(frame::udp_payload).1, b"good");
}

/// A known host is heard in its own networks, for its own endpoints alone.
#[test]
fn a_known_host_speaks_for_its_own_endpoints() {
    let fixture = fixture();
    let [first, second, _] = &fixture.hosts;
    let sinks = [&fixture.blue, &fixture.violet].map(|endpoint| RawSocket::open(endpoint, "eth0"));
    let believed = [&fixture.blue, &fixture.violet].map(believes);
    let send = |vni, inner: &[u8]| {
        let packet = vxlan(VNI_IS_VALID, vni, inner);
        tunnel(&second.netns, first.ip, IpEcn::ZERO, &packet);
    };
    let refused = |vni: u32, inner: &[u8], reason: &str| {
        let before = fixture.one.drops(reason);
        send(vni, inner);
        until(&format!("{reason} in {vni}: {inner:02x?}"), || {
            fixture.one.drops(reason) > before
        });
    };
    // In a network where it has nobody, whatever MAC it takes; in its own, with others' MACs.
    let (green, blue) = (default_mac(GREEN), default_mac(BLUE));
    for (vni, link) in [
        (43, STRANGER),
        (43, green),
        (43, default_mac(CYAN)),
        (42, STRANGER),
        (42, default_mac(CYAN)),
    ] {
        let before = fixture.one.drops("source_vtep");
        let all = frames(link, blue);
        for inner in &all {
            send(vni, inner);
        }
        until(
            &format!("all from {link:02x?} in {vni} to be dropped"),
            || fixture.one.drops("source_vtep") - before >= all.len() as u64,
        );
    }
    // With its own, of others' addresses.
    let own = frames(green, blue);
    for (inner, reason) in [
        (&own[6], "source_ip"),
        (&own[8], "source_ip"),
        (&own[9], "source_ip"),
        (&own[10], "source_ip"),
        (&own[11], "nd_forged"),
        (&arp_reply(green, STRANGER, GREEN, blue), "source_mac"),
    ] {
        refused(42, inner, reason);
    }
    for sink in &sinks {
        assert_eq!(heard(sink, blue), [""; 0]);
    }
    assert_eq!([&fixture.blue, &fixture.violet].map(believes), believed);
    // Of its own address it may speak.
    send(42, &arp_reply(green, green, GREEN, blue));
    let (ip, mac) = sinks[0].next(frame::arp_reply);
    assert_eq!((ip.to_string().as_str(), mac), (GREEN, green));
}

/// What the VXLAN device takes in after all is dropped and counted.
#[test]
fn packets_that_reach_the_device_are_dropped() {
    let fixture = fixture();
    let [first, _, third] = &fixture.hosts;
    let before = asked_of(&first.netns);
    let drops = fixture.one.drops("vxlan_device");
    let groups = (0..16).map(|last| [0x01, 0x80, 0xc2, 0, 0, last]);
    let inner: Vec<Vec<u8>> = groups
        .chain([BROADCAST, default_mac(BLUE)])
        .flat_map(|to| frames(STRANGER, to))
        .collect();
    let way = Way {
        name: "another interface",
        from: &third.netns,
        to: SIDE_DOOR.into(),
    };
    let all: Vec<_> = inner
        .iter()
        .map(|frame| vxlan(VNI_IS_VALID, 42, frame))
        .collect();
    way.send(&all);
    until("every frame to be dropped", || {
        fixture.one.drops("vxlan_device") - drops >= all.len() as u64
    });
    // A tenant that is root in his namespace can mark what he sends as the programs mark theirs, but for the secret.
    for link in third.netns.links() {
        third
            .netns
            .run("tc", &format!("qdisc add dev {link} clsact"));
        for (priority, class) in [(1, "1:4f56"), (2, "1:4f57")] {
            let filter = format!(
                "filter add dev {link} egress prio {priority} protocol ip u32 match u32 0 0 flowid {class}"
            );
            third.netns.run("tc", &filter);
            let drops = fixture.one.drops("vxlan_device");
            way.send(&all);
            until("every marked frame to be dropped", || {
                fixture.one.drops("vxlan_device") - drops >= all.len() as u64
            });
            third.netns.run(
                "tc",
                &format!("filter del dev {link} egress prio {priority}"),
            );
        }
    }
    assert_eq!(asked_of(&first.netns), before, "{}", way.name);
}
