//! Frames on the wire, read by tshark, and the handling of packets that others put there.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::UdpSocket,
};

use etherparse::IpEcn;
use nix::sys::socket::{setsockopt, sockopt};
use overlay_lab::{
    Agent, Lab, Netns,
    capture::Capture,
    frame::{self, Party, RawSocket, VNI_IS_VALID, tunnel, vxlan},
    lab::Host,
    traffic, until,
};

const BLUE: &str = "7.7.7.2";
const GREEN: &str = "7.7.7.3";
const VNI: u32 = 0x00ab_cdef;

struct Fixture {
    blue: Netns,
    one: Agent,
    _two: Agent,
    hosts: [Host; 3],
    lab: Lab,
}

/// Two hosts with agents and a third without.
fn fixture() -> Fixture {
    let lab = Lab::new();
    let hosts: [Host; 3] = lab.hosts();
    let [first, second, _] = &hosts;
    let one = Agent::start(&lab, first, &format!("--vni {VNI}"));
    let two = Agent::start(&lab, second, &format!("--vni {VNI}"));
    let blue = one.endpoint(&lab.name("blue"), VNI, &["7.7.7.2/24", "fd07::2/64"]);
    let green = two.endpoint(&lab.name("green"), VNI, &["7.7.7.3/24", "fd07::3/64"]);
    for ip in [GREEN, "fd07::3"] {
        blue.reaches(ip);
    }
    green.reaches(BLUE);
    Fixture {
        blue,
        one,
        _two: two,
        hosts,
        lab,
    }
}

/// Sends a datagram with each ECN field from `netns`.
fn send_with_ecn(netns: &Netns, ip: &str, fields: &[IpEcn]) {
    let socket = netns.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for ecn in fields {
        setsockopt(&socket, sockopt::Ipv4Tos, &i32::from(ecn.value())).unwrap();
        socket.send_to(b"ecn", (ip, 9)).unwrap();
    }
}

/// A datagram from green to blue, as green's host would put it into a tunnel.
fn to_blue(ecn: IpEcn, payload: &[u8]) -> Vec<u8> {
    frame::udp(Party::at(GREEN), Party::at(BLUE), ecn, payload)
}

