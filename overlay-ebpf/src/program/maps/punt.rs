//! Brings frames to the agent.

use core::{hint::black_box, ptr};

use aya_ebpf::{
    btf_maps::{PerCpuArray, RingBuf},
    macros::btf_map,
};
use overlay_ebpf::abi::{EndpointEntry, Meter, Punt, PuntHeader};

use crate::frame::Frame;

/// Bytes of the ring: 682 frames.
const PUNTS_SIZE: usize = 1 << 20;

#[btf_map(name = "punts")]
static PUNTS: RingBuf<Punt, PUNTS_SIZE> = RingBuf::new();

#[btf_map(name = "punts_cpu")]
static PUNTS_CPU: PerCpuArray<Meter, 1> = PerCpuArray::new();

/// Lends this CPU's count of frames for the agent.
#[inline(always)]
pub fn with_cpu_punts<T>(work: impl FnOnce(&mut Meter) -> T) -> Option<T> {
    let meter = PUNTS_CPU.get_ptr_mut(0)?;
    // SAFETY: the slot is this CPU's own, the verifier knows the pointer and its size, and `work` ends before this does.
    Some(work(unsafe { &mut *meter }))
}

/// Copies an endpoint's frame to the agent; `false`: the ring is full, or the frame is shorter or longer than any that is
/// told of.
#[inline(always)]
pub fn punt(frame: &Frame, ifindex: u32, from: &EndpointEntry) -> bool {
    let len = u64::from(frame.len());
    if len > Punt::LONGEST as u64 {
        return false;
    }
    // The verifier has to see both bounds of the number itself, and the compiler would make one comparison of them.
    let len = black_box(len);
    if len < Punt::SHORTEST as u64 {
        return false;
    }
    let Some(mut record) = PUNTS.reserve(0) else {
        return false;
    };
    let header = PuntHeader {
        ifindex,
        vni: from.vni,
        mac: from.mac,
        len: len as u16,
    };
    let target = record.as_mut_ptr();
    // SAFETY: the record is the ring's memory for one `Punt`, which nobody else has until it is submitted.
    let copied = unsafe {
        ptr::write(&raw mut (*target).header, header);
        frame.copy_to((&raw mut (*target).frame).cast(), len as u32)
    };
    if copied {
        record.submit(0);
    } else {
        record.discard(0);
    }
    copied
}
