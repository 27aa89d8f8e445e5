//! Names of the keys: the layout, written and read. See docs/registry.md.
//!
//! What agents watch is under one prefix, [`STATE`], and nothing else is: claims and indexes are
//! written with almost every change, and hundreds of agents that heard of each would be most of
//! etcd's work. VNIs and addresses are written with leading zeros, so that their order is that of
//! the numbers and a range of them is a range of keys.

use std::{fmt::Display, net::IpAddr};

use crate::model::{Claim, Key, Kind, Mac, Name, ObjectId, OnRemoval, QuestionId, Vni};

/// The layout's version, in a key of its own: an older binary finds out there that it is too old.
pub(super) const LAYOUT: &str = "/overlay/layout";

/// The version that this binary reads and writes.
pub(super) const LAYOUT_VERSION: u32 = 1;

/// All that agents watch.
pub(super) const STATE: &str = "/overlay/v1/state/";

pub(super) const NETWORKS: &str = "/overlay/v1/state/network/";
pub(super) const NODES: &str = "/overlay/v1/state/node/";
pub(super) const ALIVE: &str = "/overlay/v1/state/alive/";
pub(super) const ENDPOINTS: &str = "/overlay/v1/state/endpoint/";
pub(super) const OBJECTS: &str = "/overlay/v1/state/object/";
pub(super) const SEEN: &str = "/overlay/v1/seen/";
pub(super) const CLAIMS: &str = "/overlay/v1/claim/";
pub(super) const QUARANTINE: &str = "/overlay/v1/quarantine/";
pub(super) const QUESTIONS: &str = "/overlay/v1/state/question/";

/// Which registry this is. Among what agents watch: they hear of its removal with, and not after, that of
/// everything else.
pub(super) const IDENTITY: &str = "/overlay/v1/state/identity";

/// Written where a commit changed nothing: its revision is one that every watch reaches.
pub(super) const TICK: &str = "/overlay/v1/state/tick";

pub(super) fn network(vni: Vni) -> String {
    format!("{NETWORKS}{}", padded(vni))
}

pub(super) fn node(name: &Name) -> String {
    format!("{NODES}{name}")
}

/// On the lease of the node's session.
pub(super) fn alive(node: &Name) -> String {
    format!("{ALIVE}{node}")
}

pub(super) fn endpoint(vni: Vni, name: &Name) -> String {
    format!("{}{name}", endpoints(vni))
}

/// The prefix of a network's endpoints.
pub(super) fn endpoints(vni: Vni) -> String {
    format!("{ENDPOINTS}{}/", padded(vni))
}

pub(super) fn object(id: &ObjectId) -> String {
    format!("{OBJECTS}{}", id.to_word())
}

/// The prefix of a kind's objects.
pub(super) fn objects(kind: &Kind) -> String {
    format!("{OBJECTS}{kind}/")
}

/// On a lease.
pub(super) fn question(id: QuestionId) -> String {
    format!("{QUESTIONS}{id}")
}

pub(super) fn network_name(name: &Name) -> String {
    format!("{CLAIMS}network-name/{name}")
}

pub(super) fn vtep(ip: IpAddr) -> String {
    format!("{CLAIMS}vtep/{}", sortable(ip))
}

pub(super) fn endpoint_name(name: &Name) -> String {
    format!("{CLAIMS}endpoint-name/{name}")
}

pub(super) fn mac(vni: Vni, mac: Mac) -> String {
    format!("{CLAIMS}mac/{}/{mac}", padded(vni))
}

pub(super) fn ip(vni: Vni, ip: IpAddr) -> String {
    format!("{CLAIMS}ip/{}/{}", padded(vni), sortable(ip))
}

pub(super) fn on_node(node: &Name, vni: Vni, endpoint: &Name) -> String {
    format!("{}{}/{endpoint}", all_on_node(node), padded(vni))
}

/// The prefix of the endpoints on a node.
pub(super) fn all_on_node(node: &Name) -> String {
    format!("{CLAIMS}on-node/{node}/")
}

/// On a lease.
pub(super) fn quarantined_mac(vni: Vni, mac: Mac) -> String {
    format!("{QUARANTINE}{}/mac/{mac}", padded(vni))
}

