//! Frames of the agent's own.

use aya::{
    Ebpf,
    programs::{TestRun as _, TestRunOptions},
};

use super::{
    DatapathError,
    features::{self, classifier},
};

/// Has `program` send a frame by an interface of this network namespace.
pub(super) fn inject(
    ebpf: &mut Ebpf,
    program: &str,
    frame: &[u8],
    ifindex: u32,
) -> Result<(), DatapathError> {
    // `struct __sk_buff` up to and with `mark`, its third word, which names the interface.
    let mut context = [0; 12];
    context[8..].copy_from_slice(&ifindex.to_ne_bytes());
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
