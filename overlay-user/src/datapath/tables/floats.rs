//! The floats table as the map `floats` holds it.

use aya::maps::{HashMap, MapData};
use overlay_ebpf::abi::{self, map};

use super::super::encode::{Encode, Numbering};
use crate::model::{FloatKey, FloatRow, Vni};

impl Encode for FloatRow {
    type AbiKey = abi::FloatKey;
    type AbiValue = abi::FloatEntry;
    type Map = HashMap<MapData, Self::AbiKey, Self::AbiValue>;

    const MAP: &str = map::FLOATS;

    fn encode_key(key: &FloatKey, _: &Numbering) -> abi::FloatKey {
        abi::FloatKey {
            vni: key.vni.get(),
            ip: key.own.octets(),
        }
    }

    fn encode(_: &FloatKey, row: &Self, _: &Numbering) -> abi::FloatEntry {
        abi::FloatEntry {
            external: row.ip.octets(),
        }
    }

    fn decode(
        key: &abi::FloatKey,
        value: &abi::FloatEntry,
        _: &Numbering,
    ) -> Option<(FloatKey, Self)> {
        let key = FloatKey {
            vni: Vni::try_from(key.vni).ok()?,
            own: key.ip.into(),
        };
        let ip = value.external.into();
        Some((key, Self { ip }))
    }
}
