//! Declares the maps. With the files below it has the only unsafe code on them: every look-up copies its value out.

use core::mem::MaybeUninit;

use aya_ebpf::{
    Global,
    bindings::BPF_ANY,
    btf_maps::{
        Array, HashMap, LpmTrie, LruHashMap, LruPerCpuHashMap, PerCpuArray, ProgramArray, RingBuf,
    },
    helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    macros::btf_map,
};
use bytemuck::must_cast;
use overlay_ebpf::{
    abi::{
        BlockEntry, BlockKey, Call, Counter, DECAP_L4_UDP, DropPace, DropReason, DropSample,
        EchoEvent, EndpointDropKey, EndpointEntry, External, FdbEntry, FdbKey, Feature, FloatEntry,
        FloatKey, FlowEntry, FlowKey, FragmentEntry, FragmentKey, GroState, Hop, MappingEntry,
        MappingKey, Meter, MeterKey, MissEvent, MissKey, NatBlock, NatChain, NatPort, Negative,
        NeighborEntry, NeighborKey, NetworkEntry, OutsideEntry, OutsideKey, PathEntry, RouteEntry,
        RouteKey, RouterPortEntry, Scratch, Table, Traffic, UplinkEntry, VtepEntry, VtepKey,
    },
    wire::{eth::Mac, ipv6},
};

use crate::frame::Frame;

macro_rules! lookup {
    ($(#[$doc:meta])* $name:ident, $map:ident, $table:ident, $key:ty => $value:ty) => {
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name(key: $key) -> Option<$value> {
            let key = Key::new(key);
            // SAFETY: programs only read this map, so nothing is inserted or removed between the
            // look-up and the copy on this CPU; user space replaces an element as a whole, and a
            // replaced one stays readable until this program has ended (RCU).
            let found = unsafe { $map.get(&key.key) };
            trace::looked(Table::$table, &raw const key.key, found);
            found.copied()
        }
    };
}

mod atomic;
mod drops;
mod fragments;
mod hop;
mod meter;
mod nat;
mod outside;
mod path;
mod punt;
mod router;
mod scratch;
#[cfg(feature = "trace")]
mod trace;
#[cfg(not(feature = "trace"))]
#[path = "maps/untraced.rs"]
mod trace;

pub use drops::{count_drop, count_endpoint_drop, note_refusal, with_drop_pace, with_drop_sample};
pub use fragments::FragmentsOf;
pub use hop::{edition, known_hop, remember_hop};
pub use meter::{MeterProgress, add_to_counter, meter, meter_progress};
pub use nat::*;
pub use outside::{
    Reached, float, is_external, outside, prefix_outside, reached_from_outside, uplink,
};
pub use path::{Path, has_lease, next_hop, path_of, vtep_of};
pub use punt::{punt, with_cpu_punts};
pub use router::{gateway_mac, is_gateway, neighbor, next_hop_of, route, router_port};
pub use scratch::{departure, keep_departure, keep_endpoint, kept_endpoint};

/// `BPF_F_NO_PREALLOC`: memory follows what is in the map and not what could be. Only user space
/// writes these maps, so no program ever waits for an allocation.
const NO_PREALLOC: usize = 1;

/// Entries that the object asks for; the loader sets what the configuration says.
const DEFAULT_ENTRIES: usize = 262_144;

#[btf_map(name = "fdb")]
static FDB: HashMap<FdbKey, FdbEntry, DEFAULT_ENTRIES, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "neighbors")]
static NEIGHBORS: HashMap<NeighborKey, NeighborEntry, DEFAULT_ENTRIES, NO_PREALLOC> =
    HashMap::new();

#[btf_map(name = "endpoints")]
static ENDPOINTS: HashMap<u32, EndpointEntry, 65_536, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "vteps")]
static VTEPS: HashMap<VtepKey, VtepEntry, 65_536, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "paths")]
static PATHS: Array<PathEntry, { PathEntry::SLOTS as usize }> = Array::new();

#[btf_map(name = "networks")]
static NETWORKS: HashMap<u32, NetworkEntry, 65_536, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "router_ports")]
static ROUTER_PORTS: HashMap<u32, RouterPortEntry, 65_536, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "routes")]
static ROUTES: LpmTrie<RouteKey, RouteEntry, 16_384> = LpmTrie::new();

