//! The datapath as an agent of an earlier ABI version left it: that version's own object, pinned and attached
//! as it did.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{Array, HashMap, Map, MapData},
    programs::{
        SchedClassifier, TcAttachType, TestRun as _, TestRunOptions,
        links::FdLink,
        tc::{SchedClassifierLink, TcHandle},
    },
};
use nix::net::if_::{if_indextoname, if_nametoindex};
use overlay_ebpf::abi::{
    ABI_VERSION, External, FdbEntry, PROBE_PACKET, VtepEntry, global, map, program,
};
use overlay_lab::Host;

/// An earlier version of the ABI.
pub(crate) struct Version {
    pub(crate) number: u32,
    object: &'static [u8],
    /// Its maps.
    pub(crate) maps: &'static [&'static str],
}

pub(crate) static V1: Version = Version {
    number: 1,
    object: aya::include_bytes_aligned!("../../../fixtures/overlay-v1.bpf.o"),
    maps: &MAPS_OF_1,
};

pub(crate) static V2: Version = Version {
    number: 2,
    object: aya::include_bytes_aligned!("../../../fixtures/overlay-v2.bpf.o"),
    maps: &MAPS_OF_2,
};

impl Version {
    /// Its folder's name.
    pub(crate) fn folder(&self) -> String {
        format!("v{}", self.number)
    }

    /// Whether it knows networks that resolve on demand, traffic and a way through the VXLAN device.
    fn is_full(&self) -> bool {
        self.number > 1
    }
}

