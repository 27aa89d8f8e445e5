//! What the underlay's interfaces do in "hardware".
//!
//! A veth passes 64 KiB super-packets whole, as no wire does, and so hides what each packet costs.
//! With TSO and tunnel segmentation off the sender's stack cuts them up before the interface, as it
//! does for a NIC without these; with GRO on the receiver puts them together again, as every NIC's
//! driver does.

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use overlay_lab::Netns;
use overlay_lab::process;

/// Settings of the underlay's interfaces, on both hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(super) enum Offloads {
    /// TSO and tunnel segmentation on, GRO off: a veth's own default.
    On,
    /// All off: only wire-sized packets pass.
    Off,
    /// Segmentation off, GRO on: a NIC without TSO.
    OffGro,
}

/// ethtool's names of the features that cut packets up below the stack.
const SEGMENTATION: [&str; 4] = [
    "tcp-segmentation-offload",
    "tx-udp-segmentation",
    "tx-udp_tnl-segmentation",
    "tx-udp_tnl-csum-segmentation",
];
const GRO: &str = "generic-receive-offload";

impl Offloads {
    pub(super) const ALL: [Self; 3] = [Self::On, Self::Off, Self::OffGro];

    /// As reports name it.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::On => "TSO on",
            Self::Off => "TSO off",
            Self::OffGro => "TSO off, GRO on",
        }
    }

    fn features(self) -> impl Iterator<Item = (&'static str, bool)> {
        let segmentation = self == Self::On;
        SEGMENTATION
            .map(|feature| (feature, segmentation))
            .into_iter()
            .chain([(GRO, self == Self::OffGro)])
    }

    /// Sets them, and makes sure that the kernel did what was asked.
    pub(super) fn apply(self, host: &Netns, interface: &str) -> Result<()> {
        let mut line = vec!["ethtool", "-K", interface];
        for (feature, on) in self.features() {
            line.extend([feature, if on { "on" } else { "off" }]);
        }
        process::run("setting offloads", &host.line(&line))?;

        let shown = process::run(
            "reading offloads",
            &host.line(&["ethtool", "--json", "-k", interface]),
        )?;
        let shown: serde_json::Value =
            serde_json::from_str(&shown).context("ethtool's output is no JSON")?;
        for (feature, on) in self.features() {
            let active = shown
                .pointer(&format!("/0/{feature}/active"))
                .and_then(serde_json::Value::as_bool);
            if active != Some(on) {
                bail!(
                    "{interface} in {} does not turn {feature} {}",
                    host.name(),
                    if on { "on" } else { "off" }
                );
            }
        }
        Ok(())
    }
}
