//! What RFCs ask of address translation, requirement by requirement (BCP 127, 142 and 148, RFC 6888, RFC 7857).
//!
//! What the agent sees to is tested where it does: pooling and quarantine of blocks in `agent/outside/blocks.rs`, and
//! through the registry. Not kept, and written down in ADR 43: parity of ports (RFC 4787 REQ-4, which RFC 7857 section 3
//! takes back), fragments out of order (RFC 4787 REQ-14), identifications of their own behind a shared address (RFC 7857
//! section 8).

use overlay_ebpf::rule::nat;

use super::*;

/// Blue's external port of UDP, or of what else is sent.
fn opened(datapath: &mut Datapath, frame: &[u8]) -> u16 {
    source_port_of(&redirected(datapath, ENDPOINT_INGRESS, frame))
}

fn slot_of(class: usize, place: u16) -> u32 {
    3 * NatBlock::PORT_SLOTS + nat::start_of(class) + u32::from(place)
}

fn port(datapath: &mut Datapath, class: usize, place: u16) -> NatPort {
    let map = datapath.ebpf.map_mut(map::NAT_PORTS).unwrap();
    let ports: Array<_, NatPort> = map.try_into().unwrap();
    ports.get(&slot_of(class, place), 0).unwrap()
}

/// Makes the last use of a port so many seconds older.
fn age(datapath: &mut Datapath, class: usize, place: u16, seconds: u32) {
    let mut aged = port(datapath, class, place);
    aged.used_s = aged.used_s.wrapping_sub(seconds);
    let map = datapath.ebpf.map_mut(map::NAT_PORTS).unwrap();
    let mut ports: Array<_, NatPort> = map.try_into().unwrap();
    ports.set(slot_of(class, place), aged, 0).unwrap();
}

/// How many ports of a class a sweep frees, of the first few.
fn freed(datapath: &mut Datapath, class: usize) -> u32 {
    let request = Sweep {
        kind: Sweep::PORTS,
        count: 3,
        start: nat::start_of(class),
        ..Sweep::zeroed()
    };
    sweep(datapath, &request)
}

/// Whether a mapping is there when its last use was so long ago, and gone a little later.
#[track_caller]
fn lasts(datapath: &mut Datapath, class: usize, place: u16, seconds: u32) {
    age(datapath, class, place, seconds - 5);
    assert_eq!(freed(datapath, class), 0, "it ends before {seconds} s");
    age(datapath, class, place, 7);
    assert_eq!(
        freed(datapath, class),
        1,
        "it does not end after {seconds} s"
    );
}

/// What blue sends from its block's first port, whose place is 0.
fn own_udp(to: &Endpoint) -> Vec<u8> {
    udp(&BLUE, &by_gateway(*to), FIRST_PORT, 53)
}

fn own_tcp(flags: &str) -> Vec<u8> {
    tcp(&BLUE, &by_gateway(PEER), FIRST_PORT, 80, flags)
}

fn tcp_back(flags: &str) -> Vec<u8> {
    tcp(&PEER, &by_uplink(SHARED), 80, FIRST_PORT, flags)
}

fn establish(datapath: &mut Datapath) {
    redirected(datapath, ENDPOINT_INGRESS, &own_tcp("S"));
    redirected(datapath, UNDERLAY_INGRESS, &tcp_back("SA"));
    redirected(datapath, ENDPOINT_INGRESS, &own_tcp("A"));
    assert_eq!(port(datapath, NatBlock::TCP, 0).established, 1);
}

#[test]
fn rfc4787_req1_and_rfc5382_req1_a_mapping_does_not_depend_on_the_other_end() {
    let mut datapath = connected();
    let first = opened(&mut datapath, &udp(&BLUE, &by_gateway(PEER), 4000, 53));
    let second = opened(&mut datapath, &udp(&BLUE, &by_gateway(STRANGER), 4000, 80));
    assert_eq!(first, second);
    let first = opened(&mut datapath, &tcp(&BLUE, &by_gateway(PEER), 4000, 53, "S"));
    let second = opened(
        &mut datapath,
        &tcp(&BLUE, &by_gateway(STRANGER), 4000, 80, "S"),
    );
    assert_eq!(first, second);
}

