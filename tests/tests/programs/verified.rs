//! How many instructions the verifier walks through, as recorded for each kernel.
//!
//! More of them take longer to load and come closer to the verifier's limit, and one stage too many can double them.

use nix::sys::utsname::uname;
use overlay_ebpf::abi::program::{
    ECHO, ENDPOINT_INGRESS, EXTERNAL_INGRESS, ICMP_ERROR, ROUTE, SEND_PROBE, UNDERLAY_INGRESS,
};

/// The kernels that counts are recorded of: `uname -r` begins so.
const KERNELS: [&str; 3] = ["6.1.", "6.12.", "6.18."];

/// Instructions by program, on each of the kernels.
const RECORDED: [(&str, [u32; 3]); 7] = [
    (ENDPOINT_INGRESS, [28_372, 20_507, 26_730]),
    (UNDERLAY_INGRESS, [14_520, 13_070, 15_030]),
    (EXTERNAL_INGRESS, [9784, 8427, 9040]),
    (ICMP_ERROR, [16_784, 18_993, 18_924]),
    (SEND_PROBE, [5819, 3768, 4265]),
    (ECHO, [8867, 4563, 6214]),
    (ROUTE, [24_051, 14_559, 14_255]),
];

/// Where a count differs from what is recorded by more than one in this many, it is to be recorded anew: other patch
/// levels of a kernel may differ a little.
const TOLERANCE: u32 = 20;

/// Compares the counts of loaded programs; those of other kernels and programs are only told.
pub(crate) fn compare(counts: &[(&str, u32)]) {
    let release = uname().unwrap().release().to_string_lossy().into_owned();
    let kernel = KERNELS
        .iter()
        .position(|kernel| release.starts_with(kernel));
    let mut wrong = Vec::new();
    for (name, count) in counts {
        println!("{name}: {count} instructions verified");
        let recorded = RECORDED.iter().find(|(recorded, _)| recorded == name);
        let Some((recorded, kernel)) = recorded.zip(kernel) else {
            continue;
        };
        let recorded = recorded.1[kernel];
        if count.abs_diff(recorded) > recorded / TOLERANCE {
            wrong.push(format!("{name} {count}, recorded {recorded}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "on Linux {release} the verifier walks through other numbers of instructions: {}; if that is meant, \
         record them in tests/tests/programs/verified.rs",
        wrong.join("; ")
    );
}
