//! `endpoint_ingress`: ARP and neighbour discovery answered with the frame turned round.

use overlay_ebpf::abi::{DropReason, program::ENDPOINT_INGRESS};

use crate::{
    datapath::{Case, Datapath, Settings},
    endpoint::encapsulated,
    frames::{
        BROADCAST, advertisement, arp, arp_reply, arp_request, behind_extension, nd, padded,
        patched, solicitation, source_link_layer_address,
    },
    network::{BLUE, BLUE_AGAIN, CYAN, Endpoint, GREEN, NOBODY, VIOLET},
};

const ALL_NODES: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];
const UNSPECIFIED: [u8; 16] = [0; 16];
/// What blue's interface makes of its MAC (RFC 4291 appendix A).
const LINK_LOCAL: [u8; 16] = {
    let [a, b, c, d, e, f] = BLUE.mac;
    [
        0xfe,
        0x80,
        0,
        0,
        0,
        0,
        0,
        0,
        a ^ 2,
        b,
        c,
        0xff,
        0xfe,
        d,
        e,
        f,
    ]
};
/// Length of the shortest Ethernet frame, without its check sequence.
const SHORTEST_FRAME: usize = 60;

fn check(table: &[Case]) {
    Datapath::load(Settings::default()).check(ENDPOINT_INGRESS, table);
}

pub(crate) fn arp_answers() -> Vec<Case> {
    let request = arp_request(&BLUE, GREEN.ipv4);
    let reply = arp_reply(&GREEN, &BLUE);
    vec![
        Case::redirect("for a remote endpoint", request.clone(), reply.clone()),
        Case::redirect(
            "for an endpoint of this host",
            arp_request(&BLUE, CYAN.ipv4),
            arp_reply(&CYAN, &BLUE),
        ),
        Case::redirect(
            "to an asker by its second address",
            arp_request(&BLUE_AGAIN, GREEN.ipv4),
            arp_reply(&GREEN, &BLUE_AGAIN),
        ),
        Case::redirect(
            "to a request that is sent to the target alone",
            patched(request.clone(), 0, &GREEN.mac),
            reply.clone(),
        ),
        Case::redirect(
            "to a probe for another's address",
            arp_request(&no_address(), GREEN.ipv4),
            arp_reply(&GREEN, &no_address()),
        ),
        Case::redirect(
            "with the padding left in place",
            padded(request, SHORTEST_FRAME),
            padded(reply, SHORTEST_FRAME),
        ),
    ]
}

/// Blue before it has an address (RFC 5227).
fn no_address() -> Endpoint {
    Endpoint {
        ipv4: [0; 4],
        ..BLUE
    }
}

/// What endpoints say to each other alone: the VXLAN device takes ARP to other hosts as it is.
pub(crate) fn arp_between_endpoints() -> Vec<Case> {
    let as_it_is = |name, frame: Vec<u8>| Case::redirect(name, frame.clone(), frame);
    vec![
        as_it_is("a reply to another host", arp_reply(&BLUE, &GREEN)),
        as_it_is("a reply on this host", arp_reply(&BLUE, &CYAN)),
        as_it_is(
            "a request to one alone, for an address that nobody has",
            patched(arp_request(&BLUE, NOBODY.ipv4), 0, &GREEN.mac),
        ),
        Case::drop(
            "a reply with another's address",
            arp_reply(
                &Endpoint {
                    ipv4: CYAN.ipv4,
                    ..BLUE
                },
                &GREEN,
            ),
            DropReason::SourceIp,
        ),
        Case::drop(
            "a reply with another's MAC",
            patched(arp_reply(&BLUE, &GREEN), arp::SENDER_MAC, &CYAN.mac),
            DropReason::SourceMac,
        ),
        Case::drop(
            "a reply to all",
            patched(arp_reply(&BLUE, &GREEN), 0, &BROADCAST),
            DropReason::ArpGratuitous,
        ),
    ]
}

/// The same of neighbour discovery, which goes into tunnels like all of IPv6.
pub(crate) fn nd_between_endpoints() -> Vec<Case> {
    let link_local = Endpoint {
        ipv6: LINK_LOCAL,
        ..BLUE
    };
    let tell = |from: &Endpoint| advertisement(from, GREEN.mac, GREEN.ipv6, true);
    let option = source_link_layer_address(BLUE.mac);
    let forged = |name, frame| Case::drop(name, frame, DropReason::NdForged);
    vec![
        encapsulated("an advertisement", tell(&BLUE), false),
        encapsulated(
            "an advertisement of a second address",
            tell(&BLUE_AGAIN),
            false,
        ),
        encapsulated(
            "an advertisement of the link-local address",
            tell(&link_local),
            false,
        ),
        encapsulated(
            "a question to one alone, for an address that nobody has",
            patched(
                solicitation(BLUE.mac, LINK_LOCAL, NOBODY.ipv6, &option),
                0,
                &GREEN.mac,
            ),
            false,
        ),
        forged(
            "an advertisement of another's address",
            tell(&Endpoint {
                ipv6: CYAN.ipv6,
                ..BLUE
            }),
        ),
        forged(
            "an advertisement of another's MAC",
            patched(tell(&BLUE), nd::OPTIONS + 2, &CYAN.mac),
        ),
        forged(
            "an advertisement of a link-local address that is not made of its MAC",
            tell(&Endpoint {
                ipv6: patched(LINK_LOCAL.to_vec(), 15, &[9]).try_into().unwrap(),
                ..BLUE
            }),
        ),
        Case::drop(
            "an advertisement to all",
            advertisement(&BLUE, ALL_NODES_MAC, ALL_NODES, false),
            DropReason::NdUnsolicited,
        ),
    ]
}

