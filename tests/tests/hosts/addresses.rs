//! Addresses that are asked for, and those that are handed out.

use overlay_lab::{Agent, Lab, Netns, agent::FAILED};
use serde_json::{Value, json};

/// A lab with an agent on each of two hosts.
fn fixture() -> (Lab, [Agent; 2]) {
    let lab = Lab::new();
    let hosts = lab.hosts();
    let agents = Agent::on_each(&lab, &hosts, "");
    (lab, agents)
}

/// Adds an endpoint with more words.
fn add(agent: &Agent, name: &str, words: &str) -> Value {
    agent.json(&format!("endpoint add {name} {words}"))
}

/// An endpoint of a dual-stack network gets an address of each family.
#[test]
fn a_dual_stack_endpoint_gets_both_families() {
    let (lab, [one, two]) = fixture();
    one.does("network create dual --vni 50 --subnet 10.1.0.0/16 --subnet fd00:1::/64");
    let [a, b] = ["a", "b"].map(|name| lab.name(name));
    let first = add(&one, &a, "--vni 50");
    assert_eq!(first["addresses"], json!(["10.1.0.2/16", "fd00:1::2/64"]));
    let second = add(&two, &b, "--vni 50");
    assert_eq!(second["addresses"], json!(["10.1.0.3/16", "fd00:1::3/64"]));
    for ip in ["10.1.0.3", "fd00:1::3"] {
        Netns::named(&a).reaches(ip);
    }
}

/// An address family that is used up refuses the endpoint by its name.
#[test]
fn a_used_up_family_is_named() {
    let (lab, [one, _two]) = fixture();
    one.does("network create dual --vni 50 --subnet 10.1.0.0/30 --subnet fd00:1::/64");
    add(&one, &lab.name("a"), "--vni 50");
    let words = format!("endpoint add {} --vni 50", lab.name("b"));
    let line = one.overlay(&words).error(FAILED);
    assert!(line.contains("no free IPv4 address"), "{line}");
}

/// A default MAC that is taken is replaced; one that was asked for is not.
#[test]
fn only_a_default_mac_that_is_taken_is_replaced() {
    let (lab, [one, two]) = fixture();
    one.does("network create six --vni 50");
    let [a, b, c] = ["a", "b", "c"].map(|name| lab.name(name));
    let first = add(&one, &a, "--vni 50 --ip fd00:1::2/32");
    let second = add(&two, &b, "--vni 50 --ip fd00:2::2/32");
    assert_eq!(first["mac"], "02:42:00:00:00:02");
    assert_ne!(second["mac"], first["mac"]);
    let words = format!("endpoint add {c} --vni 50 --ip fd00:3::2/32 --mac 02:42:00:00:00:02");
    let line = one.overlay(&words).error(FAILED);
    assert!(line.contains("MAC 02:42:00:00:00:02 is taken"), "{line}");
    assert_eq!(
        Netns::named(&b).mac("eth0"),
        second["mac"].as_str().unwrap()
    );
}

/// Endpoints whose default MACs are the same reach each other.
#[test]
fn endpoints_with_the_same_default_mac_work() {
    let (lab, [one, two]) = fixture();
    one.does("network create six --vni 50 --subnet fd00::/32");
    let [a, b] = ["a", "b"].map(|name| lab.name(name));
    add(&one, &a, "--vni 50 --ip fd00:0:1::2");
    add(&two, &b, "--vni 50 --ip fd00:0:2::2");
    Netns::named(&a).reaches("fd00:0:2::2");
}

/// A namespace where IPv6 is off takes an endpoint with IPv6.
#[test]
fn an_ipv6_endpoint_where_ipv6_is_off() {
    let (lab, [one, two]) = fixture();
    one.does("network create dual --vni 50 --subnet 10.1.0.0/16 --subnet fd00:1::/64");
    let pod = lab.netns("pod");
    for which in ["all", "default"] {
        let off = format!("-qw net.ipv6.conf.{which}.disable_ipv6=1");
        pod.run("sysctl", &off);
    }
    add(
        &one,
        &lab.name("a"),
        &format!("--vni 50 --netns {}", pod.name()),
    );
    add(&two, &lab.name("b"), "--vni 50");
    pod.reaches("fd00:1::3");
}

