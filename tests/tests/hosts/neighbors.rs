//! ARP and neighbour discovery are answered locally, and senders held to their addresses.

use std::net::Ipv4Addr;

use etherparse::IpEcn;
use overlay_lab::{
    Agent, Lab, Netns, TwoHosts,
    frame::{self, Mac, Party, RawSocket, arp_request, default_mac},
    lab::Host,
    two_hosts::BOTH,
    until,
};

const BLUE: &str = "7.7.7.2";
const GREEN: &str = "7.7.7.3";
const NOBODY: &str = "7.7.7.77";
const STRANGER: Mac = [0x02, 0x42, 0xba, 0xdb, 0xad, 0x01];

struct Fixture {
    blue: Netns,
    green: Netns,
    one: Agent,
    two: Agent,
    hosts: [Host; 2],
    _lab: Lab,
}

fn fixture() -> Fixture {
    let TwoHosts {
        agents: [one, two],
        blue,
        green,
        hosts,
        lab,
    } = TwoHosts::new("--vni 42", BOTH);
    Fixture {
        blue,
        green,
        one,
        two,
        hosts,
        _lab: lab,
    }
}

/// Sends `requests`, then one that certainly has an answer, and gives all answers before that one's.
fn answers(blue: &Netns, requests: &[Vec<u8>]) -> Vec<(Ipv4Addr, Mac)> {
    let socket = RawSocket::open(blue, "eth0");
    for request in requests {
        socket.send(request);
    }
    socket.send(&arp_request(default_mac(BLUE), Party::at(BLUE), GREEN));
    let mut replies = socket.all(frame::arp_reply);
    assert_eq!(
        replies.pop(),
        Some((GREEN.parse().unwrap(), default_mac(GREEN)))
    );
    replies
}

/// A known address is answered for while its host is cut off.
#[test]
fn an_address_is_answered_while_its_host_is_cut_off() {
    let fixture = fixture();
    let socket = RawSocket::open(&fixture.blue, "eth0");
    for host in &fixture.hosts {
        host.plug(false);
    }
    socket.send(&arp_request(default_mac(BLUE), Party::at(BLUE), GREEN));
    let (ip, mac) = socket.next(frame::arp_reply);
    assert_eq!((ip.to_string().as_str(), mac), (GREEN, default_mac(GREEN)));

    fixture.blue.ip("neigh flush dev eth0");
    assert!(
        !fixture.blue.pings("fd07::3", "-c 1 -W 1"),
        "the cable is out"
    );
    until("a neighbour advertisement", || {
        fixture
            .blue
            .ip("-6 neigh show fd07::3 dev eth0")
            .contains("02:42:07:07:07:03")
    });
}

/// An endpoint made later is answered for, and a removed one no more.
#[test]
fn answers_follow_endpoints_that_come_and_go() {
    let fixture = fixture();
    let name = format!("{}2", fixture.green.name());
    let blue = &fixture.blue;
    assert!(!blue.pings("7.7.7.8", "-c 1 -W 1"));
    fixture.two.endpoint(&name, 42, &["7.7.7.8/24"]);
    blue.reaches("7.7.7.8");
    fixture.two.does(&format!("endpoint rm {name}"));
    until("its address to be forgotten", || {
        let before = fixture.one.drops("neighbor_unknown");
        let request = arp_request(default_mac(BLUE), Party::at(BLUE), "7.7.7.8");
        answers(blue, &[request]).is_empty() && fixture.one.drops("neighbor_unknown") > before
    });
}

/// Requests for unknown addresses are counted and not answered.
#[test]
fn unknown_addresses_are_counted_not_answered() {
    let Fixture { one, blue, .. } = &fixture();
    let before = one.drops("neighbor_unknown");
    let request = arp_request(default_mac(BLUE), Party::at(BLUE), NOBODY);
    assert_eq!(answers(blue, &[request.clone(), request]), []);
    one.dropped("neighbor_unknown", before, 2);
}

#[test]
fn announcements_and_probes_are_not_answered() {
    let Fixture { one, blue, .. } = &fixture();
    let before = one.drops("arp_gratuitous");
    let mac = default_mac(BLUE);
    let unspecified = Party { mac, ip: "0.0.0.0" };
    let requests = [
        arp_request(mac, Party::at(BLUE), BLUE),
        arp_request(mac, unspecified, BLUE),
        arp_request(mac, unspecified, NOBODY),
    ];
    assert_eq!(answers(blue, &requests), []);
    one.dropped("arp_gratuitous", before, 3);
}

