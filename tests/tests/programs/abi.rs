//! The object is what the ABI's types and docs/abi.md say.

use std::{collections::BTreeSet, mem::offset_of};

use aya::{maps::Map, programs::ProgramError};
use aya_obj::{
    Object,
    generated::bpf_map_type::{
        BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_LPM_TRIE, BPF_MAP_TYPE_LRU_HASH,
        BPF_MAP_TYPE_LRU_PERCPU_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_RINGBUF,
    },
    maps::Map as MapDefinition,
};
use bytemuck::Zeroable;
use overlay_ebpf::abi::{
    ABI_VERSION, BlockEntry, BlockKey, Counter, DropReason, DropSample, EndpointDropKey,
    EndpointEntry, FdbEntry, FdbKey, FloatEntry, FloatKey, FlowEntry, FlowKey, FragmentEntry,
    FragmentKey, MappingEntry, MappingKey, MeterEntry, MeterState, MissEvent, MissKey, NatBlock,
    NatChain, NatPort, Negative, NeighborEntry, NeighborKey, NetworkEntry, OutsideEntry,
    OutsideKey, PathEntry, RouteEntry, RouteKey, RouterPortEntry, TRACE, Traffic, UplinkEntry,
    VtepEntry, VtepKey, global, map, program,
};
use overlay_user::datapath::{OBJECT, TRACE_OBJECT};

use crate::datapath::{Datapath, Settings, classifier};
use crate::verified;

const PAGE: &str = include_str!("../../../docs/abi.md");

/// Bytes of memory for instructions that the kernel verifies for a privileged loader, at most
/// (`BPF_COMPLEXITY_LIMIT_INSNS`).
const VERIFIER_LIMIT: u32 = 1_000_000;

