//! What is kept of dropped frames: rows that say what they were, and counts of endpoints.

use std::collections::BTreeMap;

use aya::maps::{PerCpuArray, PerCpuHashMap};
use overlay_ebpf::abi::{
    DropReason, DropSample, EndpointDropKey, map,
    program::{ENDPOINT_INGRESS, EXTERNAL_INGRESS, UNDERLAY_INGRESS},
};

use crate::{
    datapath::{Case, Datapath, Outcome, Settings},
    endpoint,
    frames::{BROADCAST, Tunnel, arp_request, echo4, options4, patched, solicitation, udp4, udp6},
    group,
    network::{
        BLUE, CYAN, Endpoint, GREEN, GREEN_VTEP, LOOPBACK, NOBODY, RED, STRANGE_VTEP, VNI, VTEP,
        mapped,
    },
    underlay,
};

/// Longer than a window of the programs' pace.
const FLOOD: u32 = 200;

impl Datapath {
    /// The rows of a reason, the oldest first.
    fn rows(&mut self, reason: DropReason) -> Vec<DropSample> {
        let map = self.ebpf.map_mut(map::DROP_SAMPLES).unwrap();
        let map: PerCpuArray<_, DropSample> = map.try_into().unwrap();
        let group = DropSample::GROUPS * DropSample::ROWS;
        let slots = reason.number() * group..(reason.number() + 1) * group;
        let cpus = slots.flat_map(|slot| map.get(&slot, 0).unwrap().to_vec());
        let mut rows: Vec<_> = cpus.filter(|row| row.at_ns != 0).collect();
        rows.sort_by_key(|row| row.at_ns);
        rows
    }

    /// What is counted of endpoints: interface, reason and direction, and how often.
    fn charged(&mut self) -> BTreeMap<(u32, u16, u16), u64> {
        let map = self.ebpf.map_mut(map::ENDPOINT_DROPS).unwrap();
        let map: PerCpuHashMap<_, EndpointDropKey, u64> = map.try_into().unwrap();
        map.iter()
            .map(|entry| {
                let (key, counts) = entry.unwrap();
                let key = (key.ifindex, key.reason, key.direction);
                (key, counts.iter().sum())
            })
            .collect()
    }

    /// The row of a frame that is dropped for this reason.
    fn row_of(&mut self, program: &str, frame: &[u8], reason: DropReason) -> DropSample {
        let outcome = self.run(program, frame, 0).unwrap();
        assert!(outcome == Outcome::Drop(reason), "{outcome}");
        *self.rows(reason).last().unwrap()
    }
}

/// MACs, source first, Ethernet type, protocol, and IP addresses.
type Said = ([u8; 6], [u8; 6], [u8; 2], u8, [u8; 16], [u8; 16]);

/// What the row says of MACs, IPv4 addresses, protocol and ports.
fn says(row: &DropSample) -> Said {
    (
        row.source_mac,
        row.destination_mac,
        row.ether_type,
        row.protocol,
        row.source_ip,
        row.destination_ip,
    )
}

fn of_ipv4(from: &Endpoint, source: [u8; 4], to: &Endpoint, protocol: u8) -> Said {
    (
        from.mac,
        to.mac,
        [8, 0],
        protocol,
        mapped(source),
        mapped(to.ipv4),
    )
}

#[test]
fn a_forged_source_is_noted_down_with_its_endpoint_addresses_and_peer() {
    let mut datapath = Datapath::load(Settings::default());
    let forged = patched(echo4(&BLUE, &GREEN), 26, &NOBODY.ipv4);
    let row = datapath.row_of(ENDPOINT_INGRESS, &forged, DropReason::SourceIp);
    assert_eq!(says(&row), of_ipv4(&BLUE, NOBODY.ipv4, &GREEN, 1));
    assert_eq!(
        (row.endpoint, row.ifindex, row.vni, row.direction),
        (LOOPBACK, LOOPBACK, VNI, DropSample::SENT)
    );
    assert_eq!(row.peer, mapped(GREEN_VTEP.ip));
    assert_eq!(row.source_port, [8, 0], "an echo request");
    assert_eq!(row.len as usize, forged.len());
    assert_eq!((row.sealed_ns, row.reason), (row.at_ns, 4));
}

