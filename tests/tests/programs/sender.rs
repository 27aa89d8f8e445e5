//! The source check of frames from tunnels, and of those from the kernel's VXLAN device.

use bytemuck::Zeroable as _;
use overlay_ebpf::abi::{
    DropReason, FdbKey, NetworkEntry, map,
    program::{ENDPOINT_INGRESS, EXTERNAL_INGRESS, UNDERLAY_INGRESS},
};

use crate::{
    datapath::{Case, Datapath, Settings},
    frames::{
        Tunnel, advertisement, arp, arp_reply, arp_request, behind_extension, fragment4, nd,
        patched, solicitation, source_link_layer_address, tagged, udp4, udp6, valid_from_tunnel,
    },
    network::{
        BLUE, BLUE_AGAIN, CYAN, Endpoint, GENERATION, GREEN, GREEN_VTEP, MTU, NOBODY, OTHER_VNI,
        RED, RED_VTEP, STRANGE_VTEP, VIOLET, VNI, VTEP, insert,
    },
    on_demand::mac_key,
};

fn tunnel(inner: Vec<u8>) -> Tunnel {
    Tunnel::to_this_host(inner)
}

fn check(table: &[Case]) {
    Datapath::load(Settings::default()).check(UNDERLAY_INGRESS, table);
}

/// By the VTEP that a frame comes from and the MAC that it says to be of.
pub(crate) fn vteps() -> Vec<Case> {
    let drop = |name, source: [u8; 4], vni, inner, reason| {
        let packet = Tunnel {
            source,
            vni,
            ..tunnel(inner)
        };
        Case::drop(name, packet.frame(), reason)
    };
    let source_vtep = DropReason::SourceVtep;
    let unknown = DropReason::VtepUnknown;
    vec![
        drop(
            "green's frame from red's VTEP",
            RED_VTEP.ip,
            VNI,
            udp4(&GREEN, &BLUE),
            source_vtep,
        ),
        drop(
            "red's frame from green's VTEP",
            GREEN_VTEP.ip,
            VNI,
            udp6(&RED, &BLUE),
            source_vtep,
        ),
        drop(
            "a known VTEP's frame in a network where it has nobody",
            RED_VTEP.ip,
            OTHER_VNI,
            udp4(&RED, &BLUE),
            source_vtep,
        ),
        drop(
            "another tenant's MAC",
            GREEN_VTEP.ip,
            VNI,
            udp4(&VIOLET, &BLUE),
            source_vtep,
        ),
        drop(
            "nobody's MAC",
            GREEN_VTEP.ip,
            VNI,
            udp4(&NOBODY, &BLUE),
            source_vtep,
        ),
        drop(
            "a group's MAC",
            GREEN_VTEP.ip,
            VNI,
            patched(udp4(&GREEN, &BLUE), 6, &[0x03]),
            source_vtep,
        ),
        drop(
            "an endpoint of this host's MAC",
            GREEN_VTEP.ip,
            VNI,
            udp4(&CYAN, &BLUE),
            source_vtep,
        ),
        drop(
            "an endpoint of this host's MAC from no VTEP",
            [0; 4],
            VNI,
            udp4(&CYAN, &BLUE),
            unknown,
        ),
        drop(
            "its own MAC from this host's VTEP",
            VTEP.ip,
            VNI,
            udp4(&BLUE, &BLUE),
            unknown,
        ),
        drop(
            "green's frame from a stranger",
            STRANGE_VTEP.ip,
            VNI,
            udp4(&GREEN, &BLUE),
            unknown,
        ),
    ]
}