/// A map as the ABI's types describe it.
struct MapShape {
    name: &'static str,
    key: (&'static str, usize),
    value: (&'static str, usize),
    kind: u32,
}

macro_rules! shape {
    ($name:expr, $key:ty => $value:ty, $kind:expr) => {
        MapShape {
            name: $name,
            key: (stringify!($key), size_of::<$key>()),
            value: (stringify!($value), size_of::<$value>()),
            kind: $kind as u32,
        }
    };
}

fn shapes() -> [MapShape; 33] {
    [
        shape!(map::FDB, FdbKey => FdbEntry, BPF_MAP_TYPE_HASH),
        shape!(map::NEIGHBORS, NeighborKey => NeighborEntry, BPF_MAP_TYPE_HASH),
        shape!(map::ENDPOINTS, u32 => EndpointEntry, BPF_MAP_TYPE_HASH),
        shape!(map::VTEPS, VtepKey => VtepEntry, BPF_MAP_TYPE_HASH),
        shape!(map::PATHS, u32 => PathEntry, BPF_MAP_TYPE_ARRAY),
        shape!(map::ROUTER_PORTS, u32 => RouterPortEntry, BPF_MAP_TYPE_HASH),
        MapShape {
            name: map::ROUTES,
            // The number of bits that count is in front of it.
            key: ("RouteKey", size_of::<u32>() + size_of::<RouteKey>()),
            value: ("RouteEntry", size_of::<RouteEntry>()),
            kind: BPF_MAP_TYPE_LPM_TRIE as u32,
        },
        shape!(map::UPLINK, u32 => UplinkEntry, BPF_MAP_TYPE_ARRAY),
        shape!(map::OUTSIDE, OutsideKey => OutsideEntry, BPF_MAP_TYPE_HASH),
        shape!(map::FLOATS, FloatKey => FloatEntry, BPF_MAP_TYPE_HASH),
        shape!(map::BLOCKS, BlockKey => BlockEntry, BPF_MAP_TYPE_HASH),
        shape!(map::NAT_BLOCKS, u32 => NatBlock, BPF_MAP_TYPE_ARRAY),
        shape!(map::NAT_PORTS, u32 => NatPort, BPF_MAP_TYPE_ARRAY),
        shape!(map::NAT_CHAINS, u32 => NatChain, BPF_MAP_TYPE_ARRAY),
        shape!(map::MAPPINGS, MappingKey => MappingEntry, BPF_MAP_TYPE_HASH),
        shape!(map::FLOWS, FlowKey => FlowEntry, BPF_MAP_TYPE_HASH),
        shape!(map::FLOW_COUNTS, u32 => u64, BPF_MAP_TYPE_ARRAY),
        shape!(map::NEW_FLOWS, FlowKey => FlowEntry, BPF_MAP_TYPE_LRU_HASH),
        shape!(map::FRAGMENTS, FragmentKey => FragmentEntry, BPF_MAP_TYPE_LRU_HASH),
        shape!(map::NETWORKS, u32 => NetworkEntry, BPF_MAP_TYPE_HASH),
        shape!(map::LEASE, u32 => u64, BPF_MAP_TYPE_ARRAY),
        shape!(map::EDITION, u32 => u64, BPF_MAP_TYPE_ARRAY),
        shape!(map::EXTERNAL, u32 => u32, BPF_MAP_TYPE_ARRAY),
        shape!(map::DROPS, u32 => u64, BPF_MAP_TYPE_PERCPU_ARRAY),
        shape!(map::DROP_SAMPLES, u32 => DropSample, BPF_MAP_TYPE_PERCPU_ARRAY),
        shape!(map::ENDPOINT_DROPS, EndpointDropKey => u64, BPF_MAP_TYPE_LRU_PERCPU_HASH),
        MapShape {
            name: map::MISSES,
            key: ("", 0),
            value: ("MissEvent", 0),
            kind: BPF_MAP_TYPE_RINGBUF as u32,
        },
        shape!(map::NEGATIVE, MissKey => Negative, BPF_MAP_TYPE_LRU_HASH),
        shape!(map::TRAFFIC, u32 => Traffic, BPF_MAP_TYPE_PERCPU_ARRAY),
        shape!(map::PORT_TRAFFIC, u32 => Traffic, BPF_MAP_TYPE_PERCPU_ARRAY),
        shape!(map::METERS, u32 => MeterEntry, BPF_MAP_TYPE_ARRAY),
        shape!(map::METER_STATE, u32 => MeterState, BPF_MAP_TYPE_ARRAY),
        shape!(map::COUNTERS, u32 => u64, BPF_MAP_TYPE_PERCPU_ARRAY),
    ]
}

/// Heading and rows (offset, size, field) of a type's table on the page.
type Layout = (String, Vec<[String; 3]>);

macro_rules! layout {
    ($kind:literal, $type:ident { $($field:ident),+ }) => {{
        let zeroed = $type::zeroed();
        let rows = vec![$([
            offset_of!($type, $field).to_string(),
            size_of_val(&zeroed.$field).to_string(),
            format!("`{}`", stringify!($field)),
        ]),+];
        // A field that is missing here does not compile: the pattern has no rest.
        let $type { $($field: _),+ } = zeroed;
        (format!("{} `{}`, {} bytes", $kind, stringify!($type), size_of::<$type>()), rows)
    }};
}

#[expect(clippy::too_many_lines, reason = "each field of each type is named")]
fn layouts() -> [Layout; 36] {
    [
        layout!("Key", FdbKey { vni, mac, reserved }),
        layout!(
            "Value",
            FdbEntry {
                generation,
                target,
                vtep,
                id,
                slot,
                used_s,
                kind,
                flags
            }
        ),
        layout!("Key", NeighborKey { vni, ip }),
        layout!(
            "Value",
            NeighborEntry {
                generation,
                mac,
                flags
            }
        ),
        layout!(
            "Value",
            EndpointEntry {
                generation,
                vni,
                mtu,
                mac,
                slot,
                ipv4,
                ipv6,
                id,
                flags,
                gateway
            }
        ),
        layout!("Key", VtepKey { ip }),
        layout!(
            "Value",
            VtepEntry {
                id,
                port,
                mtu,
                flags,
                next_hop
            }
        ),
        layout!(
            "Value",
            PathEntry {
                vtep,
                next_hop,
                port,
                mtu,
                flags
            }
        ),
        layout!(
            "Value",
            NetworkEntry {
                mtu,
                flags,
                slot,
                router,
                reserved
            }
        ),
        layout!(
            "Value",
            DropSample {
                at_ns,
                reason,
                ifindex,
                endpoint,
                vni,
                peer,
                len,
                source_port,
                destination_port,
                destination_mac,
                source_mac,
                ether_type,
                protocol,
                direction,
                source_ip,
                destination_ip,
                sealed_ns
            }
        ),
        layout!(
            "Key",
            EndpointDropKey {
                ifindex,
                reason,
                direction
            }
        ),
        layout!(
            "Value",
            RouterPortEntry {
                router,
                ipv4,
                ipv6,
                mac,
                reserved
            }
        ),
        (
            "`RouteKey` follows, 20 bytes".to_owned(),
            layout!("Key", RouteKey { router, ip }).1,
        ),
        layout!(
            "Value",
            RouteEntry {
                vni,
                next_hop,
                kind,
                prefix_len,
                adjustment
            }
        ),
        layout!(
            "Value",
            UplinkEntry {
                ifindex,
                mtu,
                mac,
                reserved,
                next_hop,
                subnet,
                mask
            }
        ),
        layout!("Key", OutsideKey { ip }),
        layout!(
            "Value",
            OutsideEntry {
                vni,
                ip,
                kind,
                block_bits,
                reserved
            }
        ),
        layout!("Key", FloatKey { vni, ip }),
        layout!("Value", FloatEntry { external }),
        layout!(
            "Key",
            BlockKey {
                ip,
                number,
                reserved
            }
        ),
        layout!(
            "Value",
            BlockEntry {
                slot,
                ifindex,
                vni,
                ports,
                index,
                flags
            }
        ),
        layout!(
            "Value",
            NatBlock {
                ip,
                first_port,
                ports,
                endpoint,
                vni,
                flags,
                cursor,
                used,
                early,
                bits
            }
        ),
        layout!(
            "Value",
            NatPort {
                ip,
                port,
                endpoint,
                established,
                epoch,
                protocol,
                phase,
                used_s,
                reserved
            }
        ),
        layout!("Value", NatChain { blocks }),
        layout!(
            "Key",
            MappingKey {
                endpoint,
                port,
                ip,
                protocol
            }
        ),
        layout!("Value", MappingEntry { slot, epoch }),
        layout!(
            "Key",
            FlowKey {
                endpoint,
                protocol,
                local,
                remote,
                local_port,
                remote_port
            }
        ),
        layout!(
            "Value",
            FlowEntry {
                slot,
                used_s,
                state,
                external,
                port,
                epoch
            }
        ),
        layout!(
            "Key",
            FragmentKey {
                endpoint,
                source,
                destination,
                id,
                protocol
            }
        ),
        layout!("Value", FragmentEntry { ip, vni, until_s }),
        layout!("Key", MissKey { vni, kind, address }),
        layout!(
            "Value",
            Negative {
                until_ns,
                is_unknown,
                reserved
            }
        ),
        layout!(
            "Record",
            MissEvent {
                key,
                ifindex,
                requester_mac,
                reserved,
                requester_ip
            }
        ),
        layout!(
            "Value",
            Traffic {
                tx_packets,
                tx_bytes,
                rx_packets,
                rx_bytes
            }
        ),
        layout!(
            "Value",
            MeterEntry {
                rate,
                burst_ns,
                packet_rate,
                mark_ns,
                drop_ns,
                priority,
                dscp,
                flags,
                reserved
            }
        ),
        layout!(
            "Value",
            MeterState {
                bits,
                packets,
                marked,
                dropped
            }
        ),
    ]
}

/// The rows of the first table behind a line that begins so, cell by cell.
fn table(heading: &str) -> Vec<Vec<String>> {
    PAGE.lines()
        .skip_while(|line| !line.starts_with(heading))
        .skip_while(|line| !line.starts_with("|---"))
        .skip(1)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells = line.trim_matches('|').split('|');
            cells.map(|cell| cell.trim().to_owned()).collect()
        })
        .collect()
}

