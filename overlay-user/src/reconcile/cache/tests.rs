use super::*;
use crate::model::Mac;

const LIMITS: Limits = Limits {
    entries: 2,
    idle: Duration::from_mins(1),
    negative_ttl: Duration::from_secs(5),
    at_once: 4,
    patience: Duration::from_secs(2),
};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn mac(last: u8) -> Mac {
    Mac::try_from([2, 0x42, 7, 7, 7, last]).unwrap()
}

fn lookup(last: u8) -> Lookup {
    Lookup {
        vni: Vni::try_from(42).unwrap(),
        wanted: Wanted::Mac(mac(last)),
    }
}

/// A frame for an address, from an endpoint behind an interface.
fn miss(lookup: Lookup, ifindex: u32) -> Miss {
    Miss {
        vni: lookup.vni,
        wanted: lookup.wanted,
        ifindex,
        requester_mac: mac(1),
        requester_ip: None,
    }
}

/// The one endpoint, with one MAC and no address.
fn endpoint(last: u8, generation: Revision) -> Endpoint {
    Endpoint {
        name: name("far"),
        vni: lookup(last).vni,
        mac: mac(last),
        addresses: Vec::new(),
        node: name("h2"),
        attachment: None,
        generation,
    }
}

fn ask(cache: &mut Cache, last: u8, now: Instant) -> Asked {
    let lookup = lookup(last);
    cache.ask(lookup, miss(lookup, 10), now)
}

fn changed(revision: Revision, endpoint: Endpoint) -> Delta {
    Delta {
        revision,
        endpoints: vec![endpoint],
        ..Delta::default()
    }
}

fn removed(revision: Revision) -> Delta {
    Delta {
        revision,
        endpoints_removed: vec![name("far")],
        ..Delta::default()
    }
}

#[test]
fn however_many_frames_ask_there_is_one_question_and_each_gets_its_answer() {
    let (mut cache, now) = (Cache::new(LIMITS), Instant::now());
    for ifindex in [10, 11, 10, 11, 10] {
        let asked = cache.ask(lookup(3), miss(lookup(3), ifindex), now);
        assert_eq!(asked, Asked::Pending);
    }
    assert_eq!(cache.interactive.len(), 1);
    let (asked, number) = cache.send(5).unwrap();
    assert_eq!(cache.send(5), None);
    let pending = cache.complete(asked, number).unwrap();
    let requesters: Vec<u32> = pending.requesters.iter().map(|miss| miss.ifindex).collect();
    assert_eq!((asked, requesters), (lookup(3), vec![10, 11]));
}

#[test]
fn questions_wait_until_others_are_answered_and_those_with_frames_come_first() {
    let (mut cache, now) = (Cache::new(LIMITS), Instant::now());
    cache.revisit(lookup(2), now);
    cache.revisit(lookup(3), now);
    ask(&mut cache, 4, now);
    ask(&mut cache, 3, now);
    let sent: Vec<_> = std::iter::from_fn(|| cache.send(5)).collect();
    assert_eq!(sent, [(lookup(4), 1), (lookup(3), 2)]);
    cache.complete(lookup(4), 1).unwrap();
    assert_eq!(cache.send(5), Some((lookup(2), 3)));
    cache.complete(lookup(3), 2).unwrap();
    assert_eq!(cache.send(5), None, "it waited in both queues");
}

#[test]
fn more_than_so_many_do_not_wait() {
    let (mut cache, now) = (Cache::new(LIMITS), Instant::now());
    for number in 0..WAITING / 2 {
        let asked = ask_for_ip(&mut cache, 42, number, now);
        assert_eq!(asked, Asked::Pending);
    }
    assert_eq!(ask(&mut cache, 3, now), Asked::QueueFull);
    assert_eq!(ask_for_ip(&mut cache, 43, 0, now), Asked::Pending);
    for _ in 0..2 {
        cache.send(5).unwrap();
    }
    assert_eq!(ask(&mut cache, 3, now), Asked::Pending);
}

