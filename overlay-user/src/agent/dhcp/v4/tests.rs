use std::collections::BTreeMap;

use super::*;
use crate::{
    agent::dhcp::served::sample,
    model::{Dhcp, Vni},
};

const MAC: [u8; 6] = [0x02, 0x42, 7, 7, 7, 2];
const NONE: [u8; 4] = [0; 4];
const OWN: [u8; 4] = [7, 7, 7, 2];
const SECOND: [u8; 4] = [7, 7, 7, 12];
const OTHER: [u8; 4] = [7, 7, 7, 99];
const SERVER: [u8; 4] = [7, 7, 7, 1];
const STRANGE: [u8; 4] = [7, 7, 7, 66];

fn vni() -> Vni {
    "42".parse().unwrap()
}

/// An endpoint with two addresses in a network with a gateway.
fn served() -> Served {
    served_with(Dhcp::new(vni()))
}

fn served_with(dhcp: Dhcp) -> Served {
    let addresses = ["7.7.7.2/24", "7.7.7.12/24", "fd00::2/64"];
    sample(&addresses, &["7.7.7.1/24", "fd00::1/64"], dhcp)
}

/// A client's message, byte by byte, so that the parser under test is not what made it.
#[derive(Clone)]
struct Sent {
    op: u8,
    hlen: u8,
    broadcast: bool,
    client: [u8; 4],
    relay: [u8; 4],
    mac: [u8; 6],
    options: Vec<(u8, Vec<u8>)>,
}

fn sent(kind: u8) -> Sent {
    Sent {
        op: 1,
        hlen: 6,
        broadcast: false,
        client: NONE,
        relay: NONE,
        mac: MAC,
        options: vec![(53, vec![kind])],
    }
}

impl Sent {
    fn with(mut self, code: u8, value: &[u8]) -> Self {
        self.options.push((code, value.to_vec()));
        self
    }

    fn from(self, client: [u8; 4]) -> Self {
        Self { client, ..self }
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.op, 1, self.hlen, 0];
        bytes.extend([0xca, 0xfe, 0xba, 0xbe]);
        bytes.extend([0, 0, u8::from(self.broadcast) << 7, 0]);
        bytes.extend(self.client);
        bytes.extend([0; 8]);
        bytes.extend(self.relay);
        bytes.extend(self.mac);
        bytes.resize(236, 0);
        bytes.extend([99, 130, 83, 99]);
        for (code, value) in &self.options {
            bytes.extend([*code, u8::try_from(value.len()).unwrap()]);
            bytes.extend(value);
        }
        bytes.push(255);
        bytes
    }
}

/// An answer as a client that reads bytes sees it.
#[derive(Debug)]
struct Received {
    kind: Kind,
    to: [u8; 4],
    bytes: Vec<u8>,
    options: BTreeMap<u8, Vec<u8>>,
    order: Vec<u8>,
}

impl Received {
    fn of(answer: Answer) -> Self {
        let bytes = answer.message;
        assert_eq!(bytes[..4], [2, 1, 6, 0]);
        assert_eq!(bytes[4..8], [0xca, 0xfe, 0xba, 0xbe]);
        assert_eq!(bytes[28..34], MAC);
        assert_eq!(bytes[236..240], [99, 130, 83, 99]);
        assert!(bytes.len() >= 300, "{}", bytes.len());
        let (mut options, mut order, mut rest) = (BTreeMap::new(), Vec::new(), &bytes[240..]);
        while rest[0] != 255 {
            let len = usize::from(rest[1]);
            let value: &mut Vec<u8> = options.entry(rest[0]).or_default();
            value.extend(&rest[2..2 + len]);
            order.push(rest[0]);
            rest = &rest[2 + len..];
        }
        assert!(rest[1..].iter().all(|byte| *byte == 0));
        Self {
            kind: answer.kind,
            to: answer.to.octets(),
            bytes,
            options,
            order,
        }
    }