/// Packets on the wire are what RFC 7348 says, field by field.
#[test]
fn the_wire_is_as_rfc_7348_says() {
    let fixture = fixture();
    let [first, second, _] = &fixture.hosts;
    let fields = [
        "eth.src",
        "eth.dst",
        "eth.type",
        "ip.version",
        "ip.hdr_len",
        "ip.len",
        "ip.ttl",
        "ip.flags.df",
        "ip.flags.mf",
        "ip.frag_offset",
        "ip.src",
        "ip.dst",
        "ip.proto",
        "ip.checksum.status",
        "ip.dsfield.dscp",
        "udp.srcport",
        "udp.dstport",
        "udp.length",
        "udp.checksum",
        "vxlan.flags",
        "vxlan.vni",
        "vxlan.gbp",
        "vxlan.reserved8",
        "icmp.type",
        "icmp.checksum.status",
        "frame.len",
    ];
    let capture = Capture::start(
        &fixture.lab,
        &second.netns,
        "u0",
        4,
        "udp port 4789 and ip[50+6] != 0x86",
    );
    assert!(fixture.blue.pings(GREEN, "-c 2 -W 2 -s 1000 -t 17"));
    let packets = capture.finish(&fields);
    for (number, packet) in packets.iter().enumerate() {
        let is_there = number % 2 == 0;
        let ends = |from: &Netns, to: &Netns| (from.mac("u0"), to.mac("u0"));
        let (outer_src, outer_dst) = if is_there {
            ends(&first.netns, &second.netns)
        } else {
            ends(&second.netns, &first.netns)
        };
        assert_eq!(
            (packet.outer("eth.src"), packet.outer("eth.dst")),
            (&*outer_src, &*outer_dst)
        );
        let ips = [first.ip.to_string(), second.ip.to_string()];
        let [from, to] = if is_there {
            [&ips[0], &ips[1]]
        } else {
            [&ips[1], &ips[0]]
        };
        assert_eq!(
            (packet.outer("ip.src"), packet.outer("ip.dst")),
            (from.as_str(), to.as_str())
        );
        // Length: inner IP 1028, inner Ethernet 14, VXLAN 8, UDP 8, IP 20.
        for (field, value) in [
            ("eth.type", "0x0800"),
            ("ip.version", "4"),
            ("ip.hdr_len", "20"),
            ("ip.len", "1078"),
            ("ip.ttl", "64"),
            ("ip.flags.df", "1"),
            ("ip.flags.mf", "0"),
            ("ip.frag_offset", "0"),
            ("ip.proto", "17"),
            ("ip.checksum.status", "1"),
            ("ip.dsfield.dscp", "0"),
            ("udp.dstport", "4789"),
            ("udp.length", "1058"),
            ("udp.checksum", "0x0000"),
            ("vxlan.flags", "0x0800"),
            ("vxlan.gbp", "0"),
            ("vxlan.reserved8", "0"),
            ("frame.len", "1092"),
        ] {
            assert_eq!(packet.outer(field), value, "{field} of {packet:?}");
        }
        assert_eq!(packet.outer("vxlan.vni"), VNI.to_string());
        let port: u16 = packet.outer("udp.srcport").parse().unwrap();
        assert!((49152..=65535).contains(&port), "{port}");
        // Inside, everything is as it was sent.
        let macs = ["02:42:07:07:07:02", "02:42:07:07:07:03"];
        let inner = if is_there {
            [macs[0], macs[1], BLUE, GREEN]
        } else {
            [macs[1], macs[0], GREEN, BLUE]
        };
        let fields = ["eth.src", "eth.dst", "ip.src", "ip.dst"].map(|field| packet.inner(field));
        assert_eq!(fields, inner);
        assert_eq!(packet.inner("ip.ttl"), if is_there { "17" } else { "64" });
        assert_eq!(packet.inner("ip.len"), "1028");
        assert_eq!(packet.inner("ip.checksum.status"), "1");
        assert_eq!(packet.outer("icmp.type"), if is_there { "8" } else { "0" });
        assert_eq!(packet.outer("icmp.checksum.status"), "1");
    }
}

/// A flow keeps its source port, and flows spread over many.
#[test]
fn flows_keep_their_port_and_spread() {
    let fixture = fixture();
    let [_, second, _] = &fixture.hosts;
    let (flows, each) = (16, 4);
    let capture = Capture::start(
        &fixture.lab,
        &second.netns,
        "u0",
        flows * each,
        // The inner IP protocol is UDP and the inner destination port is 9.
        "udp dst port 4789 and ip[59] = 17 and ip[72:2] = 9",
    );
    // All at the same time, or two would share a port.
    let sockets = fixture.blue.enter(|| {
        let bound = (0..flows).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap());
        bound.collect::<Vec<_>>()
    });
    for socket in sockets.iter().cycle().take(flows * each) {
        socket.send_to(b"flow", (GREEN, 9)).unwrap();
    }
    let mut ports: BTreeMap<String, BTreeSet<u16>> = BTreeMap::new();
    for packet in capture.finish(&["udp.srcport"]) {
        let flow = packet.inner("udp.srcport").to_owned();
        ports
            .entry(flow)
            .or_default()
            .insert(packet.outer("udp.srcport").parse().unwrap());
    }
    assert_eq!(ports.len(), flows);
    assert!(ports.values().all(|ports| ports.len() == 1), "{ports:?}");
    let distinct: BTreeSet<u16> = ports.into_values().flatten().collect();
    assert!(distinct.len() > flows / 2, "{distinct:?}");
    assert!(distinct.iter().all(|port| *port >= 49152), "{distinct:?}");
}