#[test]
fn arping_finds_no_duplicate_of_ones_own_address() {
    let Fixture { blue, .. } = &fixture();
    // Exit code 0 of -D: nobody else has it.
    blue.run("arping", "-q -D -c 2 -w 1 -I eth0 7.7.7.2");
    let announced = blue
        .command("arping")
        .args(["-U", "-c", "1", "-w", "1", "-I", "eth0", BLUE])
        .output();
    assert!(
        !String::from_utf8(announced.unwrap().stdout)
            .unwrap()
            .contains("reply from")
    );
    blue.run("arping", "-q -c 1 -w 2 -I eth0 7.7.7.3");
}

/// Requests with a forged sender are counted and not answered.
#[test]
fn forged_requests_are_counted_not_answered() {
    let Fixture { one, blue, .. } = &fixture();
    let mac = default_mac(BLUE);
    let (mac_before, ip_before) = (one.drops("source_mac"), one.drops("source_ip"));
    let requests = [
        // The frame's source, the packet's sender MAC, its sender IP.
        arp_request(STRANGER, Party::at(BLUE), GREEN),
        arp_request(mac, Party::at(BLUE).with_mac(STRANGER), GREEN),
        arp_request(mac, Party::at(NOBODY).with_mac(mac), GREEN),
        arp_request(mac, Party::at(GREEN).with_mac(mac), NOBODY),
    ];
    assert_eq!(answers(blue, &requests), []);
    one.dropped("source_mac", mac_before, 2);
    one.dropped("source_ip", ip_before, 2);
}

/// Packets with a forged source are counted and arrive nowhere.
#[test]
fn forged_sources_are_counted_and_dropped() {
    let Fixture {
        one, blue, green, ..
    } = &fixture();
    let (out, sink) = (
        RawSocket::open(blue, "eth0"),
        RawSocket::open(green, "eth0"),
    );
    let (mac_before, ip_before) = (one.drops("source_mac"), one.drops("source_ip"));
    let to = Party::at(GREEN);
    let send = |from, what: &[u8]| out.send(&frame::udp(from, to, IpEcn::ZERO, what));
    send(Party::at(BLUE).with_mac(STRANGER), b"forged");
    send(Party::at(BLUE).with_mac(default_mac(GREEN)), b"forged");
    send(Party::at(NOBODY).with_mac(default_mac(BLUE)), b"forged");
    send(Party::at(GREEN).with_mac(default_mac(BLUE)), b"forged");
    send(Party::at(BLUE), b"honest");
    let (_, first) = sink.next(frame::udp_payload);
    assert_eq!(first, b"honest");
    one.dropped("source_mac", mac_before, 2);
    one.dropped("source_ip", ip_before, 2);
}

/// One VLAN tag is taken off, and a second lets nothing out.
#[test]
fn one_vlan_tag_is_taken_off() {
    let Fixture {
        one, blue, green, ..
    } = &fixture();
    let (out, sink) = (
        RawSocket::open(blue, "eth0"),
        RawSocket::open(green, "eth0"),
    );
    let before = one.drops("vlan_tag");
    let frame = |what: &[u8]| frame::udp(Party::at(BLUE), Party::at(GREEN), IpEcn::ZERO, what);
    out.send(&frame::tagged(&frame(b"two tags"), &[100, 101]));
    out.send(&frame::tagged(&frame(b"one tag"), &[100]));
    let (_, first) = sink.next(frame::udp_payload);
    assert_eq!(first, b"one tag");
    one.dropped("vlan_tag", before, 1);
}

/// An endpoint can't send from an address that the registry does not give it.
#[test]
fn only_addresses_of_the_registry_may_send() {
    let Fixture { one, blue, .. } = &fixture();
    blue.ip("address add 7.7.7.50/24 dev eth0");
    blue.ip("address add fd07::50/64 dev eth0 nodad");
    let before = one.drops("source_ip");
    assert!(!blue.pings(GREEN, "-c 1 -W 1 -I 7.7.7.50"));
    assert!(!blue.pings("fd07::3", "-c 1 -W 1 -I fd07::50"));
    assert!(one.drops("source_ip") >= before + 2);
    assert!(blue.pings(GREEN, "-c 1 -W 1"));
}

#[test]
fn all_addresses_of_an_endpoint_are_good_to_send_from() {
    let Fixture {
        two, green, blue, ..
    } = &fixture();
    let name = format!("{}many", green.name());
    let many = two.endpoint(
        &name,
        42,
        &["7.7.7.8/24", "7.7.7.9/24", "fd07::8/64", "fd07::9/64"],
    );
    many.reaches(BLUE);
    many.reaches("fd07::2");
    for source in ["7.7.7.8", "7.7.7.9"] {
        assert!(
            many.pings(BLUE, &format!("-c 1 -W 2 -I {source}")),
            "{source}"
        );
        assert!(blue.pings(source, "-c 1 -W 2"), "{source}");
    }
    for source in ["fd07::8", "fd07::9"] {
        blue.reaches(source);
        assert!(
            many.pings("fd07::2", &format!("-c 1 -W 2 -I {source}")),
            "{source}"
        );
    }
}
