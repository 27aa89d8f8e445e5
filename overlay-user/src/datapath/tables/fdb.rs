//! The FDB as the map `fdb` holds it.

use aya::maps::{HashMap, MapData};
use overlay_ebpf::abi::{self, map};

use super::super::encode::{Encode, Numbering};
use crate::{
    datapath::DatapathSettings,
    model::{FdbKey, FdbRow, FdbTarget, Mac, Revision, Vni},
};

impl Encode for FdbRow {
    type AbiKey = abi::FdbKey;
    type AbiValue = abi::FdbEntry;
    type Map = HashMap<MapData, Self::AbiKey, Self::AbiValue>;

    const MAP: &str = map::FDB;
    const CAPACITY_OPTION: &str = "--fdb-entries";

    fn capacity(settings: &DatapathSettings) -> Option<u32> {
        Some(settings.fdb_entries)
    }

    fn encode_key(key: &FdbKey, _: &Numbering) -> abi::FdbKey {
        abi::FdbKey::new(key.vni.get(), key.mac.octets())
    }

    fn encode(key: &FdbKey, row: &Self, numbering: &Numbering) -> abi::FdbEntry {
        let mut entry = match row.target {
            FdbTarget::Local {
                ifindex,
                is_queued,
                is_metered,
            } => abi::FdbEntry {
                id: numbering.endpoints.of(&ifindex).unwrap_or(0),
                slot: numbering.slots.of(key.vni),
                flags: if is_queued { abi::FdbEntry::QUEUED } else { 0 }
                    | if is_metered {
                        abi::FdbEntry::METERED
                    } else {
                        0
                    },
                ..abi::FdbEntry::local(row.generation, ifindex)
            },
            FdbTarget::Remote { vtep, .. } => {
                let ipv4 = vtep.ipv4().map_or([0; 4], |ip| ip.octets());
                abi::FdbEntry::remote(row.generation, numbering.vteps.of(&vtep).into(), ipv4)
            }
        };
        if row.ages {
            entry.flags |= abi::FdbEntry::AGES;
            entry.used_s = numbering.now_s;
        }
        entry
    }

    fn decode(
        key: &abi::FdbKey,
        value: &abi::FdbEntry,
        numbering: &Numbering,
    ) -> Option<(FdbKey, Self)> {
        let target = match value.kind {
            abi::FdbEntry::LOCAL => FdbTarget::Local {
                ifindex: value.target,
                is_queued: value.is_queued(),
                is_metered: value.is_metered(),
            },
            abi::FdbEntry::REMOTE => {
                let vtep = numbering.vteps.vtep(value.target);
                FdbTarget::Remote {
                    vtep: vtep.ip,
                    port: vtep.port,
                }
            }
            _ => return None,
        };
        let key = FdbKey {
            vni: Vni::try_from(key.vni).ok()?,
            mac: Mac::try_from(key.mac).ok()?,
        };
        Some((
            key,
            Self {
                target,
                generation: value.generation,
                ages: value.flags & abi::FdbEntry::AGES != 0,
            },
        ))
    }

    fn abi_generation(value: &abi::FdbEntry) -> Option<Revision> {
        Some(value.generation)
    }
}