#[test]
fn rfc4787_req3_and_rfc5382_req7_no_two_ports_share_an_external_one() {
    let mut datapath = connected();
    for class in ["udp", "tcp"] {
        let mut seen = BTreeSet::new();
        for own in 20_000..20_000 + BLOCK_PORTS {
            let frame = match class {
                "udp" => udp(&BLUE, &by_gateway(PEER), own, 53),
                _ => tcp(&BLUE, &by_gateway(PEER), own, 53, "S"),
            };
            let external = opened(&mut datapath, &frame);
            assert!(seen.insert(external), "{class}: {external} twice");
            // RFC 4787 REQ-3 (a): never one of the services'.
            assert!(external >= 1024);
        }
    }
}

#[test]
fn rfc4787_req5_a_mapping_of_udp_lasts_two_minutes_and_five_once_it_was_answered() {
    let mut datapath = connected();
    opened(&mut datapath, &own_udp(&PEER));
    lasts(&mut datapath, NatBlock::UDP, 0, 120);
    opened(&mut datapath, &own_udp(&PEER));
    let answer = udp(&PEER, &by_uplink(SHARED), 53, FIRST_PORT);
    redirected(&mut datapath, UNDERLAY_INGRESS, &answer);
    lasts(&mut datapath, NatBlock::UDP, 0, 300);
}

#[test]
fn rfc4787_req6_what_the_endpoint_sends_keeps_a_mapping_and_what_it_gets_does_not() {
    let mut datapath = connected();
    opened(&mut datapath, &own_udp(&PEER));
    age(&mut datapath, NatBlock::UDP, 0, 100);
    let aged = port(&mut datapath, NatBlock::UDP, 0).used_s;
    let answer = udp(&PEER, &by_uplink(SHARED), 53, FIRST_PORT);
    redirected(&mut datapath, UNDERLAY_INGRESS, &answer);
    assert_eq!(port(&mut datapath, NatBlock::UDP, 0).used_s, aged);
    opened(&mut datapath, &own_udp(&PEER));
    assert_ne!(port(&mut datapath, NatBlock::UDP, 0).used_s, aged);
}

#[test]
fn rfc4787_req8_filtering_is_by_flow_or_endpoint_independent_as_was_asked_for() {
    for (flags, expected) in [(0, false), (BlockEntry::OPEN, true)] {
        let mut datapath = connected();
        share(&mut datapath, OutsideEntry::SHARED, flags);
        let external = opened(&mut datapath, &own_udp(&PEER));
        let frame = udp(&STRANGER, &by_uplink(SHARED), 9, external);
        let outcome = datapath.run(UNDERLAY_INGRESS, &frame, 0).unwrap();
        assert_eq!(
            matches!(outcome, Outcome::Redirect(_)),
            expected,
            "{outcome}"
        );
    }
}

#[test]
fn rfc4787_req9_and_rfc5382_req8_endpoints_meet_behind_one_address_under_their_external_ports() {
    let mut datapath = connected();
    share(&mut datapath, OutsideEntry::SHARED, BlockEntry::OPEN);
    let listener = opened(&mut datapath, &udp(&BLUE, &by_gateway(PEER), 5000, 53));
    let sent = udp(&BLUE, &by_gateway(SHARED), 4000, listener);
    let output = redirected(&mut datapath, ENDPOINT_INGRESS, &sent);
    let (udp_header, _) = UdpHeader::from_slice(&output[ETH + 20..]).unwrap();
    let ip = ip_of(&output);
    // (a): the external source, and not the endpoint's own.
    assert_eq!((ip.source, ip.destination), (SHARED.ipv4, BLUE.ipv4));
    assert_eq!(udp_header.destination_port, 5000);
    let own = udp(&BLUE, &by_gateway(PEER), 4000, 53);
    assert_eq!(udp_header.source_port, opened(&mut datapath, &own));
    // RFC 5508 REQ-7: an error about it goes back the same way.
    let about = error(&BLUE, &by_gateway(SHARED), &output);
    let told = redirected(&mut datapath, ENDPOINT_INGRESS, &about);
    assert_eq!(ip_of(&told).destination, BLUE.ipv4);
    let (quoted, _) = Ipv4Header::from_slice(&told[ETH + 20 + 8..]).unwrap();
    assert_eq!(
        (quoted.source, quoted.destination),
        (BLUE.ipv4, SHARED.ipv4)
    );
}