#[btf_map(name = "uplink")]
static UPLINK: Array<UplinkEntry, 1> = Array::new();

#[btf_map(name = "outside")]
static OUTSIDE: HashMap<OutsideKey, OutsideEntry, 65_536, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "floats")]
static FLOATS: HashMap<FloatKey, FloatEntry, 65_536, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "blocks")]
static BLOCKS: HashMap<BlockKey, BlockEntry, 65_536, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "nat_blocks")]
static NAT_BLOCKS: Array<NatBlock, { NatBlock::SLOTS as usize }> = Array::new();

#[btf_map(name = "nat_ports")]
static NAT_PORTS: Array<NatPort, { (NatBlock::SLOTS * NatBlock::PORT_SLOTS) as usize }> =
    Array::new();

#[btf_map(name = "nat_chains")]
static NAT_CHAINS: Array<NatChain, { NatChain::SLOTS as usize }> = Array::new();

/// The programs write these tables: memory follows what is in them, by the kernel's own caches for programs.
#[btf_map(name = "mappings")]
static MAPPINGS: HashMap<MappingKey, MappingEntry, { FlowEntry::ENTRIES }, NO_PREALLOC> =
    HashMap::new();

#[btf_map(name = "flows")]
static FLOWS: HashMap<FlowKey, FlowEntry, { FlowEntry::ENTRIES }, NO_PREALLOC> = HashMap::new();

#[btf_map(name = "flow_counts")]
static FLOW_COUNTS: Array<u64, { NatChain::SLOTS as usize }> = Array::new();

/// A flood of flows that nobody answers pushes out its like, and no flow that was answered.
#[btf_map(name = "new_flows")]
static NEW_FLOWS: LruHashMap<FlowKey, FlowEntry, { FlowEntry::ENTRIES }> = LruHashMap::new();

#[btf_map(name = "fragments")]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry, 4096> = LruHashMap::new();

#[btf_map(name = "lease")]
static LEASE: Array<u64, 1> = Array::new();

#[btf_map(name = "edition")]
static EDITION: Array<u64, 1> = Array::new();

#[btf_map(name = "hops")]
static HOPS: PerCpuArray<Hop, { Hop::SLOTS as usize }> = PerCpuArray::new();

#[btf_map(name = "external")]
static EXTERNAL: Array<u32, { External::SLOTS as usize }> = Array::new();

#[btf_map(name = "drops")]
static DROPS: PerCpuArray<u64, { DropReason::SLOTS as usize }> = PerCpuArray::new();

#[btf_map(name = "drop_samples")]
static DROP_SAMPLES: PerCpuArray<DropSample, { DropSample::SLOTS as usize }> = PerCpuArray::new();

#[btf_map(name = "drop_pace")]
static DROP_PACE: PerCpuArray<DropPace, { DropSample::PACES as usize }> = PerCpuArray::new();

/// Allocated as a whole, so that endpoints can't make it grow. Noise has no keys here.
#[btf_map(name = "endpoint_drops")]
static ENDPOINT_DROPS: LruPerCpuHashMap<EndpointDropKey, u64, 16_384> = LruPerCpuHashMap::new();

/// Bytes of the ring: some four thousand misses.
const MISSES_SIZE: usize = 256 << 10;

#[btf_map(name = "misses")]
static MISSES: RingBuf<MissEvent, MISSES_SIZE> = RingBuf::new();

/// Bytes of the ring: what the programs see of some thousand echoes that are sent at once.
const ECHOES_SIZE: usize = 128 << 10;

#[btf_map(name = "echoes")]
static ECHOES: RingBuf<EchoEvent, ECHOES_SIZE> = RingBuf::new();

#[btf_map(name = "negative")]
static NEGATIVE: LruHashMap<MissKey, Negative, 16_384> = LruHashMap::new();

#[btf_map(name = "traffic")]
static TRAFFIC: PerCpuArray<Traffic, { Traffic::SLOTS as usize }> = PerCpuArray::new();

