//! How a row becomes an entry of its map, and an entry a row.

use aya::Pod;

use super::{
    DatapathSettings,
    numbers::{Numbers, VtepNumbers},
    storage::Storage,
    traffic_slots::TrafficSlots,
};
use crate::model::{BlockKey, Revision, Row};

/// What entries carry that the model leaves to the datapath: numbers of its own.
#[derive(Debug, Clone, Default)]
pub(super) struct Numbering {
    /// Where each network is counted.
    pub slots: TrafficSlots,
    /// The VTEPs' slots of `paths`.
    pub vteps: VtepNumbers,
    /// This host's endpoints by their host-side interfaces.
    pub endpoints: Numbers<u32>,
    /// The slots of `nat_blocks`; slot 0 is nobody's.
    pub blocks: Numbers<BlockKey>,
    /// Seconds of `CLOCK_MONOTONIC`, modulo 2^16.
    pub now_s: u16,
}

/// A row that has a place in a map.
pub(super) trait Encode: Row {
    type AbiKey: Pod;
    type AbiValue: Pod;
    /// The kind of map that it is.
    type Map: Storage<Self::AbiKey, Self::AbiValue>;

    /// The map's name.
    const MAP: &str;
    /// What makes the map larger.
    const CAPACITY_OPTION: &str = "the build's limit";

    /// How many entries the map takes. `None`: as many as the object says.
    fn capacity(_settings: &DatapathSettings) -> Option<u32> {
        None
    }

    fn encode_key(key: &Self::Key, numbering: &Numbering) -> Self::AbiKey;

    fn encode(key: &Self::Key, row: &Self, numbering: &Numbering) -> Self::AbiValue;

    /// `None`: no version of this agent wrote it, so it is neither kept nor understood.
    fn decode(
        key: &Self::AbiKey,
        value: &Self::AbiValue,
        numbering: &Numbering,
    ) -> Option<(Self::Key, Self)>;

    /// The registry's revision that an entry comes from; `None`: such rows carry none.
    fn abi_generation(_value: &Self::AbiValue) -> Option<Revision> {
        None
    }
}