    fn address(&self) -> [u8; 4] {
        self.bytes[16..20].try_into().unwrap()
    }

    fn number(&self, code: u8) -> u32 {
        u32::from_be_bytes(self.options[&code][..].try_into().unwrap())
    }
}

fn ask(sent: &Sent, served: &Served) -> Outcome {
    answer(&sent.bytes(), served)
}

#[track_caller]
fn answered(sent: &Sent, served: &Served) -> Received {
    match ask(sent, served) {
        Outcome::Answer(answer) => Received::of(answer),
        outcome => panic!("{outcome:?}"),
    }
}

/// What each state of a client (RFC 2131 figure 5) sends, and what it gets: an answer of this kind and address, or
/// silence.
#[test]
fn a_client_gets_the_registrys_address_in_every_state() {
    let (discover, request) = (|| sent(1), || sent(3));
    let table = [
        ("INIT", discover(), Some((Kind::Offer, OWN))),
        (
            "INIT that wants another's address",
            discover().with(50, &OTHER),
            Some((Kind::Offer, OWN)),
        ),
        (
            "INIT that wants its second",
            discover().with(50, &SECOND),
            Some((Kind::Offer, SECOND)),
        ),
        (
            "INIT in a hurry",
            discover().with(80, &[]),
            Some((Kind::Ack, OWN)),
        ),
        (
            "SELECTING",
            request().with(54, &SERVER).with(50, &OWN),
            Some((Kind::Ack, OWN)),
        ),
        (
            "SELECTING another's address",
            request().with(54, &SERVER).with(50, &OTHER),
            Some((Kind::Nak, NONE)),
        ),
        (
            "SELECTING nothing",
            request().with(54, &SERVER),
            Some((Kind::Nak, NONE)),
        ),
        (
            "SELECTING another server",
            request().with(54, &STRANGE).with(50, &OWN),
            None,
        ),
        (
            "INIT-REBOOT",
            request().with(50, &OWN),
            Some((Kind::Ack, OWN)),
        ),
        (
            "INIT-REBOOT with another address",
            request().with(50, &OTHER),
            Some((Kind::Nak, NONE)),
        ),
        (
            "INIT-REBOOT of another network",
            request().with(50, &[10, 0, 0, 5]),
            Some((Kind::Nak, NONE)),
        ),
        (
            "RENEWING or REBINDING",
            request().from(OWN),
            Some((Kind::Ack, OWN)),
        ),
        (
            "RENEWING its second",
            request().from(SECOND),
            Some((Kind::Ack, SECOND)),
        ),
        (
            "RENEWING another's address",
            request().from(OTHER),
            Some((Kind::Nak, NONE)),
        ),
        ("a request for nothing", request(), None),
        ("INFORM", sent(8).from(OWN), Some((Kind::Ack, NONE))),
        ("INFORM from another's address", sent(8).from(OTHER), None),
        ("a server's message", sent(2), None),
        ("a message of no kind", sent(99), None),
    ];
    for (name, sent, expected) in table {
        let outcome = match ask(&sent, &served()) {
            Outcome::Answer(answer) => {
                let received = Received::of(answer);
                assert_eq!(received.options[&54], SERVER, "{name}");
                Some((received.kind, received.address()))
            }
            Outcome::Ignored => None,
            outcome @ Outcome::Noted(_) => panic!("{name}: {outcome:?}"),
        };
        assert_eq!(outcome, expected, "{name}");
    }
}

#[test]
fn what_is_given_back_or_declined_is_noted_and_stays() {
    let table = [
        (sent(7).from(OWN).with(54, &SERVER), Kind::Release),
        (sent(4).with(50, &OWN).with(54, &SERVER), Kind::Decline),
    ];
    for (sent, kind) in table {
        assert_eq!(ask(&sent, &served()), Outcome::Noted(kind));
    }
    let to_another = sent(4).with(50, &OWN).with(54, &STRANGE);
    assert_eq!(ask(&to_another, &served()), Outcome::Ignored);
    assert_eq!(answered(&sent(1), &served()).address(), OWN);
}