#[btf_map(name = "port_traffic")]
static PORT_TRAFFIC: PerCpuArray<Traffic, { Traffic::PORT_SLOTS as usize }> = PerCpuArray::new();

#[btf_map(name = "counters")]
static COUNTERS: PerCpuArray<u64, { Counter::SLOTS as usize }> = PerCpuArray::new();

/// Keys are endpoints and networks of this host alone, whatever is sent: nobody can push others'
/// meters out by scanning. One that is pushed out starts anew, within the limit of its CPU.
#[btf_map(name = "meter")]
static METER: LruHashMap<MeterKey, Meter, 8192> = LruHashMap::new();

#[btf_map(name = "meter_cpu")]
static METER_CPU: PerCpuArray<Meter, 1> = PerCpuArray::new();

#[btf_map(name = "calls")]
static CALLS: ProgramArray<{ Call::SLOTS as usize }> = ProgramArray::new();

#[btf_map(name = "scratch")]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

#[btf_map(name = "gro")]
static GRO: PerCpuArray<GroState, 1> = PerCpuArray::new();

#[unsafe(no_mangle)]
static UNDERLAY_IFINDEX: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static VTEP_IP_BE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static VTEP_PORT_BE: Global<u16> = Global::new(0);
#[unsafe(no_mangle)]
static FEATURES: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static DECAP_FLAGS_IPV4: Global<u64> = Global::new(0);
#[unsafe(no_mangle)]
static DECAP_FLAGS_IPV6: Global<u64> = Global::new(0);

/// The underlay device's index.
#[inline(always)]
pub fn underlay_ifindex() -> u32 {
    UNDERLAY_IFINDEX.load()
}

/// This host's VTEP address, order of the wire.
#[inline(always)]
pub fn vtep_ip() -> [u8; 4] {
    VTEP_IP_BE.load().to_ne_bytes()
}

/// This host's VTEP port, order of the wire.
#[inline(always)]
pub fn vtep_port() -> [u8; 2] {
    VTEP_PORT_BE.load().to_ne_bytes()
}

/// Whether something is switched on: a constant to the verifier, which takes out what is not.
#[inline(always)]
pub fn has(feature: Feature) -> bool {
    FEATURES.load() & feature.bit() != 0
}

/// What this kernel's `bpf_skb_adjust_room` takes in addition when an IPv4 frame is unpacked.
#[inline(always)]
pub fn decap_flags_ipv4() -> u64 {
    DECAP_FLAGS_IPV4.load()
}

/// The same for an IPv6 frame; 0: the kernel can't set the frame's protocol by it.
#[inline(always)]
pub fn decap_flags_ipv6() -> u64 {
    DECAP_FLAGS_IPV6.load()
}

/// Whether this kernel takes the marks of a tunnel off what is unpacked.
#[inline(always)]
pub fn clears_tunnel_marks() -> bool {
    decap_flags_ipv4() & DECAP_L4_UDP != 0
}

/// A key on the stack, where the verifier wants aligned accesses only. Keys begin with a number of
/// four bytes; behind four others, what follows it is aligned for stores of eight.
#[repr(C, align(8))]
struct Key<T> {
    padding: MaybeUninit<u32>,
    key: T,
}

impl<T> Key<T> {
    #[inline(always)]
    const fn new(key: T) -> Self {
        Self {
            padding: MaybeUninit::uninit(),
            key,
        }
    }
}

/// Where an endpoint's frames for a MAC go. Notes the use of an entry that ages, once a second at
/// most: a line that all CPUs write would cost each of them more than the look-up.
#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a copy on the stack would not be aligned"
)]
pub fn fdb_used(vni: u32, mac: Mac) -> Option<FdbEntry> {
    const SECOND: u64 = 1_000_000_000;
    let [first, last] = mac.words();
    let key = Key::new(must_cast::<_, FdbKey>([vni, first, last]));
    let entry = FDB.get_ptr_mut(&key.key);
    // SAFETY: as for `lookup!`; the one field that programs write is a number by itself.
    let held = entry.map(|entry| unsafe { &*entry });
    trace::looked(Table::Fdb, &raw const key.key, held);
    let (entry, held) = (entry?, *held?);
    if held.flags & FdbEntry::AGES != 0 {
        let now_s = (now() / SECOND) as u16;
        if held.used_s != now_s {
            // SAFETY: as above.
            unsafe { (*entry).used_s = now_s };
        }
    }
    Some(held)
}