#[test]
fn the_outer_ecn_field_is_the_inner_one_but_for_marks() {
    let fixture = fixture();
    let [_, second, _] = &fixture.hosts;
    let filter = "udp dst port 4789 and ip[59] = 17 and ip[72:2] = 9";
    let capture = Capture::start(&fixture.lab, &second.netns, "u0", 4, filter);
    let fields = [0b00, 0b01, 0b10, 0b11].map(|ecn| IpEcn::try_new(ecn).unwrap());
    send_with_ecn(&fixture.blue, GREEN, &fields);
    let packets = capture.finish(&["ip.dsfield.ecn"]);
    let seen: Vec<_> = packets
        .iter()
        .map(|packet| {
            (
                packet.inner("ip.dsfield.ecn"),
                packet.outer("ip.dsfield.ecn"),
            )
        })
        .collect();
    assert_eq!(seen, [("0", "0"), ("1", "1"), ("2", "2"), ("3", "2")]);
}

/// A mark on the way reaches the endpoint, or drops what can't carry it.
#[test]
fn ecn_marks_reach_the_endpoint() {
    let Fixture {
        blue,
        one,
        hosts: [first, second, _],
        ..
    } = &fixture();
    let sink = RawSocket::open(blue, "eth0");
    let before = one.drops("ecn_not_capable");
    let [not_ect, ect1, ect0, ce] = [0, 1, 2, 3].map(|ecn| IpEcn::try_new(ecn).unwrap());
    // RFC 6040 section 4.2; the second field is the outer one.
    for (inner, outer, merged) in [
        (not_ect, not_ect, Some(not_ect)),
        (not_ect, ect0, Some(not_ect)),
        (not_ect, ce, None),
        (ect0, not_ect, Some(ect0)),
        (ect0, ect1, Some(ect1)),
        (ect0, ce, Some(ce)),
        (ect1, ce, Some(ce)),
        (ce, not_ect, Some(ce)),
        (ce, ect0, Some(ce)),
    ] {
        let payload = [inner.value(), outer.value()];
        tunnel(
            &second.netns,
            first.ip,
            outer,
            &vxlan(VNI_IS_VALID, VNI, &to_blue(inner, &payload)),
        );
        if let Some(merged) = merged {
            let (ecn, received) = sink.next(frame::udp_payload);
            assert_eq!(
                received, payload,
                "another packet came before {inner:?} in {outer:?}"
            );
            assert_eq!(ecn, merged, "{inner:?} in {outer:?}");
        }
    }
    one.dropped("ecn_not_capable", before, 1);
}

/// Packets that no VTEP of ours would send are dropped with their reason.
#[test]
fn foreign_tunnel_packets_have_their_drop_reason() {
    let Fixture {
        blue,
        one,
        hosts: [first, second, third],
        ..
    } = &fixture();
    let sink = RawSocket::open(blue, "eth0");
    let bad = to_blue(IpEcn::ZERO, b"bad");
    let good = vxlan(VNI_IS_VALID, VNI, &to_blue(IpEcn::ZERO, b"good"));
    let elsewhere = frame::udp(Party::at(GREEN), Party::at(GREEN), IpEcn::ZERO, b"bad");
    let nobody = frame::udp(Party::at(GREEN), Party::at("7.7.7.77"), IpEcn::ZERO, b"bad");
    let everybody = frame::udp(
        Party::at(GREEN),
        Party::at(BLUE).with_mac(frame::BROADCAST),
        IpEcn::ZERO,
        b"bad",
    );
    let mut tagged = bad.clone();
    tagged.splice(12..12, [0x81, 0x00, 0x00, 0x05]);
    for (what, from, packet, reason) in [
        (
            "from a stranger",
            third,
            vxlan(VNI_IS_VALID, VNI, &bad),
            "vtep_unknown",
        ),
        (
            "without the I flag",
            second,
            vxlan(0, VNI, &bad),
            "vxlan_flags",
        ),
        (
            "with all flags but I",
            second,
            vxlan(0xf7, VNI, &bad),
            "vxlan_flags",
        ),
        (
            "for no network",
            second,
            vxlan(VNI_IS_VALID, VNI - 1, &bad),
            "vni_unknown",
        ),
        (
            "for VNI 0",
            second,
            vxlan(VNI_IS_VALID, 0, &bad),
            "vni_unknown",
        ),
        (
            "for another host",
            second,
            vxlan(VNI_IS_VALID, VNI, &elsewhere),
            "not_local",
        ),
        (
            "for nobody",
            second,
            vxlan(VNI_IS_VALID, VNI, &nobody),
            "destination_unknown",
        ),
        (
            "for everybody",
            second,
            vxlan(VNI_IS_VALID, VNI, &everybody),
            "multicast",
        ),
        (
            "with a VLAN tag",
            second,
            vxlan(VNI_IS_VALID, VNI, &tagged),
            "inner_vlan",
        ),
        (
            "with half a frame",
            second,
            vxlan(VNI_IS_VALID, VNI, &bad[..10]),
            "truncated",
        ),
        ("with nothing", second, Vec::new(), "truncated"),
    ] {
        let before = one.drops(reason);
        tunnel(&from.netns, first.ip, IpEcn::ZERO, &packet);
        until(&format!("{reason}: a packet {what}"), || {
            let more = one.drops(reason) - before;
            // What endpoints' kernels multicast of their own accord counts too.
            more == 1 || (more > 1 && reason == "multicast")
        });
    }
    tunnel(&second.netns, first.ip, IpEcn::ZERO, &good);
    let (_, payload) = sink.next(frame::udp_payload);
    assert_eq!(payload, b"good");
}