/// The same for one of many addresses of a network.
fn ask_for_ip(cache: &mut Cache, vni: u32, number: usize, now: Instant) -> Asked {
    let lookup = Lookup {
        vni: Vni::try_from(vni).unwrap(),
        wanted: Wanted::Ip(std::net::Ipv4Addr::from(u32::try_from(number).unwrap()).into()),
    };
    cache.ask(lookup, miss(lookup, 10), now)
}

#[test]
fn a_network_that_asks_for_much_waits_behind_itself() {
    let (mut cache, now) = (Cache::new(LIMITS), Instant::now());
    for number in 0..100 {
        ask_for_ip(&mut cache, 42, number, now);
    }
    let networks = |sent: &[(Lookup, u64)]| -> Vec<u32> {
        sent.iter().map(|(lookup, _)| lookup.vni.get()).collect()
    };
    let sent: Vec<_> = std::iter::from_fn(|| cache.send(5)).collect();
    assert_eq!(networks(&sent), [42, 42], "half of the places");
    for number in 0..2 {
        ask_for_ip(&mut cache, 43, number, now);
    }
    let other: Vec<_> = std::iter::from_fn(|| cache.send(5)).collect();
    assert_eq!(networks(&other), [43], "no answer had to be waited for");
    for (lookup, number) in sent.into_iter().chain(other) {
        cache.complete(lookup, number).unwrap();
    }
    let sent: Vec<_> = std::iter::from_fn(|| cache.send(5)).collect();
    assert_eq!(networks(&sent), [42, 43, 42], "they take turns");
}

#[test]
fn a_place_is_taken_from_the_network_that_has_most() {
    let (mut cache, now) = (Cache::new(LIMITS), Instant::now());
    let network = |number| Vni::try_from(number).unwrap();
    cache.insert(&name("old"), network(43), now);
    for (number, large) in ["a", "b", "c"].into_iter().enumerate() {
        let later = now + Duration::from_secs(number as u64 + 1);
        cache.insert(&name(large), network(42), later);
    }
    let first = |cache: &Cache| cache.oldest_of_largest().unwrap().1.clone();
    assert_eq!(first(&cache), name("a"));
    // It came to another network under its name.
    cache.insert(&name("a"), network(43), now);
    cache.insert(&name("d"), network(42), now + Duration::from_secs(9));
    assert_eq!(first(&cache), name("b"));
}

#[test]
fn addresses_that_a_scan_finds_to_be_nobodys_push_out_no_other_networks() {
    let (mut cache, now) = (Cache::new(LIMITS), Instant::now());
    let other = Lookup {
        vni: Vni::try_from(43).unwrap(),
        ..lookup(9)
    };
    cache.insert_negative(other, now);
    for last in 2..=5 {
        cache.insert_negative(lookup(last), now + Duration::from_millis(last.into()));
    }
    let asked = cache.ask(other, miss(other, 10), now);
    assert!(matches!(asked, Asked::Negative(_)), "{asked:?}");
}

#[test]
fn that_nobody_has_an_address_is_believed_for_a_while() {
    let (mut cache, now) = (Cache::new(LIMITS), Instant::now());
    cache.insert_negative(lookup(3), now);
    let later = now + Duration::from_secs(2);
    let left = Duration::from_secs(3);
    assert_eq!(ask(&mut cache, 3, later), Asked::Negative(left));
    assert_eq!(
        ask(&mut cache, 3, now + Duration::from_secs(5)),
        Asked::Pending
    );
}

#[test]
fn as_many_addresses_are_believed_to_be_nobodys_as_endpoints_may_be_held() {
    let (mut cache, now) = (Cache::new(LIMITS), Instant::now());
    for last in 2..=4 {
        cache.insert_negative(lookup(last), now + Duration::from_millis(last.into()));
    }
    assert_eq!(ask(&mut cache, 2, now), Asked::Pending);
    assert!(matches!(ask(&mut cache, 4, now), Asked::Negative(_)));
}

