//! The meters table as the map `meters` holds it: two slots for each endpoint of this host.

use aya::maps::MapData;
use overlay_ebpf::abi::{self, map};

use super::super::{
    encode::{Encode, Numbering},
    storage::Slots,
};
use crate::model::{Direction, MeterKey, MeterRow};

impl Encode for MeterRow {
    type AbiKey = u32;
    type AbiValue = abi::MeterEntry;
    type Map = Slots<MapData, Self::AbiValue>;

    const MAP: &str = map::METERS;

    /// That of an endpoint without a number is nobody's.
    fn encode_key(key: &MeterKey, numbering: &Numbering) -> u32 {
        let id = numbering.endpoints.of(&key.ifindex).unwrap_or(0);
        let direction = match key.direction {
            Direction::Sent => abi::MeterEntry::SENT,
            Direction::Received => abi::MeterEntry::RECEIVED,
        };
        abi::MeterEntry::slot(id.into(), direction)
    }

    fn encode(_: &MeterKey, row: &Self, _: &Numbering) -> abi::MeterEntry {
        abi::MeterEntry {
            rate: row.rate,
            burst_ns: row.burst_ns,
            packet_rate: row.packet_rate,
            mark_ns: row.mark_ns,
            drop_ns: row.drop_ns,
            priority: row.priority,
            dscp: row.dscp.unwrap_or(0),
            flags: match row.dscp {
                Some(_) => abi::MeterEntry::SETS_DSCP,
                None => 0,
            },
            reserved: [0; 6],
        }
    }

    fn decode(
        slot: &u32,
        value: &abi::MeterEntry,
        numbering: &Numbering,
    ) -> Option<(MeterKey, Self)> {
        let id = u16::try_from(slot / 2).ok()?;
        let key = MeterKey {
            ifindex: *numbering.endpoints.key(id)?,
            direction: match slot % 2 {
                abi::MeterEntry::SENT => Direction::Sent,
                _ => Direction::Received,
            },
        };
        let row = Self {
            rate: value.rate,
            burst_ns: value.burst_ns,
            packet_rate: value.packet_rate,
            mark_ns: value.mark_ns,
            drop_ns: value.drop_ns,
            dscp: (value.flags & abi::MeterEntry::SETS_DSCP != 0).then_some(value.dscp),
            priority: value.priority,
        };
        Some((key, row))
    }
}