/// Entries of the FDB and the neighbour table unless the agent is told otherwise.
const ENTRIES: u32 = 262_144;
const PORT: u16 = 4789;
/// The agent's place among the filters of a clsact qdisc.
const PRIORITY: u16 = 0x4f56;
/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV6`, `BPF_F_ADJ_ROOM_DECAP_L4_UDP`.
const DECAP_L3_IPV6: u64 = 1 << 8;
const DECAP_L4_UDP: u64 = 1 << 10;
const INGRESS: TcAttachType = TcAttachType::Ingress;

const MAPS_OF_1: [&str; 7] = [
    map::FDB,
    map::NEIGHBORS,
    map::ENDPOINTS,
    map::VTEPS,
    map::NETWORKS,
    map::LEASE,
    map::DROPS,
];

const MAPS_OF_2: [&str; 14] = [
    map::FDB,
    map::NEIGHBORS,
    map::ENDPOINTS,
    map::VTEPS,
    map::NETWORKS,
    map::LEASE,
    map::EXTERNAL,
    map::DROPS,
    map::DROP_SAMPLES,
    map::ENDPOINT_DROPS,
    map::MISSES,
    "quiet",
    map::TRAFFIC,
    map::COUNTERS,
];

/// An instance's folder of pins.
pub(crate) fn pins(host: &Host) -> PathBuf {
    Path::new("/sys/fs/bpf/overlay").join(host.netns.name())
}

/// Puts a version in the place of the datapath that a dead agent left on this host.
pub(crate) fn put_back(version: &Version, host: &Host) {
    let (old, new) = (pins(host).join(version.folder()), now(host));
    for kind in ["maps", "programs", "links"] {
        fs::create_dir_all(old.join(kind)).unwrap();
    }
    host.netns.enter(|| {
        let mut ebpf = load(version, host, &old);
        fill(version, &mut ebpf, &new.join("maps"));
        attach(version, &mut ebpf, &old, &new);
    });
    fs::remove_dir_all(new).unwrap();
}

/// Where this version pins.
pub(crate) fn now(host: &Host) -> PathBuf {
    pins(host).join(format!("v{ABI_VERSION}"))
}

/// What `bpf_skb_adjust_room` takes here on decapsulation of IPv4 and of IPv6, as the agent finds out.
fn decap_flags(version: &Version) -> [u64; 2] {
    let mut ebpf = EbpfLoader::new().load(version.object).unwrap();
    let mut ask = |name: &str, flag| {
        let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap();
        let options = TestRunOptions {
            data_in: Some(&PROBE_PACKET),
            ..TestRunOptions::default()
        };
        let takes = program.test_run(options).unwrap().return_value == 1;
        if takes { flag } else { 0 }
    };
    let l4 = ask(program::PROBE_DECAP_L4, DECAP_L4_UDP);
    let l3 = ask(program::PROBE_DECAP_L3, DECAP_L3_IPV6);
    [l4, if l3 == 0 { 0 } else { l3 | l4 }]
}

fn load(version: &Version, host: &Host, folder: &Path) -> Ebpf {
    let [ipv4, ipv6] = decap_flags(version);
    let underlay = if_nametoindex("u0").unwrap();
    let vtep_ip = u32::from_ne_bytes(host.ip.octets());
    let port = PORT.to_be();
    let mut loader = EbpfLoader::new();
    loader
        .override_global(global::UNDERLAY_IFINDEX, &underlay, true)
        .override_global(global::VTEP_IP_BE, &vtep_ip, true)
        .override_global(global::VTEP_PORT_BE, &port, true)
        .override_global(global::DECAP_FLAGS_IPV4, &ipv4, true)
        .override_global(global::DECAP_FLAGS_IPV6, &ipv6, true)
        .override_global("AYA_LOG_LEVEL", &0_u8, true)
        .map_max_entries(map::FDB, ENTRIES)
        .map_max_entries(map::NEIGHBORS, ENTRIES);
    for &name in version.maps {
        loader.map_pin_path(name, folder.join("maps").join(name));
    }
    loader.load(version.object).unwrap()
}

/// Copies the rows, with zeros where version 1 had nothing to say.
fn fill(version: &Version, ebpf: &mut Ebpf, from: &Path) {
    let is_full = version.is_full();
    copy(ebpf, from, map::FDB, |key: &[u8; 12], row: FdbEntry| {
        let ifindex = row.interface().unwrap_or(0);
        let port = if ifindex == 0 { PORT } else { 0 };
        let slot = if is_full { row.slot } else { 0 };
        let fields: [&[u8]; 5] = [
            &row.generation.to_ne_bytes(),
            &ifindex.to_ne_bytes(),
            &row.vtep,
            &port.to_be_bytes(),
            &slot.to_ne_bytes(),
        ];
        (*key, bytes::<24>(&fields))
    });
    copy(ebpf, from, map::ENDPOINTS, |key: &u32, row: [u8; 56]| {
        let mut row = bytes::<48>(&[&row[..44]]);
        if !is_full {
            row[22..24].fill(0);
        }
        (*key, row)
    });
    copy(
        ebpf,
        from,
        map::NEIGHBORS,
        |key: &[u8; 20], row: [u8; 16]| (*key, row),
    );
    copy(ebpf, from, map::VTEPS, |key: &[u8; 16], row: VtepEntry| {
        let mtu = if is_full { row.mtu } else { 0 };
        let next_hop = &row.next_hop[12..];
        let row = bytes::<8>(&[&row.port, &mtu.to_ne_bytes(), next_hop]);
        (bytes::<4>(&[&key[12..]]), row)
    });
    if is_full {
        copy(ebpf, from, map::NETWORKS, |key: &u32, row: [u8; 16]| {
            (*key, bytes::<8>(&[&row[..8]]))
        });
        let from: Array<_, u32> = open(from, map::EXTERNAL).try_into().unwrap();
        let to = ebpf.map_mut(map::EXTERNAL).unwrap();
        let mut to: Array<_, u32> = to.try_into().unwrap();
        for slot in 0..External::SLOTS {
            to.set(slot, from.get(&slot, 0).unwrap(), 0).unwrap();
        }
    } else {
        // A network's MTU was all there was.
        copy(ebpf, from, map::NETWORKS, |key: &u32, row: [u8; 16]| {
            (*key, bytes::<4>(&[&row[..4]]))
        });
    }
}

/// Fields one behind the other, and zeros behind them.
fn bytes<const LEN: usize>(fields: &[&[u8]]) -> [u8; LEN] {
    let mut bytes = fields.concat();
    bytes.resize(LEN, 0);
    bytes.try_into().unwrap()
}

fn open(folder: &Path, name: &str) -> Map {
    Map::from_map_data(MapData::from_pin(folder.join(name)).unwrap()).unwrap()
}

fn copy<K: Pod, V: Pod, L: Pod, W: Pod>(
    ebpf: &mut Ebpf,
    from: &Path,
    name: &str,
    convert: impl Fn(&K, V) -> (L, W),
) {
    let from: HashMap<_, K, V> = open(from, name).try_into().unwrap();
    let mut to: HashMap<_, L, W> = ebpf.map_mut(name).unwrap().try_into().unwrap();
    for row in &from {
        let (key, row) = row.unwrap();
        let (key, row) = convert(&key, row);
        to.insert(key, row, 0).unwrap();
    }
}

/// Attaches the programs wherever the agent of today has its own.
fn attach(version: &Version, ebpf: &mut Ebpf, old: &Path, new: &Path) {
    let endpoints: HashMap<_, u32, [u8; 48]> =
        ebpf.map(map::ENDPOINTS).unwrap().try_into().unwrap();
    let ports: Vec<u32> = endpoints.keys().map(Result::unwrap).collect();
    let underlay = vec![if_nametoindex("u0").unwrap()];
    let mut programs = vec![
        (program::ENDPOINT_INGRESS, "endpoint", ports),
        (program::UNDERLAY_INGRESS, "underlay", underlay),
    ];
    if version.is_full() {
        let external: Array<_, u32> = ebpf.map(map::EXTERNAL).unwrap().try_into().unwrap();
        let device = external.get(&External::IFINDEX, 0).unwrap();
        programs.push((program::EXTERNAL_INGRESS, "external", vec![device]));
    }
    for (name, kind, ports) in programs {
        let program: &mut SchedClassifier = ebpf.program_mut(name).unwrap().try_into().unwrap();
        program.load().unwrap();
        program.pin(old.join("programs").join(name)).unwrap();
        for ifindex in ports {
            let interface = if_indextoname(ifindex).unwrap().into_string().unwrap();
            let pin = format!("links/{kind}-{ifindex}");
            if new.join(&pin).exists() {
                let id = program.attach(&interface, INGRESS).unwrap();
                let link = FdLink::try_from(program.take_link(id).unwrap()).unwrap();
                link.pin(old.join(&pin)).unwrap();
            } else {
                replace_filter(program, &interface);
            }
        }
    }
}

/// Without tcx: puts the program in the place of today's.
fn replace_filter(program: &mut SchedClassifier, interface: &str) {
    let filters =
        overlay_lab::netns::run("tc", &["-j", "filter", "show", "dev", interface, "ingress"]);
    let filters: serde_json::Value = serde_json::from_str(&filters).unwrap();
    let handle = filters
        .as_array()
        .unwrap()
        .iter()
        .find_map(|filter| {
            let handle = filter["options"]["handle"].as_str()?;
            u16::from_str_radix(handle.strip_prefix("0x")?, 16).ok()
        })
        .unwrap();
    let handle = TcHandle::new(0, handle);
    let standing =
        SchedClassifierLink::attached(interface, INGRESS, PRIORITY, handle, None).unwrap();
    let id = program.attach_to_link(standing).unwrap();
    // It stays when this process goes.
    std::mem::forget(program.take_link(id).unwrap());
}