/// A column of such a table, without the backquotes of code.
fn column(heading: &str, index: usize) -> BTreeSet<String> {
    let rows = table(heading).into_iter();
    rows.map(|row| row[index].trim_matches('`').to_owned())
        .collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

const PROGRAMS: [&str; 20] = [
    program::ENDPOINT_INGRESS,
    program::UNDERLAY_INGRESS,
    program::EXTERNAL_INGRESS,
    program::ICMP_ERROR,
    program::SEND_PROBE,
    program::ECHO,
    program::ROUTE,
    program::UPLINK_INGRESS,
    program::TO_OUTSIDE,
    program::FROM_OUTSIDE,
    program::NAT_OPEN,
    program::NAT_ERROR,
    program::NAT_SWEEP,
    program::PACE,
    program::PUNT,
    program::PROBE_ENCAP,
    program::PROBE_DECAP_L3,
    program::PROBE_DECAP_L4,
    program::INJECT,
    program::INJECT_ECHO,
];

#[test]
fn the_objects_maps_are_those_of_the_abi() {
    let object = Object::parse(OBJECT).unwrap();
    let shapes = shapes();
    assert_eq!(shapes.each_ref().map(|shape| shape.name), map::ALL);
    for shape in &shapes {
        let map = &object.maps[shape.name];
        assert!(
            matches!(map, MapDefinition::Btf(_)),
            "{} carries no BTF",
            shape.name
        );
        assert_eq!(
            (
                map.map_type(),
                map.key_size() as usize,
                map.value_size() as usize
            ),
            (shape.kind, shape.key.1, shape.value.1),
            "{}",
            shape.name
        );
    }
    for (name, slots) in [
        (map::DROPS, DropReason::SLOTS),
        (map::COUNTERS, Counter::SLOTS),
        (map::TRAFFIC, Traffic::SLOTS.into()),
        (map::PORT_TRAFFIC, Traffic::PORT_SLOTS.into()),
        (map::METERS, MeterEntry::SLOTS),
        (map::METER_STATE, MeterEntry::SLOTS),
        (map::DROP_SAMPLES, DropSample::SLOTS),
    ] {
        assert_eq!(object.maps[name].max_entries(), slots, "{name}");
    }
    let others: BTreeSet<_> = object
        .maps
        .keys()
        .filter(|name| !map::ALL.contains(&name.as_str()) && !name.starts_with(".rodata"))
        .collect();
    assert_eq!(
        others,
        BTreeSet::from(
            [
                "AYA_LOGS",
                "gro",
                "hops",
                "scratch",
                "calls",
                "drop_pace",
                "echoes",
                "meter",
                "meter_cpu",
                "punts",
                "punts_cpu"
            ]
            .map(str::to_owned)
            .each_ref()
        )
    );
}

#[test]
fn the_kernel_has_the_maps_as_the_object_describes_them() {
    let mut datapath = Datapath::load(Settings::default());
    for shape in shapes() {
        // The harness took these out to read them.
        if [map::DROPS, map::MISSES].contains(&shape.name) {
            continue;
        }
        let map = datapath.ebpf.take_map(shape.name).unwrap();
        let (Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::PerCpuLruHashMap(data)) = map
        else {
            panic!("{} is of another kind", shape.name);
        };
        let info = data.info().unwrap();
        assert_eq!(info.name_as_str(), Some(shape.name));
        assert_eq!(
            (info.key_size() as usize, info.value_size() as usize),
            (shape.key.1, shape.value.1),
            "{}",
            shape.name
        );
    }
}

#[test]
fn the_objects_programs_are_those_of_the_abi_and_the_verifier_takes_them_all() {
    let object = Object::parse(OBJECT).unwrap();
    let names: BTreeSet<String> = object.programs.keys().cloned().collect();
    assert_eq!(names, set(&PROGRAMS));

    println!("object: {} bytes", OBJECT.len());
    let mut datapath = Datapath::load(Settings::default());
    let mut counts = Vec::new();
    for name in PROGRAMS {
        let program = classifier(&mut datapath.ebpf, name);
        match program.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
            Err(error) => panic!("{name}: {error}"),
        }
        let info = program.info().unwrap();
        let verified = info.verified_instruction_count().unwrap_or_default();
        println!(
            "{name}: {} bytes translated, {} bytes of machine code",
            info.size_translated().unwrap_or_default(),
            info.size_jitted(),
        );
        assert!(
            verified < VERIFIER_LIMIT / 10,
            "{name} is close to the verifier's limit with {verified} instructions"
        );
        counts.push((name, verified));
    }
    verified::compare(&counts);
}

