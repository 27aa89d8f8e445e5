//! `overlay ping`: the way by name, round trips, the longest packet, and the last place that saw what was lost.

use overlay_lab::{Netns, until};
use serde_json::Value;

use super::fixture::{DAMAGE, Fixture, TUNNELS, fixture};

impl Fixture {
    /// What `overlay -o json ping -c 1 ...` on a host says, whether or not it came back. `@` is before the names of
    /// endpoints.
    fn ping(&self, host: usize, words: &str) -> Value {
        let words = words.replace('@', &self.lab.name(""));
        let run = self.agents[host].overlay(&format!("-o json ping -c 1 {words}"));
        serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}{}", run.stdout, run.stderr))
    }

    /// The last host that saw it, and the line about it.
    fn lost(&self, host: usize, words: &str) -> (String, String) {
        let view = self.ping(host, words);
        let lost = &view["lost"];
        assert!(lost.is_object(), "{view}");
        let last_seen = lost["last_seen"].as_str().unwrap_or_default();
        let line = format!("{}: {}", lost["message"], lost["advice"]);
        (last_seen.to_owned(), line)
    }

    fn instance(&self, host: usize) -> String {
        self.agents[host].instance().to_owned()
    }
}

fn with_endpoints() -> Fixture {
    let fixture = fixture();
    fixture.endpoints();
    for (host, words) in ["@web @db", "@db @web"].into_iter().enumerate() {
        until("the endpoints to reach each other", || {
            fixture.ping(host, words)["rtt_us"].is_u64()
        });
    }
    fixture
}

/// The way is told by name, with round trips and the longest packet.
#[test]
fn ping_tells_round_trips_and_the_longest_packet() {
    let fixture = with_endpoints();
    let (first, second) = (fixture.instance(0), fixture.instance(1));
    let (web, db) = (fixture.lab.name("web"), fixture.lab.name("db"));
    let view = fixture.ping(0, "--size auto @web @db");
    assert_eq!(view["from"], web, "{view}");
    assert_eq!(view["to"], db, "{view}");
    assert_eq!(
        (&view["from_node"], &view["to_node"]),
        (&first.clone().into(), &second.clone().into())
    );
    assert_eq!(view["via"], "10.0.0.2");
    assert_eq!(
        (&view["vni"], &view["largest"], &view["expected"]),
        (&42.into(), &1450.into(), &1450.into())
    );
    let rtt = view["rtt_us"].as_u64().unwrap();
    assert!((1..100_000).contains(&rtt), "{view}");
    let text = fixture.agents[0].does(&format!("ping -c 2 {web} 7.7.7.3"));
    let way = format!("{web} ({first}) -> {db} ({second}) via 10.0.0.2\n1: 84 bytes back in ");
    assert!(text.starts_with(&way), "{text}");
    assert!(
        text.contains("\n2 sent, 0 lost, round trip min/mean/max "),
        "{text}"
    );
}

/// Hosts and addresses are tried too, from whichever host the user is on.
#[test]
fn hosts_and_addresses_are_tried_from_anywhere() {
    let fixture = with_endpoints();
    let (first, second) = (fixture.instance(0), fixture.instance(1));
    for (host, words) in [
        (0, second.clone()),
        (0, "10.0.0.2".to_owned()),
        (0, "@db".to_owned()),
        (0, "7.7.7.3".to_owned()),
        (0, format!("@web {second}")),
        // The other host sends.
        (0, "@db @web".to_owned()),
        (1, "@web @db".to_owned()),
        (1, format!("{first} {second}")),
    ] {
        let view = fixture.ping(host, &words);
        assert!(view["rtt_us"].is_u64(), "{words}: {view}");
    }
    let near = fixture.lab.name("near");
    fixture.agents[0].endpoint(&near, 42, &["7.7.7.4/24"]);
    let view = fixture.ping(0, "@web @near");
    assert_eq!(view["via"], Value::Null);
    assert!(view["rtt_us"].is_u64(), "{view}");
}

