//! Payloads that are checked to the byte.

use std::{
    hash::Hasher,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use fnv::FnvHasher;
use nix::sys::socket::{setsockopt, sockopt};

use crate::{
    netns::{Netns, is_v6},
    wait::{WAIT_TIMEOUT, until},
};

/// Bytes that depend on their place and on `seed`, so that what is lost, doubled, swapped or
/// another's shows.
fn fill(seed: u64, offset: u64, bytes: &mut [u8]) {
    for (place, chunk) in (offset / 8..).zip(bytes.chunks_mut(8)) {
        // The finaliser of MurmurHash3.
        let mut word = (place ^ seed.rotate_left(32)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        word ^= word >> 33;
        word = word.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
}

fn any(ip: &str) -> SocketAddr {
    let any = if is_v6(ip) { "[::]:0" } else { "0.0.0.0:0" };
    any.parse().unwrap()
}

fn to(ip: &str, port: u16) -> SocketAddr {
    (ip.parse::<IpAddr>().unwrap(), port).into()
}

fn send_tcp(mut stream: &TcpStream, seed: u64, bytes: u64) -> u64 {
    let mut hasher = FnvHasher::default();
    let mut buffer = vec![0; 1 << 16];
    for offset in (0..bytes).step_by(buffer.len()) {
        let len = usize::try_from(bytes - offset).unwrap().min(buffer.len());
        fill(seed, offset, &mut buffer[..len]);
        hasher.write(&buffer[..len]);
        stream.write_all(&buffer[..len]).unwrap();
    }
    hasher.finish()
}

fn receive_tcp(mut stream: &TcpStream, bytes: u64) -> u64 {
    let mut hasher = FnvHasher::default();
    let mut buffer = vec![0; 1 << 16];
    let mut left = usize::try_from(bytes).unwrap();
    while left > 0 {
        let wanted = left.min(buffer.len());
        let len = stream.read(&mut buffer[..wanted]).unwrap();
        assert_ne!(len, 0, "the stream ended {left} bytes too early");
        hasher.write(&buffer[..len]);
        left -= len;
    }
    hasher.finish()
}

/// Sends `bytes` over TCP from `client` to `ip` in `server` and as many back, at the same time, and
/// compares what came with what went.
///
/// # Panics
///
/// A byte is wrong or missing.
pub fn tcp(client: &Netns, server: &Netns, ip: &str, bytes: u64) {
    let listener = server.enter(|| TcpListener::bind(any(ip)).unwrap());
    let port = listener.local_addr().unwrap().port();
    let out = client.enter(|| TcpStream::connect_timeout(&to(ip, port), WAIT_TIMEOUT).unwrap());
    let (back, _) = listener.accept().unwrap();
    for stream in [&out, &back] {
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        stream.set_write_timeout(Some(WAIT_TIMEOUT)).unwrap();
    }
    thread::scope(|scope| {
        let sent = scope.spawn(|| send_tcp(&out, 1, bytes));
        let returned = scope.spawn(|| send_tcp(&back, 2, bytes));
        let received = scope.spawn(|| receive_tcp(&back, bytes));
        let answered = receive_tcp(&out, bytes);
        assert_eq!(
            received.join().unwrap(),
            sent.join().unwrap(),
            "what the client sent"
        );
        assert_eq!(answered, returned.join().unwrap(), "what the server sent");
    });
}

/// Sends a datagram of every payload size in `sizes` from `client` to `ip` in `server`, each
/// echoed, and compares them.
///
/// # Panics
///
/// One is lost or changed.
pub fn udp(client: &Netns, server: &Netns, ip: &str, sizes: impl IntoIterator<Item = usize>) {
    let echo = Echo::start(server, ip, None);
    let socket = client.enter(|| UdpSocket::bind(any(ip)).unwrap());
    socket.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
    socket.connect(to(ip, echo.port)).unwrap();
    let mut sent = vec![0; 65_536];
    let mut received = vec![0; 65_536];
    for size in sizes {
        fill(size as u64, 0, &mut sent[..size]);
        socket.send(&sent[..size]).unwrap();
        let len = socket
            .recv(&mut received)
            .unwrap_or_else(|error| panic!("{size} bytes: {error}"));
        assert!(
            received[..len] == sent[..size],
            "a datagram of {size} bytes came back changed"
        );
    }
}

/// What answers at `ip` on UDP `port` as seen from `client`; nothing within a moment: `None`.
pub fn ask(client: &Netns, ip: &str, port: u16) -> Option<String> {
    let socket = client.enter(|| UdpSocket::bind(any(ip)).unwrap());
    socket
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    socket.send_to(b"?", to(ip, port)).ok()?;
    let mut buffer = [0; 256];
    let len = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8(buffer[..len].to_vec()).unwrap())
}

/// A UDP server that sends datagrams back, or always the same answer. Ends when it goes.
#[derive(Debug)]
pub struct Echo {
    /// Where it listens.
    pub port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// Starts one in `netns` for the IP version of `ip`.
    pub fn start(netns: &Netns, ip: &str, answer: Option<&str>) -> Self {
        Self::on_port(netns, ip, 0, answer)
    }

    /// The same on a port that is given.
    pub fn on_port(netns: &Netns, ip: &str, port: u16, answer: Option<&str>) -> Self {
        let mut address = any(ip);
        address.set_port(port);
        let socket = netns.enter(|| UdpSocket::bind(address).unwrap());
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let port = socket.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let answer = answer.map(|answer| answer.as_bytes().to_vec());
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut buffer = vec![0; 65_536];
                while !stop.load(Ordering::Relaxed) {
                    if let Ok((len, client)) = socket.recv_from(&mut buffer) {
                        let answer = answer.as_deref().unwrap_or(&buffer[..len]);
                        let _ = socket.send_to(answer, client);
                    }
                }
            }
        });
        Self {
            port,
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Numbered datagrams, some thousands a second, and a receiver that counts them and compares what is in them.
#[derive(Debug)]
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<()>,
    sink: JoinHandle<Vec<u64>>,
}

impl Stream {
    /// Between two datagrams: 2,500 a second.
    const INTERVAL: Duration = Duration::from_micros(400);
    const LAST: u64 = u64::MAX;
    /// Bytes of a datagram's payload: its number, and what follows from that.
    const LEN: usize = 64;
    /// How long a datagram is waited for before it is taken for lost.
    const ON_THE_WAY: Duration = Duration::from_secs(1);

    /// Starts sending from `client` to `ip` in `server`.
    pub fn start(client: &Netns, server: &Netns, ip: &str) -> Self {
        Self::every(Self::INTERVAL, client, server, ip)
    }

    /// The same with this time between two datagrams.
    pub fn every(interval: Duration, client: &Netns, server: &Netns, ip: &str) -> Self {
        let socket = server.enter(|| UdpSocket::bind(any(ip)).unwrap());
        // The receiver may be kept waiting; that is no loss on the way.
        setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20)).unwrap();
        socket.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        let source = client.enter(|| UdpSocket::bind(any(ip)).unwrap());
        source
            .connect(to(ip, socket.local_addr().unwrap().port()))
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (sent, received) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let sink = thread::spawn({
            let received = Arc::clone(&received);
            move || {
                let mut numbers = Vec::new();
                let mut buffer = [0; 1500];
                loop {
                    let len = match socket.recv(&mut buffer) {
                        Ok(len) => len,
                        // A receive with a timeout does not outlast the process's being stopped
                        // (signal(7)).
                        Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                        Err(_) => break,
                    };
                    let number = u64::from_le_bytes(buffer[..8].try_into().unwrap());
                    if number == Self::LAST {
                        break;
                    }
                    assert!(
                        buffer[..len] == Self::datagram(number),
                        "datagram {number} came changed"
                    );
                    numbers.push(number);
                    received.fetch_add(1, Ordering::Relaxed);
                }
                numbers
            }
        });
        let sender = thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            let received = Arc::clone(&received);
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let number = sent.load(Ordering::Relaxed);
                    source.send(&Self::datagram(number)).unwrap();
                    sent.store(number + 1, Ordering::Relaxed);
                    thread::sleep(interval.saturating_sub(Duration::from_micros(60)));
                }
                // The end may overtake what another CPU has not yet delivered.
                let deadline = Instant::now() + Self::ON_THE_WAY;
                let sent = sent.load(Ordering::Relaxed);
                while received.load(Ordering::Relaxed) < sent && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(1));
                }
                // Several, so that the end itself isn't lost; the first one ends the receiver.
                for _ in 0..5 {
                    let _ = source.send(&Self::LAST.to_le_bytes());
                    thread::sleep(Duration::from_millis(5));
                }
            }
        });
        Self {
            stop,
            sent,
            received,
            sender,
            sink,
        }
    }

    fn datagram(number: u64) -> [u8; Self::LEN] {
        let mut datagram = [0; Self::LEN];
        datagram[..8].copy_from_slice(&number.to_le_bytes());
        fill(number, 0, &mut datagram[8..]);
        datagram
    }

    /// How many datagrams have been sent.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until this many more have arrived.
    #[track_caller]
    pub fn flows(&self, more: u64) {
        let goal = self.received.load(Ordering::Relaxed) + more;
        until("the stream flows", || {
            self.received.load(Ordering::Relaxed) >= goal
        });
    }

    /// Ends it. Gives how many were sent, and the numbers that never arrived.
    pub fn finish(self) -> (u64, Vec<u64>) {
        self.stop.store(true, Ordering::Relaxed);
        self.sender.join().unwrap();
        let sent = self.sent.load(Ordering::Relaxed);
        let mut numbers = self.sink.join().unwrap();
        numbers.sort_unstable();
        numbers.dedup();
        let lost = (0..sent)
            .filter(|number| numbers.binary_search(number).is_err())
            .collect();
        (sent, lost)
    }
}

