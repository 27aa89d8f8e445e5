//! A way to etcd that can be cut, mended and stalled.

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    /// Connections end, new ones too.
    Cut,
    /// Connections stay, and nothing passes.
    Stalled,
}

/// Forwards to one address.
pub(crate) struct Proxy {
    address: String,
    state: Arc<watch::Sender<State>>,
}

impl Proxy {
    pub(crate) async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(watch::Sender::new(State::Open));
        let states = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *states.borrow() == State::Cut {
                    continue;
                }
                if let Ok(server) = TcpStream::connect(&target).await {
                    join(client, server, &states);
                }
            }
        });
        Self { address, state }
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    pub(crate) fn stall(&self) {
        self.state.send_replace(State::Stalled);
    }

    pub(crate) fn mend(&self) {
        self.state.send_replace(State::Open);
    }
}

fn join(client: TcpStream, server: TcpStream, states: &watch::Sender<State>) {
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    for (mut from, mut to) in [(from_client, to_server), (from_server, to_client)] {
        let mut state = states.subscribe();
        tokio::spawn(async move {
            let mut buffer = vec![0; 1 << 16];
            loop {
                let read = tokio::select! {
                    _ = state.wait_for(|state| *state == State::Cut) => return,
                    read = from.read(&mut buffer) => read.unwrap_or(0),
                };
                // What was read during a stall is late, not lost.
                let now = state.wait_for(|state| *state != State::Stalled).await;
                let is_open = now.is_ok_and(|now| *now == State::Open);
                if read == 0 || !is_open {
                    return;
                }
                if to.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        });
    }
}
