//! Takes over the pins of an earlier ABI version while its programs keep running.
//!
//! A pin is moved by a rename, which is atomic: at any moment each map and each link has one place, and the next
//! start finishes one that was killed half-way.
//!
//! 1. Maps with an unchanged layout are moved; the old programs go on using them.
//! 2. Links are moved: they still run the old programs, until the agent attaches this version's.
//! 3. Rows of maps with a changed layout are copied, then the old map's pin goes.
//! 4. Once everything is attached the old folder is removed ([`Pins::retire_others`]).

use aya::maps::HashMap;
use overlay_ebpf::abi::{ABI_VERSION, map};

use super::{
    DatapathError,
    maps::{Maps, info, open_pin, sizes},
    pins::{Pins, move_pin, unpin},
    table::failed,
};

/// The version whose layouts are known here.
const PREVIOUS: u32 = 1;

/// Maps whose entries mean the same in version 1: what was reserved and zero there says here that
/// an entry does not age and is not counted.
const UNCHANGED: [&str; 6] = [
    map::FDB,
    map::NEIGHBORS,
    map::ENDPOINTS,
    map::VTEPS,
    map::LEASE,
    map::DROPS,
];

/// The pins of the version before this one.
pub(super) struct Former(Pins);

impl Former {
    /// Looks for an earlier version's pins. A later one's are refused: what they mean is not known
    /// here.
    pub(super) fn find(pins: &Pins) -> Result<Option<Self>, DatapathError> {
        let versions = pins.versions()?;
        if let Some(newer) = versions.iter().find(|version| **version > ABI_VERSION) {
            return Err(DatapathError::Refused(format!(
                "the datapath that stands here has ABI version {newer}, made by a newer overlay; this \
                 one has {ABI_VERSION}: start the newer one again, or run `overlay down` with it first"
            )));
        }
        let previous = versions.contains(&PREVIOUS).then(|| pins.of(PREVIOUS));
        Ok(previous.map(Self))
    }

    /// Moves what is the same in both versions; to be called before this version's maps are made.
    pub(super) fn hand_over(&self, pins: &Pins) -> Result<(), DatapathError> {
        for name in UNCHANGED {
            let path = self.0.map(name);
            let Some(info) = info(&path, name)? else {
                continue;
            };
            if Some((info.key_size(), info.value_size())) == sizes(name) {
                move_pin(&path, &pins.map(name))?;
            }
        }
        for ifindex in self.0.endpoint_links()? {
            move_pin(&self.0.endpoint_link(ifindex), &pins.endpoint_link(ifindex))?;
        }
        for ifindex in self.0.underlay_links()? {
            move_pin(&self.0.underlay_link(ifindex), &pins.underlay_link(ifindex))?;
        }
        Ok(())
    }

    /// Copies the rows of what is not the same; to be called once this version's maps are there.
    pub(super) fn copy_rows(&self, maps: &mut Maps) -> Result<(), DatapathError> {
        let path = self.0.map(map::NETWORKS);
        if !path.exists() {
            return Ok(());
        }
        // A VNI's value was its MTU alone.
        let networks: HashMap<_, u32, u32> = open_pin(&path, map::NETWORKS)?
            .try_into()
            .map_err(|error| failed("open the pinned", map::NETWORKS, &error))?;
        let rows = networks.iter();
        maps.adopt_networks(
            rows.map(|row| row.map_err(|error| failed("read", map::NETWORKS, &error))),
        )?;
        unpin(&path)
    }
}
