//! The FDB as the map `fdb` holds it.

use std::net::Ipv4Addr;

use overlay_ebpf::abi::{self, map};

use super::{Encode, EncodeContext};
use crate::{
    datapath::Settings,
    model::{FdbKey, FdbRow, FdbTarget, Mac, Revision, Vni},
};

impl Encode for FdbRow {
    type AbiKey = abi::FdbKey;
    type AbiValue = abi::FdbEntry;

    const MAP: &str = map::FDB;
    const CAPACITY_OPTION: &str = "--fdb-entries";

    fn capacity(settings: &Settings) -> Option<u32> {
        Some(settings.fdb_entries)
    }

    fn encode_key(key: &FdbKey) -> abi::FdbKey {
        abi::FdbKey::new(key.vni.get(), key.mac.octets())
    }

    fn encode(key: &FdbKey, row: &Self, context: &EncodeContext<'_>) -> abi::FdbEntry {
        let mut entry = match row.target {
            FdbTarget::Local { ifindex, .. } => abi::FdbEntry::local(row.generation, ifindex),
            FdbTarget::Remote { vtep, port } => {
                abi::FdbEntry::remote(row.generation, vtep.octets(), port)
            }
        };
        if let FdbTarget::Local { is_queued, .. } = row.target {
            entry.slot = context.slots.of(key.vni);
            if is_queued {
                entry.vtep_port = abi::FdbEntry::QUEUED;
            }
        }
        if row.ages {
            entry.used_s = context.now_s;
        }
        entry
    }

    fn decode(key: &abi::FdbKey, value: &abi::FdbEntry) -> Option<(FdbKey, Self)> {
        let target = if value.ifindex == 0 {
            FdbTarget::Remote {
                vtep: Ipv4Addr::from(value.vtep),
                port: u16::from_be_bytes(value.vtep_port),
            }
        } else {
            FdbTarget::Local {
                ifindex: value.ifindex,
                is_queued: value.is_queued(),
            }
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
                ages: value.used_s != 0,
            },
        ))
    }

    fn abi_generation(value: &abi::FdbEntry) -> Option<Revision> {
        Some(value.generation)
    }
}
