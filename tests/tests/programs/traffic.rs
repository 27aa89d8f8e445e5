//! What is counted of the frames that are carried.

use aya::maps::HashMap;
use overlay_ebpf::abi::{
    Counter, EndpointEntry, Traffic, map,
    program::{ENDPOINT_INGRESS, UNDERLAY_INGRESS},
};

use crate::{
    datapath::{Datapath, Outcome, Settings},
    endpoint,
    frames::{Tunnel, ipv4, ipv6, other, udp4, udp4_of, with_tcp},
    network::{
        BLUE, CYAN, CYAN_IFINDEX, GREEN, LOOPBACK, MTU, NOBODY, OTHER_SLOT, OTHER_VNI, SLOT,
        VIOLET, id_of,
    },
};

/// What a frame that is carried adds: packets and bytes sent, packets and bytes received.
fn adds(datapath: &mut Datapath, program: &str, frame: &[u8], gso_size: u32) -> [u64; 4] {
    let before = datapath.traffic(SLOT);
    let outcome = datapath.run(program, frame, gso_size);
    assert!(matches!(outcome, Ok(Outcome::Redirect(_))));
    let after = datapath.traffic(SLOT);
    std::array::from_fn(|index| after[index] - before[index])
}

#[test]
fn frames_count_for_their_network_and_direction() {
    let mut datapath = Datapath::load(Settings::default());
    let out = udp4(&BLUE, &GREEN);
    let len = out.len() as u64;
    assert_eq!(
        adds(&mut datapath, ENDPOINT_INGRESS, &out, 0),
        [1, len, 0, 0]
    );
    let local = udp4(&BLUE, &CYAN);
    assert_eq!(
        adds(&mut datapath, ENDPOINT_INGRESS, &local, 0),
        [1, len, 1, len]
    );
    let back = Tunnel::to_this_host(udp4(&GREEN, &BLUE));
    assert_eq!(
        adds(&mut datapath, UNDERLAY_INGRESS, &back.frame(), 0),
        [0, 0, 1, len]
    );
    let tenant = Tunnel {
        vni: OTHER_VNI,
        ..Tunnel::to_this_host(udp4(&VIOLET, &BLUE))
    };
    assert_eq!(
        adds(&mut datapath, UNDERLAY_INGRESS, &tenant.frame(), 0),
        [0; 4]
    );
    assert_eq!(datapath.traffic(OTHER_SLOT), [0, 0, 1, len]);
    assert_eq!(datapath.traffic(0), [0; 4]);
}

#[test]
fn frames_count_for_their_endpoints() {
    let mut datapath = Datapath::load(Settings::default());
    let blue = id_of(LOOPBACK);
    let cyan = id_of(CYAN_IFINDEX);
    let frame = udp4(&BLUE, &GREEN);
    let len = frame.len() as u64;
    datapath.run(ENDPOINT_INGRESS, &frame, 0).unwrap();
    assert_eq!(datapath.port_traffic(blue), [1, len, 0, 0]);
    let local = udp4(&BLUE, &CYAN);
    datapath.run(ENDPOINT_INGRESS, &local, 0).unwrap();
    assert_eq!(datapath.port_traffic(blue), [2, 2 * len, 0, 0]);
    assert_eq!(datapath.port_traffic(cyan), [0, 0, 1, len]);
    let back = Tunnel::to_this_host(udp4(&GREEN, &BLUE));
    datapath.run(UNDERLAY_INGRESS, &back.frame(), 0).unwrap();
    assert_eq!(datapath.port_traffic(blue), [2, 2 * len, 1, len]);
    assert_eq!(datapath.port_traffic(0), [0; 4]);
}

#[test]
fn an_endpoint_without_a_place_counts_for_its_network_alone() {
    let mut datapath = Datapath::load(Settings::default());
    for id in [0, Traffic::PORT_SLOTS.into()] {
        let mut endpoints: HashMap<_, u32, EndpointEntry> = datapath
            .ebpf
            .map_mut(map::ENDPOINTS)
            .unwrap()
            .try_into()
            .unwrap();
        let entry = endpoints.get(&LOOPBACK, 0).unwrap();
        endpoints
            .insert(LOOPBACK, EndpointEntry { id, ..entry }, 0)
            .unwrap();
        let frame = udp4(&BLUE, &GREEN);
        let len = frame.len() as u64;
        assert_eq!(
            adds(&mut datapath, ENDPOINT_INGRESS, &frame, 0),
            [1, len, 0, 0]
        );
        assert_eq!(datapath.port_traffic(0), [0; 4]);
    }
}

#[test]
fn what_is_dropped_does_not_count() {
    let mut datapath = Datapath::load(Settings::default());
    datapath.check(ENDPOINT_INGRESS, &endpoint::refusals());
    let nobody = udp4(&BLUE, &NOBODY);
    datapath.run(ENDPOINT_INGRESS, &nobody, 0).unwrap();
    assert_eq!(datapath.traffic(SLOT), [0; 4]);
}

#[test]
fn each_segment_of_an_aggregate_counts_with_its_headers() {
    let mut datapath = Datapath::load(Settings::default());
    for (frame, headers) in [
        (udp4_of(&BLUE, &CYAN, MTU as usize), 42),
        (with_tcp(ipv4(&BLUE, &CYAN, 0)), 54),
        (with_tcp(ipv6(&BLUE, &CYAN, 0)), 74),
    ] {
        let payload = frame.len() as u64 - headers;
        for segment in [1, 7, 1000] {
            let segments = payload.div_ceil(segment);
            let bytes = payload + segments * headers;
            let segment = u32::try_from(segment).unwrap();
            assert_eq!(
                adds(&mut datapath, ENDPOINT_INGRESS, &frame, segment),
                [segments, bytes, segments, bytes],
                "{payload} bytes in segments of {segment}"
            );
        }
    }
}

#[test]
fn packets_that_the_kernel_has_to_find_a_way_for_are_counted() {
    let mut datapath = Datapath::load(Settings::default());
    let out = udp4(&BLUE, &GREEN);
    datapath.run(ENDPOINT_INGRESS, &out, 0).unwrap();
    assert_eq!(datapath.counter(Counter::SlowRoute), 1);
    datapath.hold_lease();
    datapath.run(ENDPOINT_INGRESS, &out, 0).unwrap();
    assert_eq!(datapath.counter(Counter::SlowRoute), 1);
}

#[test]
fn packets_that_pass_the_endpoints_queue_are_counted() {
    let newer = Settings::default();
    let older = Settings {
        without_decap_flags: true,
        ..newer
    };
    for settings in [newer, older] {
        let mut datapath = Datapath::load(settings);
        for (inner, queued) in [
            (with_tcp(ipv4(&GREEN, &BLUE, 0)), 0),
            (with_tcp(ipv6(&GREEN, &BLUE, 0)), 0),
            (other(&GREEN, BLUE.mac, &[0x5a; 46]), 1),
        ] {
            let frame = Tunnel::to_this_host(inner).frame();
            datapath.run(UNDERLAY_INGRESS, &frame, 0).unwrap();
            assert_eq!(datapath.counter(Counter::SlowQueue), queued);
        }
    }
}
