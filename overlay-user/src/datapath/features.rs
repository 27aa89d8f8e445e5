//! Probes what this kernel can do, and never guesses it from its version.

use std::{error::Error, fmt::Write as _, io};

use aya::{
    Ebpf,
    programs::{ProgramError, ProgramType, SchedClassifier, TestRun as _, TestRunOptions},
    sys::{BpfHelper, is_helper_supported, is_program_supported},
};
use overlay_ebpf::abi::{PROBE_PACKET, program};

use super::DatapathError;

/// `BPF_F_ADJ_ROOM_DECAP_L3_IPV6`.
const DECAP_L3_IPV6: u64 = 1 << 8;
/// `BPF_F_ADJ_ROOM_DECAP_L4_UDP`.
const DECAP_L4_UDP: u64 = 1 << 10;

/// Flags for `bpf_skb_adjust_room` on decapsulation that are there in addition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct DecapFlags {
    /// For an IPv4 frame.
    pub ipv4: u64,
    /// For an IPv6 frame; 0: the kernel can't set the frame's protocol.
    pub ipv6: u64,
}

/// Every helper that the programs can't do without, with the version that brought it.
const HELPERS: [(BpfHelper, &str, &str); 10] = [
    (
        BpfHelper::BPF_FUNC_skb_adjust_room,
        "bpf_skb_adjust_room",
        "4.13",
    ),
    (
        BpfHelper::BPF_FUNC_skb_pull_data,
        "bpf_skb_pull_data",
        "4.9",
    ),
    (
        BpfHelper::BPF_FUNC_skb_change_tail,
        "bpf_skb_change_tail",
        "4.9",
    ),
    (
        BpfHelper::BPF_FUNC_skb_change_proto,
        "bpf_skb_change_proto",
        "4.8",
    ),
    (BpfHelper::BPF_FUNC_csum_level, "bpf_csum_level", "5.8"),
    (
        BpfHelper::BPF_FUNC_redirect_neigh,
        "bpf_redirect_neigh",
        "5.10",
    ),
    (
        BpfHelper::BPF_FUNC_ktime_get_coarse_ns,
        "bpf_ktime_get_coarse_ns",
        "5.11",
    ),
    (
        BpfHelper::BPF_FUNC_clone_redirect,
        "bpf_clone_redirect",
        "4.2",
    ),
    (
        BpfHelper::BPF_FUNC_ringbuf_reserve,
        "bpf_ringbuf_reserve",
        "5.8",
    ),
    (
        BpfHelper::BPF_FUNC_redirect_peer,
        "bpf_redirect_peer",
        "5.10",
    ),
];

/// Refuses a kernel without TC programs or a helper, by name, and a caller without the right to
/// use BPF.
pub fn require() -> Result<(), DatapathError> {
    let kind = ProgramType::SchedClassifier;
    match is_program_supported(kind) {
        Ok(true) => {}
        Ok(false) => return Err(missing("BPF programs for traffic control", "4.1")),
        Err(error) => return Err(denied(&error)),
    }
    for (helper, name, since) in HELPERS {
        if !is_helper_supported(kind, helper).map_err(|error| denied(&error))? {
            return Err(missing(&format!("the BPF helper {name}"), since));
        }
    }
    Ok(())
}

/// Runs the object's probe programs. What they fail with is an error, unless the kernel says by it
/// that it does not know what was asked of it.
pub(super) fn probe(ebpf: &mut Ebpf) -> Result<DecapFlags, DatapathError> {
    if !ask(ebpf, program::PROBE_ENCAP)? {
        return Err(missing(
            "BPF_F_ADJ_ROOM_ENCAP_L2_ETH of bpf_skb_adjust_room",
            "5.13",
        ));
    }
    let l4 = if ask(ebpf, program::PROBE_DECAP_L4)? {
        DECAP_L4_UDP
    } else {
        0
    };
    let ipv6 = if ask(ebpf, program::PROBE_DECAP_L3)? {
        DECAP_L3_IPV6 | l4
    } else {
        0
    };
    Ok(DecapFlags { ipv4: l4, ipv6 })
}

fn ask(ebpf: &mut Ebpf, name: &str) -> Result<bool, DatapathError> {
    let program: &mut SchedClassifier = classifier(ebpf, name)?;
    program
        .load()
        .map_err(|error| failed("load", name, &error))?;
    let options = TestRunOptions {
        data_in: Some(&PROBE_PACKET),
        ..TestRunOptions::default()
    };
    let result = program
        .test_run(options)
        .map_err(|error| failed("run", name, &error))?;
    match result.return_value.cast_signed() {
        1 => Ok(true),
        error if error == -libc::EINVAL => Ok(false),
        error => Err(DatapathError::Kernel {
            what: format!("can't run BPF program {name}"),
            cause: io::Error::from_raw_os_error(-error).to_string(),
        }),
    }
}

/// The program with this name; loaded or not.
pub(super) fn classifier<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    ebpf.program_mut(name)
        .and_then(|program| program.try_into().ok())
        .ok_or_else(|| DatapathError::Kernel {
            what: format!("the BPF object has no program {name}"),
            cause: "it was built from another version".to_owned(),
        })
}

fn missing(what: &str, since: &str) -> DatapathError {
    DatapathError::Refused(format!(
        "this kernel lacks {what} (in Linux since {since}): boot a newer kernel"
    ))
}

fn denied(error: &ProgramError) -> DatapathError {
    let cause = error_chain(error);
    if cause.contains("os error 1)") || cause.contains("os error 13)") {
        return DatapathError::Refused(
            "no permission to load BPF programs: run as root, or with CAP_BPF, CAP_NET_ADMIN and \
             CAP_PERFMON"
                .to_owned(),
        );
    }
    DatapathError::Kernel {
        what: "can't probe the kernel's BPF features".to_owned(),
        cause,
    }
}

/// What went wrong with a program.
pub(super) fn failed(verb: &str, name: &str, error: &ProgramError) -> DatapathError {
    DatapathError::Kernel {
        what: format!("can't {verb} BPF program {name}"),
        cause: error_chain(error),
    }
}

/// An error and its causes in one line. aya's texts repeat their sources in part; each part is
/// said once, and a verifier's log is cut to its last line.
pub(super) fn error_chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let part = error.to_string();
        let part = part
            .lines()
            .map(str::trim)
            .rfind(|line| !line.is_empty())
            .unwrap_or_default();
        if !text.contains(part) {
            let separator = if text.is_empty() { "" } else { ": " };
            let _ = write!(text, "{separator}{part}");
        }
        next = error.source();
    }
    text
}
