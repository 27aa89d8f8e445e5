//! Why the agent has no good answer.

use std::{path::PathBuf, time::Duration};

use super::default_instance;
use crate::{ErrorKind, Name, OperationError};

/// Why a request has no good answer. Each text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error(
        "no agent of instance {instance} listens on {}: start one with `{}`",
        socket.display(),
        run_command(instance)
    )]
    NoAgent {
        /// The instance.
        instance: Name,
        /// The socket of its agent.
        socket: PathBuf,
    },
    /// The socket is not for this user.
    #[error(
        "permission denied on {}: be root, or a member of the group that the agent's \
         --socket-group names",
        .0.display()
    )]
    Denied(PathBuf),
    /// The agent refused the operation, or it failed.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// The agent's process is stopped, as by SIGSTOP.
    #[error(
        "the agent of instance {instance} (pid {pid}) is stopped: have it go on with `kill -CONT {pid}`, or \
         end it with `kill -9 {pid}`; traffic goes on"
    )]
    Stopped {
        /// The instance.
        instance: Name,
        /// The agent's process.
        pid: i32,
    },
    /// The time limit passed without an answer.
    #[error(
        "the agent of instance {instance} has not answered `overlay {verb}` within {} s: whether it was \
         done is not known, look before you try again; its log says what holds it up, and --timeout waits \
         longer",
        timeout.as_secs_f64()
    )]
    Late {
        /// The instance.
        instance: Name,
        /// The words of the command line for the operation.
        verb: &'static str,
        /// The time limit.
        timeout: Duration,
    },
    /// The agent ended while its events were read.
    #[error("the agent of instance {0} has ended")]
    Ended(Name),
    /// The connection broke, or the answer is not understood.
    #[error("the agent at {} did not answer: {cause}; see its log", socket.display())]
    Broken {
        /// The agent's socket.
        socket: PathBuf,
        /// What went wrong.
        cause: String,
    },
}

fn run_command(instance: &Name) -> String {
    if *instance == default_instance() {
        "overlay run --iface IF".to_owned()
    } else {
        format!("overlay --instance {instance} run --iface IF")
    }
}

impl From<ClientError> for OperationError {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Operation(error) => error,
            ClientError::NoAgent { .. }
            | ClientError::Stopped { .. }
            | ClientError::Late { .. }
            | ClientError::Ended(_) => Self::new(ErrorKind::Unavailable, error),
            ClientError::Denied(_) => Self::new(ErrorKind::Refused, error),
            ClientError::Broken { .. } => Self::new(ErrorKind::Internal, error),
        }
    }
}