/// On a lease.
pub(super) fn quarantined_ip(vni: Vni, ip: IpAddr) -> String {
    format!("{QUARANTINE}{}/ip/{}", padded(vni), sortable(ip))
}

/// What an object claims. No space and no value has a comma.
pub(super) fn claim(claim: &Claim) -> String {
    match claim {
        Claim::Ip { vni, ip: of } => ip(*vni, *of),
        Claim::Mac { vni, mac: of } => mac(*vni, *of),
        Claim::Unique { space, value, .. } => format!("{CLAIMS}unique/{space},{value}"),
        Claim::Disjoint { space, prefix } => format!("{}{prefix}", all_disjoint(space)),
    }
}

/// The prefix of the prefixes of a space.
pub(super) fn all_disjoint(space: &Key) -> String {
    format!("{CLAIMS}disjoint/{space},")
}

/// On a lease. `None`: it is free as soon as it is given up.
pub(super) fn quarantined(claim: &Claim) -> Option<String> {
    match claim {
        Claim::Ip { vni, ip } => Some(quarantined_ip(*vni, *ip)),
        Claim::Mac { vni, mac } => Some(quarantined_mac(*vni, *mac)),
        Claim::Unique { space, value, .. } => Some(format!("{QUARANTINE}unique/{space},{value}")),
        Claim::Disjoint { .. } => None,
    }
}

/// The prefix of what refers to something.
pub(super) fn references(target: &ObjectId) -> String {
    format!("{CLAIMS}reference/{},", target.to_word())
}

/// The index by what is referred to.
pub(super) fn reference(target: &ObjectId, on_removal: OnRemoval, from: &ObjectId) -> String {
    let (target, on_removal) = (references(target), on_removal.to_word());
    format!("{target}{on_removal},{}", from.to_word())
}

/// The end of a key of a reference, which names the object that refers: see [`reference`].
pub(super) fn referrer(key: &str) -> Option<(ObjectId, OnRemoval)> {
    let mut parts = key.rsplit(',');
    let from = ObjectId::from_word(parts.next()?)?;
    Some((from, OnRemoval::from_word(parts.next()?)?))
}

/// When the node's agent last said that it lives.
pub(super) fn seen(node: &Name) -> String {
    format!("{SEEN}{node}")
}

/// Answers are on a lease.
pub(super) fn report(question: Option<QuestionId>, node: &Name) -> String {
    format!("{}{node}", reports(question))
}

/// The prefix of the answers to a question, or of what nobody has asked for.
pub(super) fn reports(question: Option<QuestionId>) -> String {
    match question {
        Some(id) => format!("/overlay/v1/report/{id}/"),
        None => "/overlay/v1/report/unasked/".to_owned(),
    }
}

/// The first key after all that begin with `prefix`.
pub(super) fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    // No key ends in 0xff: they are ASCII.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// The first key after this one.
pub(super) fn after(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// What a key under [`STATE`] speaks of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    Network(Vni),
    Node(Name),
    Alive(Name),
    Endpoint(Vni, Name),
    Object(ObjectId),
    Question,
    Identity,
    Tick,
}

/// `None`: none of ours.
pub(super) fn parse(key: &[u8]) -> Option<State> {
    let rest = str::from_utf8(key).ok()?.strip_prefix(STATE)?;
    let (kind, rest) = rest.split_once('/').unwrap_or((rest, ""));
    match kind {
        "endpoint" => {
            let (vni, name) = rest.split_once('/')?;
            Some(State::Endpoint(vni.parse().ok()?, name.parse().ok()?))
        }
        "network" => Some(State::Network(rest.parse().ok()?)),
        "node" => Some(State::Node(rest.parse().ok()?)),
        "alive" => Some(State::Alive(rest.parse().ok()?)),
        "object" => Some(State::Object(ObjectId::from_word(rest)?)),
        "question" => Some(State::Question),
        "identity" => Some(State::Identity),
        "tick" => Some(State::Tick),
        _ => None,
    }
}

/// VNI and name of a key that ends in `VNI/NAME`.
pub(super) fn vni_and_name(key: &str) -> Option<(Vni, Name)> {
    let mut parts = key.rsplit('/');
    let name = parts.next()?.parse().ok()?;
    let vni = parts.next()?.parse().ok()?;
    Some((vni, name))
}

