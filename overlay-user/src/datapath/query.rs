//! Which programs are attached to an interface, by one system call. aya asks for each program too, and for
//! the interface's name.

use std::io;

/// `BPF_PROG_QUERY` of `enum bpf_cmd`, `linux/bpf.h`.
const PROG_QUERY: libc::c_int = 16;
/// `BPF_TCX_INGRESS` of `enum bpf_attach_type` (Linux 6.6).
const TCX_INGRESS: u32 = 46;

/// What the kernel lets stand in one chain (`BPF_MPROG_MAX`, `linux/bpf_mprog.h`).
const MAX_PROGRAMS: u32 = 64;

/// The part of `union bpf_attr` that queries use.
#[repr(C)]
struct Attr {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    reserved: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

const _: () = assert!(size_of::<Attr>() == 64);

/// Whether the program with this id is in the interface's tcx chain at ingress. `None`: there is no such
/// interface.
pub(super) fn has_program(ifindex: u32, id: u32) -> io::Result<Option<bool>> {
    let mut ids = [0_u32; MAX_PROGRAMS as usize];
    let mut attr = Attr {
        ifindex,
        attach_type: TCX_INGRESS,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        count: MAX_PROGRAMS,
        reserved: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: the attributes are laid out as the kernel has them. It writes at most `count` ids, for which
    // there is room, and into the attributes; both live until the call is over.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, PROG_QUERY, &raw mut attr, size_of::<Attr>()) };
    if result == 0 {
        return Ok(Some(ids.contains(&id)));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Nothing has been attached there since the interface was made (`tcx_prog_query`).
        Some(libc::ENOENT) => Ok(Some(false)),
        Some(libc::ENODEV) => Ok(None),
        _ => Err(error),
    }
}
