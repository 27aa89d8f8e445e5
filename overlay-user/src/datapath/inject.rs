//! Sends frames of the agent's own.

use aya::{
    Ebpf,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use overlay_ebpf::abi::program;

use super::{
    DatapathError,
    features::{self, classifier},
};

/// Has `program` send a frame by an interface of this network namespace; `inject_echo` with zeros behind it, so that
/// it has `len` bytes.
pub(super) fn inject(
    ebpf: &mut Ebpf,
    program: &str,
    frame: &[u8],
    ifindex: u32,
    len: u32,
) -> Result<(), DatapathError> {
    send(classifier(ebpf, program)?, program, frame, ifindex, len)
}

/// Another handle of the program `inject`, for who sends beside all else.
pub(super) fn handle(ebpf: &mut Ebpf) -> Result<SchedClassifier, DatapathError> {
    let name = program::INJECT;
    let info = classifier(ebpf, name)?.info();
    let handle = info.and_then(|info| SchedClassifier::from_program_info(info, name.into()));
    handle.map_err(|error| features::failed("look at", name, &error))
}

/// The same with the program at hand.
pub(super) fn send(
    program: &SchedClassifier,
    name: &str,
    frame: &[u8],
    ifindex: u32,
    len: u32,
) -> Result<(), DatapathError> {
    // `struct __sk_buff` up to and with `priority`, its ninth word. The third, `mark`, names the interface.
    let words = [0, 0, ifindex, 0, 0, 0, 0, 0, len];
    let context = words.map(u32::to_ne_bytes).concat();
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    };
    let result = program
        .test_run(options)
        .map_err(|error| features::failed("run", name, &error))?;
    if result.return_value == 1 {
        return Ok(());
    }
    Err(DatapathError::Kernel {
        what: format!("can't send a frame by the interface with index {ifindex}"),
        cause: "the kernel refused the frame".to_owned(),
    })
}