/// All addresses of subnets of one and two are handed out.
#[test]
fn subnets_of_one_and_two_addresses_are_used_up() {
    let (lab, [one, two]) = fixture();
    for (vni, subnet, expected) in [
        (50, "10.0.0.4/31", &["10.0.0.4/31", "10.0.0.5/31"][..]),
        (51, "fd00::4/127", &["fd00::4/127", "fd00::5/127"]),
        (52, "10.0.0.9/32", &["10.0.0.9/32"]),
        (53, "fd00::9/128", &["fd00::9/128"]),
    ] {
        one.does(&format!(
            "network create net{vni} --vni {vni} --subnet {subnet}"
        ));
        let name = |number: usize| lab.name(&format!("n{vni}-{number}"));
        let mut agents = [&one, &two].into_iter().cycle();
        for (number, address) in expected.iter().enumerate() {
            let made = add(
                agents.next().unwrap(),
                &name(number),
                &format!("--vni {vni}"),
            );
            assert_eq!(made["addresses"], json!([address]));
        }
        let one_more = format!("endpoint add {} --vni {vni}", name(9));
        let line = one.overlay(&one_more).error(FAILED);
        assert!(line.contains("no free"), "{line}");
    }
    let [v4, v6] = ["n50-0", "n51-0"].map(|name| Netns::named(lab.name(name)));
    v4.reaches("10.0.0.5");
    v6.reaches("fd00::5");
}

#[test]
fn link_local_subnets_are_as_good_as_others() {
    let (lab, [one, two]) = fixture();
    one.does("network create ll --vni 50 --subnet 169.254.0.0/16 --subnet fe80::/64");
    let [a, b] = ["a", "b"].map(|name| lab.name(name));
    add(&one, &a, "--vni 50");
    add(&two, &b, "--vni 50");
    Netns::named(&a).reaches("169.254.0.3");
    Netns::named(&a).reaches("fe80::3%eth0");
}

/// An endpoint gets other addresses while it runs, and every host follows.
#[test]
fn an_endpoints_addresses_change_while_it_runs() {
    let (lab, [one, two]) = fixture();
    one.does("network create dual --vni 50 --subnet 10.1.0.0/16 --subnet fd00:1::/64");
    let [a, b] = ["a", "b"].map(|name| lab.name(name));
    add(&one, &a, "--vni 50");
    add(&two, &b, "--vni 50");
    let [blue, green] = [&a, &b].map(Netns::named);
    green.reaches("10.1.0.2");
    let words = format!("endpoint set {a} --ip 10.1.0.9 --ip fd00:1::9 --mac 02:00:00:00:00:09");
    let set = one.json(&words);
    assert_eq!(set["state"], "ready");
    assert_eq!(set["addresses"], json!(["10.1.0.9/16", "fd00:1::9/64"]));
    assert_eq!(blue.mac("eth0"), "02:00:00:00:00:09");
    assert!(!blue.ip("-br address show dev eth0").contains("10.1.0.2"));
    for ip in ["10.1.0.9", "fd00:1::9"] {
        green.reaches(ip);
    }
    assert!(!green.pings("10.1.0.2", "-c 1 -W 1"));
    // From another host too, and not with another's.
    two.does(&format!("endpoint set {a} --ip 10.1.0.10"));
    green.reaches("10.1.0.10");
    for (words, part) in [
        ("--ip 10.1.0.3", "taken by"),
        ("--ip 10.1.0.10/8", "write 10.1.0.10/16"),
        ("--ip 10.2.0.1/16", "outside the subnets"),
    ] {
        let line = one
            .overlay(&format!("endpoint set {a} {words}"))
            .error(FAILED);
        assert!(line.contains(part), "{line}");
    }
}
