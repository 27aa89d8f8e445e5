//! `trace`: what decided over a frame's way. An object of its own has it, whose programs are never attached.

use bytemuck::{Pod, Zeroable};

use super::map;

/// Value of `trace`. In the first is how many others there are; they have the steps in their order.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct TraceStep {
    /// [`TraceStep::FOUND`] and the others below. Of the first value: how many steps there are.
    pub kind: u32,
    /// By `kind`: the number of a [`Table`], of a [`super::Call`] or of a [`super::DropReason`].
    pub what: u32,
    /// The key that was looked up, as the map has it, and zeros behind it.
    pub key: [u8; 24],
    /// The value that was found, likewise.
    pub value: [u8; 56],
}

super::assert_layout!(TraceStep, 88, { kind: 0, what: 4, key: 8, value: 32 });
super::user_pod!(TraceStep);

impl TraceStep {
    /// `kind`: a table had the key.
    pub const FOUND: u32 = 1;
    /// `kind`: a table did not have it.
    pub const MISSING: u32 = 2;
    /// `kind`: another program went on.
    pub const CALLED: u32 = 3;
    /// `kind`: the frame goes no further.
    pub const DROPPED: u32 = 4;

    /// Values of `trace`: more steps than that are not told.
    pub const SLOTS: u32 = 64;
}

/// A table whose look-ups are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Table {
    /// `endpoints`.
    Endpoints = 0,
    /// `networks`.
    Networks = 1,
    /// `router_ports`.
    RouterPorts = 2,
    /// `routes`; the key without the number of bits.
    Routes = 3,
    /// `neighbors`.
    Neighbors = 4,
    /// `fdb`.
    Fdb = 5,
    /// `paths`.
    Paths = 6,
    /// `vteps`.
    Vteps = 7,
    /// `uplink`.
    Uplink = 8,
    /// `outside`.
    Outside = 9,
    /// `floats`.
    Floats = 10,
    /// `blocks`.
    Blocks = 11,
    /// `nat_chains`.
    NatChains = 12,
    /// `mappings`.
    Mappings = 13,
    /// `flows`.
    Flows = 14,
    /// `new_flows`.
    NewFlows = 15,
    /// `meters`.
    Meters = 16,
}

impl Table {
    /// Every table, by its number.
    pub const ALL: [(Self, &'static str); 17] = [
        (Self::Endpoints, map::ENDPOINTS),
        (Self::Networks, map::NETWORKS),
        (Self::RouterPorts, map::ROUTER_PORTS),
        (Self::Routes, map::ROUTES),
        (Self::Neighbors, map::NEIGHBORS),
        (Self::Fdb, map::FDB),
        (Self::Paths, map::PATHS),
        (Self::Vteps, map::VTEPS),
        (Self::Uplink, map::UPLINK),
        (Self::Outside, map::OUTSIDE),
        (Self::Floats, map::FLOATS),
        (Self::Blocks, map::BLOCKS),
        (Self::NatChains, map::NAT_CHAINS),
        (Self::Mappings, map::MAPPINGS),
        (Self::Flows, map::FLOWS),
        (Self::NewFlows, map::NEW_FLOWS),
        (Self::Meters, map::METERS),
    ];

    /// The table with a number.
    #[must_use]
    pub fn of_number(number: u32) -> Option<(Self, &'static str)> {
        let mut all = Self::ALL.into_iter();
        all.find(|(table, _)| *table as u32 == number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_found_by_its_number() {
        for (position, (table, name)) in Table::ALL.into_iter().enumerate() {
            assert_eq!(table as usize, position);
            assert_eq!(Table::of_number(table as u32), Some((table, name)));
        }
        assert_eq!(Table::of_number(u32::MAX), None);
    }
}