pub(crate) fn arp_refusals() -> Vec<Case> {
    let request = || arp_request(&BLUE, GREEN.ipv4);
    let malformed = |name, at, bytes: &[u8]| {
        Case::drop(
            name,
            patched(request(), at, bytes),
            DropReason::ArpMalformed,
        )
    };
    let target = |name, ip, reason| Case::drop(name, arp_request(&BLUE, ip), reason);
    let sender = |ipv4| Endpoint { ipv4, ..BLUE };
    vec![
        malformed("hardware other than Ethernet", arp::HARDWARE_TYPE, &[0, 6]),
        malformed(
            "a protocol other than IPv4",
            arp::PROTOCOL_TYPE,
            &[0x86, 0xdd],
        ),
        malformed("another hardware address length", arp::HARDWARE_LEN, &[8]),
        malformed("another protocol address length", arp::PROTOCOL_LEN, &[16]),
        malformed("reverse ARP", arp::OPERATION, &[0, 3]),
        target("this network as target", [0; 4], DropReason::ArpMalformed),
        target(
            "loopback as target",
            [127, 0, 0, 1],
            DropReason::ArpMalformed,
        ),
        target(
            "a group as target",
            [224, 0, 0, 1],
            DropReason::ArpMalformed,
        ),
        target("everybody as target", [255; 4], DropReason::ArpMalformed),
        target("nobody's address", NOBODY.ipv4, DropReason::NeighborUnknown),
        target(
            "another tenant's address",
            VIOLET.ipv4,
            DropReason::NeighborUnknown,
        ),
        target("an announcement", BLUE.ipv4, DropReason::ArpGratuitous),
        target(
            "its own second address",
            BLUE_AGAIN.ipv4,
            DropReason::ArpGratuitous,
        ),
        Case::drop(
            "a probe for its own address",
            arp_request(&sender([0; 4]), BLUE.ipv4),
            DropReason::ArpGratuitous,
        ),
        Case::drop(
            "another's address as the sender's",
            arp_request(&sender(CYAN.ipv4), GREEN.ipv4),
            DropReason::SourceIp,
        ),
        Case::drop(
            "an announcement of another's address",
            arp_request(&sender(GREEN.ipv4), GREEN.ipv4),
            DropReason::SourceIp,
        ),
        Case::drop(
            "another's MAC as the sender's",
            patched(request(), arp::SENDER_MAC, &CYAN.mac),
            DropReason::SourceMac,
        ),
        Case::drop(
            "another's MAC in the Ethernet header",
            patched(request(), 6, &CYAN.mac),
            DropReason::SourceMac,
        ),
        Case::drop(
            "half a request",
            request()[..41].to_vec(),
            DropReason::Truncated,
        ),
    ]
}

pub(crate) fn nd_answers() -> Vec<Case> {
    let option = source_link_layer_address(BLUE.mac);
    // RFC 3971 section 5.3.2, as Linux adds to its duplicate address detection (RFC 7527).
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let ask = |source, target, options: &[u8]| solicitation(BLUE.mac, source, target, options);
    let answer = advertisement(&GREEN, BLUE.mac, BLUE.ipv6, true);
    let warning = advertisement(&GREEN, ALL_NODES_MAC, ALL_NODES, false);
    vec![
        Case::redirect(
            "for a remote endpoint",
            ask(BLUE.ipv6, GREEN.ipv6, &option),
            answer.clone(),
        ),
        Case::redirect(
            "for an endpoint of this host",
            ask(BLUE.ipv6, CYAN.ipv6, &option),
            advertisement(&CYAN, BLUE.mac, BLUE.ipv6, true),
        ),
        Case::redirect(
            "to an asker by its second address",
            ask(BLUE_AGAIN.ipv6, GREEN.ipv6, &option),
            advertisement(&GREEN, BLUE.mac, BLUE_AGAIN.ipv6, true),
        ),
        Case::redirect(
            "longer than a question without options",
            ask(BLUE.ipv6, GREEN.ipv6, &[]),
            answer.clone(),
        ),
        Case::redirect(
            "shorter than a question with several",
            ask(BLUE.ipv6, GREEN.ipv6, &[option, nonce].concat()),
            answer.clone(),
        ),
        Case::redirect(
            "to a question that is sent to the target alone",
            patched(ask(BLUE.ipv6, GREEN.ipv6, &option), 0, &GREEN.mac),
            answer,
        ),
        Case::redirect(
            "to an asker by its link-local address",
            ask(LINK_LOCAL, GREEN.ipv6, &option),
            advertisement(&GREEN, BLUE.mac, LINK_LOCAL, true),
        ),
        Case::redirect(
            "to all, where somebody is about to take another's address",
            ask(UNSPECIFIED, GREEN.ipv6, &[]),
            warning.clone(),
        ),
        Case::redirect(
            "to all, where the question has a nonce",
            ask(UNSPECIFIED, GREEN.ipv6, &nonce),
            warning,
        ),
    ]
}

