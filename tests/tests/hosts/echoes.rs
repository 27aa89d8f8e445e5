//! What trying the ways to two hundred hosts costs, in real packets.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, UdpSocket},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use overlay_lab::{Agent, Lab, Netns, until, until_within};
use overlay_user::model::{Change, Node, Vtep};

/// The other hosts.
const OTHERS: u8 = 199;
/// Bytes of their underlay's packets.
const MTU: u32 = 1500;
const PORT: u16 = 4789;
/// Where an echo says which kind it is: behind the headers of VXLAN and Ethernet and four bytes more.
const KIND: usize = 8 + 14 + 4;
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// Bytes of IPv4's and UDP's headers.
const OUTER: usize = 20 + 8;
/// Every host is tried once in it, and tries once.
const INTERVAL: Duration = Duration::from_secs(30);

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, number)
}

/// All other hosts in one namespace: they send echoes back and send as many themselves.
struct Others {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Traffic>,
}

/// When which packets came from the agent's host.
#[derive(Default)]
struct Traffic {
    echoes: Vec<Instant>,
    answers: Vec<Instant>,
}

impl Others {
    fn start(netns: &Netns, agent: Ipv4Addr) -> Self {
        let sockets: Vec<UdpSocket> = netns.enter(|| {
            let bind = |number| UdpSocket::bind((address(number), PORT)).unwrap();
            (1..=OTHERS).map(bind).collect()
        });
        for socket in &sockets {
            socket.set_nonblocking(true).unwrap();
        }
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::spawn({
            let stop = Arc::clone(&stop);
            move || Self::work(&sockets, agent, &stop)
        });
        Self { stop, thread }
    }

    fn work(sockets: &[UdpSocket], agent: Ipv4Addr, stop: &AtomicBool) -> Traffic {
        let mut traffic = Traffic::default();
        let mut buffer = [0; MTU as usize];
        // One after the other, each once in the interval.
        let pace = INTERVAL / u32::from(OTHERS);
        let mut turns = (0_u64..).zip(sockets.iter().cycle());
        let mut due = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            while due <= Instant::now() {
                let (id, socket) = turns.next().unwrap();
                for len in [128, MTU as usize] {
                    let echo = request(id, len - OUTER);
                    socket.send_to(&echo, (agent, PORT)).unwrap();
                }
                due += pace;
            }
            let mut ready: Vec<_> = sockets
                .iter()
                .map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN))
                .collect();
            poll(&mut ready, PollTimeout::from(20_u8)).unwrap();
            for (socket, _) in sockets
                .iter()
                .zip(ready)
                .filter(|(_, ready)| ready.any() == Some(true))
            {
                while let Ok((len, _)) = socket.recv_from(&mut buffer) {
                    if buffer[KIND] == REQUEST {
                        buffer[KIND] = REPLY;
                        socket.send_to(&buffer[..len], (agent, PORT)).unwrap();
                        traffic.echoes.push(Instant::now());
                    } else {
                        traffic.answers.push(Instant::now());
                    }
                }
            }
        }
        traffic
    }

    fn stop(self) -> Traffic {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// The payload of a tunnel packet that is to be sent back.
fn request(id: u64, len: usize) -> Vec<u8> {
    let mut packet = vec![0; len];
    packet[0] = 8;
    packet[8 + 12..KIND].copy_from_slice(b"\x88\xb5OVE1");
    packet[KIND] = REQUEST;
    packet[KIND + 4..KIND + 12].copy_from_slice(&id.to_ne_bytes());
    packet
}

/// CPU time of a process so far.
fn cpu_time(pid: u32) -> Duration {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of_thread = |thread: fs::DirEntry| {
        let spent = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
        spent.split(' ').next()?.parse::<u64>().ok()
    };
    let spent = threads.filter_map(|thread| of_thread(thread.unwrap()));
    Duration::from_nanos(spent.sum())
}

/// The most of these in a quarter of a second.
fn peak(times: &[Instant], from: Instant) -> usize {
    let mut quarters = BTreeMap::<_, usize>::new();
    for time in times {
        *quarters
            .entry((*time - from).as_millis() / 250)
            .or_default() += 1;
    }
    quarters.into_values().max().unwrap_or_default()
}

/// Two hundred hosts are tried twice each in half a minute, and not together.
#[test]
fn many_hosts_are_tried_in_turn() {
    let lab = Lab::new();
    let switch = lab.switch("sw");
    let host = lab.host(&switch, 1);
    let others = lab.netns("others");
    switch.connect(&others, "u0");
    for number in 1..=OTHERS {
        others.ip(&format!("address add {}/16 dev u0", address(number)));
    }
    host.netns.ip("route add 10.0.1.0/24 dev u0");
    let agent = Agent::start(&lab, &host, "--vni 42");
    let nodes: Vec<Change> = (1..=OTHERS)
        .map(|number| {
            let vtep = Vtep {
                ip: address(number).into(),
                port: PORT,
            };
            let name = lab.name(&format!("other{number}")).parse().unwrap();
            let mut node = Node::new(name, vtep, true);
            node.mtu = Some(MTU);
            Change::PutNode(node)
        })
        .collect();
    lab.commit(&nodes);
    let running = Others::start(&others, host.ip);
    until("all paths to be tried", || {
        agent.json("status")["paths"]["ok"] == OTHERS
    });

    let (from, spent) = (Instant::now(), cpu_time(agent.pid()));
    until_within(2 * INTERVAL, "half a minute to pass", || {
        from.elapsed() >= INTERVAL
    });
    let (to, spent) = (Instant::now(), cpu_time(agent.pid()).saturating_sub(spent));
    let mut traffic = running.stop();
    for times in [&mut traffic.echoes, &mut traffic.answers] {
        times.retain(|time| (from..to).contains(time));
    }

    let expected = 2 * usize::from(OTHERS);
    let (echoes, answers) = (traffic.echoes.len(), traffic.answers.len());
    let busiest = peak(&traffic.echoes, from);
    eprintln!(
        "{echoes} echoes, at most {busiest} in 250 ms, {answers} answers, {spent:?} of CPU time"
    );
    // Rounds at either end of the time, and echoes that had no answer on a busy machine.
    let about = expected * 9 / 10..=expected * 11 / 10;
    assert!(about.contains(&echoes), "{echoes} of {expected} echoes");
    assert!(about.contains(&answers), "{answers} of {expected} answers");
    assert!(busiest <= 60, "{busiest} echoes in 250 ms");
    assert_eq!(agent.json("status")["paths"]["ok"], OTHERS);
}
