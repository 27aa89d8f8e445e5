//! Why the agent has no good answer for the command line.

use std::{path::PathBuf, time::Duration};

use crate::{
    agent::api::{ErrorKind, OperationError},
    model::Name,
};

/// Why a request has no good answer. Each text is one line for the user.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens.
    #[error(
        "no agent of instance {instance} listens on {}: start one with `{}`",
        socket.display(),
        run_command(instance)
    )]
    NoAgent {
        /// The instance.
        instance: Name,
        /// Where its agent would listen.
        socket: PathBuf,
    },
    /// The socket is not for this user.
    #[error(
        "permission denied on {}: be root, or a member of the group that the agent's \
         --socket-group names",
        .0.display()
    )]
    Denied(PathBuf),
    /// The agent said no.
    #[error(transparent)]
    Operation(#[from] OperationError),
    /// Somebody has stopped the agent's process.
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
    /// The agent does not do what it was asked for.
    #[error(
        "the agent of instance {instance} has not answered `overlay {verb}` within {} s: whether it was \
         done is not known, look before you try again; its log says what holds it up, and --timeout waits \
         longer",
        patience.as_secs_f64()
    )]
    Late {
        /// The instance.
        instance: Name,
        /// What it was asked for.
        verb: String,
        /// How long it had.
        patience: Duration,
    },
    /// The agent ended while it was listened to.
    #[error("the agent of instance {0} has ended")]
    Ended(Name),
    /// The conversation broke.
    #[error("the agent at {} did not answer: {cause}; see its log", socket.display())]
    Broken {
        /// Where it listens.
        socket: PathBuf,
        /// What went wrong.
        cause: String,
    },
}

fn run_command(instance: &Name) -> String {
    if *instance == crate::config::default_instance() {
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