#[test]
fn rfc4787_req12_an_icmp_error_ends_no_mapping() {
    let mut datapath = connected();
    let external = opened(&mut datapath, &own_udp(&PEER));
    let was = udp(&SHARED, &PEER, external, 53);
    let about = error(&STRANGER, &by_uplink(SHARED), &was);
    let before = port(&mut datapath, NatBlock::UDP, 0);
    redirected(&mut datapath, UNDERLAY_INGRESS, &about);
    let after = port(&mut datapath, NatBlock::UDP, 0);
    assert_eq!((before.phase, before.epoch), (after.phase, after.epoch));
    let answer = udp(&PEER, &by_uplink(SHARED), 53, external);
    redirected(&mut datapath, UNDERLAY_INGRESS, &answer);
}

#[test]
fn rfc4787_req13_what_is_too_long_for_the_uplink_is_told_where_it_must_not_be_fragmented() {
    let mut datapath = connected();
    let map = datapath.ebpf.map_mut(map::UPLINK).unwrap();
    let mut uplink: Array<_, UplinkEntry> = map.try_into().unwrap();
    let entry = UplinkEntry {
        mtu: 600,
        ..uplink.get(&0, 0).unwrap()
    };
    uplink.set(0, entry, 0).unwrap();
    let frame = |dont_fragment| {
        let mut ip = Ipv4Header::new(900 - 20, 64, ip_number::UDP, BLUE.ipv4, PEER.ipv4).unwrap();
        ip.dont_fragment = dont_fragment;
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(BLUE.mac, GATEWAY.mac)
            .ip(IpHeaders::Ipv4(ip, Ipv4Extensions::default()))
            .udp(4000, 53)
            .write_to_vec(&mut frame, &[0; 900 - 28])
            .unwrap();
        frame
    };
    let told = redirected(&mut datapath, ENDPOINT_INGRESS, &frame(true));
    let icmp = &told[ETH + 20..];
    assert_eq!((icmp[0], icmp[1]), (3, 4));
    assert_eq!([icmp[6], icmp[7]], 600u16.to_be_bytes());
    // The programs can't fragment: what may be is counted.
    let dropped = [Case::drop("DF=0", frame(false), DropReason::TooBig)];
    datapath.check(ENDPOINT_INGRESS, &dropped);
}

#[test]
fn rfc5382_req2_both_ends_may_open_at_the_same_time() {
    let mut datapath = connected();
    redirected(&mut datapath, ENDPOINT_INGRESS, &own_tcp("S"));
    redirected(&mut datapath, UNDERLAY_INGRESS, &tcp_back("S"));
    redirected(&mut datapath, ENDPOINT_INGRESS, &own_tcp("SA"));
    redirected(&mut datapath, UNDERLAY_INGRESS, &tcp_back("SA"));
    redirected(&mut datapath, ENDPOINT_INGRESS, &own_tcp("A"));
    assert_eq!(port(&mut datapath, NatBlock::TCP, 0).established, 1);
}

#[test]
fn rfc5382_req4_a_syn_that_nobody_asked_for_is_met_with_silence() {
    let mut datapath = connected();
    let dropped = [Case::drop("SYN", tcp_back("S"), DropReason::NatUnsolicited)];
    datapath.check(UNDERLAY_INGRESS, &dropped);
}

#[test]
fn rfc5382_req5_a_connection_may_be_silent_for_two_hours_and_four_minutes() {
    let mut datapath = connected();
    establish(&mut datapath);
    lasts(&mut datapath, NatBlock::TCP, 0, 7440);
}

#[test]
fn rfc5382_req5_one_that_opens_or_closes_is_kept_for_four_minutes() {
    let mut datapath = connected();
    redirected(&mut datapath, ENDPOINT_INGRESS, &own_tcp("S"));
    lasts(&mut datapath, NatBlock::TCP, 0, 240);
    establish(&mut datapath);
    redirected(&mut datapath, ENDPOINT_INGRESS, &own_tcp("FA"));
    redirected(&mut datapath, UNDERLAY_INGRESS, &tcp_back("FA"));
    lasts(&mut datapath, NatBlock::TCP, 0, 240);
}

#[test]
fn rfc7857_a_reset_keeps_the_port_for_four_minutes_and_data_revives_the_connection() {
    let mut datapath = connected();
    establish(&mut datapath);
    redirected(&mut datapath, UNDERLAY_INGRESS, &tcp_back("RA"));
    assert_eq!(port(&mut datapath, NatBlock::TCP, 0).established, 0);
    redirected(&mut datapath, ENDPOINT_INGRESS, &own_tcp("A"));
    assert_eq!(port(&mut datapath, NatBlock::TCP, 0).established, 1);
    redirected(&mut datapath, UNDERLAY_INGRESS, &tcp_back("RA"));
    lasts(&mut datapath, NatBlock::TCP, 0, 240);
}