#[test]
fn an_answer_goes_where_its_client_takes_it() {
    let discover = sent(1);
    let broadcast = Sent {
        broadcast: true,
        ..discover.clone()
    };
    let nak = sent(3).from(OTHER);
    for (sent, to) in [
        (discover, OWN),
        (broadcast.clone(), [255; 4]),
        (sent(3).from(OWN), OWN),
        (sent(8).from(OWN), OWN),
        (nak.clone(), [255; 4]),
    ] {
        assert_eq!(answered(&sent, &served()).to, to);
    }
    assert_eq!(answered(&broadcast, &served()).bytes[10] >> 7, 1);
    assert_eq!(
        answered(&nak, &served()).bytes[10] >> 7,
        1,
        "RFC 2131 table 3"
    );
}

#[test]
fn what_the_network_says_is_in_the_answer() {
    let dhcp = Dhcp {
        dns: vec![
            "8.8.8.8".parse().unwrap(),
            "fd00::53".parse().unwrap(),
            "8.8.4.4".parse().unwrap(),
        ],
        domain: Some("cloud.example".to_owned()),
        ntp: vec!["7.7.7.123".parse().unwrap()],
        lease_s: 3600,
        routes: vec!["10.9.0.0/16=7.7.7.9".parse().unwrap()],
        pxe: Some(crate::agent::api::Pxe {
            server: "7.7.7.5".parse().unwrap(),
            file: "boot/pxelinux.0".to_owned(),
        }),
        ..Dhcp::new(vni())
    };
    let received = answered(
        &sent(3).with(54, &SERVER).with(50, &OWN),
        &served_with(dhcp),
    );
    let told = |code| received.options[&code].clone();
    assert_eq!(told(1), [255, 255, 255, 0]);
    assert_eq!(told(3), SERVER);
    assert_eq!(told(6), [8, 8, 8, 8, 8, 8, 4, 4]);
    assert_eq!(told(15), b"cloud.example");
    assert_eq!(told(26), 1450_u16.to_be_bytes());
    assert_eq!(told(28), [7, 7, 7, 255]);
    assert_eq!(told(42), [7, 7, 7, 123]);
    assert_eq!(
        [51, 58, 59].map(|code| received.number(code)),
        [3600, 1800, 3150]
    );
    assert_eq!(told(66), b"7.7.7.5");
    assert_eq!(told(67), b"boot/pxelinux.0");
    assert_eq!(told(119), b"\x05cloud\x07example\x00");
    // The default route comes first, for a client that takes these takes no other (RFC 3442).
    assert_eq!(told(121), [0, 7, 7, 7, 1, 16, 10, 9, 7, 7, 7, 9]);
    assert_eq!(received.bytes[20..24], [7, 7, 7, 5], "siaddr");
    assert_eq!(received.bytes[108..123], *b"boot/pxelinux.0");
}

#[test]
fn without_a_router_there_is_a_server_and_no_gateway() {
    let served = sample(&["7.7.7.2/24"], &[], Dhcp::new(vni()));
    let received = answered(&sent(1), &served);
    assert_eq!(received.options[&54], SERVER);
    assert!(!received.options.contains_key(&3) && !received.options.contains_key(&121));
}

#[test]
fn an_inform_is_told_all_but_a_lease() {
    let received = answered(&sent(8).from(OWN), &served());
    assert_eq!(received.bytes[12..16], OWN);
    for code in [51, 58, 59] {
        assert!(!received.options.contains_key(&code), "{code}");
    }
    assert!(received.options.contains_key(&26));
}

