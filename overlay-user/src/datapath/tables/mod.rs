//! The tables that the agent fills, one file each: how a row is laid out in its map.

mod blocks;
mod endpoints;
mod fdb;
mod floats;
mod meters;
mod neighbors;
mod networks;
mod outside;
mod router_ports;
mod routes;
mod vteps;

use aya::{Ebpf, EbpfLoader};

use super::{
    DatapathError, DatapathSettings,
    encode::{Encode as _, Numbering},
    pins::Pins,
    table::Table,
};
use crate::model::{MapUsage, Row as _, Tables, for_each_table};

macro_rules! bpf_tables {
    ($($(#[$_:meta])* $table:ident: $row:ty,)+) => {
        /// Tables of an earlier agent that have other capacities than this one wants.
        pub(super) struct ResizedTables {
            $($table: Option<Table<$row>>,)+
        }

        impl ResizedTables {
            /// Takes their pins away.
            pub(super) fn take(pins: &Pins, settings: &DatapathSettings) -> Result<Self, DatapathError> {
                Ok(Self {
                    $($table: Table::take_resized(pins, settings)?,)+
                })
            }
        }

        /// Sets the maps' capacities from the configuration.
        pub(super) fn set_capacities(loader: &mut EbpfLoader<'_>, settings: &DatapathSettings) {
            $(if let Some(capacity) = <$row>::capacity(settings) {
                loader.map_max_entries(<$row>::MAP, capacity);
            })+
        }

        /// The maps of all tables.
        pub(super) struct BpfTables {
            $(pub(super) $table: Table<$row>,)+
        }

        impl BpfTables {
            /// Takes the maps out of a loaded object.
            pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
                Ok(Self {
                    $($table: Table::take(ebpf)?,)+
                })
            }

            /// Adds what tables of other capacities held.
            pub(super) fn adopt(&mut self, previous: &ResizedTables) -> Result<(), DatapathError> {
                $(if let Some(previous) = &previous.$table {
                    self.$table.copy_from(previous)?;
                })+
                Ok(())
            }

            pub(super) fn usage(&self) -> impl Iterator<Item = (&'static str, MapUsage)> {
                [$(self.$table.usage()),+].into_iter()
            }

            /// All rows that are understood.
            pub(super) fn rows(&self, numbering: &Numbering) -> Result<Tables, DatapathError> {
                Ok(Tables {
                    $($table: self.$table.rows(numbering)?,)+
                })
            }

            /// The same without the large tables.
            pub(super) fn small(&self, numbering: &Numbering) -> Result<Tables, DatapathError> {
                let mut tables = Tables::default();
                $(if !<$row>::IS_LARGE {
                    tables.$table = self.$table.rows(numbering)?;
                })+
                Ok(tables)
            }

            /// Writes rows, in the order of the tables; gives each outcome.
            pub(super) fn put(
                &mut self,
                rows: &Tables,
                numbering: &Numbering,
            ) -> impl Iterator<Item = Result<(), DatapathError>> + use<> {
                [$(self.$table.put(&rows.$table, numbering)),+].into_iter()
            }

            /// Removes rows, in the reverse order; gives each outcome.
            pub(super) fn remove(
                &mut self,
                rows: &Tables,
                numbering: &Numbering,
            ) -> impl Iterator<Item = Result<(), DatapathError>> + use<> {
                let removals: [Box<dyn FnOnce() -> _>; _] =
                    [$(Box::new(|| self.$table.remove(&rows.$table, numbering))),+];
                let outcomes = removals.into_iter().rev().map(|remove| remove());
                outcomes.collect::<Vec<_>>().into_iter()
            }
        }
    };
}
for_each_table!(bpf_tables);

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use overlay_ebpf::abi;

    use super::{super::encode::Encode, *};
    use crate::model::{
        Direction, EndpointRow, FdbKey, FdbRow, FdbTarget, Mac, MeterKey, MeterRow, NeighborKey,
        NeighborRow, NetworkRow, Vni, Vtep, VtepAddr, VtepPath, VtepRow,
    };

    fn vni() -> Vni {
        Vni::try_from(42).unwrap()
    }

    fn mac() -> Mac {
        "02:42:07:07:07:02".parse().unwrap()
    }

    /// Asserts that a row comes back from the ABI as it went in.
    fn comes_back<R: Encode + PartialEq + std::fmt::Debug>(key: R::Key, row: R)
    where
        R::Key: PartialEq + std::fmt::Debug,
    {
        let mut numbering = Numbering::default();
        numbering.endpoints.assign_lowest(7);
        for ip in ["10.0.0.2", "fd00::2"] {
            let ip = ip.parse().unwrap();
            numbering.vteps.assign(Vtep { ip, port: 4789 });
        }
        let (abi_key, abi_value) = (
            R::encode_key(&key, &numbering),
            R::encode(&key, &row, &numbering),
        );
        assert_eq!(
            R::decode(&abi_key, &abi_value, &numbering),
            Some((key, row))
        );
    }

    #[test]
    fn every_row_comes_back_as_it_went_in() {
        let key = FdbKey {
            vni: vni(),
            mac: mac(),
        };
        comes_back(
            key,
            FdbRow {
                target: FdbTarget::Local {
                    ifindex: 7,
                    is_queued: true,
                    is_metered: true,
                },
                generation: 9,
                ages: false,
            },
        );
        for (direction, dscp) in [(Direction::Sent, Some(0)), (Direction::Received, None)] {
            let key = MeterKey {
                ifindex: 7,
                direction,
            };
            comes_back(
                key,
                MeterRow {
                    rate: 10_000_000,
                    burst_ns: 200_000_000,
                    packet_rate: 7,
                    mark_ns: 5_000_000,
                    drop_ns: 50_000_000,
                    dscp,
                    priority: 3,
                },
            );
        }
        let [vtep, ipv6] = ["10.0.0.2", "fd00::2"].map(|ip| ip.parse::<VtepAddr>().unwrap());
        for vtep in [vtep, ipv6] {
            comes_back(
                key,
                FdbRow {
                    target: FdbTarget::Remote { vtep, port: 4789 },
                    generation: 9,
                    ages: true,
                },
            );
        }
        for ip in ["7.7.7.2", "fd00::2"] {
            let key = NeighborKey {
                vni: vni(),
                ip: ip.parse().unwrap(),
            };
            comes_back(
                key,
                NeighborRow {
                    mac: mac(),
                    generation: 9,
                },
            );
        }
        comes_back(
            vni(),
            NetworkRow {
                mtu: 1450,
                on_demand: true,
            },
        );
        comes_back(
            vtep,
            VtepRow {
                port: 4789,
                path: VtepPath::default(),
            },
        );
        comes_back(
            vtep,
            VtepRow {
                port: 4789,
                path: VtepPath {
                    next_hop: Some(vtep.ip()),
                    mtu: Some(4000),
                },
            },
        );
        comes_back(
            7,
            EndpointRow {
                vni: vni(),
                mac: mac(),
                ipv4: None,
                ipv6: Some("fd00::2".parse().unwrap()),
                mtu: 1450,
                dhcp: false,
                is_metered: true,
                gateway: Some(mac()),
                generation: 9,
            },
        );
    }

    #[test]
    fn rows_that_no_agent_wrote_are_not_understood() {
        let numbering = Numbering::default();
        assert_eq!(
            NetworkRow::decode(&0, &abi::NetworkEntry::zeroed(), &numbering),
            None
        );
        let multicast = abi::FdbKey::new(42, [0xff; 6]);
        assert_eq!(
            FdbRow::decode(&multicast, &abi::FdbEntry::local(1, 7), &numbering),
            None
        );
    }
}