/// Reserved bits are ignored unless the agent is strict about them.
#[test]
fn reserved_bits_matter_only_when_strict() {
    let lab = Lab::new();
    let [first, second, third] = lab.hosts();
    let lax = Agent::start(&lab, &first, "--vni 42");
    let strict = Agent::start(&lab, &second, "--vni 42 --strict-reserved");
    let peer = Agent::start(&lab, &third, "--vni 42");
    let blue = lax.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    let green = strict.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    let red = peer.endpoint(&lab.name("red"), 42, &["7.7.7.4/24"]);
    red.reaches(BLUE);
    red.reaches(GREEN);
    let send = |host: &Host, to: &str, flags: u8, payload: &[u8]| {
        let inner = frame::udp(Party::at("7.7.7.4"), Party::at(to), IpEcn::ZERO, payload);
        tunnel(
            &third.netns,
            host.ip,
            IpEcn::ZERO,
            &vxlan(flags, 42, &inner),
        );
    };
    let sinks = [&blue, &green].map(|endpoint| RawSocket::open(endpoint, "eth0"));
    send(&first, BLUE, 0xff, b"reserved");
    assert_eq!(sinks[0].next(frame::udp_payload).1, b"reserved");
    let before = strict.drops("vxlan_reserved");
    send(&second, GREEN, 0xff, b"reserved");
    send(&second, GREEN, VNI_IS_VALID, b"clean");
    assert_eq!(sinks[1].next(frame::udp_payload).1, b"clean");
    strict.dropped("vxlan_reserved", before, 1);
}

#[test]
fn the_tunnels_port_can_be_another_one() {
    let lab = Lab::new();
    let [first, second] = lab.hosts();
    let one = Agent::start(&lab, &first, "--vni 42 --port 8472");
    let two = Agent::start(&lab, &second, "--vni 42 --port 4790");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    let green = two.endpoint(&lab.name("green"), 42, &["7.7.7.3/24"]);
    blue.reaches(GREEN);
    let capture = Capture::start(
        &lab,
        &second.netns,
        "u0",
        2,
        "udp dst port 4790 or udp dst port 8472",
    );
    assert!(blue.pings(GREEN, "-c 1 -W 2"));
    let ports: Vec<_> = capture
        .finish(&["udp.dstport"])
        .iter()
        .map(|packet| packet.outer("udp.dstport").to_owned())
        .collect();
    assert_eq!(ports, ["4790", "8472"]);
    traffic::tcp(&green, &blue, BLUE, 1 << 20);
}