/// A TCP connection that never rests: bytes go in one direction and are compared as they come.
#[derive(Debug)]
pub struct Flow {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    sender: JoinHandle<u64>,
    sink: JoinHandle<u64>,
}

impl Flow {
    const CHUNK: usize = 1 << 16;

    /// Connects from `client` to `ip` in `server` and starts sending.
    pub fn start(client: &Netns, server: &Netns, ip: &str) -> Self {
        let listener = server.enter(|| TcpListener::bind(any(ip)).unwrap());
        let port = listener.local_addr().unwrap().port();
        let mut source =
            client.enter(|| TcpStream::connect_timeout(&to(ip, port), WAIT_TIMEOUT).unwrap());
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(WAIT_TIMEOUT)).unwrap();
        source.set_write_timeout(Some(WAIT_TIMEOUT)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let sender = thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let (mut offset, mut chunk) = (0, vec![0; Self::CHUNK]);
                while !stop.load(Ordering::Relaxed) {
                    fill(3, offset, &mut chunk);
                    source.write_all(&chunk).unwrap();
                    offset += Self::CHUNK as u64;
                    // Work for the other tests of the machine's few CPUs.
                    thread::sleep(Duration::from_millis(2));
                }
                offset
            }
        });
        let sink = thread::spawn({
            let received = Arc::clone(&received);
            move || {
                let (mut offset, mut chunk) = (0, vec![0; Self::CHUNK]);
                let mut expected = vec![0; Self::CHUNK];
                loop {
                    match stream.read_exact(&mut chunk) {
                        Ok(()) => {}
                        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return offset,
                        Err(error) => panic!("after {offset} bytes: {error}"),
                    }
                    fill(3, offset, &mut expected);
                    assert!(chunk == expected, "bytes from {offset} on came changed");
                    offset += Self::CHUNK as u64;
                    received.store(offset, Ordering::Relaxed);
                }
            }
        });
        Self {
            stop,
            received,
            sender,
            sink,
        }
    }

    /// Waits until this many more bytes have arrived.
    #[track_caller]
    pub fn flows(&self, more: u64) {
        let goal = self.received.load(Ordering::Relaxed) + more;
        until("the connection flows", || {
            self.received.load(Ordering::Relaxed) >= goal
        });
    }

    /// Ends it; all that was sent must have arrived. Gives how many bytes that is.
    pub fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let sent = self.sender.join().unwrap();
        assert_eq!(self.sink.join().unwrap(), sent);
        sent
    }
}

/// How long `work` takes.
pub fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    (work(), begun.elapsed())
}