#[test]
fn ports_ipv6_and_arp_are_noted_down_as_they_were() {
    let mut datapath = Datapath::load(Settings::default());
    let to_nobody = udp4(&BLUE, &NOBODY);
    let row = datapath.row_of(ENDPOINT_INGRESS, &to_nobody, DropReason::DestinationUnknown);
    assert_eq!(says(&row), of_ipv4(&BLUE, BLUE.ipv4, &NOBODY, 17));
    assert_eq!(row.source_port, to_nobody[34..36]);
    assert_eq!(row.destination_port, to_nobody[36..38]);
    assert_eq!(row.peer, [0; 16]);

    let forged = patched(udp6(&BLUE, &GREEN), 22, &NOBODY.ipv6);
    let row = datapath.row_of(ENDPOINT_INGRESS, &forged, DropReason::SourceIp);
    assert_eq!(
        (row.source_ip, row.destination_ip),
        (NOBODY.ipv6, GREEN.ipv6)
    );
    assert_eq!((row.ether_type, row.protocol), ([0x86, 0xdd], 17));
    assert_eq!(row.destination_port, forged[56..58]);

    let question = arp_request(&BLUE, NOBODY.ipv4);
    let row = datapath.row_of(ENDPOINT_INGRESS, &question, DropReason::NeighborUnknown);
    assert_eq!(row.source_ip, mapped(BLUE.ipv4));
    assert_eq!(row.destination_ip, mapped(NOBODY.ipv4));
    assert_eq!((row.ether_type, row.destination_mac), ([8, 6], BROADCAST));
    assert_eq!((row.protocol, row.source_port), (0, [0; 2]));
}

#[test]
fn a_row_shows_nothing_of_the_frame_before_it() {
    let mut datapath = Datapath::load(Settings::default());
    let long = patched(udp4(&BLUE, &GREEN), 26, &NOBODY.ipv4);
    for _ in 0..DropSample::ROWS {
        datapath.run(ENDPOINT_INGRESS, &long, 0).unwrap();
    }
    let before = datapath.rows(DropReason::SourceIp).last().unwrap().at_ns;
    // An ARP packet has no ports; the next window has room for it.
    let forged = patched(arp_request(&BLUE, GREEN.ipv4), 28, &NOBODY.ipv4);
    let row = loop {
        datapath.run(ENDPOINT_INGRESS, &forged, 0).unwrap();
        let row = *datapath.rows(DropReason::SourceIp).last().unwrap();
        if row.at_ns != before {
            break row;
        }
    };
    assert_eq!(row.ether_type, [8, 6]);
    assert_eq!((row.protocol, row.source_port), (0, [0; 2]));
    assert_eq!(row.destination_port, [0; 2]);
}

#[test]
fn what_comes_out_of_a_tunnel_is_noted_down_with_its_sender_and_receiver() {
    let mut datapath = Datapath::load(Settings::default());
    let stranger = Tunnel {
        source: STRANGE_VTEP.ip,
        ..Tunnel::to_this_host(udp4(&GREEN, &CYAN))
    };
    let row = datapath.row_of(UNDERLAY_INGRESS, &stranger.frame(), DropReason::VtepUnknown);
    assert_eq!((row.peer, row.vni), (mapped(STRANGE_VTEP.ip), VNI));
    assert_eq!(says(&row), of_ipv4(&GREEN, GREEN.ipv4, &CYAN, 17));
    assert_eq!(row.endpoint, 8, "cyan's interface");
    assert_eq!(row.direction, DropSample::RECEIVED);
    assert_eq!(row.len as usize, stranger.inner.len());

    let other = Tunnel::to_this_host(udp4(&RED, &CYAN));
    let row = datapath.row_of(UNDERLAY_INGRESS, &other.frame(), DropReason::SourceVtep);
    assert_eq!((row.peer, row.endpoint), (mapped(GREEN_VTEP.ip), 8));
}

#[test]
fn what_is_no_sound_tunnel_packet_is_noted_down_as_it_came() {
    let mut datapath = Datapath::load(Settings::default());
    let tunnel = Tunnel::to_this_host(udp4(&GREEN, &CYAN));
    let flagless = patched(tunnel.frame(), 42, &[0]);
    let row = datapath.row_of(UNDERLAY_INGRESS, &flagless, DropReason::VxlanFlags);
    assert_eq!(row.source_ip, mapped(GREEN_VTEP.ip));
    assert_eq!(row.destination_ip, mapped(VTEP.ip));
    assert_eq!(row.destination_port, 4789_u16.to_be_bytes());
    assert_eq!((row.vni, row.endpoint, row.peer), (0, 0, [0; 16]));
    assert_eq!(row.len as usize, flagless.len());

    let foreign = udp4(&GREEN, &BLUE);
    let row = datapath.row_of(EXTERNAL_INGRESS, &foreign, DropReason::VxlanDevice);
    assert_eq!(says(&row), of_ipv4(&GREEN, GREEN.ipv4, &BLUE, 17));
    assert_eq!(row.vni, 0);
}

#[test]
fn ports_behind_ipv4_options_are_found() {
    let mut datapath = Datapath::load(Settings::default());
    let frame = patched(options4(&BLUE, &GREEN), 26, &NOBODY.ipv4);
    let transport = 14 + usize::from(frame[14] & 0x0f) * 4;
    let row = datapath.row_of(ENDPOINT_INGRESS, &frame, DropReason::SourceIp);
    assert_eq!(row.source_port, frame[transport..transport + 2]);
    assert_eq!(row.protocol, 17);
}