/// The address at the end of a key, see [`sortable`].
pub(super) fn ip_at_end(key: &str) -> Option<IpAddr> {
    let text = key.rsplit('/').next()?;
    if text.contains(':') {
        return text.parse().ok();
    }
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = parts.next()?.parse().ok()?;
    }
    parts.next().is_none().then(|| IpAddr::from(octets))
}

/// Eight digits: 24 bits need no more.
fn padded(vni: Vni) -> impl Display {
    format!("{:08}", vni.get())
}

/// An address in its longest spelling: the order of the texts is that of the addresses.
fn sortable(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            format!("{a:03}.{b:03}.{c:03}.{d:03}")
        }
        IpAddr::V6(ip) => ip.segments().map(|part| format!("{part:04x}")).join(":"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vni(number: u32) -> Vni {
        Vni::try_from(number).unwrap()
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_watched_parses_as_it_is_written() {
        let id = QuestionId::random();
        for (key, expected) in [
            (network(vni(42)), State::Network(vni(42))),
            (node(&name("h1")), State::Node(name("h1"))),
            (alive(&name("h1")), State::Alive(name("h1"))),
            (
                endpoint(vni(16_777_215), &name("a.b")),
                State::Endpoint(vni(16_777_215), name("a.b")),
            ),
            (
                object(&object_id("route/r1/fd00::/64")),
                State::Object(object_id("route/r1/fd00::/64")),
            ),
            (question(id), State::Question),
            (IDENTITY.to_owned(), State::Identity),
            (TICK.to_owned(), State::Tick),
        ] {
            assert_eq!(parse(key.as_bytes()), Some(expected), "{key}");
        }
        for other in [
            "/overlay/v1/state/endpoint/0/x",
            "/overlay/v1/state/endpoint/42",
            "/overlay/v1/state/node/",
            "/overlay/v1/state/new/x",
            "/overlay/v1/state/object/router",
            "/overlay/v1/state/object/Router/r1",
            "/overlay/v1/claim/mac/00000042/02:42:07:07:07:02",
        ] {
            assert_eq!(parse(other.as_bytes()), None, "{other}");
        }
    }

    fn object_id(word: &str) -> ObjectId {
        ObjectId::from_word(word).unwrap()
    }

    #[test]
    fn a_reference_gives_its_object_back_and_is_of_no_other_target() {
        let (target, from) = (object_id("router/r1"), object_id("route/r1/10.0.0.0/8"));
        for on_removal in [OnRemoval::Restrict, OnRemoval::Cascade] {
            let key = reference(&target, on_removal, &from);
            assert_eq!(referrer(&key), Some((from.clone(), on_removal)));
            assert!(key.starts_with(&references(&target)));
            assert!(!key.starts_with(&references(&object_id("router/r"))));
            let inner = reference(&object_id("router/r1/x"), on_removal, &from);
            assert!(!inner.starts_with(&references(&target)));
        }
    }

    #[test]
    fn an_index_gives_its_endpoint_back() {
        let key = on_node(&name("h1"), vni(42), &name("blue"));
        assert_eq!(vni_and_name(&key), Some((vni(42), name("blue"))));
    }

    proptest! {
        #[test]
        fn keys_of_addresses_are_in_their_order(a: u32, b: u32, c: u128, d: u128) {
            let v4 = |bits: u32| IpAddr::V4(bits.into());
            let v6 = |bits: u128| IpAddr::V6(bits.into());
            prop_assert_eq!(ip(vni(1), v4(a)).cmp(&ip(vni(1), v4(b))), a.cmp(&b));
            prop_assert_eq!(ip(vni(1), v6(c)).cmp(&ip(vni(1), v6(d))), c.cmp(&d));
            for address in [v4(a), v6(c)] {
                prop_assert_eq!(ip_at_end(&ip(vni(1), address)), Some(address));
            }
        }

        #[test]
        fn keys_of_networks_are_in_the_order_of_their_vnis(
            a in 1..=Vni::MAX,
            b in 1..=Vni::MAX,
        ) {
            prop_assert_eq!(network(vni(a)).cmp(&network(vni(b))), a.cmp(&b));
            prop_assert_eq!(endpoints(vni(a)).cmp(&endpoints(vni(b))), a.cmp(&b));
        }
    }
}
