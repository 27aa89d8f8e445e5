//! Agents that share a registry: who wins, and how soon the others know.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use overlay_ebpf::abi::FdbEntry;
use overlay_lab::{Agent, Lab, Run, agent, overlay, until};
use serde_json::Value;

/// The real figure stands in docs/benchmarks.md; this only tells a watch from a poll of minutes.
const SOON: Duration = Duration::from_secs(5);

fn two_agents(lab: &Lab, options: &str) -> [Agent; 2] {
    let hosts: [_; 2] = lab.hosts();
    Agent::on_each(lab, &hosts, options)
}

/// Runs a command line with each agent at the same time.
fn at_once(agents: &[Agent; 2], words: &[String; 2]) -> [Run; 2] {
    let children = [0, 1].map(|index| {
        let mut command = agent::command(agents[index].instance());
        command.args(words[index].split_whitespace());
        thread::spawn(move || Run::of(&mut command))
    });
    children.map(|child| child.join().unwrap())
}

/// Of two agents that want the same address exactly one gets it.
#[test]
fn one_of_two_agents_gets_the_address() {
    let lab = Lab::new();
    let agents = two_agents(&lab, "--vni 42");
    let rounds = [
        (
            "IP",
            "--ip 7.7.7.{}/24 --mac 02:00:00:00:{}:0A",
            "--ip 7.7.7.{}/24 --mac 02:00:00:00:{}:0B",
        ),
        (
            "MAC",
            "--ip 7.7.8.{}/24 --mac 02:00:00:01:00:{}",
            "--ip 7.7.9.{}/24 --mac 02:00:00:01:00:{}",
        ),
        // The MAC follows from the address: which of the two is taken doesn't matter.
        ("", "--ip 7.7.10.{}/24", "--ip 7.7.10.{}/24"),
    ];
    for (what, left, right) in rounds {
        for round in 10..14 {
            let name = |side: &str| lab.name(&format!("{side}{}{round}", what.to_lowercase()));
            let words = [("l", left), ("r", right)].map(|(side, options)| {
                let options = options.replace("{}", &round.to_string());
                format!("endpoint add {} --vni 42 {options}", name(side))
            });
            let [one, two] = at_once(&agents, &words);
            let (winner, loser) = if one.code == 0 {
                (&one, &two)
            } else {
                (&two, &one)
            };
            assert_eq!((winner.code, loser.code), (0, 1), "{one:?} {two:?}");
            let line = loser.stderr.trim_end();
            assert!(
                line.starts_with(&format!("error: {what}")) && line.contains(" is taken by "),
                "{line}"
            );
            assert!(!line.contains('\n'), "{line}");
        }
    }
    let endpoints = agents[0].json("endpoint ls");
    assert_eq!(endpoints.as_array().unwrap().len(), 12);
}

/// Of two agents that want the same name exactly one gets it.
#[test]
fn one_of_two_agents_gets_the_name() {
    let lab = Lab::new();
    let agents = two_agents(&lab, "--vni 42");
    for round in 2..6 {
        let words = ["7.7.7", "7.7.8"].map(|net| {
            format!(
                "endpoint add {} --vni 42 --ip {net}.{round}/24",
                lab.name(&format!("same{round}"))
            )
        });
        let runs = at_once(&agents, &words);
        let mut codes = runs.each_ref().map(|run| run.code);
        codes.sort_unstable();
        assert_eq!(codes, [0, 1], "{runs:?}");
    }
}

/// Addresses that are handed out at once are all different.
#[test]
fn addresses_handed_out_at_once_differ() {
    let lab = Lab::new();
    let agents = two_agents(&lab, "");
    agents[0].does("network create pool --vni 42 --subnet 7.7.7.0/24");
    until("the other agent to know", || {
        agents[1].json("network ls").as_array().unwrap().len() == 1
    });
    let each = 6;
    let runs: Vec<Run> = thread::scope(|scope| {
        let adds: Vec<_> = (0..2 * each)
            .map(|number| {
                let instance = agents[number % 2].instance();
                let name = lab.name(&format!("auto{number}"));
                scope.spawn(move || {
                    overlay(
                        instance,
                        &["-o", "json", "endpoint", "add", &name, "--vni", "42"],
                    )
                })
            })
            .collect();
        adds.into_iter().map(|add| add.join().unwrap()).collect()
    });
    let mut addresses = BTreeSet::new();
    let mut macs = BTreeSet::new();
    for run in &runs {
        assert_eq!(run.code, 0, "{}", run.stderr);
        let made: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(made["state"], "ready");
        addresses.insert(made["ips"][0].as_str().unwrap().to_owned());
        macs.insert(made["mac"].as_str().unwrap().to_owned());
    }
    assert_eq!(
        (addresses.len(), macs.len()),
        (2 * each, 2 * each),
        "{addresses:?}"
    );
    // The lowest ones: nothing was burnt in the race. The first address is left to a gateway.
    let expected: BTreeSet<String> = (2..2 + 2 * each)
        .map(|last| format!("7.7.7.{last}"))
        .collect();
    assert_eq!(addresses, expected);
}