#[test]
fn rfc7857_a_reset_of_the_endpoints_own_keeps_no_mapping_alive() {
    let mut datapath = connected();
    establish(&mut datapath);
    age(&mut datapath, NatBlock::TCP, 0, 100);
    let aged = port(&mut datapath, NatBlock::TCP, 0).used_s;
    redirected(&mut datapath, ENDPOINT_INGRESS, &own_tcp("R"));
    assert_eq!(port(&mut datapath, NatBlock::TCP, 0).used_s, aged);
}

#[test]
fn rfc5508_req1_and_req2_an_identifier_is_kept_for_a_minute_whatever_is_pinged() {
    let mut datapath = connected();
    let first = opened(&mut datapath, &echo(&BLUE, &by_gateway(PEER), 77, false));
    let second = opened(
        &mut datapath,
        &echo(&BLUE, &by_gateway(STRANGER), 77, false),
    );
    assert_eq!(first, second);
    // Identifiers are numbers of the block's ports, a quarter of them.
    let place = first - FIRST_PORT;
    lasts(&mut datapath, NatBlock::ICMP, place, 60);
}

#[test]
fn rfc5508_req3_an_error_with_a_wrong_checksum_is_not_made_good() {
    let mut datapath = connected();
    let external = opened(&mut datapath, &own_udp(&PEER));
    let sound = error(
        &STRANGER,
        &by_uplink(SHARED),
        &udp(&SHARED, &PEER, external, 53),
    );
    let sum = |frame: &[u8]| {
        let ip = ip_of(frame);
        etherparse::checksum::u32_16bit_word::ones_complement(
            etherparse::checksum::u32_16bit_word::add_slice(0, &frame[ETH + ip.header_len()..]),
        )
    };
    let output = redirected(&mut datapath, UNDERLAY_INGRESS, &sound);
    assert_eq!(sum(&output), 0);
    // The endpoint is who drops it.
    let damaged = patched(sound, ETH + 20 + 2, &[0x12, 0x34]);
    if let Outcome::Redirect(output) = datapath.run(UNDERLAY_INGRESS, &damaged, 0).unwrap() {
        assert_ne!(sum(&output), 0);
    }
}

#[test]
fn rfc5508_req4_and_req5_an_error_is_passed_on_with_what_it_quotes_as_it_was_sent() {
    let mut datapath = connected();
    let external = opened(&mut datapath, &own_udp(&PEER));
    let about = error(
        &STRANGER,
        &by_uplink(SHARED),
        &udp(&SHARED, &PEER, external, 53),
    );
    let output = redirected(&mut datapath, UNDERLAY_INGRESS, &about);
    let (ip, icmp) = (ip_of(&output), &output[ETH + 20..]);
    // Its source, type and code stay, and it goes to whom the quoted packet is from.
    assert_eq!((ip.source, icmp[0], icmp[1]), (STRANGER.ipv4, 3, 3));
    let (quoted, rest) = Ipv4Header::from_slice(&icmp[8..]).unwrap();
    assert_eq!((ip.destination, quoted.source), (BLUE.ipv4, BLUE.ipv4));
    assert_eq!(rest[..2], FIRST_PORT.to_be_bytes());
    // Without a mapping it goes nowhere.
    let forged = error(
        &STRANGER,
        &by_uplink(SHARED),
        &udp(&SHARED, &PEER, external + 1, 53),
    );
    let dropped = [Case::drop("no mapping", forged, DropReason::NatError)];
    datapath.check(UNDERLAY_INGRESS, &dropped);
}

#[test]
fn rfc5508_req8_and_rfc6888_req4_an_endpoint_that_has_all_its_ports_is_told_by_icmp() {
    let mut datapath = connected();
    for own in 0..BLOCK_PORTS {
        opened(
            &mut datapath,
            &udp(&BLUE, &by_gateway(PEER), 20_000 + own, 53),
        );
    }
    let refused = udp(&BLUE, &by_gateway(PEER), 30_000, 53);
    let told = redirected(&mut datapath, ENDPOINT_INGRESS, &refused);
    let (ip, icmp) = (ip_of(&told), &told[ETH + 20..]);
    assert_eq!((ip.destination, icmp[0], icmp[1]), (BLUE.ipv4, 3, 13));
}
