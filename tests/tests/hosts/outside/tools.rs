//! The way out as the tools see it that people judge it with.

use std::process::Command;

use overlay_lab::{
    process::{self, Running},
    traffic, until,
};

use super::{OUTSIDE, World};

/// Another address of the world's, which RFC 5780 needs.
const SECOND: &str = "10.0.0.101";

#[test]
fn turnutils_natdiscovery_finds_independent_mappings_and_the_filtering_asked_for() {
    let world = World::new("");
    let agent = world.agent();
    world.world.ip(&format!("addr add {SECOND}/24 dev u0"));
    let dir = world.fixture.lab.dir();
    let file = |name: &str| dir.join(name).display().to_string();
    let (pid, database) = (file("turn.pid"), file("turn.db"));
    let server = world.world.line(&[
        "turnserver",
        "-n",
        "-S",
        "-L",
        OUTSIDE,
        "-L",
        SECOND,
        "--no-tls",
        "--no-dtls",
        "--no-cli",
        "-l",
        "stdout",
        "--pidfile",
        &pid,
        "--db",
        &database,
    ]);
    let _server = Running::start("turnserver", &server).unwrap();
    let pools = [
        (
            "strict",
            "203.0.113.8/30",
            "flow",
            "Address and Port Dependent Filtering",
        ),
        (
            "games",
            "203.0.113.16/30",
            "endpoint-independent",
            "Endpoint Independent Filtering",
        ),
    ];
    for (name, range, filter, expected) in pools {
        agent.does(&format!(
            "pool create {name} --ip {range} --filter {filter}"
        ));
        world.share(name);
        until("blue gets out", || {
            let nat = agent.json(&format!("nat ls --endpoint {}", world.blue().name()));
            nat["blocks"][0]["pool"] == name && world.blue().pings(OUTSIDE, "-c 1 -W 1")
        });
        let client = world
            .blue()
            .line(&["turnutils_natdiscovery", "-m", "-f", "-H", OUTSIDE]);
        let found = process::run("turnutils_natdiscovery", &client).unwrap();
        for text in ["NAT with Endpoint Independent Mapping!", expected] {
            assert!(found.contains(text), "{name}: no {text} in:\n{found}");
        }
        // What it sends to its own external address comes back, where anybody may send there.
        let is_hairpin = found.contains("successful hairpinning");
        assert_eq!(is_hairpin, filter != "flow", "{found}");
    }
}

#[test]
fn traces_of_every_kind_show_the_gateway_and_get_there() {
    let world = World::shared();
    for options in ["-U -p 33434", "-I", "-T -p 80"] {
        let trace = world.blue().run(
            "traceroute",
            &format!("-n -w 2 -q 1 -m 4 {options} {OUTSIDE}"),
        );
        let hops: Vec<_> = trace
            .lines()
            .skip(1)
            .filter_map(|line| line.split_whitespace().nth(1))
            .collect();
        assert_eq!(hops, ["7.7.7.1", OUTSIDE], "{options}: {trace}");
    }
    let report = world
        .blue()
        .run("mtr", &format!("-n -r -c 2 -i 0.2 {OUTSIDE}"));
    assert!(
        report.contains("7.7.7.1") && report.contains(OUTSIDE),
        "{report}"
    );
    assert!(!report.contains("???"), "{report}");
    let found = world.blue().run("tracepath", &format!("-n -m 4 {OUTSIDE}"));
    assert!(
        found.contains("7.7.7.1") && found.contains("reached"),
        "{found}"
    );
    let mtu = world.blue().ip("-j link show dev eth0");
    let mtu: serde_json::Value = serde_json::from_str(&mtu).unwrap();
    assert!(
        found.contains(&format!("pmtu {}", mtu[0]["mtu"])),
        "{found}"
    );
}

#[test]
fn connections_pass_with_each_offload_on_and_off() {
    let world = World::new("");
    let agent = world.agent();
    agent.does("pool create public --ip 203.0.113.8/30");
    world.share("public");
    let (blue, green) = (world.blue(), world.green());
    // What green answers to blue's shared address goes by the router of the uplink's link.
    world.world.run("sysctl", "-qw net.ipv4.ip_forward=1");
    agent.does(&format!(
        "float add 203.0.113.5 --endpoint {}",
        green.name()
    ));
    until("both get out", || {
        blue.pings(OUTSIDE, "-c 1 -W 1") && green.pings(OUTSIDE, "-c 1 -W 1")
    });
    for features in [
        "tso off",
        "gso off",
        "tx off",
        "gro off rx off",
        "tx on rx on gso on tso on gro on",
    ] {
        for netns in [blue, green] {
            // Some depend on others, which the kernel says and goes on.
            let mut ethtool = netns.command("ethtool");
            let ethtool: &mut Command = ethtool.args(["-K", "eth0"]);
            assert!(ethtool.args(features.split(' ')).output().is_ok());
        }
        traffic::tcp(blue, &world.world, OUTSIDE, 1 << 20);
        traffic::tcp(green, &world.world, OUTSIDE, 1 << 20);
        traffic::tcp(&world.world, green, "203.0.113.5", 1 << 20);
        traffic::tcp(blue, green, "203.0.113.5", 1 << 20);
        traffic::udp(blue, &world.world, OUTSIDE, [0, 1, 500, 1400]);
    }
}

#[test]
fn a_hundred_megabytes_arrive_as_they_were_sent() {
    let world = World::shared();
    // Both directions at once; each byte is compared.
    std::thread::scope(|scope| {
        scope.spawn(|| traffic::tcp(world.blue(), &world.world, OUTSIDE, 100 << 20));
        scope.spawn(|| traffic::tcp(world.green(), &world.world, OUTSIDE, 100 << 20));
    });
}
