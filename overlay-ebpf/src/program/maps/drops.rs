//! Counts drops, and lends the rows in which dropped frames are noted down.

use core::{
    ptr,
    sync::atomic::{Ordering, compiler_fence},
};

use aya_ebpf::bindings::BPF_ANY;
use overlay_ebpf::abi::{DropPace, DropReason, DropSample, EndpointDropKey};

use super::{DROP_PACE, DROP_SAMPLES, DROPS, ENDPOINT_DROPS, Key, exactly_now, trace};

/// Tells why the packet goes no further, where its sender hears of it and it is no drop.
#[inline(always)]
pub fn note_refusal(reason: DropReason) {
    trace::dropped(reason);
}

/// Counts a drop on this CPU.
#[inline(always)]
pub fn count_drop(reason: DropReason) {
    trace::dropped(reason);
    if let Some(counter) = DROPS.get_ptr_mut(reason.number()) {
        // SAFETY: the slot is this CPU's own and TC programs are not preempted by one another on
        // one CPU; the verifier knows the pointer and its size.
        unsafe { *counter += 1 };
    }
}

/// Counts a drop for an endpoint on this CPU.
#[inline(always)]
#[expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a copy on the stack would not be aligned"
)]
pub fn count_endpoint_drop(key: EndpointDropKey) {
    let key = Key::new(key);
    match ENDPOINT_DROPS.get_ptr_mut(&key.key) {
        // SAFETY: the value is this CPU's own, as in `count`. The element may be recycled for another key
        // meanwhile, which costs at worst a count.
        Some(counter) => unsafe { *counter += 1 },
        // One whose key another CPU has just written keeps that one's count.
        None => {
            let _ = ENDPOINT_DROPS.insert(&key.key, &1, BPF_ANY as u64);
        }
    }
}

/// Lends this CPU's count of the frames of a group that were noted down.
#[inline(always)]
pub fn with_drop_pace<T>(group: u32, work: impl FnOnce(&mut DropPace) -> T) -> Option<T> {
    let pace = DROP_PACE.get_ptr_mut(group)?;
    // SAFETY: as in `with_gro_state`.
    Some(work(unsafe { &mut *pace }))
}

/// Lends a row of this CPU's to be written. It has its time last, and again behind all else first: who reads it
/// meanwhile finds two.
#[inline(always)]
pub fn with_drop_sample(slot: u32, write: impl FnOnce(&mut DropSample)) {
    let Some(row) = DROP_SAMPLES.get_ptr_mut(slot) else {
        return;
    };
    let now = exactly_now();
    // SAFETY: the row is this CPU's own, as in `count`, the verifier knows the pointer and its size, and `write`
    // ends before this does.
    unsafe {
        ptr::write_volatile(&raw mut (*row).sealed_ns, now);
        compiler_fence(Ordering::SeqCst);
        write(&mut *row);
        compiler_fence(Ordering::SeqCst);
        ptr::write_volatile(&raw mut (*row).at_ns, now);
    }
}
