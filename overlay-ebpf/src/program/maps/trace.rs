//! Tells the agent what decided over a frame's way, in an object of its own that the agent runs frames through.
//!
//! The object whose programs are attached has `untraced.rs` in this place: telling costs a look-up a nanosecond even where
//! the verifier takes it out.

use core::ptr;

use aya_ebpf::{btf_maps::Array, macros::btf_map};
use overlay_ebpf::abi::{Call, DropReason, Table, TraceStep};

#[btf_map(name = "trace")]
static TRACE: Array<TraceStep, { TraceStep::SLOTS as usize }> = Array::new();

/// Tells of a look-up. Keys and values are made of whole words, and lie so; the key is one that was just looked up.
#[inline(always)]
pub(super) fn looked<K: Copy, V: Copy>(table: Table, key: *const K, found: Option<&V>) {
    let kind = if found.is_some() {
        TraceStep::FOUND
    } else {
        TraceStep::MISSING
    };
    let Some(step) = next(kind, table as u32) else {
        return;
    };
    // SAFETY: the verifier knows the pointers and their sizes; what is copied is no longer than its place.
    unsafe {
        copy(key, (&raw mut (*step).key).cast());
        if let Some(value) = found {
            copy(value, (&raw mut (*step).value).cast());
        }
    }
}

/// Tells that another program goes on.
#[inline(always)]
pub(super) fn called(call: Call) {
    next(TraceStep::CALLED, call.slot());
}

/// Tells why the frame is dropped.
#[inline(always)]
pub(super) fn dropped(reason: DropReason) {
    next(TraceStep::DROPPED, reason.number());
}

/// Begins a step. `None`: there are too many.
#[inline(always)]
fn next(kind: u32, what: u32) -> Option<*mut TraceStep> {
    let head = TRACE.get_ptr_mut(0)?;
    // SAFETY: as above; only runs of the agent's come here, one at a time.
    unsafe {
        (*head).kind += 1;
        let step = TRACE.get_ptr_mut((*head).kind)?;
        (*step).kind = kind;
        (*step).what = what;
        Some(step)
    }
}

/// # Safety
///
/// There is a `T` at `from` and room for one at `to`; both are aligned to words.
#[inline(always)]
unsafe fn copy<T: Copy>(from: *const T, to: *mut u32) {
    let from = from.cast::<u32>();
    for word in 0..size_of::<T>() / size_of::<u32>() {
        // SAFETY: within `T`; the caller knows the rest.
        unsafe {
            let read = ptr::read_volatile(from.add(word));
            ptr::write_volatile(to.add(word), read);
        }
    }
}
