//! The programs, loaded for one test with unpinned maps, and their outcomes.

use std::{
    fmt::{self, Write as _},
    time::{Duration, Instant},
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, MapData, PerCpuArray, ProgramArray, RingBuf},
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use nix::{
    sched::{CloneFlags, unshare},
    unistd::Uid,
};
use overlay_ebpf::abi::{
    CALLS, Call, Counter, DropReason, External, Feature, MissEvent, PUNTS, Traffic, global, map,
    program,
};
use overlay_user::datapath::OBJECT;

use crate::{
    frames,
    network::{self, LOOPBACK, VTEP},
    previous,
};

/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV6`.
const DECAP_L3_IPV6: u64 = 1 << 8;
/// `BPF_F_ADJ_ROOM_DECAP_L4_UDP`.
const DECAP_L4_UDP: u64 = 1 << 10;

/// `TC_ACT_UNSPEC`: on to the next program, then to the kernel.
const UNSPEC: u32 = u32::MAX;
/// `TC_ACT_OK`: to the kernel at once.
const OK: u32 = 0;
/// `TC_ACT_SHOT`.
const SHOT: u32 = 2;
/// `TC_ACT_REDIRECT`.
const REDIRECT: u32 = 7;

/// `struct __sk_buff` of `linux/bpf.h`, up to and with `gso_size`.
#[derive(Clone, Copy)]
pub(crate) struct Context([u8; Self::LEN]);

impl Default for Context {
    fn default() -> Self {
        Self([0; Self::LEN])
    }
}

impl Context {
    const LEN: usize = 180;
    pub(crate) const MARK: usize = 8;
    pub(crate) const PRIORITY: usize = 32;
    pub(crate) const CB: usize = 48;
    /// Eight bytes.
    pub(crate) const TSTAMP: usize = 152;
    const GSO_SIZE: usize = 176;

    pub(crate) fn get(&self, at: usize) -> u32 {
        u32::from_ne_bytes(*self.0[at..].first_chunk().unwrap())
    }

    pub(crate) fn get_u64(&self, at: usize) -> u64 {
        u64::from_ne_bytes(*self.0[at..].first_chunk().unwrap())
    }

    pub(crate) fn set(&mut self, at: usize, value: u32) {
        self.0[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
}

/// What packets carry that one program leaves to another.
pub(crate) const VOUCHER: u32 = 7;

/// Bytes of the rings: the smallest that there is, so that it can be filled.
const RING: u32 = 4096;

/// Longer than any frame here, shorter than the page that the kernel allows.
const LONGEST_FRAME: usize = 2048;

/// How the programs are loaded.
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a choice of its own, most tests make none"
)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Settings {
    /// Drop VXLAN headers with reserved bits set.
    pub strict_reserved: bool,
    /// Act as on a kernel whose `bpf_skb_adjust_room` takes none of the newer flags.
    pub without_decap_flags: bool,
    /// Leave the maps empty.
    pub without_network: bool,
    /// There is no VXLAN device.
    pub without_device: bool,
}

/// How many windows of the programs' meters there were since, at most.
pub(crate) fn windows(begun: Instant) -> u64 {
    begun.elapsed().as_secs() * 2 + 3
}

/// What became of a frame.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It goes on to the kernel, unchanged.
    Pass,
    /// It goes on to the kernel with a voucher, unchanged, and its VXLAN device takes care of it.
    Vouch,
    /// It goes no further, because the agent was told of it.
    Consume,
    /// It goes to another interface and reads so.
    Redirect(Vec<u8>),
    /// It goes no further, and this was counted once.
    Drop(DropReason),
    /// The kernel did not run the program: maintained versions of `BPF_PROG_TEST_RUN` make no IP
    /// packet without a whole header, older ones do. [`crate::live`] has these frames.
    NotMade,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pass => f.write_str("pass"),
            Self::Vouch => f.write_str("vouch"),
            Self::Consume => f.write_str("told the agent"),
            Self::Redirect(frame) => {
                write!(f, "redirect of {} bytes\n{}", frame.len(), dump(frame))
            }
            Self::Drop(reason) => write!(f, "drop {}", reason.name()),
            Self::NotMade => f.write_str("no run"),
        }
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One row of a table.
#[derive(Clone)]
pub(crate) struct Case {
    pub name: String,
    pub frame: Vec<u8>,
    /// Above zero: the frame is an aggregate of segments with so many bytes of payload.
    pub gso_size: u32,
    pub expected: Outcome,
}

impl Case {
    pub(crate) fn new(name: &str, frame: Vec<u8>, expected: Outcome) -> Self {
        Self {
            name: name.to_owned(),
            frame,
            gso_size: 0,
            expected,
        }
    }

    pub(crate) fn pass(name: &str, frame: Vec<u8>) -> Self {
        Self::new(name, frame, Outcome::Pass)
    }

    pub(crate) fn redirect(name: &str, frame: Vec<u8>, output: Vec<u8>) -> Self {
        Self::new(name, frame, Outcome::Redirect(output))
    }

    pub(crate) fn drop(name: &str, frame: Vec<u8>, reason: DropReason) -> Self {
        Self::new(name, frame, Outcome::Drop(reason))
    }

    pub(crate) fn vouch(name: &str, frame: Vec<u8>) -> Self {
        Self::new(name, frame, Outcome::Vouch)
    }

    /// The same of an aggregate. Its kind can't be set from here, so the kernel takes it for one
    /// that no tunnel can carry.
    pub(crate) fn of_segments(self, gso_size: u32) -> Self {
        Self { gso_size, ..self }
    }
}

/// The programs of one test, in a network namespace of the test's thread. Frames come in by its
/// loopback device, whose MAC is all zeros and whose index is always 1.
pub(crate) struct Datapath {
    pub ebpf: Ebpf,
    drops: PerCpuArray<MapData, u64>,
    misses: RingBuf<MapData>,
    counted: Vec<u64>,
    makes_short_ip: bool,
    /// It is emptied with its last descriptor.
    _calls: Option<ProgramArray<MapData>>,
}

impl Datapath {
    pub(crate) fn load(settings: Settings) -> Self {
        Self::load_object(OBJECT, settings)
    }

    /// Loads another object than this version's.
    pub(crate) fn load_object(object: &[u8], settings: Settings) -> Self {
        assert!(
            Uid::effective().is_root(),
            "these tests load BPF programs, which only root may: run `cargo xtask test`"
        );
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        let flags = if settings.without_decap_flags {
            DecapFlags::default()
        } else {
            DecapFlags::of_this_kernel()
        };
        let mut ebpf = open(object, settings, flags);
        for name in [
            program::ENDPOINT_INGRESS,
            program::UNDERLAY_INGRESS,
            program::EXTERNAL_INGRESS,
        ] {
            classifier(&mut ebpf, name).load().unwrap();
        }
        // Objects of earlier commits have none.
        if ebpf.program(program::UPLINK_INGRESS).is_some() {
            classifier(&mut ebpf, program::UPLINK_INGRESS)
                .load()
                .unwrap();
        }
        let calls = fill_calls(&mut ebpf);
        if !settings.without_network {
            if previous::is(&ebpf) {
                previous::fill(&mut ebpf);
            } else {
                network::fill(&mut ebpf);
            }
        }
        if !settings.without_device
            && let Some(device) = ebpf.map_mut(map::EXTERNAL)
        {
            let mut device: Array<_, u32> = device.try_into().unwrap();
            device.set(External::IFINDEX, LOOPBACK, 0).unwrap();
            device.set(External::VOUCHER, VOUCHER, 0).unwrap();
        }
        let misses = ebpf.take_map(map::MISSES).unwrap().try_into().unwrap();
        let drops = ebpf.take_map(map::DROPS).unwrap().try_into().unwrap();
        let mut datapath = Self {
            ebpf,
            drops,
            misses,
            counted: vec![0; DropReason::SLOTS as usize],
            makes_short_ip: true,
            _calls: calls,
        };
        let shortest_ip = &frames::udp4(&network::GREEN, &network::BLUE)[..frames::ETH];
        datapath.makes_short_ip = datapath
            .run(program::UNDERLAY_INGRESS, shortest_ip, 0)
            .is_ok();
        datapath
    }

    /// Loads them for a network that resolves on demand.
    pub(crate) fn on_demand() -> Self {
        let mut datapath = Self::load(Settings::default());
        network::resolve_on_demand(&mut datapath.ebpf);
        datapath
    }

    /// Vouches for the VTEPs' next hops, for ever.
    pub(crate) fn hold_lease(&mut self) {
        let lease = self.ebpf.map_mut(map::LEASE).unwrap();
        let mut lease: Array<_, u64> = lease.try_into().unwrap();
        lease.set(0, u64::MAX, 0).unwrap();
    }

    /// Names the edition that the rows belong to, where the object knows any.
    pub(crate) fn set_edition(&mut self, edition: u64) {
        if let Some(map) = self.ebpf.map_mut(map::EDITION) {
            let mut map: Array<_, u64> = map.try_into().unwrap();
            map.set(0, edition, 0).unwrap();
        }
    }

    /// Runs a program on a frame. An error says how it broke the datapath's promise, or that the
    /// kernel failed to run it.
    pub(crate) fn run(
        &mut self,
        program: &str,
        frame: &[u8],
        gso_size: u32,
    ) -> Result<Outcome, String> {
        if !self.makes_short_ip && is_short_ip(frame) {
            return Ok(Outcome::NotMade);
        }
        let told = self.told();
        let mut context = Context::default();
        context.set(Context::GSO_SIZE, gso_size);
        let mut output = vec![0; LONGEST_FRAME];
        let result = classifier(&mut self.ebpf, program)
            .test_run(TestRunOptions {
                data_in: Some(frame),
                data_out: Some(&mut output),
                ctx_in: Some(&context.0),
                ..TestRunOptions::default()
            })
            .map_err(|error| {
                format!(
                    "did not run: {error}: {:?}",
                    std::error::Error::source(&error)
                )
            })?;
        output.truncate(result.data_size_out as usize);
        let counted = self.newly_counted();
        match (result.return_value, &counted[..]) {
            (UNSPEC, []) if output == frame => Ok(Outcome::Pass),
            (OK, []) if output == frame => Ok(Outcome::Vouch),
            (UNSPEC | OK, []) => Err(format!("passed, but as\n{}", dump(&output))),
            (REDIRECT, []) => Ok(Outcome::Redirect(output)),
            (SHOT, []) if self.told() == told + 1 => Ok(Outcome::Consume),
            (SHOT, &[(slot, 1)]) => DropReason::of_number(slot)
                .map(Outcome::Drop)
                .ok_or_else(|| format!("counted in slot {slot}, which is no reason's")),
            (value, counted) => Err(format!(
                "returned {value} and counted (slot, times) {counted:?}"
            )),
        }
    }

    /// How many frames the agent was told of.
    fn told(&mut self) -> u64 {
        self.counter(Counter::EchoReceived) + self.counter(Counter::PuntsRaised)
    }

    /// How long the kernel says that a program took over a frame, which it has to redirect.
    pub(crate) fn time(&mut self, program: &str, frame: &[u8]) -> Duration {
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        };
        let result = classifier(&mut self.ebpf, program)
            .test_run(options)
            .unwrap();
        assert_eq!(result.return_value, REDIRECT);
        result.duration
    }

    /// What `inject` gives for a frame and the index of an interface.
    pub(crate) fn inject(&mut self, frame: &[u8], ifindex: u32) -> u32 {
        let mut context = Context::default();
        context.set(Context::MARK, ifindex);
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context.0),
            ..TestRunOptions::default()
        };
        let program = classifier(&mut self.ebpf, program::INJECT);
        program.test_run(options).unwrap().return_value
    }

    /// The mark and the priority of a frame, which came with these, after a program has let it go.
    pub(crate) fn marks_after(
        &mut self,
        program: &str,
        frame: &[u8],
        mark: u32,
        priority: u32,
    ) -> (u32, u32) {
        let mut context = Context::default();
        context.set(Context::MARK, mark);
        context.set(Context::PRIORITY, priority);
        let after = self.context_after(program, frame, &context);
        (after.get(Context::MARK), after.get(Context::PRIORITY))
    }

    /// The context of a frame, which came with this one, after a program has let it go.
    pub(crate) fn context_after(
        &mut self,
        program: &str,
        frame: &[u8],
        context: &Context,
    ) -> Context {
        // The kernel writes the whole of its own.
        let mut after = [0; 2 * Context::LEN];
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(&context.0),
            ctx_out: Some(&mut after),
            ..TestRunOptions::default()
        };
        let result = classifier(&mut self.ebpf, program).test_run(options);
        assert_ne!(result.unwrap().return_value, SHOT);
        Context(*after.first_chunk().unwrap())
    }

    /// Runs a whole table and reports every row that came out otherwise.
    pub(crate) fn check(&mut self, program: &str, table: &[Case]) {
        let mut failures = Vec::new();
        for case in table {
            match self.run(program, &case.frame, case.gso_size) {
                Ok(outcome) if outcome == case.expected => {}
                Ok(Outcome::NotMade) => println!("{}: no run on this kernel", case.name),
                Ok(outcome) => failures.push(format!(
                    "{}: expected {}\ngot {outcome}",
                    case.name, case.expected
                )),
                Err(error) => failures.push(format!("{}: {error}", case.name)),
            }
        }
        assert!(
            failures.is_empty(),
            "{} of {} rows failed:\n{}",
            failures.len(),
            table.len(),
            failures.join("\n\n")
        );
    }

    /// The misses that were raised since the last call.
    pub(crate) fn raised(&mut self) -> Vec<MissEvent> {
        std::iter::from_fn(|| {
            let record = self.misses.next()?;
            Some(bytemuck::pod_read_unaligned(&record))
        })
        .collect()
    }

    /// What a counter stands at.
    pub(crate) fn counter(&mut self, counter: Counter) -> u64 {
        let map = self.ebpf.map_mut(map::COUNTERS).unwrap();
        let counters: PerCpuArray<_, u64> = map.try_into().unwrap();
        counters.get(&counter.number(), 0).unwrap().iter().sum()
    }

    /// Packets and bytes sent and received in a slot.
    pub(crate) fn traffic(&mut self, slot: u16) -> [u64; 4] {
        self.traffic_in(map::TRAFFIC, slot)
    }

    /// The same of an endpoint.
    pub(crate) fn port_traffic(&mut self, id: u16) -> [u64; 4] {
        self.traffic_in(map::PORT_TRAFFIC, id)
    }

    fn traffic_in(&mut self, name: &str, slot: u16) -> [u64; 4] {
        let map = self.ebpf.map_mut(name).unwrap();
        let traffic: PerCpuArray<_, Traffic> = map.try_into().unwrap();
        let per_cpu = traffic.get(&slot.into(), 0).unwrap();
        per_cpu.iter().fold([0; 4], |[a, b, c, d], cpu| {
            [
                a + cpu.tx_packets,
                b + cpu.tx_bytes,
                c + cpu.rx_packets,
                d + cpu.rx_bytes,
            ]
        })
    }

    /// The slots of `drops` that changed since the last call, and by how much.
    pub(crate) fn newly_counted(&mut self) -> Vec<(u32, u64)> {
        let mut changes = Vec::new();
        for (slot, before) in (0..).zip(&mut self.counted) {
            let now = self.drops.get(&slot, 0).unwrap().iter().sum();
            let before = std::mem::replace(before, now);
            if now != before {
                changes.push((slot, now - before));
            }
        }
        changes
    }
}

/// Whether this is an IP packet that ends before its header does.
fn is_short_ip(frame: &[u8]) -> bool {
    match frame[12..14] {
        [0x08, 0x00] => frame.len() < frames::ETH + 20,
        [0x86, 0xdd] => frame.len() < frames::ETH + 40,
        _ => false,
    }
}

/// What the loader asks the kernel before it loads the programs.
#[derive(Debug, Clone, Copy, Default)]
struct DecapFlags {
    ipv4: u64,
    ipv6: u64,
}

impl DecapFlags {
    fn of_this_kernel() -> Self {
        let mut ebpf = open(OBJECT, Settings::default(), Self::default());
        let packet = frames::Tunnel::to_this_host(frames::udp6(&network::GREEN, &network::BLUE));
        let packet = packet.frame();
        let mut takes = |name| {
            let program = classifier(&mut ebpf, name);
            program.load().unwrap();
            let options = TestRunOptions {
                data_in: Some(&packet),
                ..TestRunOptions::default()
            };
            program.test_run(options).unwrap().return_value == 1
        };
        assert!(takes(program::PROBE_ENCAP), "no encapsulation here");
        let l4 = if takes(program::PROBE_DECAP_L4) {
            DECAP_L4_UDP
        } else {
            0
        };
        let ipv6 = if takes(program::PROBE_DECAP_L3) {
            DECAP_L3_IPV6 | l4
        } else {
            0
        };
        Self { ipv4: l4, ipv6 }
    }
}

/// Loads the programs that others continue with, as far as the object has any.
fn fill_calls(ebpf: &mut Ebpf) -> Option<ProgramArray<MapData>> {
    let mut array: ProgramArray<_> = ebpf.take_map(CALLS)?.try_into().unwrap();
    for (call, name) in Call::ALL {
        // Objects of earlier commits have fewer.
        if ebpf.program(name).is_none() {
            continue;
        }
        let program = classifier(ebpf, name);
        program.load().unwrap();
        array.set(call.slot(), program.fd().unwrap(), 0).unwrap();
    }
    Some(array)
}

fn open(object: &[u8], settings: Settings, flags: DecapFlags) -> Ebpf {
    let features = u32::from(settings.strict_reserved) * Feature::StrictReserved.bit();
    let mut loader = EbpfLoader::new();
    loader
        .override_global(global::UNDERLAY_IFINDEX, &LOOPBACK, true)
        .override_global(global::VTEP_IP_BE, &u32::from_ne_bytes(VTEP.ip), true)
        .override_global(global::VTEP_PORT_BE, &VTEP.port.to_be(), true)
        // Version 2 of the ABI has none.
        .override_global(global::FEATURES, &features, false)
        .override_global(global::DECAP_FLAGS_IPV4, &flags.ipv4, true)
        .override_global(global::DECAP_FLAGS_IPV6, &flags.ipv6, true)
        // Drops are not told through the log.
        .override_global("AYA_LOG_LEVEL", &0_u8, true)
        .map_max_entries(map::FDB, 64)
        .map_max_entries(map::NEIGHBORS, 64)
        .map_max_entries(map::MISSES, RING)
        .map_max_entries(PUNTS, RING)
        .load(object)
        .unwrap()
}

pub(crate) fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    ebpf.program_mut(name).unwrap().try_into().unwrap()
}

/// A frame as `text2pcap` reads it.
pub(crate) fn dump(frame: &[u8]) -> String {
    let mut text = String::new();
    for (row, bytes) in frame.chunks(16).enumerate() {
        let _ = write!(text, "{:04x} ", row * 16);
        for byte in bytes {
            let _ = write!(text, " {byte:02x}");
        }
        text.push('\n');
    }
    text
}
