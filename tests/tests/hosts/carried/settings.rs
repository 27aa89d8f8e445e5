//! Offloads, switched one by one.

use overlay_lab::Netns;

use super::fabric::Fixture;

/// A feature of `ethtool -K`, switched away from what it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setting {
    where_: Place,
    features: &'static str,
    is_on: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Endpoints,
    Underlays,
}

const fn switched(where_: Place, features: &'static str, is_on: bool) -> Setting {
    Setting {
        where_,
        features,
        is_on,
    }
}

/// Every setting that traffic goes through.
pub(crate) const ALL: &[Setting] = &[
    switched(Place::Endpoints, "tx", false),
    switched(Place::Endpoints, "tso", false),
    switched(Place::Endpoints, "gso tso tx-udp-segmentation", false),
    switched(Place::Endpoints, "gro", false),
    switched(Place::Endpoints, "gro", true),
    switched(Place::Endpoints, "rx-udp-gro-forwarding", true),
    switched(Place::Underlays, "gro", true),
    switched(Place::Underlays, "gro rx-udp-gro-forwarding", true),
    switched(Place::Underlays, "gro rx-gro-list", true),
    switched(Place::Underlays, "tso gso tx-udp-segmentation", false),
    switched(Place::Underlays, "tx-udp_tnl-segmentation", false),
    switched(Place::Underlays, "tx", false),
];

impl Setting {
    /// What a difference is reported under.
    pub(crate) fn name(&self) -> String {
        let state = if self.is_on { "on" } else { "off" };
        format!("{:?}: {} {state}", self.where_, self.features)
    }

    /// Switches it, runs `work` and puts back what was.
    pub(crate) fn within<T>(&self, fixture: &Fixture, work: impl FnOnce() -> T) -> T {
        let interfaces: Vec<(&Netns, &str)> = match self.where_ {
            Place::Endpoints => [&fixture.blue, &fixture.cyan, &fixture.green]
                .map(|netns| (netns, "eth0"))
                .to_vec(),
            Place::Underlays => fixture
                .hosts
                .iter()
                .map(|host| (&host.netns, "u0"))
                .collect(),
        };
        let state = if self.is_on { "on" } else { "off" };
        let before: Vec<String> = interfaces
            .iter()
            .map(|(netns, ifname)| features(netns, ifname))
            .collect();
        for (netns, ifname) in &interfaces {
            for feature in self.features.split(' ') {
                netns.run("ethtool", &format!("-K {ifname} {feature} {state}"));
            }
        }
        let result = work();
        for ((netns, ifname), before) in interfaces.iter().zip(before) {
            for (now, before) in features(netns, ifname).lines().zip(before.lines()) {
                if now != before {
                    let (feature, state) = before.split_once(": ").unwrap();
                    let state = state.split(' ').next().unwrap();
                    // Some follow from others.
                    let mut ethtool = netns.command("ethtool");
                    let _ = ethtool.args(["-K", ifname, feature.trim(), state]).output();
                }
            }
        }
        result
    }
}

fn features(netns: &Netns, ifname: &str) -> String {
    netns.run("ethtool", &format!("-k {ifname}"))
}
