//! An address that moves to another MAC stays reachable for its previous peers.

use std::time::{Duration, Instant};

use overlay_lab::{Agent, Lab, Netns, lab::Host};

const GREEN: [&str; 2] = ["7.7.7.3", "fd07::3"];
const ADDRESSES: &str = "--ip 7.7.7.3/24 --ip fd07::3/64";
/// Far less than it takes until an entry of a neighbour cache is no longer believed: 15 s at the
/// least, and 5 s more until it is probed.
const AT_ONCE: Duration = Duration::from_secs(8);

struct Fixture {
    blue: Netns,
    /// On the host where green is.
    red: Netns,
    two: Agent,
    lab: Lab,
    _one: Agent,
}

impl Fixture {
    fn new(network: &str) -> Self {
        let lab = Lab::new();
        let hosts: [Host; 2] = lab.hosts();
        let [one, two] = Agent::on_each(&lab, &hosts, "");
        one.does(&format!("network create n42 --vni 42 {network}"));
        two.does("network ls");
        let blue = one.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24", "fd07::2/64"]);
        let red = two.endpoint(&lab.name("red"), 42, &["7.7.7.4/24", "fd07::4/64"]);
        Self {
            blue,
            red,
            two,
            lab,
            _one: one,
        }
    }

    fn green(&self) -> String {
        self.lab.name("green")
    }

    fn add_green(&self, mac: &str) {
        let green = self.green();
        self.two.does(&format!(
            "endpoint add {green} --vni 42 --mac {mac} {ADDRESSES}"
        ));
    }

    /// Makes green anew with another MAC. Gives how long each address is out of reach.
    fn remake_green(&self) -> Vec<(&str, Duration)> {
        self.add_green("02:00:00:00:00:01");
        for netns in [&self.blue, &self.red] {
            // Several, so that the entry is confirmed and not only just made.
            for ip in GREEN.iter().cycle().take(2 * GREEN.len()) {
                netns.reaches(ip);
            }
        }
        self.two.does(&format!("endpoint rm {}", self.green()));
        self.add_green("02:00:00:00:00:02");
        let mut times = Vec::new();
        let added = Instant::now();
        for netns in [&self.blue, &self.red] {
            for ip in GREEN {
                netns.reaches(ip);
                times.push((ip, added.elapsed()));
            }
        }
        times
    }
}

/// An endpoint made anew with another MAC is reached at once.
#[test]
fn another_mac_is_reached_at_once() {
    for network in [
        "",
        "--resolve on-demand --subnet 7.7.7.0/24 --subnet fd07::/64",
    ] {
        let fixture = Fixture::new(network);
        let times = fixture.remake_green();
        println!("{network:?}: {times:?}");
        assert!(times.iter().all(|(_, time)| *time < AT_ONCE), "{times:?}");
    }
}