/// An endpoint that one agent adds is soon in the other agents' maps.
#[test]
fn an_added_endpoint_is_soon_in_the_others_maps() {
    let lab = Lab::new();
    let [one, two] = two_agents(&lab, "--vni 42");
    let name = lab.name("blue");
    one.endpoint(&name, 42, &["7.7.7.2/24", "fd07::2/64"]);
    let committed = Instant::now();
    until("the other's FDB to have it", || !two.dump("fdb").is_empty());
    let took = committed.elapsed();
    assert!(took < SOON, "{took:?}");

    let fdb = two.dump("fdb");
    assert_eq!(fdb.len(), 1);
    let mac: Value = ["0x02", "0x42", "0x07", "0x07", "0x07", "0x02"]
        .as_slice()
        .into();
    let vtep: Value = ["0x0a", "0x00", "0x00", "0x01"].as_slice().into();
    assert_eq!(numbers(&fdb[0]["key"]["mac"]), numbers(&mac), "{fdb:?}");
    assert_eq!(fdb[0]["key"]["vni"], 42);
    assert_eq!(numbers(&fdb[0]["value"]["vtep"]), numbers(&vtep));
    assert_eq!(fdb[0]["value"]["kind"], FdbEntry::REMOTE);
    assert!(fdb[0]["value"]["generation"].as_u64().unwrap() > 0);
    until("both neighbours", || two.dump("neighbors").len() == 2);

    one.does(&format!("endpoint rm {name}"));
    let removed = Instant::now();
    until("it to go", || {
        two.dump("fdb").is_empty() && two.dump("neighbors").is_empty()
    });
    assert!(removed.elapsed() < SOON);
}

/// Bytes as bpftool shows them, numbers or hexadecimal strings.
fn numbers(bytes: &Value) -> Vec<u64> {
    let number = |byte: &Value| match byte {
        Value::String(text) => u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap(),
        other => other.as_u64().unwrap(),
    };
    bytes.as_array().unwrap().iter().map(number).collect()
}

#[test]
fn an_endpoint_may_be_removed_on_any_agent_and_twice() {
    let lab = Lab::new();
    let [one, two] = two_agents(&lab, "--vni 42");
    let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    let before = one.netns().links();
    for _ in 0..2 {
        two.does(&format!("endpoint rm {}", blue.name()));
    }
    until("the namespace and the veth to go", || {
        !blue.exists() && one.netns().links() != before
    });
    assert_eq!(one.json("endpoint ls"), Value::Array(Vec::new()));
}

#[test]
fn verbs_print_the_json_of_the_contract() {
    let lab = Lab::new();
    let [one, two] = two_agents(&lab, "--vni 42");
    let name = lab.name("blue");
    one.endpoint(&name, 42, &["7.7.7.2/24"]);
    until("the other agent to know", || {
        two.json("status")["endpoints"]["remote"] == 1
    });
    let has = |value: &Value, keys: &str| {
        for key in keys.split_whitespace() {
            assert!(!value[key].is_null(), "{key} of {value}");
        }
    };
    for (agent, state, counts) in [(&one, "ready", (1, 0)), (&two, "remote", (0, 1))] {
        let endpoint = &agent.json("endpoint ls")[0];
        has(
            endpoint,
            "name vni mac ips node vtep netns ifname generation state",
        );
        assert_eq!(endpoint["state"], state);
        assert_eq!(endpoint["ips"][0], "7.7.7.2");
        assert_eq!(endpoint["vtep"], "10.0.0.1");
        assert_eq!(&agent.json(&format!("endpoint show {name}")), endpoint);
        let status = agent.json("status");
        has(
            &status,
            "instance node ready iface vtep port registry networks endpoints datapath",
        );
        has(&status["registry"], "url connected revision");
        has(&status["datapath"], "attach abi fast_path");
        assert_eq!(status["endpoints"]["local"], counts.0);
        assert_eq!(status["endpoints"]["remote"], counts.1);
        assert_eq!(status["networks"], 1);
        for vtep in agent.json("vtep ls").as_array().unwrap() {
            has(vtep, "node ip port last_seen alive");
            assert_eq!(vtep["alive"], true);
        }
        has(
            &agent.json("network ls")[0],
            "name vni subnets mtu flood learning",
        );
        assert!(
            agent
                .json("drops")
                .as_object()
                .unwrap()
                .values()
                .all(Value::is_number)
        );
    }
}
