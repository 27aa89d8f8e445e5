//! Tables of the programs' own that are full, and who is left without.

use aya::Pod;

use super::*;

/// Answers a flow of blue's from one of its ports.
fn answered(datapath: &mut Datapath, port: u16) {
    let sent = udp(&BLUE, &by_gateway(PEER), port, 53);
    redirected(datapath, ENDPOINT_INGRESS, &sent);
    let answer = udp(&PEER, &by_uplink(SHARED), 53, port);
    redirected(datapath, UNDERLAY_INGRESS, &answer);
}

fn flows(datapath: &mut Datapath) -> usize {
    count::<FlowKey, FlowEntry>(datapath, map::FLOWS)
}

fn counted_flows(datapath: &mut Datapath) -> u64 {
    let counts: Array<_, u64> = counts(datapath);
    counts.get(&id_of(LOOPBACK).into(), 0).unwrap()
}

fn counts(datapath: &mut Datapath) -> Array<&mut MapData, u64> {
    let map = datapath.ebpf.map_mut(map::FLOW_COUNTS).unwrap();
    map.try_into().unwrap()
}

/// Fills a table to its last entry with others' keys.
fn fill<K: Pod, V: Pod>(datapath: &mut Datapath, name: &str, row: impl Fn(u32) -> (K, V)) {
    let mut map: HashMap<_, K, V> = datapath.ebpf.map_mut(name).unwrap().try_into().unwrap();
    let refused = (0..)
        .map(row)
        .find_map(|(key, value)| map.insert(key, value, 0).err());
    println!("{name}: {}", refused.unwrap());
}

#[test]
fn an_endpoint_has_so_many_answered_flows_and_no_more() {
    let mut datapath = connected();
    let most = FlowEntry::PER_ENDPOINT;
    let id = id_of(LOOPBACK).into();
    counts(&mut datapath).set(id, most - 1, 0).unwrap();
    answered(&mut datapath, FIRST_PORT);
    assert_eq!(
        (flows(&mut datapath), counted_flows(&mut datapath)),
        (1, most)
    );
    // One too many: it goes on, and has to fear its like.
    answered(&mut datapath, FIRST_PORT + 1);
    assert_eq!(
        (flows(&mut datapath), counted_flows(&mut datapath)),
        (1, most)
    );
    assert_eq!(datapath.counter(Counter::NatFlowsLimited), 1);
    assert_eq!(datapath.counter(Counter::NatFlowsFull), 0);
    // What is held goes on as before.
    answered(&mut datapath, FIRST_PORT);
    assert_eq!(datapath.counter(Counter::NatFlowsLimited), 1);
    // There is room by now.
    counts(&mut datapath).set(id, most - 1, 0).unwrap();
    answered(&mut datapath, FIRST_PORT + 1);
    assert_eq!(
        (flows(&mut datapath), counted_flows(&mut datapath)),
        (2, most)
    );
}

#[test]
fn a_flow_that_ends_makes_room_for_another_of_its_endpoint() {
    let mut datapath = connected();
    answered(&mut datapath, FIRST_PORT);
    answered(&mut datapath, FIRST_PORT + 1);
    assert_eq!(counted_flows(&mut datapath), 2);
    let map = datapath.ebpf.map_mut(map::FLOWS).unwrap();
    let held: HashMap<_, FlowKey, FlowEntry> = map.try_into().unwrap();
    let first = held.keys().next().unwrap().unwrap();
    let mut request = Sweep {
        kind: Sweep::EVERY_FLOW,
        count: 1,
        ..Sweep::zeroed()
    };
    request.keys[0] = first;
    assert_eq!(sweep(&mut datapath, &request), 1);
    assert_eq!((flows(&mut datapath), counted_flows(&mut datapath)), (1, 1));
    // It is gone already.
    assert_eq!(sweep(&mut datapath, &request), 0);
    assert_eq!(counted_flows(&mut datapath), 1);
}

#[test]
fn a_full_table_of_flows_keeps_those_that_it_has_and_stops_none() {
    let mut datapath = connected();
    answered(&mut datapath, FIRST_PORT);
    fill(&mut datapath, map::FLOWS, |number| {
        let key = FlowKey {
            endpoint: 900,
            protocol: 17,
            local: number.to_ne_bytes(),
            remote: PEER.ipv4,
            local_port: [0; 2],
            remote_port: [0; 2],
        };
        (key, FlowEntry::zeroed())
    });
    let before = flows(&mut datapath);
    answered(&mut datapath, FIRST_PORT);
    assert_eq!(datapath.counter(Counter::NatFlowsFull), 0);
    answered(&mut datapath, FIRST_PORT + 1);
    assert_eq!(datapath.counter(Counter::NatFlowsFull), 1);
    assert_eq!(flows(&mut datapath), before);
    assert_eq!(counted_flows(&mut datapath), 1);
}

#[test]
fn a_full_table_of_mappings_refuses_new_ones_and_keeps_those_that_it_has() {
    let mut datapath = connected();
    answered(&mut datapath, FIRST_PORT);
    fill(&mut datapath, map::MAPPINGS, |number| {
        let key = MappingKey {
            endpoint: 900,
            port: [0; 2],
            ip: number.to_ne_bytes(),
            protocol: 17,
        };
        (key, MappingEntry::zeroed())
    });
    answered(&mut datapath, FIRST_PORT);
    let used = block(&mut datapath).used;
    let frame = udp(&BLUE, &by_gateway(PEER), FIRST_PORT + 1, 53);
    let told = redirected(&mut datapath, ENDPOINT_INGRESS, &frame);
    // ICMP 3/13 (RFC 5508 REQ-8), and the port that it had for a moment is free again.
    assert_eq!(told[ETH + 20..ETH + 22], [3, 13]);
    assert_eq!(block(&mut datapath).used, used);
    assert_eq!(datapath.counter(Counter::OutsideSent), 2);
}