#[test]
fn the_object_that_tells_differs_by_one_map_and_the_verifier_takes_its_programs() {
    let [plain, telling] = [OBJECT, TRACE_OBJECT].map(|object| Object::parse(object).unwrap());
    let names = |object: &Object| object.maps.keys().cloned().collect::<BTreeSet<_>>();
    let more: Vec<_> = names(&telling)
        .difference(&names(&plain))
        .cloned()
        .collect();
    assert_eq!(more, [TRACE]);
    assert_eq!(
        plain.programs.keys().collect::<BTreeSet<_>>(),
        telling.programs.keys().collect()
    );
    let mut datapath = Datapath::load_object(TRACE_OBJECT, Settings::default());
    for name in PROGRAMS {
        let program = classifier(&mut datapath.ebpf, name);
        match program.load() {
            Ok(()) | Err(ProgramError::AlreadyLoaded) => {}
            Err(error) => panic!("{name}: {error}"),
        }
    }
}

#[test]
fn the_page_lists_the_maps_programs_and_globals_of_the_abi() {
    let listed: Vec<_> = table("## Maps")
        .into_iter()
        .map(|row| [0, 2, 3, 4, 5].map(|index| row[index].trim_matches('`').to_owned()))
        .collect();
    let expected = shapes().map(|shape| {
        [
            shape.name.to_owned(),
            shape.key.0.to_owned(),
            shape.key.1.to_string(),
            shape.value.0.to_owned(),
            shape.value.1.to_string(),
        ]
    });
    assert_eq!(listed, expected);
    assert_eq!(column("## Programs", 0), set(&PROGRAMS));
    let globals = [
        global::UNDERLAY_IFINDEX,
        global::VTEP_IP_BE,
        global::VTEP_PORT_BE,
        global::FEATURES,
        global::DECAP_FLAGS_IPV4,
        global::DECAP_FLAGS_IPV6,
    ];
    assert_eq!(column("## Globals", 0), set(&globals));
    assert!(PAGE.contains(&format!("user space share, version {ABI_VERSION}.")));
    assert!(PAGE.contains(&format!("overlay/INSTANCE/v{ABI_VERSION}/")));
}