#[test]
fn an_identifier_and_a_relays_option_come_back_as_they_went() {
    let id = [1, 2, 0x42, 7, 7, 7, 2];
    let relay = [1, 4, 0xde, 0xad, 0xbe, 0xef];
    for question in [sent(1), sent(3).from(OWN), sent(3).from(OTHER)] {
        let question = question.with(61, &id).with(82, &relay);
        let received = answered(&question, &served());
        assert_eq!(received.options[&61], id);
        assert_eq!(received.options[&82], relay);
        assert_eq!(received.order.last(), Some(&82), "RFC 3046 section 2.2");
    }
    assert!(!answered(&sent(1), &served()).options.contains_key(&61));
}

#[test]
fn a_lease_in_a_hurry_says_so() {
    let received = answered(&sent(1).with(80, &[]), &served());
    assert!(received.options[&80].is_empty());
    assert_eq!(received.options[&53], [5]);
    assert!(!answered(&sent(1), &served()).options.contains_key(&80));
}

#[test]
fn messages_of_others_are_ignored() {
    let good = sent(1);
    let bad = [
        Sent {
            mac: [2, 0x42, 7, 7, 7, 3],
            ..good.clone()
        },
        Sent {
            relay: [7, 7, 7, 50],
            ..good.clone()
        },
        Sent {
            op: 2,
            ..good.clone()
        },
        Sent {
            hlen: 16,
            ..good.clone()
        },
        Sent {
            hlen: 255,
            ..good.clone()
        },
        Sent {
            options: Vec::new(),
            ..good.clone()
        },
    ];
    for bad in bad {
        assert_eq!(ask(&bad, &served()), Outcome::Ignored);
    }
    let without_ipv4 = sample(&["fd00::2/64"], &["7.7.7.1/24"], Dhcp::new(vni()));
    assert_eq!(ask(&good, &without_ipv4), Outcome::Ignored);
}

#[test]
fn an_answer_is_no_longer_than_its_client_takes() {
    let full = Dhcp {
        dns: vec!["8.8.8.8".parse().unwrap(); 8],
        domain: Some(["abcdefgh"; 28].join(".")),
        ntp: vec!["8.8.8.8".parse().unwrap(); 8],
        routes: vec!["10.9.8.0/24=7.7.7.9".parse().unwrap(); 16],
        pxe: Some(crate::agent::api::Pxe {
            server: "7.7.7.5".parse().unwrap(),
            file: "a".repeat(127),
        }),
        ..Dhcp::new(vni())
    };
    let served = served_with(full);
    for (size, longest) in [
        (None, 548),
        (Some(300_u16), 548),
        (Some(1200), 1172),
        (Some(9000), 1422),
    ] {
        let mut question = sent(1).with(61, &[7; 200]);
        if let Some(size) = size {
            question = question.with(57, &size.to_be_bytes());
        }
        let received = answered(&question, &served);
        assert!(
            received.bytes.len() <= longest,
            "{size:?}: {}",
            received.bytes.len()
        );
        for code in [1, 51, 53, 54, 61] {
            assert!(received.options.contains_key(&code), "{size:?}: {code}");
        }
    }
    // What is longer than an option is in several (RFC 3396).
    let question = sent(1).with(57, &1500_u16.to_be_bytes());
    let received = answered(&question, &served);
    assert_eq!(received.options[&119].len(), 28 * 9 + 1);
}

#[test]
fn nothing_that_a_tenant_sends_is_more_than_ignored() {
    let good = sent(1)
        .with(61, &[1; 255])
        .with(50, &OWN)
        .with(55, &[1; 255])
        .bytes();
    for len in 0..good.len() {
        answer(&good[..len], &served());
    }
    for code in 0..=255 {
        for len in 0..=9 {
            for value in [0, 1, 0xff] {
                let question = sent(1).with(code, &vec![value; len]);
                ask(&question, &served());
                let question = Sent {
                    options: vec![
                        (code, vec![value; len]),
                        (53, vec![3]),
                        (code, vec![value; len]),
                    ],
                    ..sent(1)
                };
                ask(&question, &served());
            }
        }
    }
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..8) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        bytes.truncate(random.usize(..=bytes.len()));
        answer(&bytes, &served());
    }
}
