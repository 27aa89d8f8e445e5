//! Writes many entries in one system call, which aya doesn't offer.

use std::{
    marker::PhantomData,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
};

use aya::{
    Pod,
    maps::{MapData, MapError},
};

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

/// A map that takes batches, with keys and values of the right sizes.
pub(super) struct Batches<K, V> {
    map: OwnedFd,
    entries: PhantomData<(K, V)>,
}

impl<K: Pod, V: Pod> Batches<K, V> {
    /// `None`: the map is not one of such entries.
    pub(super) fn of(map: &MapData) -> Result<Option<Self>, MapError> {
        let info = map.info()?;
        let sizes = [info.key_size(), info.value_size()].map(usize::try_from);
        if sizes != [Ok(size_of::<K>()), Ok(size_of::<V>())] {
            return Ok(None);
        }
        Ok(Some(Self {
            map: map.fd().as_fd().try_clone_to_owned()?,
            entries: PhantomData,
        }))
    }

    /// Writes each value over whatever the map has under its key. Gives how many the kernel took: if
    /// they are not all, it refused the next one, and has not looked at those behind it.
    pub(super) fn update(&self, keys: &[K], values: &[V]) -> usize {
        let Ok(count) = u32::try_from(keys.len().min(values.len())) else {
            return 0;
        };
        let mut attr = Attr {
            in_batch: 0,
            out_batch: 0,
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count,
            map_fd: self.map.as_raw_fd(),
            elem_flags: 0,
            flags: 0,
        };
        // SAFETY: the attributes are laid out as the kernel has them. It reads `count` keys and values
        // of the map's sizes, which `of` has compared, and writes to the attributes' `count`; all of
        // these live until the call is over.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                UPDATE_BATCH,
                &raw mut attr,
                size_of::<Attr>(),
            )
        };
        let taken = match attr.count {
            // Kernels leave it so where they refuse the call as a whole.
            untouched if result != 0 && untouched == count => 0,
            taken => taken,
        };
        taken as usize
    }
}
