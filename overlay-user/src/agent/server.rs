//! Serves the agent's socket: who may open it, and which request is which operation.

use std::{
    fs,
    future::Future,
    io,
    os::{fd::AsFd as _, unix::fs::PermissionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use axum::{Router, serve::Listener};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    unistd::{self, Group},
};
use tokio::net::{UnixListener, UnixSocket, UnixStream};

use super::{
    api::{self, ErrorKind, Operation as _, OperationError, for_each_operation},
    connections::{self, Limits},
    descriptors, run_dir,
};

mod route;
mod stream;

pub(super) use route::{ErrorResponse, route};
pub use route::{Handle, Outcome, Paged, Respond};
pub use stream::Page;

/// Pending connections; more wait in connect(2).
const BACKLOG: u32 = 128;
/// Connections at once: more commands than that wait for each other.
const CONNECTIONS: usize = 256;
/// More than a command on a busy host takes from its connection to its request.
const IDLE: Duration = Duration::from_secs(1);

/// Opens the socket at `path` for root alone (mode 0600), or for `group` too (0660).
///
/// The mode is set before the socket listens, and the name appears with the mode already set: there
/// is no moment in which others could connect. What a killed agent left at `path` is replaced; the
/// caller holds the instance's lock.
pub fn listen(path: &Path, group: Option<&str>) -> Result<UnixListener, OperationError> {
    let failed = |cause: io::Error| {
        OperationError::new(
            ErrorKind::Internal,
            format_args!("can't open the agent's socket {}: {cause}", path.display()),
        )
    };
    let group = group.map(find_group).transpose()?;
    if let Some(folder) = path.parent() {
        run_dir::make(folder).map_err(failed)?;
    }
    let unfinished = path.with_extension("sock.new");
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let socket = UnixSocket::new_stream().map_err(failed)?;
    socket.bind(&unfinished).map_err(failed)?;
    let opened = admit(&unfinished, group.as_ref()).and_then(|()| {
        let listener = socket.listen(BACKLOG).map_err(failed)?;
        fs::rename(&unfinished, path).map_err(failed)?;
        Ok(listener)
    });
    if opened.is_err() {
        // What can't be removed either is removed by the next start.
        let _ = fs::remove_file(&unfinished);
    }
    opened
}

/// Lets root, and `group` if there is one, use the socket at `path`.
fn admit(path: &Path, group: Option<&Group>) -> Result<(), OperationError> {
    let refused = |whom: &str, errno: &dyn std::fmt::Display| {
        OperationError::new(
            ErrorKind::Refused,
            format_args!(
                "can't give the agent's socket to {whom}: {errno}: run overlay as root, as a member \
                 of that group, or with CAP_CHOWN"
            ),
        )
    };
    if let Some(Group { name, gid, .. }) = group {
        unistd::chown(path, None, Some(*gid))
            .map_err(|errno| refused(&format!("group {name}"), &errno.desc()))?;
    }
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .map_err(|error| refused("its users", &error))
}

fn find_group(name: &str) -> Result<Group, OperationError> {
    let refused = |why: &dyn std::fmt::Display| {
        OperationError::new(
            ErrorKind::Refused,
            format_args!("socket group {name:?} {why}: create it with groupadd or name another"),
        )
    };
    Group::from_name(name)
        .map_err(|errno| refused(&format_args!("can't be looked up ({errno})")))?
        .ok_or_else(|| refused(&"does not exist on this host"))
}

/// Accepts clients, but none that has hung up meanwhile: what somebody gave up hours ago, because the agent
/// was stopped, is not done now.
pub(super) struct Present(pub UnixListener);

impl Listener for Present {
    type Io = UnixStream;
    type Addr = <UnixListener as Listener>::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, address) = Listener::accept(&mut self.0).await;
            let mut ends = [PollFd::new(stream.as_fd(), PollFlags::empty())];
            let polled = poll(&mut ends, PollTimeout::ZERO);
            let has_hung_up = ends.iter().any(|end| {
                end.revents()
                    .is_some_and(|it| it.contains(PollFlags::POLLHUP))
            });
            if polled.is_err() || !has_hung_up {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Listener::local_addr(&self.0)
    }
}

/// Serves `operations` until `stop` resolves. Answers that are under way then get a moment to go
/// out.
pub async fn serve(
    listener: UnixListener,
    operations: Arc<impl Operations>,
    stop: impl Future<Output = ()>,
) {
    connections::serve(Present(listener), router(operations), limits(), stop).await;
}

/// Bounds of what the agent's socket serves. How long an answer takes is the operation's business.
pub(super) fn limits() -> Limits {
    Limits {
        connections: descriptors::share(CONNECTIONS),
        idle: IDLE,
        lifetime: None,
    }
}

macro_rules! routes {
    ($($operation:ident: $form:ident,)+) => {
        /// Carries out every operation of the API.
        pub trait Operations: Send + Sync + 'static $(+ Handle<api::$operation>)+ {}

        impl<A> Operations for A where A: Send + Sync + 'static $(+ Handle<api::$operation>)+ {}

        /// The routes of all operations.
        pub fn router<A: Operations>(agent: Arc<A>) -> Router {
            Router::new()
                $(.route(api::$operation::PATH, route::<A, api::$operation>()))+
                .fallback(unknown)
                .method_not_allowed_fallback(unknown)
                .with_state(agent)
        }
    };
}
for_each_operation!(routes);

async fn unknown() -> ErrorResponse {
    ErrorResponse(OperationError::new(
        ErrorKind::Usage,
        "the agent does not know this operation: it and the overlay command are of different \
         versions, restart the agent",
    ))
}

#[cfg(test)]
mod tests;