#[test]
fn a_delta_answers_who_asks_and_takes_back_that_nobody_has_it() {
    let (mut cache, now) = (Cache::new(LIMITS), Instant::now());
    cache.insert_negative(lookup(3), now);
    ask(&mut cache, 4, now);
    let (_, number) = cache.send(5).unwrap();
    for last in [3, 4] {
        let answered = cache.observe(&changed(6, endpoint(last, 6)));
        assert_eq!(answered[&name("far")], [lookup(last)]);
    }
    assert!(cache.answered(lookup(3)).is_empty());
    assert_eq!(cache.answered(lookup(4)), [miss(lookup(4), 10)]);
    assert!(
        cache.complete(lookup(4), number).is_none(),
        "it comes too late"
    );
    assert_eq!(ask(&mut cache, 3, now), Asked::Pending);
}

#[test]
fn an_answer_is_outdated_if_a_delta_spoke_of_the_endpoint_since() {
    let spoke: [(Delta, Revision, bool); 6] = [
        (removed(7), 5, true),
        (removed(7), 7, true),
        (removed(7), 8, false),
        (changed(7, endpoint(9, 7)), 5, true),
        (changed(7, endpoint(9, 7)), 7, false),
        // Several commits in one.
        (changed(8, endpoint(9, 7)), 7, false),
    ];
    for (delta, generation, is_outdated) in spoke {
        let (mut cache, now) = (Cache::new(LIMITS), Instant::now());
        ask(&mut cache, 3, now);
        let (asked, number) = cache.send(6).unwrap();
        cache.observe(&delta);
        let pending = cache.complete(asked, number).unwrap();
        let found = endpoint(3, generation);
        assert_eq!(
            cache.is_outdated(&pending, &found),
            is_outdated,
            "{delta:?}, found generation {generation}"
        );
        cache.ask_again(asked, pending);
        cache.send(8).unwrap();
        assert!(cache.previous.is_empty(), "no question is older");
    }
}

#[test]
fn what_no_frame_asks_for_is_asked_again_after_a_failure_and_not_at_once() {
    let (mut cache, now) = (Cache::new(LIMITS), Instant::now());
    cache.revisit(lookup(3), now);
    let (asked, number) = cache.send(5).unwrap();
    cache.complete(asked, number).unwrap();
    cache.fail(asked);
    assert_eq!(cache.send(5), None);
    assert!(!cache.is_quiet(), "time brings it back");
    cache.retry(now);
    assert_eq!(cache.send(5), Some((lookup(3), 2)));
}

#[test]
fn after_a_set_back_no_answer_counts_that_was_asked_for_before() {
    let (mut cache, now) = (Cache::new(LIMITS), Instant::now());
    cache.insert_negative(lookup(2), now);
    ask(&mut cache, 3, now);
    let (asked, number) = cache.send(5).unwrap();
    cache.clear();
    assert_eq!(ask(&mut cache, 2, now), Asked::Pending);
    assert!(cache.complete(asked, number).is_none());
    let sent: BTreeSet<Lookup> = [cache.send(1), cache.send(1)]
        .into_iter()
        .flatten()
        .map(|(lookup, _)| lookup)
        .collect();
    assert_eq!(sent, BTreeSet::from([lookup(2), lookup(3)]));
}

#[test]
fn who_was_not_used_for_the_longest_time_is_the_oldest() {
    let (mut cache, now) = (Cache::new(LIMITS), Instant::now());
    let at = |seconds| now + Duration::from_secs(seconds);
    cache.insert(&name("a"), lookup(1).vni, at(0));
    cache.insert(&name("b"), lookup(1).vni, at(1));
    cache.insert(&name("a"), lookup(1).vni, at(2));
    assert_eq!(cache.oldest(), Some((at(0), &name("a"))));
    cache.use_at(&name("a"), at(3));
    assert_eq!(cache.oldest(), Some((at(1), &name("b"))));
    assert_eq!((cache.len(), cache.room()), (2, 0));
    cache.remove(&name("b"));
    assert_eq!((cache.names(), cache.room()), (vec![name("a")], 1));
}