#[test]
fn the_page_shows_every_field_where_it_lies() {
    for (heading, fields) in layouts() {
        let listed: Vec<_> = table(&heading)
            .into_iter()
            .map(|row| [0, 1, 2].map(|index| row[index].clone()))
            .collect();
        assert_eq!(listed, fields, "{heading}");
    }
}

#[test]
fn the_page_explains_every_counter() {
    let expected: Vec<_> = Counter::ALL
        .iter()
        .map(|counter| {
            vec![
                counter.number().to_string(),
                format!("`{}`", counter.name()),
                counter.describe().to_owned(),
            ]
        })
        .collect();
    assert_eq!(table("### `counters`"), expected);
    let numbers: BTreeSet<_> = Counter::ALL
        .iter()
        .map(|counter| counter.number())
        .collect();
    assert_eq!(numbers.len(), Counter::ALL.len());
    assert!(numbers.iter().all(|number| *number < Counter::SLOTS));
}

#[test]
fn the_page_explains_every_drop_reason() {
    let expected: Vec<_> = DropReason::ALL
        .iter()
        .map(|reason| {
            vec![
                reason.number().to_string(),
                format!("`{}`", reason.name()),
                if reason.is_noise() { "noise" } else { "loss" }.to_owned(),
                reason.describe().to_owned(),
            ]
        })
        .collect();
    assert_eq!(table("## Drop reasons"), expected);
}