pub(crate) fn nd_refusals() -> Vec<Case> {
    let option = source_link_layer_address(BLUE.mac);
    let ask = |source, target| solicitation(BLUE.mac, source, target, &option);
    let malformed = |name, at, bytes: &[u8]| {
        let frame = patched(ask(BLUE.ipv6, GREEN.ipv6), at, bytes);
        Case::drop(name, frame, DropReason::NdMalformed)
    };
    let detection = |name, target| {
        let frame = solicitation(BLUE.mac, UNSPECIFIED, target, &[]);
        Case::drop(name, frame, DropReason::NdDetection)
    };
    let drop = |name, source, target, reason| Case::drop(name, ask(source, target), reason);
    let forged = |name, at, bytes: &[u8]| {
        // To one endpoint alone: a group is refused whatever is said to it.
        let frame = patched(ask(BLUE.ipv6, GREEN.ipv6), 0, &GREEN.mac);
        Case::drop(name, patched(frame, at, bytes), DropReason::NdForged)
    };
    let hidden = |name, header| {
        let frame = patched(ask(BLUE.ipv6, GREEN.ipv6), 0, &GREEN.mac);
        Case::drop(name, behind_extension(frame, header), DropReason::NdForged)
    };
    vec![
        forged("a router advertisement", nd::KIND, &[134]),
        forged("a neighbour advertisement", nd::KIND, &[136]),
        forged("a redirect", nd::KIND, &[137]),
        hidden("discovery behind hop-by-hop options", 0),
        hidden("discovery behind a routing header", 43),
        hidden("discovery in a fragment", 44),
        hidden("discovery behind destination options", 60),
        Case::drop(
            "discovery behind more headers than anybody needs",
            (0..8).fold(ask(BLUE.ipv6, GREEN.ipv6), |frame, _| {
                patched(behind_extension(frame, 60), 0, &GREEN.mac)
            }),
            DropReason::NdForged,
        ),
        malformed(
            "a hop limit that a router has touched",
            nd::HOP_LIMIT,
            &[254],
        ),
        malformed("a code", nd::CODE, &[1]),
        malformed("a length that is too small", nd::PAYLOAD_LEN, &[0, 23]),
        drop(
            "a group as target",
            BLUE.ipv6,
            ALL_NODES,
            DropReason::NdMalformed,
        ),
        drop("no target", BLUE.ipv6, UNSPECIFIED, DropReason::NdMalformed),
        drop(
            "nobody's address",
            BLUE.ipv6,
            NOBODY.ipv6,
            DropReason::NeighborUnknown,
        ),
        drop(
            "another tenant's address",
            BLUE.ipv6,
            VIOLET.ipv6,
            DropReason::NeighborUnknown,
        ),
        drop(
            "its own address",
            BLUE.ipv6,
            BLUE_AGAIN.ipv6,
            DropReason::NeighborUnknown,
        ),
        drop(
            "from another's address",
            CYAN.ipv6,
            GREEN.ipv6,
            DropReason::SourceIp,
        ),
        drop(
            "from nobody's address",
            NOBODY.ipv6,
            GREEN.ipv6,
            DropReason::SourceIp,
        ),
        detection("about to take its own address", BLUE.ipv6),
        detection("about to take its own second address", BLUE_AGAIN.ipv6),
        detection("about to take nobody's address", NOBODY.ipv6),
        Case::drop(
            "from another's MAC",
            patched(ask(BLUE.ipv6, GREEN.ipv6), 6, &CYAN.mac),
            DropReason::SourceMac,
        ),
        Case::drop(
            "half a question",
            ask(BLUE.ipv6, GREEN.ipv6)[..nd::OPTIONS - 1].to_vec(),
            DropReason::Truncated,
        ),
    ]
}

#[test]
fn arp_for_a_known_address_is_answered() {
    check(&arp_answers());
}

#[test]
fn what_endpoints_tell_each_other_of_themselves_goes_on() {
    check(&arp_between_endpoints());
    check(&nd_between_endpoints());
}

#[test]
fn arp_that_wants_or_deserves_no_answer_is_dropped() {
    check(&arp_refusals());
}

#[test]
fn solicitations_for_a_known_address_are_answered() {
    check(&nd_answers());
}

#[test]
fn solicitations_that_want_or_deserve_no_answer_are_dropped() {
    check(&nd_refusals());
}
