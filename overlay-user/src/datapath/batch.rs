//! Many entries in one system call, which aya doesn't offer: a million of them take half the time.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use aya::Pod;

/// `BPF_MAP_UPDATE_BATCH` of `enum bpf_cmd`, `linux/bpf.h` (Linux 5.6).
const UPDATE_BATCH: libc::c_int = 26;

/// The part of `union bpf_attr` that batches use.
#[repr(C)]
struct Attr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: i32,
    elem_flags: u64,
    flags: u64,
}

const _: () = assert!(size_of::<Attr>() == 56);

/// Writes each value over whatever the map has under its key; both must be of the map's sizes. Gives
/// how many the kernel took: if they are not all, it refused the next one, and has not looked at those
/// behind it.
pub(super) fn update<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> usize {
    let Ok(count) = u32::try_from(keys.len().min(values.len())) else {
        return 0;
    };
    let mut attr = Attr {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count,
        map_fd: map.as_raw_fd(),
        elem_flags: 0,
        flags: 0,
    };
    // SAFETY: the attributes are laid out as the kernel has them, and they, `count` keys and `count`
    // values live until the call is over. Of these it writes to the attributes' `count` alone.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            UPDATE_BATCH,
            &raw mut attr,
            size_of::<Attr>(),
        )
    };
    let taken = match attr.count {
        // Older kernels leave it so if they fail before they look at any.
        untouched if result != 0 && untouched == count => 0,
        taken => taken,
    };
    taken as usize
}