/// Where frames for a MAC go.
#[inline(always)]
pub fn fdb(vni: u32, mac: Mac) -> Option<FdbEntry> {
    let [first, last] = mac.words();
    fdb_entry(must_cast([vni, first, last]))
}

/// Whose MAC an IPv4 address has.
#[inline(always)]
pub fn neighbor_ipv4(vni: u32, ip: [u8; 4]) -> Option<NeighborEntry> {
    let mapped = u32::from_ne_bytes([0, 0, 0xff, 0xff]);
    neighbor_entry(must_cast([vni, 0, 0, mapped, u32::from_ne_bytes(ip)]))
}

/// Whose MAC an IPv6 address has.
#[inline(always)]
pub fn neighbor_ipv6(vni: u32, ip: [u8; 16]) -> Option<NeighborEntry> {
    neighbor_entry(NeighborKey::ipv6(vni, ip))
}

lookup!(fdb_entry, FDB, Fdb, FdbKey => FdbEntry);
lookup!(neighbor_entry, NEIGHBORS, Neighbors, NeighborKey => NeighborEntry);
lookup! {
    /// The endpoint behind an interface.
    endpoint, ENDPOINTS, Endpoints, u32 => EndpointEntry
}
lookup! {
    /// The network with a VNI.
    network, NETWORKS, Networks, u32 => NetworkEntry
}

lookup! {
    /// Who answers for the network with a VNI: its gateway, or without a router its DHCP server.
    network_port, ROUTER_PORTS, RouterPorts, u32 => RouterPortEntry
}

/// The VTEP at an IPv4 address of the underlay.
#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a copy on the stack would not be aligned"
)]
pub fn vtep(ip: [u8; 4]) -> Option<VtepEntry> {
    /// A key that is stored in two steps of eight bytes.
    #[repr(C, align(8))]
    struct Aligned(VtepKey);
    let key = Aligned(must_cast(ipv6::mapped(ip)));
    // SAFETY: as for `lookup!`.
    let found = unsafe { VTEPS.get(&key.0) };
    trace::looked(Table::Vteps, &raw const key.0, found);
    found.copied()
}

/// Index of the VXLAN device that does what the programs can't. `None`: there is none now.
#[inline(always)]
pub fn external() -> Option<u32> {
    external_slot(External::IFINDEX)
}

/// What packets carry that one program leaves to another by the kernel's stack. `None`: the agent has not chosen
/// it yet.
#[inline(always)]
pub fn voucher() -> Option<u32> {
    external_slot(External::VOUCHER)
}

#[inline(always)]
fn external_slot(slot: u32) -> Option<u32> {
    EXTERNAL.get(slot).copied().filter(|value| *value != 0)
}

/// Continues with another program and does not come back. What that has to know is in `scratch` or in the frame.
/// `ProgramMissing`: there is none.
#[inline(always)]
pub fn continue_with(call: Call, frame: &Frame) -> DropReason {
    trace::called(call);
    // SAFETY: nothing here has to be dropped: a frame is the kernel's.
    unsafe { CALLS.tail_call(frame, call.slot()) };
    DropReason::ProgramMissing
}

/// Lends this CPU's memory for what does not fit the stack.
#[inline(always)]
pub fn with_scratch<T>(work: impl FnOnce(&mut Scratch) -> T) -> Option<T> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: as in `count_drop`; nothing else refers to the slot while `work` runs, which ends before this does.
    Some(work(unsafe { &mut *scratch }))
}

/// Lends this CPU's memory of packets out of tunnels.
#[inline(always)]
pub fn with_gro_state<T>(work: impl FnOnce(&mut GroState) -> T) -> Option<T> {
    let state = GRO.get_ptr_mut(0)?;
    // SAFETY: as in `count`; nothing else refers to the slot, and `work` ends before this does.
    Some(work(unsafe { &mut *state }))
}