#[test]
fn what_can_not_be_meant_is_refused_in_one_line() {
    let fixture = with_endpoints();
    let [one, _] = &fixture.agents;
    one.does("network create green --vni 43 --subnet 8.8.8.0/24");
    let [web, leaf] = ["web", "leaf"].map(|short| fixture.lab.name(short));
    one.endpoint(&leaf, 43, &["8.8.8.2/24"]);
    for (words, code, expected) in [
        (
            "nobody".to_owned(),
            1,
            "neither an endpoint nor a node nobody",
        ),
        (format!("{web} 7.7.7.99"), 1, "has address 7.7.7.99"),
        (
            format!("{web} {leaf}"),
            1,
            "nothing gets from one network to another",
        ),
        (format!("{web} {web}"), 1, "name two"),
        (fixture.instance(0), 1, "is this host itself"),
        ("no/name".to_owned(), 2, "neither an address nor a name"),
    ] {
        let line = one.overlay(&format!("ping {words}")).error(code);
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn nothing_inside_the_endpoints_sees_it() {
    let fixture = with_endpoints();
    let packets = |short: &str| {
        let netns = Netns::named(fixture.lab.name(short));
        let text = netns.run("ip", "-j -s link show eth0");
        let view: Value = serde_json::from_str(&text).unwrap();
        ["rx", "tx"].map(|way| view[0]["stats64"][way]["packets"].clone())
    };
    // What the endpoints send at their beginning ends.
    until("both to see nothing", || {
        let before = (packets("web"), packets("db"));
        assert!(fixture.ping(0, "@web @db")["rtt_us"].is_u64());
        before == (packets("web"), packets("db"))
    });
}

#[test]
fn a_port_that_is_blocked_is_named_with_its_direction() {
    let fixture = with_endpoints();
    let (first, second) = (fixture.instance(0), fixture.instance(1));
    fixture.filter(0, TUNNELS);
    for words in ["@web @db", &second] {
        let (seen, line) = fixture.lost(0, words);
        assert_eq!(seen, first, "{line}");
        assert!(line.contains(&format!("did not get to {second}")), "{line}");
        assert!(
            line.contains("let UDP from 10.0.0.1 to port 4789"),
            "{line}"
        );
    }
    for words in ["@db @web", &first] {
        let (seen, line) = fixture.lost(1, words);
        assert_eq!(seen, first, "{line}");
        assert!(line.contains("the answer did not get back"), "{line}");
    }
    // Both ways.
    fixture.filter(1, TUNNELS);
    let (seen, line) = fixture.lost(1, "@db @web");
    assert_eq!(seen, second, "{line}");
    let run = fixture.agents[0].overlay(&format!("ping -c 1 {second}"));
    assert_eq!(run.code, 1, "{run:?}");
    let line = "error: 1 of 1 echoes were lost: it left";
    assert!(run.stderr.starts_with(line), "{run:?}");
}

/// The longest packet of a narrow path is found to the byte.
#[test]
fn a_narrow_paths_mtu_is_found_to_the_byte() {
    let fixture = with_endpoints();
    fixture.filter(0, Some("udp dport 4789 ip length > 1300"));
    for words in ["--size auto @web @db", "--size auto @db"] {
        let view = fixture.ping(0, words);
        assert_eq!(view["largest"], 1250, "{words}: {view}");
    }
    let (_, line) = fixture.lost(0, "--size 1251 @web @db");
    assert!(line.contains("did not get to"), "{line}");
    let (_, line) = fixture.lost(0, "--size 1451 @web @db");
    assert!(line.contains("too_big"), "{line}");
}

/// Packets that are changed on the way are named by their receiver.
#[test]
fn changed_packets_are_named_by_their_receiver() {
    let fixture = with_endpoints();
    fixture.rule(0, Some(DAMAGE.to_owned()));
    for (host, words, expected) in [
        (0, "@web @db", "echo_damaged"),
        (1, "@db @web", "the answer, which had come back"),
    ] {
        let (seen, line) = fixture.lost(host, words);
        assert_eq!(seen, fixture.instance(1), "{line}");
        assert!(line.contains(expected), "{line}");
    }
}

#[test]
fn a_wrong_outer_checksum_loses_nothing() {
    let fixture = with_endpoints();
    // The inner packet has its own (RFC 7348 section 5).
    fixture.rule(0, Some("udp dport 4789 udp checksum set 0xbad".to_owned()));
    for words in ["--size auto @web @db", "@db"] {
        assert!(fixture.ping(0, words)["rtt_us"].is_u64());
    }
}

/// A host without an agent answers; one that is off does not.
#[test]
fn a_host_without_agent_answers() {
    let mut fixture = with_endpoints();
    fixture.agents[1].kill();
    for words in ["@web @db".to_owned(), fixture.instance(1)] {
        assert!(fixture.ping(0, &words)["rtt_us"].is_u64(), "{words}");
    }
    fixture.hosts[1].plug(false);
    let (seen, line) = fixture.lost(0, "@web @db");
    assert_eq!(seen, fixture.instance(0), "{line}");
    assert!(line.contains("whose agent does not"), "{line}");
}

#[test]
fn a_network_that_only_one_side_has_is_named() {
    let mut fixture = with_endpoints();
    // Without its agent the other host does not hear of what comes now.
    fixture.agents[1].kill();
    let second = fixture.instance(1);
    let [one, _] = &fixture.agents;
    one.does("network create green --vni 43 --subnet 8.8.8.0/24");
    one.endpoint(&fixture.lab.name("leaf"), 43, &["8.8.8.2/24"]);
    fixture.place("root", 43, "8.8.8.3/24", 1);
    let (seen, line) = fixture.lost(0, "@leaf @root");
    assert_eq!(seen, fixture.instance(0), "{line}");
    assert!(
        line.contains(&format!("start the agent on {second}")),
        "{line}"
    );
}

/// A network that the other host has lost is named by the drop reason.
#[test]
fn a_lost_network_is_named_by_its_drop_reason() {
    let fixture = with_endpoints();
    for map in ["fdb", "networks"] {
        fixture.agents[1].clear(map);
    }
    let (seen, line) = fixture.lost(0, "@web @db");
    assert_eq!(seen, fixture.instance(1), "{line}");
    assert!(line.contains("dropped it as vni_unknown"), "{line}");
}
