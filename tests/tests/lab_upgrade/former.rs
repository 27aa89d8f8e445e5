//! The datapath as an agent of ABI version 1 left it: that version's own object, pinned and attached
//! as it did.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf, EbpfLoader, Pod,
    maps::{HashMap, Map, MapData},
    programs::{
        SchedClassifier, TcAttachType, TestRun as _, TestRunOptions,
        links::FdLink,
        tc::{SchedClassifierLink, TcHandle},
    },
};
use nix::net::if_::{if_indextoname, if_nametoindex};
use overlay_ebpf::abi::{ABI_VERSION, PROBE_PACKET, global, map, program};
use overlay_tests::Host;

const OBJECT: &[u8] = aya::include_bytes_aligned!("../../fixtures/overlay-v1.bpf.o");

/// Entries of the FDB and the neighbour table unless the agent is told otherwise.
const ENTRIES: u32 = 262_144;
const PORT: u16 = 4789;
/// The agent's place among the filters of a clsact qdisc.
const PRIORITY: u16 = 0x4f56;
/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV6`, `BPF_F_ADJ_ROOM_DECAP_L4_UDP`.
const DECAP_L3_IPV6: u64 = 1 << 8;
const DECAP_L4_UDP: u64 = 1 << 10;
const INGRESS: TcAttachType = TcAttachType::Ingress;

/// The maps of version 1.
pub(crate) const MAPS: [&str; 7] = [
    map::FDB,
    map::NEIGHBORS,
    map::ENDPOINTS,
    map::VTEPS,
    map::NETWORKS,
    map::LEASE,
    map::DROPS,
];

/// An instance's folder of pins.
pub(crate) fn pins(host: &Host) -> PathBuf {
    Path::new("/sys/fs/bpf/overlay").join(host.netns.name())
}

/// Puts version 1 in the place of the datapath that a dead agent left on this host.
pub(crate) fn put_back(host: &Host) {
    let (old, new) = (pins(host).join("v1"), now(host));
    for kind in ["maps", "programs", "links"] {
        fs::create_dir_all(old.join(kind)).unwrap();
    }
    host.netns.enter(|| {
        let mut ebpf = load(host, &old);
        fill(&mut ebpf, &new.join("maps"));
        attach(&mut ebpf, &old, &new);
    });
    fs::remove_dir_all(new).unwrap();
}

/// Where this version pins.
pub(crate) fn now(host: &Host) -> PathBuf {
    pins(host).join(format!("v{ABI_VERSION}"))
}

/// What `bpf_skb_adjust_room` takes here on decapsulation of IPv4 and of IPv6, as the agent finds out.
fn decap_flags() -> [u64; 2] {
    let mut ebpf = EbpfLoader::new().load(OBJECT).unwrap();
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

fn load(host: &Host, folder: &Path) -> Ebpf {
    let [ipv4, ipv6] = decap_flags();
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
    for name in MAPS {
        loader.map_pin_path(name, folder.join("maps").join(name));
    }
    loader.load(OBJECT).unwrap()
}

/// Copies the rows, with zeros where version 1 had nothing to say.
fn fill(ebpf: &mut Ebpf, from: &Path) {
    copy(ebpf, from, map::FDB, |_: &[u8; 12], mut row: [u8; 24]| {
        row[18..].fill(0);
        row
    });
    copy(ebpf, from, map::ENDPOINTS, |_: &u32, mut row: [u8; 48]| {
        row[22..24].fill(0);
        row
    });
    copy(ebpf, from, map::NEIGHBORS, |_: &[u8; 20], row: [u8; 16]| {
        row
    });
    copy(ebpf, from, map::VTEPS, |_: &[u8; 4], row: [u8; 8]| row);
    // A network's MTU was all there was.
    copy(ebpf, from, map::NETWORKS, |_: &u32, row: [u8; 8]| {
        [row[0], row[1], row[2], row[3]]
    });
}

fn copy<K: Pod, V: Pod, W: Pod>(
    ebpf: &mut Ebpf,
    from: &Path,
    name: &str,
    convert: impl Fn(&K, V) -> W,
) {
    let from = Map::from_map_data(MapData::from_pin(from.join(name)).unwrap()).unwrap();
    let from: HashMap<_, K, V> = from.try_into().unwrap();
    let mut to: HashMap<_, K, W> = ebpf.map_mut(name).unwrap().try_into().unwrap();
    for row in &from {
        let (key, row) = row.unwrap();
        let row = convert(&key, row);
        to.insert(key, row, 0).unwrap();
    }
}

/// Attaches both programs wherever the agent of today has its own.
fn attach(ebpf: &mut Ebpf, old: &Path, new: &Path) {
    let endpoints: HashMap<_, u32, [u8; 48]> =
        ebpf.map(map::ENDPOINTS).unwrap().try_into().unwrap();
    let ports: Vec<u32> = endpoints.keys().map(Result::unwrap).collect();
    for (name, kind, ports) in [
        (program::ENDPOINT_INGRESS, "endpoint", ports),
        (
            program::UNDERLAY_INGRESS,
            "underlay",
            vec![if_nametoindex("u0").unwrap()],
        ),
    ] {
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
        overlay_tests::netns::run("tc", &["-j", "filter", "show", "dev", interface, "ingress"]);
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
