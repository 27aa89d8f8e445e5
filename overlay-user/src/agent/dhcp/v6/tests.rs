use super::*;
use crate::{
    agent::dhcp::served::sample,
    model::{Dhcp, Vni},
};

const CLIENT: [u8; 10] = [0, 3, 0, 1, 2, 0x42, 7, 7, 7, 2];
const SERVER: [u8; 10] = [0, 3, 0, 1, 2, 0, 0x5e, 0, 1, 1];
const STRANGE: [u8; 10] = [0, 3, 0, 1, 2, 0, 0x5e, 0, 1, 9];

const SOLICIT: u8 = 1;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION_REQUEST: u8 = 11;
const RELAY_FORW: u8 = 12;

fn ip(text: &str) -> [u8; 16] {
    text.parse::<Ipv6Addr>().unwrap().octets()
}

fn served() -> Served {
    let vni: Vni = "42".parse().unwrap();
    let dhcp = Dhcp {
        dns: vec!["fd00::53".parse().unwrap(), "8.8.8.8".parse().unwrap()],
        domain: Some("cloud.example".to_owned()),
        ntp: vec!["fd00::123".parse().unwrap()],
        lease_s: 1000,
        ..Dhcp::new(vni)
    };
    sample(&["7.7.7.2/24", "fd00::2/64"], &["fd00::1/64"], dhcp)
}

/// An option, byte by byte.
fn option(code: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).unwrap();
    [&code.to_be_bytes()[..], &len.to_be_bytes(), value].concat()
}

/// An identity association that names these addresses.
fn association(id: u32, addresses: &[&str]) -> Vec<u8> {
    let mut value = [&id.to_be_bytes()[..], &[0; 8]].concat();
    for address in addresses {
        value.extend(option(5, &[&ip(address)[..], &[0; 8]].concat()));
    }
    option(3, &value)
}

fn message(kind: u8, options: &[Vec<u8>]) -> Vec<u8> {
    [&[kind, 0xaa, 0xbb, 0xcc][..], &options.concat()].concat()
}

/// The options of an answer, or in one.
fn received(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
    options(bytes)
        .map(|(code, value)| (code, value.to_vec()))
        .collect()
}

fn ask(bytes: &[u8]) -> Outcome {
    answer(bytes, &served(), "02:00:5e:00:01:01".parse().unwrap())
}

/// An answer's type and options.
#[track_caller]
fn answered(bytes: &[u8]) -> (u8, Vec<(u16, Vec<u8>)>) {
    match ask(bytes) {
        Outcome::Answer(_, answer) => {
            assert_eq!(answer[1..4], [0xaa, 0xbb, 0xcc]);
            (answer[0], received(&answer[4..]))
        }
        Outcome::Ignored => panic!("ignored"),
    }
}

fn value(options: &[(u16, Vec<u8>)], code: u16) -> Option<&[u8]> {
    let found = options.iter().find(|(it, _)| *it == code);
    found.map(|(_, value)| value.as_slice())
}

/// The addresses in an association, each with its valid lifetime, and the association's status.
type Given = (Vec<([u8; 16], u32)>, Option<u16>);

fn given(options: &[(u16, Vec<u8>)]) -> Vec<Given> {
    let associations = options.iter().filter(|(code, _)| *code == 3);
    let each = associations.map(|(_, value)| {
        let inner = received(&value[12..]);
        let addresses = inner.iter().filter(|(code, _)| *code == 5);
        let addresses = addresses.map(|(_, value)| {
            let valid = u32::from_be_bytes(value[20..24].try_into().unwrap());
            (value[..16].try_into().unwrap(), valid)
        });
        let status = inner.iter().find(|(code, _)| *code == 13);
        let status = status.map(|(_, value)| u16::from_be_bytes([value[0], value[1]]));
        (addresses.collect(), status)
    });
    each.collect()
}

#[test]
fn a_client_gets_the_registrys_address_by_every_message_that_asks_for_one() {
    let (client, server) = (option(1, &CLIENT), option(2, &SERVER));
    let table = [
        (SOLICIT, false, 2),
        (REQUEST, true, 7),
        (RENEW, true, 7),
        (REBIND, false, 7),
    ];
    for (kind, has_server, answer) in table {
        for wish in [&[][..], &["fd00::2"], &["fd00::99"]] {
            let server = if has_server {
                server.clone()
            } else {
                Vec::new()
            };
            let question = message(kind, &[client.clone(), server, association(9, wish)]);
            let (kind, options) = answered(&question);
            assert_eq!(kind, answer);
            assert_eq!(value(&options, 1), Some(&CLIENT[..]));
            assert_eq!(value(&options, 2), Some(&SERVER[..]));
            let given = given(&options);
            assert_eq!(given[0].0[0], (ip("fd00::2"), 1000));
            assert_eq!(given[0].1, None);
            let ia = value(&options, 3).unwrap();
            assert_eq!(ia[..12], [0, 0, 0, 9, 0, 0, 1, 0xf4, 0, 0, 3, 0x20]);
        }
    }
}

#[test]
fn what_a_client_has_and_is_not_its_own_any_more_is_taken_from_it() {
    let question = message(
        RENEW,
        &[
            option(1, &CLIENT),
            option(2, &SERVER),
            association(9, &["fd00::99", "fd00::2"]),
        ],
    );
    let given = given(&answered(&question).1);
    assert_eq!(given[0].0, [(ip("fd00::2"), 1000), (ip("fd00::99"), 0)]);
}