/// By what a frame of green's says about addresses.
#[expect(clippy::too_many_lines, reason = "a table: one entry a case")]
pub(crate) fn claims() -> Vec<Case> {
    let drop = |name: &str, inner, reason| Case::drop(name, tunnel(inner).frame(), reason);
    let reply = || arp_reply(&GREEN, &BLUE);
    let to_blue = |frame| patched(frame, 0, &BLUE.mac);
    let as_green = |endpoint: &Endpoint| Endpoint {
        mac: GREEN.mac,
        ..*endpoint
    };
    let option = source_link_layer_address(GREEN.mac);
    let asks = |source| to_blue(solicitation(GREEN.mac, source, BLUE.ipv6, &option));
    let tells = |endpoint: &Endpoint| advertisement(&as_green(endpoint), BLUE.mac, BLUE.ipv6, true);
    let kind = |kind| patched(tells(&GREEN), nd::KIND, &[kind]);
    let hidden = |header| behind_extension(tells(&GREEN), header);
    let source_ip = DropReason::SourceIp;
    let forged = DropReason::NdForged;
    let mut table = vec![
        drop(
            "an ARP reply with red's address",
            arp_reply(&as_green(&RED), &BLUE),
            source_ip,
        ),
        drop(
            "an ARP request with red's address",
            to_blue(arp_request(&as_green(&RED), BLUE.ipv4)),
            source_ip,
        ),
        drop(
            "an ARP reply with nobody's address",
            arp_reply(&as_green(&NOBODY), &BLUE),
            source_ip,
        ),
        drop(
            "an ARP reply with blue's own address",
            arp_reply(&as_green(&BLUE), &BLUE),
            source_ip,
        ),
        drop(
            "an ARP probe",
            to_blue(arp_request(
                &Endpoint {
                    ipv4: [0; 4],
                    ..GREEN
                },
                BLUE.ipv4,
            )),
            source_ip,
        ),
        drop(
            "an ARP reply with red's MAC",
            patched(reply(), arp::SENDER_MAC, &RED.mac),
            DropReason::SourceMac,
        ),
        drop(
            "ARP that neither asks nor tells",
            patched(reply(), arp::OPERATION, &[0, 3]),
            DropReason::ArpMalformed,
        ),
        drop(
            "ARP of another hardware",
            patched(reply(), arp::HARDWARE_TYPE, &[0, 6]),
            DropReason::ArpMalformed,
        ),
        drop(
            "half an ARP reply",
            reply()[..41].to_vec(),
            DropReason::Truncated,
        ),
        drop(
            "a solicitation with red's address",
            asks(RED.ipv6),
            source_ip,
        ),
        drop("a solicitation with no address", asks([0; 16]), source_ip),
        drop("an advertisement of red's address", tells(&RED), source_ip),
        drop(
            "an advertisement of blue's own address",
            tells(&BLUE_AGAIN),
            source_ip,
        ),
        drop(
            "a router solicitation with red's address",
            patched(asks(RED.ipv6), nd::KIND, &[133]),
            source_ip,
        ),
        drop("a router advertisement", kind(134), forged),
        drop("a redirect", kind(137), forged),
        drop(
            "half an advertisement",
            tells(&GREEN)[..nd::OPTIONS - 1].to_vec(),
            DropReason::Truncated,
        ),
        drop(
            "a message without a type",
            tells(&GREEN)[..nd::KIND].to_vec(),
            DropReason::Truncated,
        ),
    ];
    for header in [0, 43, 44, 60] {
        let name = format!("an advertisement behind header {header}");
        table.push(drop(&name, hidden(header), forged));
    }
    for (name, inner) in [
        ("ARP of its own", reply()),
        (
            "an ARP request of its own",
            to_blue(arp_request(&GREEN, BLUE.ipv4)),
        ),
        ("an advertisement of its own", tells(&GREEN)),
        ("a solicitation of its own", asks(GREEN.ipv6)),
        ("a later fragment", fragment4(&GREEN, &BLUE, 9, false)),
    ] {
        let frame = tunnel(inner.clone()).frame();
        table.push(Case::redirect(name, frame, inner));
    }
    table
}

fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// IPv4 addresses mapped into IPv6, whose owners the neighbour table knows under these very keys.
pub(crate) fn mapped_from_tunnel() -> Vec<Case> {
    let drop = |name, inner| Case::drop(name, tunnel(inner).frame(), DropReason::Ipv4Mapped);
    let as_mapped = |endpoint: &Endpoint| Endpoint {
        ipv6: mapped(endpoint.ipv4),
        ..*endpoint
    };
    let green = as_mapped(&GREEN);
    vec![
        drop("a mapped source", udp6(&green, &BLUE)),
        drop("a mapped destination", udp6(&GREEN, &as_mapped(&BLUE))),
        drop(
            "an advertisement from a mapped source",
            advertisement(&green, BLUE.mac, BLUE.ipv6, true),
        ),
    ]
}

/// The same of an endpoint.
pub(crate) fn mapped_from_endpoint() -> Vec<Case> {
    let drop = |name, frame| Case::drop(name, frame, DropReason::Ipv4Mapped);
    let as_mapped = |endpoint: &Endpoint| Endpoint {
        ipv6: mapped(endpoint.ipv4),
        ..*endpoint
    };
    let ask = |source, target| solicitation(BLUE.mac, source, target, &[]);
    vec![
        drop(
            "its own mapped source",
            udp6(&as_mapped(&BLUE_AGAIN), &GREEN),
        ),
        drop("a mapped destination", udp6(&BLUE, &as_mapped(&GREEN))),
        drop("a mapped target", ask(BLUE.ipv6, mapped(GREEN.ipv4))),
        drop("a mapped asker", ask(mapped(BLUE_AGAIN.ipv4), GREEN.ipv6)),
        drop(
            "detection of a mapped address",
            ask([0; 16], mapped(GREEN.ipv4)),
        ),
    ]
}

/// Nothing that the kernel's VXLAN device takes in goes any further.
pub(crate) fn external() -> Vec<Case> {
    let mut frames = valid_from_tunnel();
    frames.extend([
        ("what was in a tunnel", udp4(&GREEN, &BLUE)),
        ("a broadcast", arp_request(&GREEN, BLUE.ipv4)),
        (
            "a bridge's group",
            patched(udp4(&GREEN, &BLUE), 0, &[0x01, 0x80, 0xc2, 0, 0, 0x03]),
        ),
        ("a tag", tagged(udp4(&GREEN, &BLUE), 0x8100)),
        ("an Ethernet header", udp4(&GREEN, &BLUE)[..14].to_vec()),
    ]);
    frames
        .into_iter()
        .map(|(name, frame)| Case::drop(name, frame, DropReason::VxlanDevice))
        .collect()
}

#[test]
fn a_frame_comes_from_the_vtep_that_has_its_source_mac() {
    check(&vteps());
}

#[test]
fn an_endpoint_behind_a_tunnel_speaks_of_its_own_addresses_alone() {
    check(&claims());
}

#[test]
fn ipv4_mapped_addresses_read_no_ipv4_rows() {
    check(&mapped_from_tunnel());
    let mut datapath = Datapath::on_demand();
    datapath.check(ENDPOINT_INGRESS, &mapped_from_endpoint());
    assert_eq!(datapath.raised(), []);
}

#[test]
fn the_vxlan_device_takes_in_nothing() {
    Datapath::load(Settings::default()).check(EXTERNAL_INGRESS, &external());
}

/// An endpoint that came to another host is heard from there as soon as its row says so, and from
/// its previous host no more.
#[test]
fn a_moved_endpoint_is_heard_from_its_new_host_alone() {
    let mut datapath = Datapath::load(Settings::default());
    let row = RED_VTEP.remote(GENERATION + 1);
    insert(
        &mut datapath.ebpf,
        map::FDB,
        &[(FdbKey::new(VNI, GREEN.mac), row)],
    );
    let inner = udp4(&GREEN, &BLUE);
    let from = |vtep: [u8; 4]| {
        let packet = Tunnel {
            source: vtep,
            ..tunnel(inner.clone())
        };
        packet.frame()
    };
    let table = [
        Case::redirect("from its new host", from(RED_VTEP.ip), inner.clone()),
        Case::drop(
            "from its previous one",
            from(GREEN_VTEP.ip),
            DropReason::SourceVtep,
        ),
    ];
    datapath.check(UNDERLAY_INGRESS, &table);
}