/// Lends this CPU's count of a network's traffic; not where the network has no slot.
#[inline(always)]
pub fn with_traffic(slot: u16, work: impl FnOnce(&mut Traffic)) {
    if slot == 0 {
        return;
    }
    if let Some(traffic) = TRAFFIC.get_ptr_mut(slot as u32) {
        // SAFETY: as in `count`; nothing else refers to the slot, and `work` ends before this does.
        work(unsafe { &mut *traffic });
    }
}

/// Lends this CPU's count of an endpoint's traffic; not where the endpoint has no id, or one beyond the last slot.
#[inline(always)]
pub fn with_port_traffic(id: u32, work: impl FnOnce(&mut Traffic)) {
    if id == 0 {
        return;
    }
    if let Some(traffic) = PORT_TRAFFIC.get_ptr_mut(id) {
        // SAFETY: as in `with_traffic`.
        work(unsafe { &mut *traffic });
    }
}

/// How long a miss rests, and why.
#[inline(always)]
pub fn negative(key: &MissKey) -> Option<Negative> {
    // SAFETY: an element of this map may be recycled for another key while it is read. That costs
    // at worst a miss too many or, for a second, one too few.
    unsafe { NEGATIVE.get(key) }.copied()
}

/// Lends a copy of an endpoint's or a network's meter of misses, and stores what the caller makes of it.
#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a copy on the stack would not be aligned"
)]
pub fn with_meter<T>(key: MeterKey, work: impl FnOnce(&mut Meter) -> T) -> T {
    let key = Key::new(key);
    let held = METER.get_ptr_mut(&key.key);
    // SAFETY: other CPUs write the element too, and it may be recycled for another key meanwhile.
    // Both cost at worst a few counts.
    let mut meter = held.map_or_else(Meter::default, |held| unsafe { *held });
    let outcome = work(&mut meter);
    match held {
        // SAFETY: as above; the verifier knows the pointer and its size.
        Some(held) => unsafe { *held = meter },
        // An LRU map finds room by letting an old element go.
        None => {
            let _ = METER.insert(&key.key, &meter, BPF_ANY as u64);
        }
    }
    outcome
}

/// Lends this CPU's count of misses.
#[inline(always)]
pub fn with_cpu_meter<T>(work: impl FnOnce(&mut Meter) -> T) -> Option<T> {
    let meter = METER_CPU.get_ptr_mut(0)?;
    // SAFETY: as in `with_gro_state`.
    Some(work(unsafe { &mut *meter }))
}

/// Tells the agent of a miss, which then rests until `until_ns`; `false`: there is no room for it.
/// It rests before it is told of: the agent may end that at once.
#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a copy on the stack would not be aligned"
)]
pub fn emit(event: &MissEvent, until_ns: u64) -> bool {
    let Some(mut record) = MISSES.reserve(0) else {
        return false;
    };
    let negative = Negative {
        until_ns,
        is_unknown: 0,
        reserved: 0,
    };
    // A map that has no room for it lets the next frame raise the miss again.
    let _ = NEGATIVE.insert(&event.key, &negative, BPF_ANY as u64);
    record.write(*event);
    record.submit(0);
    true
}

/// Tells the agent now what became of an echo of this number (order of the wire), with the other host's address (order of
/// the wire), as [`EchoEvent`] has it; not where the ring is full. Called, for the stack that the event takes.
#[inline(never)]
pub fn tell_of_echo(id: u64, vtep: u32, kind: u32, len: u32, reason: u32) {
    if let Some(mut record) = ECHOES.reserve(0) {
        record.write(EchoEvent {
            id: id.to_ne_bytes(),
            at_ns: exactly_now(),
            vtep: ipv6::mapped(vtep.to_ne_bytes()),
            kind,
            len,
            reason,
            reserved: 0,
        });
        record.submit(0);
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn exactly_now() -> u64 {
    // SAFETY: takes no pointer.
    unsafe { bpf_ktime_get_ns() }
}

/// Nanoseconds of `CLOCK_MONOTONIC` as of the last tick.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: takes no pointer.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Counts something that is no drop on this CPU.
#[inline(always)]
pub fn count_event(counter: Counter) {
    if let Some(counter) = COUNTERS.get_ptr_mut(counter.number()) {
        // SAFETY: as in `count`.
        unsafe { *counter += 1 };
    }
}
