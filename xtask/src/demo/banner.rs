//! A server in an endpoint's namespace that tells each caller whose it is.

use std::io::{ErrorKind, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::topology::Endpoint;
use crate::bench::interrupt;
use crate::bench::netns::Netns;

/// HTTP's: nothing else listens there.
pub(super) const PORT: u16 = 80;

/// Opens the server's socket.
pub(super) fn listen(server: Endpoint) -> Result<TcpListener> {
    Netns::existing(server.name)
        .inside(|| {
            let listener = TcpListener::bind((server.ip, PORT))?;
            // An interruption must not wait for a caller.
            listener.set_nonblocking(true)?;
            Ok(listener)
        })
        .with_context(|| format!("listening on {}:{PORT} in {}", server.ip, server.name))
}

/// Waits for one caller and answers.
pub(super) fn answer(listener: &TcpListener, server: Endpoint) -> Result<()> {
    const LIMIT: Duration = Duration::from_secs(5);
    let what = format!("somebody calls {}", server.name);
    interrupt::wait_until(&what, LIMIT, || match listener.accept() {
        Ok((mut caller, _)) => {
            writeln!(
                caller,
                "{} here: VNI {}, on {}",
                server.name,
                server.vni,
                server.host.name()
            )?;
            Ok(true)
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(error) => Err(error).context("accepting a caller"),
    })
}