#[test]
fn an_on_demand_network_delivers_packets_of_senders_that_the_agent_looks_for() {
    let mut datapath = Datapath::on_demand();
    for inner in [udp4(&NOBODY, &BLUE), udp6(&NOBODY, &BLUE)] {
        let frame = tunnel(inner.clone()).frame();
        let delivered = Case::redirect("an unknown sender's packet", frame, inner);
        datapath.check(UNDERLAY_INGRESS, &[delivered]);
    }
    let raised = datapath.raised();
    assert_eq!(raised.len(), 1, "asked for once: {raised:?}");
    assert_eq!(
        (raised[0].key, raised[0].requester_ip),
        (mac_key(NOBODY.mac), [0; 16])
    );

    let claims = [
        ("ARP", arp_reply(&NOBODY, &BLUE)),
        (
            "an advertisement",
            advertisement(&NOBODY, BLUE.mac, BLUE.ipv6, true),
        ),
        (
            "another protocol",
            crate::frames::other(&NOBODY, BLUE.mac, &[0x5a; 46]),
        ),
    ];
    let waits =
        claims.map(|(name, inner)| Case::drop(name, tunnel(inner).frame(), DropReason::Resolving));
    datapath.check(UNDERLAY_INGRESS, &waits);
}

#[test]
fn an_on_demand_network_delivers_nothing_of_a_sender_that_is_elsewhere_or_nobody() {
    let mut datapath = Datapath::on_demand();
    // Blue's twin of the second tenant, whose network does not resolve on demand, is no excuse.
    datapath.check(UNDERLAY_INGRESS, &vteps_of_known_macs());
    let negative = overlay_ebpf::abi::Negative {
        until_ns: u64::MAX,
        is_unknown: 1,
        reserved: 0,
    };
    insert(
        &mut datapath.ebpf,
        map::NEGATIVE,
        &[(mac_key(NOBODY.mac), negative)],
    );
    let frame = tunnel(udp4(&NOBODY, &BLUE)).frame();
    let nobody = Case::drop("nobody's MAC", frame, DropReason::SourceVtep);
    datapath.check(UNDERLAY_INGRESS, &[nobody]);
    assert_eq!(datapath.raised(), []);
}

/// The rows of [`vteps`] whose source MAC the network has.
fn vteps_of_known_macs() -> Vec<Case> {
    let mut table = vteps();
    table.retain(|case| !["another tenant's MAC", "nobody's MAC"].contains(&case.name.as_str()));
    table
}

/// The mark and the priority of a frame after a program has redirected it.
#[test]
fn neither_mark_nor_priority_crosses_from_one_side_to_the_other() {
    let mut datapath = Datapath::load(Settings::default());
    for (program, frame) in [
        (UNDERLAY_INGRESS, tunnel(udp4(&GREEN, &BLUE)).frame()),
        (ENDPOINT_INGRESS, udp4(&BLUE, &GREEN)),
        (ENDPOINT_INGRESS, udp4(&BLUE, &CYAN)),
    ] {
        assert_eq!(
            datapath.marks_after(program, &frame, 0x2a, 7),
            (0, 0),
            "{program}"
        );
    }
    // What is the host's own keeps them.
    let passed = udp4(&GREEN, &BLUE);
    assert_eq!(
        datapath.marks_after(UNDERLAY_INGRESS, &passed, 0x2a, 7),
        (0x2a, 7)
    );
}

#[test]
fn the_second_tenants_network_is_held_to_its_own_rows() {
    let mut datapath = Datapath::load(Settings::default());
    let network = NetworkEntry {
        mtu: MTU,
        ..NetworkEntry::zeroed()
    };
    insert(&mut datapath.ebpf, map::NETWORKS, &[(44_u32, network)]);
    let packet = Tunnel {
        vni: 44,
        ..tunnel(udp4(&GREEN, &BLUE))
    };
    let empty = Case::drop(
        "a network without endpoints",
        packet.frame(),
        DropReason::SourceVtep,
    );
    datapath.check(UNDERLAY_INGRESS, &[empty]);
}
