//! Forwards the programs' log.

use std::{os::fd::AsFd as _, thread};

use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

use super::DatapathError;

/// Hands the programs' log records on to the agent's log, for as long as the process lives.
pub(super) fn forward(ebpf: &mut Ebpf) -> Result<(), DatapathError> {
    let mut logger = EbpfLogger::init(ebpf).map_err(|error| DatapathError::Kernel {
        what: "can't read the BPF programs' log".to_owned(),
        cause: error.to_string(),
    })?;
    thread::spawn(move || {
        loop {
            let mut readable = [PollFd::new(logger.as_fd(), PollFlags::POLLIN)];
            match poll(&mut readable, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => logger.flush(),
                Err(errno) => return tracing::warn!(%errno, "no more BPF log"),
            }
        }
    });
    Ok(())
}