#[test]
fn of_a_flood_only_the_first_frames_of_each_window_are_noted_down() {
    let mut datapath = Datapath::load(Settings::default());
    let forged = patched(udp4(&BLUE, &GREEN), 26, &NOBODY.ipv4);
    for _ in 0..FLOOD {
        datapath.run(ENDPOINT_INGRESS, &forged, 0).unwrap();
    }
    let rows = datapath.rows(DropReason::SourceIp);
    let cpus = rows.len().div_ceil(DropSample::ROWS as usize);
    assert!(cpus <= std::thread::available_parallelism().unwrap().get());
    // Each run is counted, whatever becomes of its row.
    let key = (LOOPBACK, 4, u16::from(DropSample::SENT));
    assert_eq!(datapath.charged()[&key], u64::from(FLOOD));
}

#[test]
fn the_flood_of_one_host_takes_no_rows_of_anothers() {
    let mut datapath = Datapath::load(Settings::default());
    let from = |source| {
        let inner = Tunnel::to_this_host(udp4(&GREEN, &CYAN));
        Tunnel { source, ..inner }.frame()
    };
    datapath
        .run(UNDERLAY_INGRESS, &from([10, 0, 0, 77]), 0)
        .unwrap();
    for _ in 0..FLOOD {
        datapath
            .run(UNDERLAY_INGRESS, &from([10, 0, 0, 66]), 0)
            .unwrap();
    }
    let rows = datapath.rows(DropReason::VtepUnknown);
    assert!(rows.iter().any(|row| row.peer == mapped([10, 0, 0, 77])));
    assert!(rows.iter().any(|row| row.peer == mapped([10, 0, 0, 66])));
}

#[test]
fn drops_count_for_the_endpoint_that_sent_them_or_was_to_get_them() {
    let mut datapath = Datapath::load(Settings::default());
    let (sent, received) = (u16::from(DropSample::SENT), u16::from(DropSample::RECEIVED));
    let to_nobody = udp4(&BLUE, &NOBODY);
    let of_another = Tunnel::to_this_host(udp4(&RED, &CYAN)).frame();
    let forged = Tunnel::to_this_host(patched(arp_request(&GREEN, CYAN.ipv4), 28, &RED.ipv4));
    for _ in 0..3 {
        datapath.run(ENDPOINT_INGRESS, &to_nobody, 0).unwrap();
        datapath.run(UNDERLAY_INGRESS, &of_another, 0).unwrap();
    }
    datapath.run(UNDERLAY_INGRESS, &forged.frame(), 0).unwrap();
    let expected = [
        ((LOOPBACK, 12, sent), 3),
        ((8, 30, received), 3),
        ((8, 4, received), 1),
    ];
    assert_eq!(datapath.charged(), BTreeMap::from(expected));
}

#[test]
fn strangers_and_noise_count_for_no_endpoint() {
    let mut datapath = Datapath::load(Settings::default());
    let stranger = Tunnel {
        source: STRANGE_VTEP.ip,
        ..Tunnel::to_this_host(udp4(&GREEN, &CYAN))
    };
    let detection = solicitation(BLUE.mac, [0; 16], BLUE.ipv6, &[]);
    let outcome = datapath.run(ENDPOINT_INGRESS, &detection, 0).unwrap();
    assert!(
        outcome == Outcome::Drop(DropReason::NdDetection),
        "{outcome}"
    );
    datapath
        .run(UNDERLAY_INGRESS, &stranger.frame(), 0)
        .unwrap();
    assert_eq!(datapath.charged(), BTreeMap::new());
}

#[test]
fn each_frame_that_is_dropped_has_a_row_of_its_reason() {
    for (program, table) in [
        (ENDPOINT_INGRESS, endpoint::refusals()),
        (ENDPOINT_INGRESS, endpoint::sources()),
        (ENDPOINT_INGRESS, group::from_endpoint()),
        (UNDERLAY_INGRESS, underlay::outer_refusals()),
        (UNDERLAY_INGRESS, underlay::inner_refusals()),
        (UNDERLAY_INGRESS, group::from_tunnel()),
    ] {
        let mut datapath = Datapath::load(Settings::default());
        for Case { name, frame, .. } in table {
            if let Ok(Outcome::Drop(reason)) = datapath.run(program, &frame, 0) {
                let rows = datapath.rows(reason);
                assert!(!rows.is_empty(), "{name}");
                for row in rows {
                    assert_eq!((row.reason, row.sealed_ns), (reason.number(), row.at_ns));
                }
            }
        }
    }
}
