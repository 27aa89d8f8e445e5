//! Sends frames of the agent's own.

use aya::{
    Ebpf,
    programs::{TestRun as _, TestRunOptions},
};

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
    // `struct __sk_buff` up to and with `priority`, its ninth word. The third, `mark`, names the interface.
    let words = [0, 0, ifindex, 0, 0, 0, 0, 0, len];
    let context = words.map(u32::to_ne_bytes).concat();
    let options = TestRunOptions {
        data_in: Some(frame),
        ctx_in: Some(&context),
        ..TestRunOptions::default()
    };
    let result = classifier(ebpf, program)?
        .test_run(options)
        .map_err(|error| features::failed("run", program, &error))?;
    if result.return_value == 1 {
        return Ok(());
    }
    Err(DatapathError::Kernel {
        what: format!("can't send a frame by the interface with index {ifindex}"),
        cause: "the kernel refused the frame".to_owned(),
    })
}