#[test]
fn a_solicit_in_a_hurry_is_answered_at_once() {
    let question = message(
        SOLICIT,
        &[option(1, &CLIENT), association(9, &[]), option(14, &[])],
    );
    let (kind, options) = answered(&question);
    assert_eq!(kind, 7);
    assert_eq!(value(&options, 14), Some(&[][..]));
    assert_eq!(given(&options)[0].0, [(ip("fd00::2"), 1000)]);
}

#[test]
fn a_second_association_temporary_addresses_and_prefixes_get_none() {
    let question = message(
        SOLICIT,
        &[
            option(1, &CLIENT),
            association(1, &[]),
            association(2, &[]),
            option(4, &[0, 0, 0, 3]),
            option(25, &[0; 12]),
        ],
    );
    let options = answered(&question).1;
    let given = given(&options);
    assert_eq!((given[0].1, given[1].1), (None, Some(2)));
    let status = |code, at: usize| {
        let inner = received(&value(&options, code).unwrap()[at..]);
        u16::from_be_bytes(inner[0].1[..2].try_into().unwrap())
    };
    assert_eq!((status(4, 4), status(25, 12)), (2, 6));
}

#[test]
fn a_confirm_is_right_for_the_registrys_address_alone() {
    for (address, status) in [("fd00::2", 0), ("fd00::99", 4), ("fd99::2", 4)] {
        let question = message(CONFIRM, &[option(1, &CLIENT), association(9, &[address])]);
        let options = answered(&question).1;
        let told = value(&options, 13).unwrap();
        assert_eq!(u16::from_be_bytes([told[0], told[1]]), status, "{address}");
    }
    let empty = message(CONFIRM, &[option(1, &CLIENT), association(9, &[])]);
    assert_eq!(ask(&empty), Outcome::Ignored);
}

#[test]
fn what_is_released_or_declined_stays_and_that_is_acknowledged() {
    for kind in [RELEASE, DECLINE] {
        let parts = [
            option(1, &CLIENT),
            option(2, &SERVER),
            association(9, &["fd00::2"]),
        ];
        let (kind, options) = answered(&message(kind, &parts));
        assert_eq!(kind, 7);
        assert_eq!(value(&options, 13).unwrap()[..2], [0, 0]);
    }
}

#[test]
fn what_the_network_says_is_told_as_far_as_it_is_asked_for() {
    let all = answered(&message(INFORMATION_REQUEST, &[])).1;
    assert_eq!(value(&all, 23), Some(&ip("fd00::53")[..]));
    assert_eq!(value(&all, 24), Some(&b"\x05cloud\x07example\x00"[..]));
    let ntp = [&[0, 1, 0, 16][..], &ip("fd00::123")].concat();
    assert_eq!(value(&all, 56), Some(&ntp[..]));
    assert_eq!(value(&all, 32), Some(&1000_u32.to_be_bytes()[..]));
    let request = option(6, &[0, 23]);
    let some = answered(&message(INFORMATION_REQUEST, &[request])).1;
    assert!(value(&some, 23).is_some());
    assert_eq!((value(&some, 24), value(&some, 56)), (None, None));
}

#[test]
fn messages_without_or_with_other_identifiers_are_ignored() {
    let (client, server) = (option(1, &CLIENT), option(2, &SERVER));
    let strange = option(2, &STRANGE);
    let ia = association(9, &["fd00::2"]);
    for (kind, options) in [
        (SOLICIT, vec![ia.clone()]),
        (SOLICIT, vec![client.clone(), server.clone(), ia.clone()]),
        (REQUEST, vec![client.clone(), ia.clone()]),
        (REQUEST, vec![client.clone(), strange.clone(), ia.clone()]),
        (RENEW, vec![server.clone(), ia.clone()]),
        (REBIND, vec![client.clone(), server.clone(), ia.clone()]),
        (RELEASE, vec![client.clone(), strange.clone(), ia.clone()]),
        (INFORMATION_REQUEST, vec![strange]),
        (RELAY_FORW, vec![client.clone(), ia.clone()]),
        (7, vec![client, server, ia]),
    ] {
        assert_eq!(ask(&message(kind, &options)), Outcome::Ignored, "{kind}");
    }
}

#[test]
fn nothing_that_a_tenant_sends_is_more_than_ignored() {
    let good = message(
        SOLICIT,
        &[
            option(1, &CLIENT),
            association(1, &["fd00::2", "fd00::3"]),
            option(6, &[0, 23, 0, 24]),
            option(14, &[]),
            option(25, &[0; 12]),
        ],
    );
    for len in 0..good.len() {
        ask(&good[..len]);
    }
    for code in 0..=200 {
        for len in [0, 1, 2, 3, 4, 5, 11, 12, 13, 24, 60] {
            for byte in [0, 1, 0xff] {
                let hostile = option(code, &vec![byte; len]);
                ask(&message(SOLICIT, &[option(1, &CLIENT), hostile.clone()]));
                let inner = [&[0; 12][..], &hostile].concat();
                ask(&message(SOLICIT, &[option(1, &CLIENT), option(3, &inner)]));
            }
        }
    }
    let nested = (0..60).fold(Vec::new(), |inner, _| {
        option(3, &[&[0; 12][..], &inner].concat())
    });
    ask(&message(SOLICIT, &[option(1, &CLIENT), nested]));
    let many = vec![association(1, &["fd00::2"; 20]); 30];
    ask(&message(
        SOLICIT,
        &[vec![option(1, &CLIENT)], many].concat(),
    ));
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        ask(&bytes);
    }
}
